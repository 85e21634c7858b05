"""Text that addresses a model: instructions inside data, and the delimiters of chat templates.

A flag, not a wall: a text can be worded in any way. Policies use it in `context.prompt_flags`, to ask a person or to
refuse. Sources: OWASP, "LLM01 Prompt Injection"; the chat templates of the common open models.
"""

from __future__ import annotations

from typing import Any, Final

from interlock.detect.finding import Finding
from interlock.detect.flags import FLAGS, flags, texts
from interlock.lazy import lazy_pattern

PROMPT_FLAGS: Final[dict[str, str]] = {
    **FLAGS,
    "model_instructions": "Only in `prompt_flags`: text that addresses a model, such as `ignore all instructions`.",
}
"""Every flag of a prompt with its meaning."""

_GAP: Final = r"[^\w<>]{1,4}"
_MADE: Final = lazy_pattern(
    r"""(?ix)
    (?P<override>
        \b(?:ignore|disregard|forget|override|bypass)GAP
        (?:(?:all|any|every|the|your|my|these|those|of|previous|prior|above|earlier|preceding|former|system)GAP){1,4}
        (?:instructions?|rules|prompts?|messages?|directions|guidelines|policy|policies)\b
    )|(?P<role>
        \b(?:you\ are\ now\ (?:a|an|in|the)\b|from\ now\ on,?\ you\b|new\ (?:system\ )?(?:instructions|prompt)\s{0,4}:)
    )|(?P<secrecy>
        \b(?:do\ not|don't|never|without)GAP
        (?:tell|telling|inform|informing|ask|asking|show|showing|alert|alerting|mention|mentioning)GAP
        (?:(?:this|it|that)\ to\ )?(?:the|your|any)GAP(?:user|human|person|operator|owner)\b
    )|(?P<template>
        <\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id)\|>
        |\[/?INST\]|<</?SYS>>|</?(?:system|system_prompt|instructions)>|<(?:start|end)_of_turn>
    )
    """.replace("GAP", _GAP)
)


def find_instructions(text: str) -> list[Finding]:
    """Returns where a text addresses a model. Kinds: `override`, `role`, `secrecy`, `template`."""
    return [Finding(m.lastgroup, m.start(), m.end()) for m in _MADE.finditer(text) if m.lastgroup]


def prompt_flags(value: Any) -> tuple[str, ...]:
    """Returns the names of `PROMPT_FLAGS` that hold for a JSON value, including its keys, in alphabetical order."""
    found = set(flags(value))
    if any(_MADE.search(text) for text in texts(value)):
        found.add("model_instructions")
    return tuple(sorted(found))
