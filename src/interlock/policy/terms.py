"""The values of Cedar expressions during evaluation, and their equality.

A Cedar Bool, Long and String is a Python `bool`, `int` and `str`; a record is a `dict`; an entity is a `Uid`; a
decimal, datetime or duration is one of the structs below. A set is a `frozenset` of *keys* (see `key`): Cedar never
extracts an element from a set, so the keys suffice, and membership is one hash lookup.

In Python `True == 1`; in Cedar they differ. Every comparison therefore goes through `equal` or `key`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

LONG_MIN: Final = -(2**63)
LONG_MAX: Final = 2**63 - 1


class EvaluationError(Exception):
    """Raised if an expression has no value: an attribute is missing, a type is wrong, an integer overflows.

    The message never contains a value of the request, only names from the policy and names of types.
    """


class Uid(msgspec.Struct, frozen=True, cache_hash=True):
    """An entity: its type name and its id."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}::{quote(self.id)}"


class Decimal(msgspec.Struct, frozen=True):
    """A Cedar decimal: a whole number of ten-thousandths in the range of a Long."""

    units: int


class Datetime(msgspec.Struct, frozen=True):
    """A Cedar datetime: milliseconds since 1970-01-01T00:00:00Z."""

    ms: int


class Duration(msgspec.Struct, frozen=True):
    """A Cedar duration in milliseconds."""

    ms: int


class Address(msgspec.Struct, frozen=True):
    """An IP address or range as text. Only the reference engine interprets it (see `reference`)."""

    text: str


class RecordKey(msgspec.Struct, frozen=True):
    """A record in a set."""

    fields: frozenset[tuple[str, Any]]


class _BoolKey(msgspec.Struct, frozen=True):
    value: bool


_TRUE: Final = _BoolKey(True)
_FALSE: Final = _BoolKey(False)


def key(value: Any) -> Any:
    """The hashable key of a value. Two values are equal in Cedar exactly if their keys are equal in Python."""
    cls = type(value)
    if cls is bool:
        return _TRUE if value else _FALSE
    if cls is dict:
        return RecordKey(frozenset((name, key(item)) for name, item in value.items()))
    return value


def unkey(value: Any) -> Any:
    """The value of a key."""
    if isinstance(value, _BoolKey):
        return value.value
    if isinstance(value, RecordKey):
        return {name: unkey(item) for name, item in value.fields}
    return value


def equal(left: Any, right: Any) -> bool:
    """Cedar's `==`: never an error; values of different types are different."""
    cls = type(left)
    if cls is not type(right):
        return False
    if cls is dict:
        return bool(key(left) == key(right))
    return bool(left == right)


_NAMES: Final[dict[type, str]] = {
    bool: "Bool",
    int: "Long",
    str: "String",
    dict: "Record",
    frozenset: "Set",
    Uid: "Entity",
    Decimal: "decimal",
    Datetime: "datetime",
    Duration: "duration",
    Address: "ipaddr",
}


def type_name(value: Any) -> str:
    """The Cedar name of a value's type, for messages."""
    return _NAMES[type(value)]


def mistyped(expected: str, value: Any) -> EvaluationError:
    """The error for an operand of the wrong type."""
    return EvaluationError(f"type error: expected {expected}, got {type_name(value)}")


def quote(text: str) -> str:
    """A Cedar string literal (also valid as a pattern if `text` has no `*`)."""
    out = ['"']
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char.isprintable():
            out.append(char)
        else:
            out.append(f"\\u{{{ord(char):x}}}")
    out.append('"')
    return "".join(out)
