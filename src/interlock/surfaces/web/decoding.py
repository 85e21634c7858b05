"""Decodes bytes and query strings into the structs of `bodies`, strictly. An error names the field, but never its value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from interlock.model import typed
from interlock.model.errors import ProposalError, UsageError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.values import check_value, parse_json, quoted, step

T = TypeVar("T")

CODE: Final = "malformed_request"
_PATH: Final = re.compile(r" - at (?:`key` in )?`(\$[^`]*)`\Z")
_NAMED: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`\Z", re.DOTALL)


def decode_body(data: bytes, shape: type[T]) -> T:
    """Decode a JSON object of the given type. Raises: UsageError `malformed_request`, or `limit_exceeded`."""
    try:
        value = parse_json(data)
        check_value(value, "$", DEFAULT_LIMITS)
    except ProposalError as error:
        code = error.code if error.code == "limit_exceeded" else CODE
        raise UsageError(error.message, code=code, path=error.path) from None
    try:
        return typed.convert(value, shape)
    except msgspec.ValidationError as error:
        message, path = _explain(str(error))
        raise UsageError(message, code=CODE, path=path) from None


def decode_query(pairs: Sequence[tuple[str, str]], shape: type[T]) -> T:
    """Decode a query string. Raises: UsageError `malformed_request`, with a path such as `?limit`."""
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise UsageError("the parameter occurs twice", code=CODE, path="?" + quoted(name).strip("`"))
        # Accept plain digits only: `int` also accepts spaces, underscores and digits of other scripts.
        values[name] = int(text) if re.fullmatch(r"[0-9]{1,16}", text) else text
    try:
        return typed.convert(values, shape)
    except msgspec.ValidationError as error:
        message, path = _explain(str(error))
        raise UsageError(message, code=CODE, path="?" + path.removeprefix("$").removeprefix(".")) from None


def _explain(text: str) -> tuple[str, str]:
    """Message and path for msgspec's `MESSAGE - at PATH`."""
    found = _PATH.search(text)
    path, message = (found[1], text[: found.start()]) if found else ("$", text)
    if named := _NAMED.match(message):
        name = named[2]
        what = "unknown field" if named[1] == "contains unknown" else "the field is missing:"
        return f"{what} {quoted(name)}", path + step(name)
    if message.startswith("Invalid"):
        return "the value is not allowed", path
    return message[:1].lower() + message[1:], path
