"""From a function's signature to a JSON Schema and to the conversions that its parameters need.

msgspec knows the schema of every type that it can decode; what it cannot decode is refused when the tool is declared. Objects
made from classes are closed (an unknown field is refused). Only parameters whose type differs from what JSON gives are
converted at a call.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, Union

import msgspec

from interlock.executors import docstring
from interlock.model.canonical import CanonicalError, canonical
from interlock.model.errors import Fault, InterlockError, ToolError
from interlock.model.tool import Context

PathRead = Annotated[str, msgspec.Meta(extra_json_schema={"x-interlock": "path.read"})]
"""A parameter that names a file or directory which the tool reads: checked against the grant's `paths.read`."""
PathWrite = Annotated[str, msgspec.Meta(extra_json_schema={"x-interlock": "path.write"})]
"""A parameter that names a file or directory which the tool changes: checked against the grant's `paths.write`."""
Host = Annotated[str, msgspec.Meta(extra_json_schema={"x-interlock": "host"})]
"""A parameter that names a host (`name:port` or a URL): checked against the grant's `hosts`."""
Secret = Annotated[str, msgspec.Meta(extra_json_schema={"x-interlock": "secret"})]
"""A parameter that is masked in journals, questions and messages."""

Converter = Callable[[Any], Any]

_AS_JSON_GIVES: Final = (str, bool, float, type(None), Any, dict, list)
_HINT: Final = (
    "use types that JSON has, Literal, Enum, TypedDict, dataclass, msgspec.Struct, or Annotated[..., msgspec.Meta]"
)


class InvalidToolError(InterlockError):
    """A function cannot be a tool as it is written."""

    exit_code = 2
    fault: Fault = "user"
    default_code = "invalid_tool"


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What the executor needs to know about a function, worked out once."""

    schema: dict[str, Any]
    positional_only: tuple[tuple[str, Any], ...]
    """Names with their defaults (`inspect.Parameter.empty` for none), in order."""
    context: str | None
    """Name of the parameter that takes the context."""
    converters: tuple[tuple[str, Converter], ...]


def read(function: Callable[..., Any], *, skip_first: bool = False) -> Signature:
    """Read a function's signature; `skip_first` leaves out `self`. Raises InvalidToolError naming the parameter."""
    hints = _hints(function)
    parameters = list(inspect.signature(function).parameters.values())[skip_first:]
    takes: dict[str, inspect.Parameter] = {}
    context: inspect.Parameter | None = None
    rest: inspect.Parameter | None = None
    for parameter in parameters:
        if _checked(parameter, hints) is Context:
            if context is not None:
                raise InvalidToolError("a tool takes at most one context", path=parameter.name)
            context = parameter
        elif parameter.kind is parameter.VAR_KEYWORD:
            rest = parameter
        else:
            takes[parameter.name] = parameter
    annotations = {name: hints.get(name, Any) for name in takes}
    if rest is not None:
        annotations[rest.name] = hints.get(rest.name, Any)
    described = docstring.parameters(function.__doc__)
    schemas, definitions = _schemas(annotations)
    more: Any = schemas.pop(rest.name) if rest is not None else False
    for name, schema in schemas.items():
        _describe(schema, takes[name], annotations[name], described.get(name))
    properties: dict[str, Any] = dict(schemas)
    if context is not None and rest is not None:
        properties[context.name] = False  # the context's name is not free for the agent to use
    schema = {"type": "object", "properties": properties, "additionalProperties": more}
    required = [name for name, parameter in takes.items() if parameter.default is parameter.empty]
    if required:
        schema["required"] = required
    if definitions:
        schema["$defs"] = definitions
    return Signature(
        schema=schema,
        positional_only=tuple((p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_ONLY),
        context=context.name if context is not None else None,
        converters=tuple((n, c) for n in takes if (c := _converter(n, annotations[n])) is not None),
    )


def schema_of(kind: Any) -> dict[str, Any]:
    """The schema of one type, as a document of its own. Raises InvalidToolError."""
    schemas, definitions = _schemas({"returns": kind})
    return schemas["returns"] | ({"$defs": definitions} if definitions else {})


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.__func__ if isinstance(function, types.MethodType) else function
    if not inspect.isroutine(target) and not hasattr(target, "__wrapped__"):
        target = type(target).__call__  # an object that can be called
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise InvalidToolError(
            f"an annotation of `{_title(function)}` cannot be resolved: {error}",
            hint="classes used in annotations must be visible in the module",
        ) from None


def _checked(parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    name = parameter.name
    if parameter.kind is parameter.VAR_POSITIONAL:
        raise InvalidToolError(f"`*{name}` has no name in JSON", path=name, hint="take a list instead")
    if name == "ctx" and name not in hints:
        raise InvalidToolError("`ctx` has no annotation", path=name, hint="write `ctx: interlock.Context`")
    hint = hints.get(name, Any)
    if hint is Context and parameter.kind is parameter.VAR_KEYWORD:
        raise InvalidToolError(f"`**{name}` cannot be the context", path=name, hint="write `ctx: interlock.Context`")
    return hint


def _schemas(kinds: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    for name, kind in kinds.items():
        try:
            msgspec.json.schema(kind, schema_hook=_schema_hook)
        except (TypeError, NotImplementedError, RecursionError) as error:
            reason = str(error).partition("\n")[0] if isinstance(error, TypeError) else "it has no JSON form"
            raise InvalidToolError(f"the type of `{name}` is not supported: {reason}", path=name, hint=_HINT) from None
    found, definitions = msgspec.json.schema_components(
        kinds.values(), schema_hook=_schema_hook, ref_template="#/$defs/{name}"
    )
    for definition in definitions.values():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
    return dict(zip(kinds, found, strict=True)), definitions


def _schema_hook(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return {"type": "string"}
    raise NotImplementedError


def _describe(schema: dict[str, Any], parameter: inspect.Parameter, kind: Any, text: str | None) -> None:
    if "description" not in schema:
        notes = [m for m in getattr(kind, "__metadata__", ()) if isinstance(m, str)]
        if notes or text:
            schema["description"] = notes[0] if notes else text
    if parameter.default is not parameter.empty:
        try:
            default = msgspec.to_builtins(parameter.default)
            canonical(default)
        except (TypeError, ValueError, CanonicalError):
            return  # shown to nobody, and still the default
        schema["default"] = default


def _converter(name: str, kind: Any) -> Converter | None:
    if _is_plain(kind):
        return None
    if kind is int:
        return _integer

    def convert(value: Any) -> Any:
        try:
            return msgspec.convert(_whole(value), kind, str_keys=True, dec_hook=_decode_hook)
        except (msgspec.ValidationError, ValueError) as error:
            where = str(error).rpartition(" - at `$")[2].rstrip("`") if " - at `$" in str(error) else ""
            raise ToolError(
                "the parameter is not what its type says",
                code="invalid_parameters",
                retryable=False,
                path=f"$.{name}{where}",
            ) from None

    return convert


def _is_plain(kind: Any) -> bool:
    """True if JSON already gives what the type means."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _is_plain(kind.__origin__)
    if kind in _AS_JSON_GIVES or isinstance(kind, typing.TypeVar):
        return True
    if origin is Literal:
        return not any(isinstance(value, enum.Enum) for value in typing.get_args(kind))
    if origin in (Union, types.UnionType):
        return all(map(_is_plain, typing.get_args(kind)))
    if origin in (list, dict):
        key_and_values = typing.get_args(kind)
        return all(map(_is_plain, key_and_values)) and (origin is list or key_and_values[0] in (str, Any))
    return typing.is_typeddict(kind) and all(map(_is_plain, typing.get_type_hints(kind).values()))


def _integer(value: Any) -> Any:
    # For JSON Schema 1.0 is an integer; for Python it is a float.
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


def _title(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__
