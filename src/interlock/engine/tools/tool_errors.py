"""Reads the errors that tools raise, as far as they can be kept.

A tool can put anything into its exception. None of that may stop the engine, or enter the journal in a form that cannot
be read back: a message is well-formed text, a code is snake_case, an output is JSON of a limited size.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from interlock.lazy import lazy_pattern
from interlock.model.canonical import canonical
from interlock.model.errors import ToolError
from interlock.model.exceptions import text_of

_CODE: Final = lazy_pattern(r"[a-z][a-z0-9_]{0,63}")


class ToolFailure(NamedTuple):
    """A failure as the tool reported it."""

    code: str
    message: str
    output: Any


def read_tool_error(error: ToolError, output_bytes_max: int) -> ToolFailure:
    """Code, message and output of a tool's failure. The message ends with the hint, because a row has no other place for it.

    An output that cannot be kept is dropped, which the message states.
    """
    code: object = error.code
    message, output = text_of(error), error.output
    hint: object = error.hint
    if isinstance(hint, str) and hint:
        message = f"{message}; {hint.encode('utf-8', 'replace').decode()}"
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        code = ToolError.default_code
    try:
        if output is not None:
            data = canonical(output)
            output = msgspec.json.decode(data)  # a plain copy
            if len(data) > output_bytes_max:
                output, message = None, f"{message} (with an output of more than {output_bytes_max} bytes, left out)"
    except Exception:  # noqa: BLE001 - a CanonicalError, or any error that the tool's own class raises when it is read
        output, message = None, f"{message} (with an output that is not JSON, left out)"
    return ToolFailure(code, message, output)
