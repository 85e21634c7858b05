r"""Canonical JSON (RFC 8785, "JCS") and the digests over it.

Every digest in Interlock is `sha256("interlock.<what>.v1\n" + canonical)`, so that digests of
different kinds can never be confused. Strings are compared by UTF-16 code units, numbers are written as ECMAScript does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from functools import cache
from typing import Any

import msgspec

from interlock.model.errors import InterlockError
from interlock.model.limits import INTEGER_MAX

_fast = msgspec.json.Encoder(order="sorted").encode
_ATOMS = frozenset((str, bool, type(None)))
_sha256 = hashlib.sha256


class CanonicalError(InterlockError):
    """A value that has no canonical form: not JSON, not finite, or an integer beyond 2^53 - 1."""

    fault = "agent"
    exit_code = 2
    default_code = "malformed_proposal"


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of a JSON value (dict with str keys, list, tuple, str, int, float, bool, None).

    Raises: CanonicalError for anything else, for NaN and infinities, and for integers outside +-(2^53 - 1).
    """
    try:
        if _plain(value):
            # Without floats, and with ASCII keys only, msgspec's sorted output and RFC 8785 agree byte for byte.
            return _fast(value)
        return _slow(value).encode("utf-8", "strict")
    except UnicodeEncodeError:
        raise CanonicalError("a string contains a lone surrogate, which is not Unicode text") from None


def digest(what: str, value: Any) -> str:
    """`sha256:` + hex digest of `value` as a `what` (a short noun such as `action`, `tool`, `seal`)."""
    return digest_bytes(what, canonical(value))


def digest_bytes(what: str, data: bytes) -> str:
    """The digest of bytes that are canonical already, or not JSON at all (file contents)."""
    return "sha256:" + _sha256(_domain(what) + data).hexdigest()


def keyed_digest(key: bytes, what: str, data: bytes) -> str:
    """`hmac-sha256:` + hex: a digest of bytes with secrets, which only a holder of the key can compare with a guess."""
    return "hmac-sha256:" + hmac.digest(key, _domain(what) + data, "sha256").hex()


@cache
def _domain(what: str) -> bytes:
    return b"interlock.%b.v1\n" % what.encode()


def _plain(value: Any) -> bool:
    """True if the fast encoder is exact for this value. Also checks integers."""
    cls = value.__class__
    if cls in _ATOMS:
        return True
    if cls is int:
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise CanonicalError(f"integer beyond +-(2^53 - 1): it has {value.bit_length()} bits")
        return True
    if cls is dict:
        for k, v in value.items():  # plain loops, because generators would cost more than the work itself
            if k.__class__ is not str or not k.isascii():
                return False
            cls = v.__class__
            if cls in _ATOMS or (cls is int and -INTEGER_MAX <= v <= INTEGER_MAX):
                continue
            if not _plain(v):
                return False
        return True
    if cls is list or cls is tuple:
        for v in value:  # noqa: SIM110 - see above
            if v.__class__ not in _ATOMS and not _plain(v):
                return False
        return True
    return False


def _slow(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case int():
            _plain(int(value))
            return str(int(value))
        case float():
            return number(value)
        case dict():
            if not all(isinstance(k, str) for k in value):
                raise CanonicalError("an object has a key that is not a string")
            items = sorted(value.items(), key=lambda kv: kv[0].encode("utf-16-be", "surrogatepass"))
            return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{_slow(v)}" for k, v in items) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_slow, value)) + "]"
        case _:
            raise CanonicalError(f"a value of type {type(value).__name__} is not JSON")


def number(value: float) -> str:
    """A double as ECMAScript's Number::toString writes it (ECMA-262 section 6.1.6.1.20), which RFC 8785 requires."""
    if not math.isfinite(value):
        raise CanonicalError("a number is not finite")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    if fraction == "0":
        fraction = ""
    digits = (whole + fraction).lstrip("0")
    # `point`: where the decimal point is, counted from the first significant digit.
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len((whole + fraction).lstrip("0")))
    digits = digits.rstrip("0") or "0"
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    exp = point - 1
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'+' if exp >= 0 else '-'}{abs(exp)}"
