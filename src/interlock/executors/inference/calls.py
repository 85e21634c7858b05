"""The functions of `infer`, `classify` and `embed`. They run on a thread; a time-out or a cancellation ends their waits.

An answer that does not fit the call's schema is requested again, at most twice, and only while the call's reservation
covers it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from interlock.executors.inference import anthropic, google, metering, openai
from interlock.executors.inference.exchange import Endpoint, Unsent
from interlock.executors.inference.models import LOCAL, Answer, Message, Model, Question, ShapeError, Usage
from interlock.executors.inference.prompts import CLASSIFY_TOKENS, classify_question, classify_texts, infer_question
from interlock.lazy import lazy
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.extras import how_to_install
from interlock.model.schema import Schema, SchemaError
from interlock.model.tool import Context, MeteredContext

if TYPE_CHECKING:
    from interlock.executors.inference import local
else:
    local = lazy("interlock.executors.inference.local")

_SHAPES: Final[dict[str, ModuleType]] = {"openai-compatible": openai, "anthropic": anthropic, "google": google}
_FENCE: Final = re.compile(r"\s*```[a-zA-Z]{0,10}\n(.*?)\n?```\s*\Z", re.DOTALL)
_PROBLEMS_MAX: Final = 5
_QUOTED_BYTES: Final = metering.REPAIR_BYTES // 2


class Inference:
    """Queries the configured models. One per runtime; stateless between calls."""

    def __init__(self, models: Mapping[str, Model], clock: Clock) -> None:
        """Connects to nothing yet."""
        self._models = models
        self._clock = clock
        self._endpoints = {name: Endpoint(model, clock) for name, model in models.items() if model.provider != LOCAL}

    def infer(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """Returns the function of `infer`. Raises: ToolError `model_output_mismatch`; ToolError as `Endpoint.ask` does."""
        model = self._models[parameters["model"]]
        meter = metering.Meter(model, cast("MeteredContext", ctx))
        question = infer_question(model, parameters)
        if question.temperature is not None and model.provider == "anthropic":
            message = f"`{model.name}`: models of this provider do not accept `temperature`"
            raise _invalid(message, "$.parameters.temperature", meter)
        if question.schema is None:
            _begin(meter, metering.attempt_usage(metering.question_tokens(question), question.max_tokens, 0))
            answer = self._ask(model, question, ctx, meter)
            found: dict[str, Any] = {"text": answer.text}
        else:
            value, answer = self._structured(model, question, ctx, meter)
            found = {"value": value}
        return {**found, "model": model.name, "finish_reason": answer.finish_reason, "usage": meter.total}

    def classify(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """Returns the function of `classify`: the model gives each label a score. Raises: ToolError, as `infer` does."""
        model = self._models[parameters["model"]]
        meter = metering.Meter(model, cast("MeteredContext", ctx))
        order = [label["name"] for label in parameters["labels"]]
        if model.provider == LOCAL:
            own, *others = self._local_vectors(classify_texts(parameters), ctx, meter)
            scores = dict(zip(order, local.similarities(own, others), strict=True))
        else:
            question = classify_question(parameters, min(CLASSIFY_TOKENS, model.output_tokens))
            scores, _ = self._structured(model, question, ctx, meter)
        best = max(order, key=lambda name: scores[name])  # the first of equal scores
        found: dict[str, Any] = {"label": best}
        if parameters.get("multi"):
            found["labels"] = [name for name in order if scores[name] >= 0.5]
        return {**found, "scores": {name: scores[name] for name in order}, "model": model.name, "usage": meter.total}

    def embed(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """Returns the function of `embed`. Raises: ToolError, as `Endpoint.ask` does."""
        model, texts = self._models[parameters["model"]], parameters["texts"]
        meter = metering.Meter(model, cast("MeteredContext", ctx))
        if model.provider == LOCAL:
            vectors = self._local_vectors(texts, ctx, meter)
            return {"vectors": vectors, "dimensions": len(vectors[0]), "model": model.name, "usage": meter.total}
        endpoint, shape = self._endpoints[model.name], _SHAPES[model.provider]
        _begin(meter, metering.attempt_usage(metering.prompt_tokens(texts), 0, 0))
        try:
            document = endpoint.ask(shape.embed(model, texts), ctx)
        except Unsent:
            meter.end(Usage(0, 0))
            raise
        try:
            vectors, usage = shape.read_vectors(document, len(texts))
        except ShapeError as error:
            raise endpoint.invalid(error) from None
        meter.end(usage)
        return {"vectors": vectors, "dimensions": len(vectors[0]), "model": model.name, "usage": meter.total}

    def _local_vectors(self, texts: Sequence[str], ctx: Context, meter: metering.Meter) -> list[list[float]]:
        """Vectors computed on this machine. Raises: ToolError `cancelled`, `timeout`, `model_unavailable`."""
        _begin(meter, metering.attempt_usage(metering.prompt_tokens(texts), 0, 0))

        def check() -> None:
            late = self._clock.mono_ns() >= ctx.deadline_ns
            if ctx.cancelled or late:
                code = "timeout" if late else "cancelled"
                raise ToolError("the call was stopped before all texts were processed", code=code, retryable=False)

        try:
            found, tokens = local.embedder().vectors(texts, check)
        except (OSError, ImportError) as error:
            meter.end(Usage(0, 0))
            raise ToolError(
                f"the files of the extra `infer` cannot be read: {type(error).__name__}: {error}",
                code="model_unavailable", retryable=False,
                hint=f"install it again, {how_to_install('infer')} with `--force-reinstall`",
            ) from None  # fmt: skip
        meter.end(Usage(tokens, 0))
        return found

    def _ask(self, model: Model, question: Question, ctx: Context, meter: metering.Meter) -> Answer:
        """Request one answer, which the caller has announced to the meter. Raises: ToolError."""
        endpoint, shape = self._endpoints[model.name], _SHAPES[model.provider]
        try:
            answer: Answer = shape.read(endpoint.ask(shape.ask(model, question), ctx, shape.assemble))
        except Unsent:
            meter.end(Usage(0, 0))
            raise
        except ShapeError as error:
            raise endpoint.invalid(error) from None
        meter.end(answer.usage)
        return answer._replace(text=endpoint.shown(answer.text))

    def _structured(self, model: Model, question: Question, ctx: Context, meter: metering.Meter) -> tuple[Any, Answer]:
        """Request an answer that fits the schema. Raises: ToolError `model_output_mismatch`; ToolError as `_ask` does."""
        assert question.schema is not None
        schema, first = _compiled(question.schema, meter), question.messages
        prompt = metering.question_tokens(question)
        problems = ["it is not JSON"]
        for attempt in range(metering.ATTEMPTS_MAX):
            most = metering.attempt_usage(prompt, question.max_tokens, attempt)
            if attempt == 0:
                _begin(meter, most)
            elif not meter.begin(most):
                problems.append("the call's reservation does not cover another attempt")
                break
            answer = self._ask(model, question, ctx, meter)
            try:
                value = msgspec.json.decode(_bare(answer.text))
            except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
                cut = answer.finish_reason == "length"
                problems = ["it was cut off at the token limit" if cut else "it is not JSON"]
            else:
                problems = [f"{path}: {message}" for path, message in schema.errors(value)[:_PROBLEMS_MAX]]
                if not problems:
                    return value, answer
            question = question._replace(messages=(*first, *_repair(answer.text, problems)))
        else:
            attempt = metering.ATTEMPTS_MAX
        raise ToolError(
            f"`{model.name}`: no answer fits the schema: {'; '.join(problems)}",
            code="model_output_mismatch", output={"attempts": attempt},
        )  # fmt: skip


def _compiled(schema: dict[str, Any], meter: metering.Meter) -> Schema:
    try:
        return Schema.compile(schema)
    except SchemaError as error:
        raise _invalid(f"`schema` is unusable: {error.message}", "$.parameters.schema", meter) from None


def _invalid(message: str, path: str, meter: metering.Meter) -> ToolError:
    """Returns the error for a question that cannot be asked. Nothing was sent, so nothing was used."""
    meter.end(Usage(0, 0))
    return ToolError(message, code="invalid_parameters", path=path, retryable=False)


def _begin(meter: metering.Meter, most: Usage) -> None:
    if not meter.begin(most):  # edits by approvers are reserved before they run, so this would be a bug
        raise ToolError("the call would use more than is reserved for it", code="budget_exceeded", retryable=False)


def _bare(text: str) -> str:
    """JSON without a surrounding Markdown code fence, which models often add."""
    fenced = _FENCE.match(text)
    return text if fenced is None else fenced[1]


def _repair(text: str, problems: list[str]) -> list[Message]:
    """Returns the messages that ask for a correction: the answer, truncated, and its problems."""
    quoted = text.encode("utf-8", "replace")[:_QUOTED_BYTES].decode("utf-8", "ignore") or "(nothing)"
    why = "; ".join(problems).encode("utf-8", "replace")[: _QUOTED_BYTES - 256].decode("utf-8", "ignore")
    again = f"That does not fit the JSON Schema: {why}. Answer again, with nothing but JSON that fits it."
    return [Message("assistant", quoted), Message("user", again)]
