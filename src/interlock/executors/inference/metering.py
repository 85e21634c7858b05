"""What a call of a model can cost at most, and what it has cost.

A token is at least one byte of UTF-8 in every tokenizer in use, so the bytes of a prompt bound its tokens; an allowance
covers what a provider adds around messages. A reservation is therefore several times what ordinary text takes; the
unused part is released after the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from interlock.executors.inference.models import Model, Question, Usage
from interlock.model.tool import Estimate, MeteredContext

ATTEMPTS_MAX: Final = 3
"""Maximum number of answers that one call requests until one fits its schema."""
REPAIR_BYTES: Final = 8192
"""Maximum size that a further attempt adds to the prompt: the answer that did not fit, and why."""
_MESSAGE_TOKENS: Final = 32
"""Allowance for what a provider adds around each message."""
_MILLION: Final = 1_000_000


def byte_count(texts: Iterable[str]) -> int:
    """Returns the size of texts in bytes of UTF-8."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def prompt_tokens(texts: Iterable[str]) -> int:
    """Returns the maximum number of tokens of texts, each in a separate message."""
    listed = [text for text in texts if text]
    return byte_count(listed) + _MESSAGE_TOKENS * (len(listed) + 1)


def question_tokens(question: Question) -> int:
    """Returns the maximum number of tokens of a question."""
    schema = "" if question.schema is None else msgspec.json.encode(question.schema).decode()
    return prompt_tokens([question.system or "", schema, *(one.content for one in question.messages)])


def cost_of(model: Model, usage: Usage) -> float | None:
    """Returns the cost of tokens; None if the prices are unknown."""
    if model.prices is None:
        return None
    return (usage.input_tokens * model.prices.input + usage.output_tokens * model.prices.output) / _MILLION


def attempt_usage(prompt: int, output: int, attempt: int) -> Usage:
    """Returns the maximum usage of attempt number `attempt` (from 0)."""
    return Usage(prompt + attempt * REPAIR_BYTES, output)


def estimate(model: Model, prompt: int, output: int, attempts: int) -> Estimate:
    """Returns the maximum usage of all attempts together."""
    each = [attempt_usage(prompt, output, attempt) for attempt in range(attempts)]
    total = Usage(sum(one.input_tokens for one in each), sum(one.output_tokens for one in each))
    return Estimate(sum(total), cost_of(model, total))


class Meter:
    """What one call has used so far. An exchange counts with its maximum until its actual usage is known."""

    def __init__(self, model: Model, ctx: MeteredContext) -> None:
        """Starts with nothing used."""
        self._model = model
        self._ctx = ctx
        self._used = Usage(0, 0)
        self._known = True
        self._open = Usage(0, 0)

    def begin(self, most: Usage) -> bool:
        """Begin an exchange with this maximum usage. Returns False, and begins nothing, if it exceeds the reservation."""
        reserved = self._ctx.reserved
        after = _sum(self._used, most)
        if reserved is not None and sum(after) > reserved.tokens:
            return False
        self._open = most
        self._report(after, known=False)
        return True

    def end(self, usage: Usage | None) -> None:
        """End the exchange with its actual usage; None if the provider did not report it."""
        self._known = self._known and usage is not None
        self._used = _sum(self._used, self._open if usage is None else usage)
        self._open = Usage(0, 0)
        self._report(self._used, known=self._known)

    @property
    def total(self) -> dict[str, float | int | None] | None:
        """`{input_tokens, output_tokens, cost}` of the call; None if unknown."""
        if not self._known:
            return None
        cost = cost_of(self._model, self._used)
        return {"input_tokens": self._used.input_tokens, "output_tokens": self._used.output_tokens, "cost": cost}

    def _report(self, usage: Usage, *, known: bool) -> None:
        self._ctx.report_usage(sum(usage), cost_of(self._model, usage), known=known)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(one.input_tokens + other.input_tokens, one.output_tokens + other.output_tokens)
