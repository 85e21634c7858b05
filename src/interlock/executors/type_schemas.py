"""Translates Python types to JSON Schema, including everything that the conversion of a value requires.

Built on `msgspec.inspect`, because msgspec's own schemas omit what JSON Schema cannot express: the format of dates,
UUIDs and decimals, and the keys of `dict[int, ...]`. A value that passes this schema can be converted, so errors appear
where parameters are checked (step 3, `verify`, an approver's edit) and not in the tool.

Objects of classes are closed: unknown fields are refused. Sets accept repeated elements.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, Final

import msgspec
from msgspec import inspect as kinds

from interlock.model.canonical import CanonicalError, canonical
from interlock.model.text_forms import KEYWORD

_NUMBER: Final = {
    "ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "multiple_of": "multipleOf",
}  # fmt: skip
_TEXT: Final = {"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"}
_ITEMS: Final = {"min_length": "minItems", "max_length": "maxItems"}
_MEMBERS: Final = {"min_length": "minProperties", "max_length": "maxProperties"}
_RECORDS: Final = (kinds.StructType, kinds.DataclassType, kinds.TypedDictType, kinds.NamedTupleType)
_FORMS: Final[dict[type, tuple[str, str | None]]] = {
    kinds.DateType: ("date", "date"),
    kinds.TimeDeltaType: ("duration", "duration"),
    kinds.UUIDType: ("uuid", "uuid"),
    kinds.DecimalType: ("decimal", None),
}
_KEYS: Final = {kinds.IntType: "integer", kinds.FloatType: "number"}
_HASHABLE: Final = (
    kinds.NoneType, kinds.BoolType, kinds.IntType, kinds.FloatType, kinds.StrType, kinds.BytesType, kinds.DateTimeType,
    kinds.TimeType, kinds.DateType, kinds.TimeDeltaType, kinds.UUIDType, kinds.DecimalType, kinds.EnumType,
    kinds.LiteralType, kinds.CustomType,
)  # fmt: skip


class Schemas:
    """The schemas of several types, with shared class definitions."""

    def __init__(self) -> None:
        """Starts without types."""
        self.definitions: dict[str, Any] = {}
        self._names: dict[Any, str] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """Returns the schema of a type. Raises: TypeError, RecursionError or NotImplementedError for a type without one."""
        return self._schema(kinds.type_info(kind))

    def _schema(self, info: kinds.Type) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        while isinstance(info, kinds.Metadata):
            extra = {**(info.extra_json_schema or {}), **extra}
            info = info.type
        found = self._named(info) if isinstance(info, (*_RECORDS, kinds.EnumType)) else self._body(info)
        return {**found, **extra}

    def _named(self, info: Any) -> dict[str, Any]:
        name = self._names.get(info.cls)
        if name is None:
            name = self._names[info.cls] = self._free(info.cls)
            self.definitions[name] = {}  # define it first, because a class may contain itself
            self.definitions[name].update(self._body(info))
        return {"$ref": f"#/$defs/{name}"}

    def _free(self, cls: Any) -> str:
        plain = getattr(cls, "__origin__", cls)
        arguments = [getattr(part, "__name__", str(part)) for part in typing.get_args(cls)]
        name = stem = re.sub(r"[^A-Za-z0-9.\-]", "_", "_".join([plain.__name__, *arguments]))
        number = 2
        while name in self.definitions:
            name, number = f"{stem}-{number}", number + 1
        return name

    def _body(self, info: kinds.Type) -> dict[str, Any]:  # noqa: PLR0911 - one line for each kind of type
        match info:
            case kinds.AnyType() | kinds.RawType():
                return {}
            case kinds.NoneType():
                return {"type": "null"}
            case kinds.BoolType():
                return {"type": "boolean"}
            case kinds.IntType():
                return {"type": "integer", **_bounds(info, _NUMBER)}
            case kinds.FloatType():
                return {"type": "number", **_bounds(info, _NUMBER)}
            case kinds.StrType():
                return {"type": "string", **_bounds(info, _TEXT)}
            case kinds.LiteralType():
                return {"enum": list(info.values)}
            case kinds.EnumType():
                return _described(info.cls) | {"enum": [member.value for member in info.cls]}
            case kinds.UnionType():
                return {"anyOf": [self._schema(each) for each in sorted(info.types, key=_null_last)]}
            case kinds.CustomType(cls=cls) if issubclass(cls, PurePath):
                return {"type": "string"}
            case kinds.CustomType() | kinds.ExtType():
                raise TypeError(f"`{getattr(info, 'cls', info)}` has no JSON form")
        return self._text(info) or self._container(info)

    def _text(self, info: kinds.Type) -> dict[str, Any]:
        """Returns the schema of a type that JSON represents as formatted text; empty for other types."""
        match info:
            case kinds.BytesType() | kinds.ByteArrayType() | kinds.MemoryViewType():
                if info.min_length is not None or info.max_length is not None:
                    raise TypeError("a length limit on bytes does not apply to their base64 text; use a `str`")
                return {"type": "string", "contentEncoding": "base64", KEYWORD: "base64"}
            case kinds.DateTimeType(tz=tz) | kinds.TimeType(tz=tz):
                name = "date-time" if isinstance(info, kinds.DateTimeType) else "time"
                form = {None: name, True: f"{name}-zoned", False: f"{name}-local"}[tz]
                return {"type": "string", **({"format": name} if tz else {}), KEYWORD: form}
        form, shown = _FORMS.get(type(info), ("", None))
        if not form:
            return {}
        return {"type": "string", **({"format": shown} if shown else {}), KEYWORD: form}

    def _container(self, info: Any) -> dict[str, Any]:
        match info:
            case kinds.TupleType():
                items = [self._schema(each) for each in info.item_types]
                fixed = {"prefixItems": items, "items": False} if items else {}
                return {"type": "array", **fixed, "minItems": len(items), "maxItems": len(items)}
            case kinds.SetType() | kinds.FrozenSetType():
                _check_hashable(info.item_type)
                if info.min_length is not None:
                    raise TypeError("the minimum size of a set cannot be checked, because elements may be repeated")
                return {"type": "array", **self._items(info), **_bounds(info, _ITEMS)}
            case kinds.CollectionType():
                return {"type": "array", **self._items(info), **_bounds(info, _ITEMS)}
            case kinds.NamedTupleType():
                required = sum(field.required for field in info.fields)
                fields = [self._field(field) for field in info.fields]
                least = {"prefixItems": fields, "items": False} if fields else {}
                return _described(info.cls) | {
                    "type": "array", **least, "minItems": required, "maxItems": len(fields),
                }  # fmt: skip
            case kinds.StructType() if info.array_like:
                raise TypeError(f"`{info.cls.__name__}` is `array_like`; use a tuple")
            case kinds.StructType() | kinds.DataclassType() | kinds.TypedDictType():
                return self._record(info)
        if not hasattr(info, "key_type"):
            raise TypeError(f"`{type(info).__name__}` has no JSON form")
        return self._mapping(info)

    def _items(self, info: Any) -> dict[str, Any]:
        return {} if isinstance(info.item_type, kinds.AnyType) else {"items": self._schema(info.item_type)}

    def _mapping(self, info: Any) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", **_bounds(info, _MEMBERS)}
        if names := self._key(info.key_type):
            schema["propertyNames"] = names
        if not isinstance(info.value_type, kinds.AnyType):
            schema["additionalProperties"] = self._schema(info.value_type)
        return schema

    def _key(self, info: kinds.Type) -> dict[str, Any]:
        """Returns the schema of an object's keys, which are always text."""
        extra: dict[str, Any] = {}
        while isinstance(info, kinds.Metadata):
            extra, info = {**(info.extra_json_schema or {}), **extra}, info.type
        if "x-interlock" in extra:
            raise TypeError("the keys of a mapping cannot have an `x-interlock` mark; use a list of pairs")
        if isinstance(info, kinds.AnyType):
            return {}
        if isinstance(info, kinds.StrType):
            return _bounds(info, _TEXT)
        if isinstance(info, kinds.EnumType):
            return {"enum": [_name(member.value) for member in info.cls]}
        if isinstance(info, kinds.LiteralType):
            return {"enum": [_name(value) for value in info.values]}
        form = _KEYS.get(type(info))
        if form is not None and not _bounds(info, _NUMBER):
            return {KEYWORD: form}
        if text := self._text(info):
            return {KEYWORD: text[KEYWORD]}
        raise TypeError("the keys of a mapping must be text, numbers without bounds, dates, UUIDs, `Literal` or `Enum`")

    def _record(self, info: Any) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required: list[str] = []
        if getattr(info, "tag_field", None) is not None:
            properties[info.tag_field] = {"enum": [info.tag]}
            required.append(info.tag_field)
        for field in info.fields:
            properties[field.encode_name] = self._field(field)
            if field.required:
                required.append(field.encode_name)
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return _described(info.cls) | schema | ({"required": required} if required else {})

    def _field(self, field: kinds.Field) -> dict[str, Any]:
        schema = self._schema(field.type)
        if field.required:
            return schema
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory in (list, dict, set):
            default = field.default_factory()
        if default is not msgspec.NODEFAULT and (shown := as_json(default)) is not msgspec.UNSET:
            schema["default"] = shown
        return schema


def as_json(value: Any) -> Any:
    """Returns a default value as JSON; `msgspec.UNSET` if it has no JSON form."""
    try:
        shown = msgspec.to_builtins(value, enc_hook=_encode, str_keys=True)
        canonical(shown)
    except (TypeError, ValueError, NotImplementedError, CanonicalError, RecursionError):
        return msgspec.UNSET
    return shown


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(type(value), "__pydantic_serializer__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    raise NotImplementedError


def _bounds(info: Any, names: dict[str, str]) -> dict[str, Any]:
    return {keyword: value for name, keyword in names.items() if (value := getattr(info, name, None)) is not None}


def _null_last(info: kinds.Type) -> bool:
    return isinstance(info, kinds.NoneType)


def _name(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError("a key of a mapping must be text or a number")
    return str(value)


def _described(cls: Any) -> dict[str, Any]:
    plain = getattr(cls, "__origin__", cls)
    text = vars(plain).get("__doc__") or ""
    generated = text.startswith(f"{plain.__name__}(") or text in ("An enumeration.", "")
    title = {"title": plain.__name__}
    return title if generated else title | {"description": inspect.cleandoc(text)}


def _check_hashable(info: Any) -> None:
    while isinstance(info, kinds.Metadata):
        info = info.type
    if isinstance(info, _HASHABLE):
        return
    inner: Iterable[Any]
    match info:
        case kinds.AnyType():
            raise TypeError("declare the element type of a set, because not every element can be in a set")
        case kinds.UnionType():
            inner = info.types
        case kinds.TupleType():
            inner = info.item_types
        case kinds.VarTupleType() | kinds.FrozenSetType():
            inner = [info.item_type]
        case kinds.StructType() | kinds.DataclassType() | kinds.NamedTupleType() if info.cls.__hash__ is not None:
            inner = [field.type for field in info.fields]
        case _:
            raise TypeError("elements of that type cannot be in a set")
    for each in inner:
        _check_hashable(each)
