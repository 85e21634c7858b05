"""Recognises dangerous content in a value: secret shapes, invisible text, private addresses. Pure: no I/O, no clock."""

from typing import TYPE_CHECKING

from interlock.lazy import lazy_exports

if TYPE_CHECKING:
    from interlock.detect.addresses import address_is_private, classify, find_private, parse_address
    from interlock.detect.finding import Finding
    from interlock.detect.flags import FLAGS
    from interlock.detect.paths import find_escapes
    from interlock.detect.prompts import PROMPT_FLAGS, find_instructions, prompt_flags
    from interlock.detect.questions import QuestionRedactor
    from interlock.detect.redact import Redactor, find_secrets, may_hold_secret
    from interlock.detect.unicode import find_unseen
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "FLAGS": "flags",
            "Finding": "finding",
            "PROMPT_FLAGS": "prompts",
            "QuestionRedactor": "questions",
            "Redactor": "redact",
            "address_is_private": "addresses",
            "classify": "addresses",
            "find_escapes": "paths",
            "find_instructions": "prompts",
            "find_private": "addresses",
            "find_secrets": "redact",
            "find_unseen": "unicode",
            "may_hold_secret": "redact",
            "parse_address": "addresses",
            "prompt_flags": "prompts",
        },
    )

__all__ = [
    "FLAGS",
    "PROMPT_FLAGS",
    "Finding",
    "QuestionRedactor",
    "Redactor",
    "address_is_private",
    "classify",
    "find_escapes",
    "find_instructions",
    "find_private",
    "find_secrets",
    "find_unseen",
    "may_hold_secret",
    "parse_address",
    "prompt_flags",
]
