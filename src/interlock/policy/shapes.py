"""Derives the Cedar types of a tool's parameters from its JSON Schema.

The type comes from the schema, never from a value, so an agent cannot choose it: a schema `number` is always a decimal,
an `integer` a Long, an array a Set, an object with properties a record, and `null` is the same as absent.

Where a schema leaves the type open (no type, several types, an object without properties), the shape is `Unknown`: the
policies that use the value determine its type (see `uses`), and a value of any other type is refused.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Scalar = Literal["Bool", "Long", "String", "decimal"]


class Atom(msgspec.Struct, frozen=True):
    """A scalar value."""

    name: Scalar


class Many(msgspec.Struct, frozen=True):
    """A set of values of one shape."""

    element: Shape


class Unknown(msgspec.Struct, frozen=True):
    """A type that the schema leaves open."""


class Field(msgspec.Struct, frozen=True):
    """An attribute of a record. If it may be null it is not required, because null means absent."""

    shape: Shape
    required: bool = False


class Fields(msgspec.Struct, frozen=True):
    """A record. `rest` is the shape of attributes that are not listed, or None if unlisted names are errors."""

    fields: dict[str, Field] = {}
    rest: Shape | None = None


Shape = Atom | Many | Fields | Unknown

UNKNOWN: Final = Unknown()
OPEN: Final = Fields(rest=UNKNOWN)
DEPTH_MAX: Final = 16
SCHEMAS_MAX: Final = 10_000
_ATOMS: Final[dict[str, Atom]] = {
    "boolean": Atom("Bool"),
    "integer": Atom("Long"),
    "number": Atom("decimal"),
    "string": Atom("String"),
}


def parameters(schema: dict[str, Any]) -> Fields:
    """The shape of a tool's parameters, which are always a record."""
    shape = _Reader(schema).shape(schema, 0)
    return shape if isinstance(shape, Fields) else OPEN


class _Reader:
    """Reads one schema document. Follows local `$ref`s, up to a limit of visited schemas."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = SCHEMAS_MAX

    def shape(self, schema: Any, depth: int) -> Shape:
        """The shape of a (sub)schema, without null. A schema that is too deep or recursive is left open."""
        self._left -= 1
        if not isinstance(schema, dict) or depth > DEPTH_MAX or self._left < 0:
            return UNKNOWN
        kinds = _kinds(schema)
        if not kinds:
            return self._indirect(schema, depth)
        if kinds == {"object"}:
            return self._record(schema, depth)
        if kinds == {"array"}:
            return Many(self.shape(schema.get("items"), depth + 1)) if "prefixItems" not in schema else UNKNOWN
        if kinds == {"integer", "number"}:
            return _ATOMS["number"]
        if len(kinds) == 1:
            return _ATOMS.get(kinds.pop(), UNKNOWN)
        return UNKNOWN

    def _indirect(self, schema: dict[str, Any], depth: int) -> Shape:
        """The shape of a schema without a type of its own."""
        if "$ref" in schema:
            return self.shape(self._resolve(schema["$ref"]), depth + 1)
        parts: list[Any] = next((p for w in ("anyOf", "oneOf", "allOf") if isinstance(p := schema.get(w), list)), [])
        if "allOf" in schema and len(parts) != 1:
            return UNKNOWN
        found = [self.shape(part, depth + 1) for part in parts if part != {"type": "null"}]
        if found and all(shape == found[0] for shape in found):
            return found[0]
        if found and all(shape in (_ATOMS["integer"], _ATOMS["number"]) for shape in found):
            return _ATOMS["number"]
        return UNKNOWN

    def nullable(self, schema: Any, depth: int) -> bool:
        """True unless the schema certainly refuses null."""
        self._left -= 1
        if not isinstance(schema, dict) or depth > DEPTH_MAX or self._left < 0:
            return True
        if kinds := _kinds(schema, nulls=True):
            return "null" in kinds
        if "$ref" in schema:
            return self.nullable(self._resolve(schema["$ref"]), depth + 1)
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), list):
                return any(self.nullable(part, depth + 1) for part in schema[word])
        if isinstance(schema.get("allOf"), list):
            return all(self.nullable(part, depth + 1) for part in schema["allOf"])
        return True

    def _record(self, schema: dict[str, Any], depth: int) -> Shape:
        listed = schema.get("properties")
        required = schema.get("required", [])
        fields = {
            name: Field(
                shape=self.shape(part, depth + 1),
                required=name in required and not self.nullable(part, depth + 1),
            )
            for name, part in (listed.items() if isinstance(listed, dict) else ())
        }
        more = schema.get("additionalProperties", True)
        if isinstance(more, dict) and more:
            return Fields(fields=fields, rest=self.shape(more, depth + 1))
        if fields or more is False:
            # unlisted names are errors in a policy, even if the schema allows an agent to send them
            return Fields(fields=fields)
        return OPEN

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        at: Any = self._root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            at = at.get(name) if isinstance(at, dict) else None
        return at


def _kinds(schema: dict[str, Any], *, nulls: bool = False) -> set[str]:
    """The JSON types that a schema's `type`, `enum` or `const` allows; `null` only if `nulls`."""
    kind = schema.get("type")
    if isinstance(kind, str):
        found = {kind}
    elif isinstance(kind, list):
        found = {part for part in kind if isinstance(part, str)}
    elif isinstance(schema.get("enum"), list):
        found = {_kind(value) for value in schema["enum"]}
    elif "const" in schema:
        found = {_kind(schema["const"])}
    elif isinstance(schema.get("properties"), dict):
        found = {"object"}
    else:
        found = set()
    return found if nulls else found - {"null"}


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
