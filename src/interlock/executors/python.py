"""Python functions as tools: `@interlock.tool` declares one, `bind` makes it callable for the engine.

Everything that can be worked out from the function is worked out once, when it is declared or bound; a call then only
spreads the parameters, converts those that need it, and checks that the output is JSON.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, overload

import msgspec

from interlock.executors import docstring
from interlock.executors.output import to_json
from interlock.executors.signature import (
    Converter,
    Host,
    InvalidToolError,
    PathRead,
    PathWrite,
    Secret,
    Signature,
    read,
    schema_of,
)
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.proposal import Reversibility
from interlock.model.schema import Schema, marks
from interlock.model.tool import Binding, CompensationTemplate, Context, Function, Mode, RateLimit, Tool
from interlock.model.units import duration_ms

__all__ = ["Host", "InvalidToolError", "PathRead", "PathWrite", "Secret", "bind", "define", "tool"]

F = TypeVar("F", bound=Callable[..., Any])

ATTRIBUTE: Final = "__interlock_tool__"
"""Where a declared function carries its `Tool`."""


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    read_only: bool = False,
    destructive: bool | None = None,
    open_world: bool = True,
    reversibility: Reversibility | None = None,
    compensation: CompensationTemplate | Mapping[str, Any] | None = None,
    idempotent: bool = False,
    effects: Mapping[str, Any] | None = None,
    probe: str | None = None,
    cache_ttl: str | None = None,
    rate_limit: RateLimit | Mapping[str, Any] | None = None,
    timeout: str | None = None,
    inline: bool = False,
    tags: Iterable[str] = (),
    returns: Any = None,
) -> Callable[[F], F]: ...
def tool(function: Any = None, /, **options: Any) -> Any:
    """Declare a function to be a tool: `@tool`, or `@tool(read_only=True, timeout="10s")`.

    The function stays what it was, and carries its definition as `__interlock_tool__`. Name, description and schema come
    from its name, docstring and type hints unless given. Durations (`timeout`, `cache_ttl`, `per` of a rate limit) carry
    units. `returns` is a type or a JSON Schema that outputs are checked against. The other options are the fields of
    `interlock.model.tool.Tool`; a read-only tool is not destructive and reversible unless said otherwise.

    Raises: InvalidToolError (`invalid_tool`) if the function cannot be a tool as it is written.
    """
    if function is None:
        return functools.partial(_declare, options=options)
    return _declare(function, options)


def define(function: Callable[..., Any], **options: Any) -> Tool:
    """The definition that `tool(**options)` would give the function, which stays as it is. Raises InvalidToolError."""
    return _definition(function, options)


def bind(function: Callable[..., Any], definition: Tool | None = None) -> Binding:
    """Make a function callable for the engine: a declared one, or any with the definition given or worked out.

    A method is bound through its instance (`bind(thing.method)`). Raises InvalidToolError.
    """
    if definition is None:
        definition = getattr(function, ATTRIBUTE, None)
    if _wants_self(function):
        raise InvalidToolError(
            f"`{function.__qualname__}` is a method without its instance", hint="register the instance's method"
        )
    signature = read(function)
    if definition is None:
        definition = _definition(function, {})
    by_name = _by_name(function, signature)
    if _is_async(function):
        if definition.inline:
            raise InvalidToolError("an async function cannot be `inline`", hint="it runs on the loop anyway")
        return Binding(tool=definition, function=_async_adapter(by_name, signature), mode="async")
    mode: Mode = "inline" if definition.inline else "thread"
    return Binding(tool=definition, function=_plain_adapter(by_name, signature), mode=mode)


def _declare(function: Any, options: dict[str, Any]) -> Any:
    target = function.__func__ if isinstance(function, staticmethod | classmethod) else function
    definition = _definition(target, options, skip_first=isinstance(function, classmethod) or _wants_self(target))
    try:
        setattr(target, ATTRIBUTE, definition)
    except (AttributeError, TypeError):
        raise InvalidToolError(
            f"a `{type(target).__name__}` cannot be declared a tool", hint="wrap it in a function"
        ) from None
    return function


def _definition(function: Callable[..., Any], options: dict[str, Any], *, skip_first: bool = False) -> Tool:
    if not callable(function):
        raise InvalidToolError(f"a `{type(function).__name__}` is no function", hint="write `@tool` or `@tool(...)`")
    if inspect.isclass(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidToolError("a class or a generator cannot be a tool", hint="write a function that returns a value")
    fields = _fields(options)
    name = fields["name"] = fields.get("name") or getattr(function, "__name__", None)
    if not isinstance(name, str) or not _is_name(name):
        raise InvalidToolError(
            "a tool's name is up to 256 visible characters without spaces", path="name", hint="give one with `name=`"
        )
    if fields.get("description") is None:
        fields["description"] = docstring.summary(function.__doc__)
    read_only = bool(fields.get("read_only"))
    if read_only and fields.get("destructive"):
        raise InvalidToolError("a tool cannot be `read_only` and `destructive`", path="destructive")
    if fields.get("destructive") is None:
        fields["destructive"] = not read_only
    if fields.get("reversibility") is None:
        compensable = "compensable" if fields.get("compensation") else "irreversible"
        fields["reversibility"] = "reversible" if read_only else compensable
    fields["parameters"] = read(function, skip_first=skip_first).schema
    try:
        definition = msgspec.convert({key: value for key, value in fields.items() if value is not None}, Tool)
    except msgspec.ValidationError as error:
        raise InvalidToolError(f"`{name}` is not declared as it should be: {error}") from None
    Schema.compile(definition.parameters)
    marks(definition.parameters)
    if definition.returns is not None:
        Schema.compile(definition.returns)
    return definition


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the decorator as fields of Tool."""
    fields = dict(options)
    for option, field in (("timeout", "timeout_ms"), ("cache_ttl", "cache_ttl_ms")):
        if fields.get(option) is not None:
            fields[field] = _milliseconds(option, fields[option])
        fields.pop(option, None)
    limit = fields.get("rate_limit")
    if isinstance(limit, Mapping) and "per" in limit:
        fields["rate_limit"] = {k: v for k, v in limit.items() if k != "per"} | {
            "per_ms": _milliseconds("rate_limit", limit["per"])
        }
    for option in ("compensation", "effects"):
        if isinstance(fields.get(option), Mapping):
            fields[option] = dict(fields[option])
    if "tags" in fields:
        fields["tags"] = tuple(fields["tags"])
    returns = fields.get("returns")
    if returns is not None and not isinstance(returns, dict):
        fields["returns"] = schema_of(returns)
    unknown = fields.keys() - set(Tool.__struct_fields__)
    if unknown or "parameters" in fields:
        raise InvalidToolError(f"`tool` has no option `{min(unknown or {'parameters'})}`")
    return fields


def _milliseconds(option: str, value: Any) -> int:
    if not isinstance(value, str):
        raise InvalidToolError(f"`{option}` needs a unit", path=option, hint='write it as "30s" or "500ms"')
    try:
        return duration_ms(value)
    except ValueError as error:
        raise InvalidToolError(f"`{option}`: {error}", path=option) from None


def _is_name(name: str) -> bool:
    return 0 < len(name) <= DEFAULT_LIMITS.name_chars and name.isprintable() and not any(c in " <>" for c in name)


def _wants_self(function: Any) -> bool:
    """True for a function in a class body that has not been bound to an instance."""
    if not inspect.isfunction(function):
        return False
    outer = function.__qualname__.rpartition(".")[0]
    return (
        bool(outer)
        and not outer.endswith("<locals>")
        and next(iter(inspect.signature(function).parameters), "")
        in (
            "self",
            "cls",
        )
    )


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - an object with an async __call__


def _plain_adapter(function: Callable[..., Any], signature: Signature) -> Function:
    converters, context = signature.converters, signature.context
    if not converters and context is None:
        return lambda params, _ctx: to_json(function(**params))

    def call(params: dict[str, Any], ctx: Context) -> Any:
        return to_json(function(**_prepared(params, ctx, converters, context)))

    return call


def _async_adapter(function: Callable[..., Any], signature: Signature) -> Function:
    converters, context = signature.converters, signature.context
    if not converters and context is None:

        async def spread(params: dict[str, Any], _ctx: Context) -> Any:
            return to_json(await function(**params))

        return spread

    async def call(params: dict[str, Any], ctx: Context) -> Any:
        return to_json(await function(**_prepared(params, ctx, converters, context)))

    return call


def _prepared(
    params: dict[str, Any], ctx: Context, converters: tuple[tuple[str, Converter], ...], context: str | None
) -> dict[str, Any]:
    named = params.copy()
    for name, convert in converters:
        if name in named:
            named[name] = convert(named[name])
    if context is not None:
        named[context] = ctx
    return named


def _by_name(function: Callable[..., Any], signature: Signature) -> Callable[..., Any]:
    """The function, with its positional-only parameters taken by name."""
    positional_only = signature.positional_only
    if not positional_only:
        return function

    def call(**named: Any) -> Any:
        return function(*[named.pop(name, default) for name, default in positional_only], **named)

    return call
