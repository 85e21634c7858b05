"""Converts a Python tool's return value to JSON by fixed rules, or explains why it cannot.

- dataclass, msgspec.Struct, pydantic model, Mapping: object
- list, tuple: array; set: array, sorted by canonical form
- Enum: its value
- datetime, date, time: ISO 8601; timedelta, Decimal, UUID: text as msgspec writes it
- Path: text; bytes, and a path that is not UTF-8: `{"b64": "..."}`

Everything else is refused, as are values on which JSON readers disagree: NaN, infinities, integers beyond 2^53 - 1,
lone surrogates, and keys that are not text.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import math
import os
import uuid  # noqa: TID251 - the type of a value, not a source of ids
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, Final

import msgspec

from interlock.model.canonical import canonical
from interlock.model.errors import ToolError
from interlock.model.limits import DEFAULT_LIMITS, INTEGER_MAX
from interlock.model.values import step

_BY_MSGSPEC: Final = (dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID)
_DEPTH_MAX: Final = DEFAULT_LIMITS.depth


def to_json(value: Any) -> Any:
    """Convert a tool's return value to JSON. Returns the same object if it is already JSON.

    Raises: a ToolError that the tool returned; ToolError `invalid_output`, which names the position but not the value.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, ToolError):
        raise value
    return value if _is_json(value, _DEPTH_MAX) else _convert(value, "$", _DEPTH_MAX)


def _is_json(value: Any, depth: int) -> bool:
    cls = value.__class__
    if cls is str:
        return value.isascii() or _is_text(value)
    if cls is dict:
        return depth > 0 and all(map(_is_key, value)) and _are_json(value.values(), depth - 1)
    if cls is list:
        return depth > 0 and _are_json(value, depth - 1)
    if cls is int:
        return bool(-INTEGER_MAX <= value <= INTEGER_MAX)
    if cls is float:
        return math.isfinite(value)
    return value is None or cls is bool


def _are_json(values: Iterable[Any], depth: int) -> bool:
    # Check ASCII text, by far the most common value, inline: a function call for each would dominate.
    return all((value.__class__ is str and value.isascii()) or _is_json(value, depth) for value in values)


def _is_key(key: Any) -> bool:
    return key.__class__ is str and (key.isascii() or _is_text(key))


def _convert(value: Any, path: str, depth: int) -> Any:  # noqa: C901 - one line for each kind of value
    match value:
        case None | bool():
            return value
        case enum.Enum():
            return _convert(value.value, path, depth)
        case str():
            if not _is_text(value):
                raise _refused(path, "is text with a lone surrogate")
            return str(value)
        case int():
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                raise _refused(path, "is an integer beyond +-(2^53 - 1)")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise _refused(path, "is a number that is not finite")
            return float(value)
        case bytes() | bytearray() | memoryview():
            return {"b64": base64.b64encode(value).decode()}
        case PurePath():
            text = str(value)
            return text if _is_text(text) else {"b64": base64.b64encode(os.fsencode(text)).decode()}
    if isinstance(value, _BY_MSGSPEC):
        return msgspec.to_builtins(value)
    if hasattr(type(value), "__pydantic_serializer__") and hasattr(value, "model_dump"):
        return _convert(value.model_dump(mode="json", by_alias=True), path, depth)  # a pydantic model
    return _container(value, path, depth)


def _container(value: Any, path: str, depth: int) -> Any:
    if depth <= 0:
        raise _refused(path, f"is nested deeper than {_DEPTH_MAX}, or contains itself")
    if isinstance(value, list | tuple):
        return [_convert(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_convert(item, f"{path}[*]", depth - 1) for item in value), key=canonical)
    fields = _fields(value)
    if fields is None:
        if inspect.iscoroutine(value):
            value.close()  # avoids the "never awaited" warning
        raise _refused(path, f"is a `{type(value).__name__}`, which has no JSON form")
    result: dict[str, Any] = {}
    for key, item in fields.items():
        name = key.value if isinstance(key, enum.Enum) else key
        if not isinstance(name, str) or not _is_text(name):
            raise _refused(path, "has a key that is not text")
        result[str(name)] = _convert(item, path + step(name), depth - 1)
    return result


def _fields(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        tag = {config.tag_field: config.tag} if config.tag_field is not None else {}
        pairs = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        return tag | {name: item for name, field in pairs if (item := getattr(value, field)) is not msgspec.UNSET}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _refused(path: str, what: str) -> ToolError:
    return ToolError(f"the tool's output {what}", code="invalid_output", retryable=False, path=path)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
