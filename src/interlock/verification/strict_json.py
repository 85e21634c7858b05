"""Strict and canonical JSON (RFC 8785), for untrusted input."""

from __future__ import annotations

import json
import math
from typing import Any, Final

import jiter

_INTEGER_MAX: Final = 2**53 - 1
_DUPLICATE: Final = "Detected duplicate key"
_CONTAINERS_MAX: Final = 1_000_000
"""Maximum number of objects and lists in one value: small in the file, large in memory."""
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class StrictJsonError(ValueError):
    """Bytes that are not strict JSON; `code` is the code of the finding."""

    def __init__(self, code: str, message: str) -> None:
        """`message` describes the error."""
        super().__init__(message)
        self.code = code


def parse(data: bytes) -> Any:
    """Parse a JSON value. Raises: StrictJsonError."""
    if len(data) > _CONTAINERS_MAX and data.count(b"{") + data.count(b"[") > _CONTAINERS_MAX:
        raise StrictJsonError("archive_too_large", f"it has more than {_CONTAINERS_MAX} objects and lists")
    try:
        return jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        text = str(error)
        raise StrictJsonError("json_duplicate_key" if text.startswith(_DUPLICATE) else "json_invalid", text) from None
    except RecursionError:
        raise StrictJsonError("json_invalid", "it is nested too deeply") from None


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises: StrictJsonError."""
    value = parse(data)
    if not isinstance(value, dict):
        raise StrictJsonError("json_invalid", "it is not an object")
    return value


def canonical(value: Any) -> bytes:
    """Returns the canonical bytes of a parsed value. Raises: StrictJsonError for a number that has no canonical form."""
    return _text(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, dict):
        names = value if all(map(str.isascii, value)) else None
        ordered = sorted(value) if names is not None else sorted(value, key=_units)
        return "{" + ",".join([f"{_encode(name)}:{_text(value[name])}" for name in ordered]) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return _encode(value)
    if isinstance(value, int):
        if abs(value) > _INTEGER_MAX:
            raise StrictJsonError("json_invalid", "an integer is beyond 2^53 - 1")
        return str(value)
    return _number(value)


def _units(name: str) -> bytes:
    """Sort key by UTF-16 code units, which compare like their big-endian bytes."""
    return name.encode("utf-16-be")


def _number(value: float) -> str:
    """Returns a double as ECMAScript prints it (Number::toString): the shortest digits, laid out by their exponent."""
    if not math.isfinite(value):
        raise StrictJsonError("json_invalid", "a number is too large")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    # repr returns the shortest digits that read back as the same double, as ECMAScript requires.
    _, digits, exponent = _decimal(repr(abs(value)))
    count = len(digits)
    point = exponent + count
    if count <= point <= 21:
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{digits.rjust(count - point, '0')}"
    shown = digits[0] + ("." + digits[1:] if count > 1 else "")
    return f"{sign}{shown}e{point - 1:+d}"


def _decimal(text: str) -> tuple[str, str, int]:
    """Returns the text, its significant digits, and the power of ten of the last digit."""
    mantissa, _, power = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    exponent = int(power or 0) - len(fraction)
    digits = (whole + fraction).lstrip("0")
    short = digits.rstrip("0")
    return text, short, exponent + len(digits) - len(short)
