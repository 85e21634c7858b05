"""Derives a JSON Schema and parameter conversions from a function's signature.

`callables` finds the parameters; `metadata` and `type_schemas` read the constraints of their types. A type that they do
not understand is refused when the tool is declared. A call converts only parameters whose type is not a plain JSON
type.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from inspect import Parameter
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, NamedTuple, Union

import msgspec

from interlock.executors import docstring, metadata, pydantic_types
from interlock.executors.callables import InvalidToolError, Target
from interlock.executors.metadata import MARK, Mark, NotUnderstoodError
from interlock.executors.type_schemas import Schemas, as_json
from interlock.model import typed
from interlock.model.errors import ToolError
from interlock.model.schema import marks
from interlock.model.tool import Context

__all__ = ["Converter", "Host", "InvalidToolError", "PathRead", "PathWrite", "Secret", "Signature", "read", "schema_of"]

PathRead = Annotated[str, msgspec.Meta(extra_json_schema={MARK: "path.read"}), Mark("path.read")]
"""A parameter that names a file or directory that the tool reads; checked against the grant's `paths.read`."""
PathWrite = Annotated[str, msgspec.Meta(extra_json_schema={MARK: "path.write"}), Mark("path.write")]
"""A parameter that names a file or directory that the tool changes; checked against the grant's `paths.write`."""
Host = Annotated[str, msgspec.Meta(extra_json_schema={MARK: "host"}), Mark("host")]
"""A parameter that names a host (`name:port` or a URL); checked against the grant's `hosts`."""
Secret = Annotated[str, msgspec.Meta(extra_json_schema={MARK: "secret"}), Mark("secret")]
"""A parameter that is redacted in journals, questions and messages."""

Converter = Callable[[Any], Any]

_AS_JSON_GIVES: Final = (str, bool, float, type(None), Any, dict, list)
_HINT: Final = (
    "use JSON types, Literal, Enum, TypedDict, dataclass, msgspec.Struct, a pydantic model, or "
    "Annotated[..., msgspec.Meta]"
)


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What the executor needs to know about a function, computed once."""

    schema: dict[str, Any]
    parameters: tuple[Parameter, ...]
    """The parameters that a caller may pass, in order, and the context parameter."""
    positional_only: tuple[tuple[str, Any], ...]
    """Names and defaults (`inspect.Parameter.empty` if there is none), in order."""
    context: str | None
    """Name of the context parameter."""
    hidden: frozenset[str]
    """Names that no caller may pass: bound arguments, and arguments that a decorator supplies."""
    converters: tuple[tuple[str, Converter], ...]
    rest: Converter | None
    """Converts the parameters that only `**kwargs` accepts; None if there are none or they need no conversion."""
    is_async: bool


def read(target: Target, *, skip_first: bool = False) -> Signature:
    """Read a callable's signature; `skip_first` leaves out `self`. Raises: InvalidToolError, which names the parameter."""
    parameters = list(target.parameters)[skip_first:]
    takes, context, rest = _sorted_out(parameters, target.hints)
    kinds = {name: target.hints.get(name, Any) for name in (*takes, *([rest.name] if rest else []))}
    readers = {name: _reader(name, kind) for name, kind in kinds.items()}
    described = docstring.parameters(target.function.__doc__)
    schemas, definitions = _schemas(readers)
    more: Any = schemas.pop(rest.name) if rest is not None else False
    for name, schema in schemas.items():
        _describe(schema, takes[name], kinds[name], described.get(name))
    properties: dict[str, Any] = dict(schemas)
    if rest is not None:  # without `**kwargs`, undeclared names are refused anyway
        properties |= {
            name: False for name in (*target.hidden, *([context.name] if context else [])) if name not in takes
        }
    schema = {"type": "object", "properties": properties, "additionalProperties": more}
    required = [name for name, parameter in takes.items() if parameter.default is Parameter.empty]
    if required:
        schema["required"] = required
    if definitions:
        schema["$defs"] = definitions
    _check_defaults(schema, takes)
    return Signature(
        schema=schema,
        parameters=tuple(parameters),
        positional_only=tuple((p.name, p.default) for p in parameters if p.kind is Parameter.POSITIONAL_ONLY),
        context=context.name if context is not None else None,
        hidden=target.hidden.difference(takes),
        converters=tuple((name, c) for name in takes if (c := readers[name].convert) is not None),
        rest=readers[rest.name].convert if rest is not None else None,
        is_async=target.is_async,
    )


def schema_of(kind: Any) -> dict[str, Any]:
    """Returns the schema of a tool's result, as a separate document. Raises: InvalidToolError."""
    schemas, definitions = _schemas({"returns": _reader("returns", kind)}, output=True)
    return schemas["returns"] | ({"$defs": definitions} if definitions else {})


def _sorted_out(
    parameters: Iterable[Parameter], hints: dict[str, Any]
) -> tuple[dict[str, Parameter], Parameter | None, Parameter | None]:
    """Split into the parameters by name, the context parameter, and `**kwargs`."""
    takes: dict[str, Parameter] = {}
    context: Parameter | None = None
    rest: Parameter | None = None
    for parameter in parameters:
        if _checked(parameter, hints) is Context:
            if context is not None:
                raise InvalidToolError("a tool takes at most one context", path=parameter.name)
            context = parameter
        elif parameter.kind is Parameter.VAR_KEYWORD:
            rest = parameter
        else:
            takes[parameter.name] = parameter
    return takes, context, rest


def _checked(parameter: Parameter, hints: dict[str, Any]) -> Any:
    name, default = parameter.name, parameter.default
    if parameter.kind is Parameter.VAR_POSITIONAL:
        raise InvalidToolError(f"`*{name}` cannot be passed by name", path=name, hint="take a list instead")
    if name == "ctx" and name not in hints:
        raise InvalidToolError("`ctx` has no annotation", path=name, hint="write `ctx: interlock.Context`")
    hint = hints.get(name, Any)
    if hint is Context and parameter.kind is Parameter.VAR_KEYWORD:
        raise InvalidToolError(f"`**{name}` cannot be the context", path=name, hint="write `ctx: interlock.Context`")
    if isinstance(default, dataclasses.Field) or type(default).__name__ == "FieldInfo":
        raise InvalidToolError(
            f"the default of `{name}` is a `{type(default).__name__}`, which a plain function ignores",
            path=name,
            hint="write `Annotated[TYPE, Field(...)] = DEFAULT`",
        )
    return hint


class _Reader(NamedTuple):
    """How to read a parameter: its type for msgspec or pydantic, and its conversion (None if it needs none)."""

    kind: Any
    by_pydantic: bool
    convert: Converter | None


def _reader(name: str, kind: Any) -> _Reader:
    try:
        if metadata.is_pydantic(kind):
            metadata.check_for_pydantic(kind)
            return _Reader(kind, by_pydantic=True, convert=pydantic_types.converter(name, kind, _whole))
        kind = metadata.translate(kind)
    except (NotUnderstoodError, TypeError) as error:
        raise _unsupported(name, str(error).partition("\n")[0]) from None
    return _Reader(kind, by_pydantic=False, convert=_converter(name, kind))


def _schemas(readers: dict[str, _Reader], *, output: bool = False) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    shared = Schemas()
    definitions: dict[str, Any] = {}
    for name, reader in readers.items():
        try:
            if reader.by_pydantic:
                found[name], own = pydantic_types.schema_of(reader.kind, name, output=output)
                definitions |= own
            else:
                found[name] = shared.of(reader.kind)
        except (TypeError, NotImplementedError, RecursionError) as error:
            reason = str(error).partition("\n")[0] if isinstance(error, TypeError) else "it has no JSON form"
            raise _unsupported(name, reason) from None
    return found, definitions | shared.definitions


def _unsupported(name: str, reason: str) -> InvalidToolError:
    return InvalidToolError(f"the type of `{name}` is not supported: {reason}", path=name, hint=_HINT)


def _describe(schema: dict[str, Any], parameter: Parameter, kind: Any, text: str | None) -> None:
    if "description" not in schema:
        notes = metadata.descriptions(kind)
        if notes or text:
            schema["description"] = notes[0] if notes else text
    if parameter.default is not Parameter.empty and (default := as_json(parameter.default)) is not msgspec.UNSET:
        schema["default"] = default


def _check_defaults(schema: dict[str, Any], takes: dict[str, Parameter]) -> None:
    """Check each default like a caller's value, because the gate never sees defaults. Raises: InvalidToolError."""
    unseen = {
        name
        for name, parameter in takes.items()
        if parameter.default is not Parameter.empty and "default" not in schema["properties"][name]
    }
    for pointer, _ in marks(schema) if unseen else ():
        name = pointer.split("/")[1]
        if name in unseen:
            raise InvalidToolError(
                f"the default of `{name}` has no JSON form, so it cannot be checked against grants",
                path=name,
                hint="write the default as text",
            )


def _converter(name: str, kind: Any) -> Converter | None:
    if _is_plain(kind, frozenset()):
        return None
    if kind is int:
        return _integer

    def convert(value: Any) -> Any:
        try:
            return typed.convert(_whole(value), kind, str_keys=True, dec_hook=_decode_hook)
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            where = str(error).rpartition(" - at `$")[2].rstrip("`") if " - at `$" in str(error) else ""
            raise ToolError(
                f"`{name}{where}` does not match its type",
                code="invalid_parameters",
                retryable=False,
                path=f"$.{name}{where}",
            ) from None

    return convert


def _is_plain(kind: Any, above: frozenset[Any]) -> bool:
    """Returns True if the type needs no conversion from JSON. `above` holds the classes that contain the type."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _is_plain(kind.__origin__, above)
    if isinstance(kind, typing.TypeVar):
        return kind.__bound__ is None and not kind.__constraints__
    if origin is Literal:
        return all(value is None or type(value) in (str, bool) for value in typing.get_args(kind))
    if origin in (Union, types.UnionType):
        return all(_is_plain(part, above) for part in typing.get_args(kind))
    if origin in (list, dict):
        key_and_values = typing.get_args(kind)
        keys_are_text = origin is list or key_and_values[0] in (str, Any)
        return keys_are_text and all(_is_plain(part, above) for part in key_and_values)
    if typing.is_typeddict(kind):
        below = above | {kind}
        return kind not in above and all(_is_plain(part, below) for part in typing.get_type_hints(kind).values())
    return any(kind is plain for plain in _AS_JSON_GIVES)


def _integer(value: Any) -> Any:
    # 1.0 is an integer in JSON Schema, but a float in Python.
    return int(value) if value.__class__ is float else value


def _whole(value: Any) -> Any:
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case list():
            return [_whole(item) for item in value]
        case dict():
            return {key: _whole(item) for key, item in value.items()}
    return value


def _decode_hook(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, PurePath) and isinstance(value, str):
        return kind(value)
    raise ValueError(f"cannot make a {getattr(kind, '__name__', kind)}")
