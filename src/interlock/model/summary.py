"""Summarises a call on one line: its most informative parameter, in the form in which people would type it."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final

from interlock.lazy import lazy_pattern

_SAY_MOST: Final = ("command", "argv", "path", "source", "url", "uri", "key", "message")
_PLAIN: Final = lazy_pattern(r"(?:[\w.,/:=@%+-]|\[redacted:[a-z0-9-]+:[0-9a-f]{8}\])+", re.ASCII)
"""A word that needs no quotes. Redacted words are easier to recognise without quotes, too."""


def main_parameter(parameters: dict[str, Any]) -> str:
    """The most informative parameter; empty if the call has none of the known ones."""
    value = next((parameters[key] for key in _SAY_MOST if key in parameters), "")
    if isinstance(value, list):  # an argument vector, as a person would type it
        value = " ".join(part if _PLAIN.fullmatch(part) else shlex.quote(part) for part in map(str, value))
    return str(value) if value else ""
