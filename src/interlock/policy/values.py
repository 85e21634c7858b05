"""Converts the JSON values of a request to Cedar terms, by the type from the schema or from the policies' use.

Nothing is guessed from a value. A request with a value that its type cannot represent is refused, and so denied: an
integer outside a Long, a number with more than four digits after the point, a string instead of a number, an object
such as `{"__entity": ...}` instead of a string, an unlisted field in a record that is compared as a whole.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any, Final

from interlock.policy.shapes import Atom, Fields, Many, Shape, Unknown
from interlock.policy.terms import LONG_MAX, LONG_MIN, Address, Datetime, Decimal, Duration, Uid, key, unkey

Converter = Callable[[Any], Any]


class RefusedError(Exception):
    """The request holds a value that does not have the type that policies expect. The message names its place, not the value."""


def converter(shape: Shape, place: str, *, whole: bool = True) -> Converter:
    """A function that converts a JSON value other than null to a term.

    `whole=False` is for a record of which policies use only the listed attributes, so that others are ignored.
    """
    match shape:
        case Atom(name="String"):
            return _string(place)
        case Atom(name="Bool"):
            return _bool(place)
        case Atom(name="Long"):
            return _long(place)
        case Atom(name="decimal"):
            return _decimal(place)
        case Many(element=element):
            return _set(converter(element, f"{place}[]"), place)
        case Fields():
            return _record(shape, place, whole)
        case _:
            return _opaque(place)


def present(_value: Any) -> bool:
    """The converter of an attribute that policies test only with `has`."""
    return True


def _string(place: str) -> Converter:
    def convert(value: Any) -> str:
        if type(value) is str:
            return value
        raise RefusedError(f"`{place}` is not a string")

    return convert


def _bool(place: str) -> Converter:
    def convert(value: Any) -> bool:
        if type(value) is bool:
            return value
        raise RefusedError(f"`{place}` is not a boolean")

    return convert


def _long(place: str) -> Converter:
    def convert(value: Any) -> int:
        # in JSON Schema, 5.0 is an integer
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise RefusedError(f"`{place}` is not an integer")
        if not LONG_MIN <= value <= LONG_MAX:
            raise RefusedError(f"`{place}` is out of the range of a 64-bit integer")
        return value

    return convert


def _decimal(place: str) -> Converter:
    def convert(value: Any) -> Decimal:
        if type(value) is int:
            units = value * 10_000
        elif type(value) is float:
            # the shortest decimal that parses to this double, which is the JSON text up to trailing zeros
            exact = decimal.Decimal(repr(value))
            if not exact.is_finite() or exact.adjusted() > 15:
                raise RefusedError(f"`{place}` is out of the range of a decimal")
            scaled = exact.scaleb(4)
            units = int(scaled)
            if units != scaled:
                raise RefusedError(f"`{place}` has more than four digits after the point")
        else:
            raise RefusedError(f"`{place}` is not a number")
        if not LONG_MIN <= units <= LONG_MAX:
            raise RefusedError(f"`{place}` is out of the range of a decimal")
        return Decimal(units)

    return convert


def _set(element: Converter, place: str) -> Converter:
    def convert(value: Any) -> frozenset[Any]:
        if type(value) is not list and type(value) is not tuple:
            raise RefusedError(f"`{place}` is not an array")
        return frozenset([key(element(item)) for item in value if item is not None])

    return convert


def _record(shape: Fields, place: str, whole: bool) -> Converter:
    fields = tuple(
        (name, field.required, converter(field.shape, f"{place}.{name}")) for name, field in shape.fields.items()
    )
    return record(fields, place, closed=whole and shape.rest is None)


def record(fields: tuple[tuple[str, bool, Converter], ...], place: str, *, closed: bool = False) -> Converter:
    """The converter of a record, given the name, required flag and converter of each attribute. `closed`: no other is allowed."""
    known = frozenset(name for name, _, _ in fields)

    def convert(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise RefusedError(f"`{place}` is not an object")
        out = {}
        for name, required, each in fields:
            item = value.get(name)
            if item is not None:
                out[name] = each(item)
            elif required:
                raise RefusedError(f"`{place}.{name}` is missing")
        if closed and not known.issuperset(value):
            raise RefusedError(f"`{place}` has fields that are not in its schema, and a policy compares it as a whole")
        return out

    return convert


def _opaque(place: str) -> Converter:
    def convert(_value: Any) -> Any:
        raise RefusedError(f"`{place}` is compared by a policy, but has no type")

    return convert


_ESCAPES: Final = {"__entity", "__extn", "__expr"}
"""Keys with a special meaning in Cedar's JSON. No record may have them."""


def to_json(term: Any) -> Any:
    """A term in Cedar's JSON, for the reference engine. Raises: RefusedError."""
    match term:
        case bool() | int() | str():
            return term
        case dict():
            if not _ESCAPES.isdisjoint(term):
                raise RefusedError("a record has an attribute with a name that is reserved in Cedar's JSON")
            return {name: to_json(item) for name, item in term.items()}
        case frozenset():
            return [to_json(unkey(item)) for item in term]
        case Uid(type=kind, id=name):
            return {"__entity": {"type": kind, "id": name}}
        case Decimal(units=units):
            sign, size = ("-" if units < 0 else ""), abs(units)
            return _extension("decimal", f"{sign}{size // 10_000}.{size % 10_000:04}")
        case Address(text=text):
            return _extension("ip", text)
        case Datetime(ms=ms):
            return {"__extn": {"fn": "offset", "args": [_extension("datetime", "1970-01-01"), to_json(Duration(ms))]}}
        case Duration(ms=ms):
            return _extension("duration", f"{ms}ms")
        case _:
            raise RefusedError(f"a {type(term).__name__} is not a Cedar value")


def _extension(name: str, argument: str) -> dict[str, Any]:
    return {"__extn": {"fn": name, "arg": argument}}


def is_open(shape: Shape) -> bool:
    """True if a value of this shape cannot be converted as a whole."""
    match shape:
        case Unknown():
            return True
        case Many(element=element):
            return is_open(element)
        case Fields(fields=fields, rest=rest):
            return rest is not None or any(is_open(field.shape) for field in fields.values())
        case _:
            return False
