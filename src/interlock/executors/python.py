"""Python functions as tools: `@interlock.tool` declares one, `bind` makes it callable for the engine.

Everything that depends only on the function is computed once, when it is declared or bound; a call then passes the
parameters, converts those that need it, and checks that the output is JSON.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeVar, get_args, overload

import msgspec

from interlock.executors import docstring
from interlock.executors.callables import InvalidToolError, naming, resolve, title
from interlock.executors.output import to_json
from interlock.executors.signature import (
    Converter,
    Host,
    PathRead,
    PathWrite,
    Secret,
    Signature,
    read,
    schema_of,
)
from interlock.model import typed
from interlock.model.errors import ToolError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.proposal import Reversibility
from interlock.model.schema import Schema, marks
from interlock.model.tool import Binding, CompensationTemplate, Context, Function, Mode, RateLimit, Tool, open_schema
from interlock.model.units import duration_ms
from interlock.model.values import nearest_name, step

__all__ = ["Host", "InvalidToolError", "PathRead", "PathWrite", "Secret", "bind", "define", "name_only", "tool"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = (
    *(field for field in Tool.__struct_fields__ if field not in ("parameters", "timeout_ms", "cache_ttl_ms", "invocation_modes")),
    "timeout", "cache_ttl",
)  # fmt: skip
ATTRIBUTE: Final = "__interlock_tool__"
"""The attribute that holds a declared function's `Tool`."""


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
    supports_dry_run: bool = False,
    isolation: Literal["process"] | None = None,
    tags: Iterable[str] = (),
    returns: Any = None,
) -> Callable[[F], F]: ...
def tool(function: Any = None, /, **options: Any) -> Any:
    """Declare a function as a tool: `@tool`, or `@tool(read_only=True, timeout="10s")`.

    The function is unchanged, and carries its definition as `__interlock_tool__`; for a method of an instance,
    `tool(...)(thing.method)` returns another bound method that does. By default, its name, docstring and
    type hints give the tool's name, description and schema. Durations (`timeout`, `cache_ttl`, `per` of a rate limit)
    carry units. `returns` is a type or a JSON Schema that outputs are checked against. With `isolation="process"`, each
    call runs in a process behind the runtime's walls, which is killed at the time-out; the function must be defined at
    the top level of a module. The other options are fields of `interlock.model.tool.Tool`; by default, a read-only tool
    is not destructive, and is reversible.

    Raises: InvalidToolError (`invalid_tool`) if the function cannot be made into a tool.
    """
    if function is None:
        return functools.partial(_declare, options=options)
    return _declare(function, options)


def define(function: Callable[..., Any], **options: Any) -> Tool:
    """Returns the definition that `tool(**options)` would give the function, which is not changed. Raises: InvalidToolError."""
    with naming(function):
        return _definition(function, options)


def bind(
    function: Callable[..., Any],
    definition: Tool | None = None,
    *,
    observe: Callable[[Any, Context], None] | None = None,
) -> Binding:
    """Bind a callable for the engine. Its definition is given, declared, or derived from its signature.

    A method is bound through its instance (`bind(thing.method)`). A partial or decorated function has the definition of
    the wrapped function, with the remaining parameters. A given definition takes precedence, but an open schema in it
    is replaced by the function's own parameters. `observe` is called with each return value before it is converted to
    JSON.

    Raises: InvalidToolError, also if the callable's use of its arguments cannot be determined, or the definition lacks
    a path, host or secret mark of the function.
    """
    with naming(function):
        return _binding(function, definition, observe)


def _binding(
    function: Callable[..., Any], definition: Tool | None, observe: Callable[[Any, Context], None] | None
) -> Binding:
    target = resolve(function)
    if _wants_self(function):
        raise InvalidToolError(
            f"`{title(function)}` is a method without its instance", hint="register the instance's method"
        )
    signature = read(target)
    if definition is None:
        declared = getattr(function, ATTRIBUTE, None) or getattr(target.function, ATTRIBUTE, None)
        if declared is None:
            definition = _definition(function, {})
        else:
            definition = msgspec.structs.replace(declared, parameters=signature.schema)
    elif definition.parameters == open_schema():
        definition = msgspec.structs.replace(definition, parameters=signature.schema)
    elif missing := set(marks(signature.schema)) - set(marks(definition.parameters)):
        pointer, mark = min(missing)
        raise InvalidToolError(
            f"the definition of `{definition.name}` lacks the mark `{mark}` that the function has at `{pointer}`",
            hint="add it, or omit `parameters`",
        )
    if definition.supports_dry_run and signature.context is None:
        raise InvalidToolError(
            f"`{definition.name}` declares that it supports dry runs, but takes no `ctx`, so it cannot recognise one",
            path="supports_dry_run",
            hint="add a parameter `ctx: interlock.Context`, and change nothing if `ctx.dry_run`",
        )
    if signature.is_async and definition.inline:
        raise InvalidToolError("an async function cannot be `inline`", hint="it already runs on the event loop")
    mode: Mode = "async" if signature.is_async else "inline" if definition.inline else "thread"
    return Binding(tool=definition, function=_adapter(_by_name(function, signature), signature, observe), mode=mode)


def _declare(function: Any, options: dict[str, Any]) -> Any:
    target = function.__func__ if isinstance(function, staticmethod | classmethod) else function
    holder = target
    if isinstance(function, types.MethodType) and inspect.isfunction(function.__func__):
        holder = _copy(function.__func__)
        function = target = types.MethodType(holder, function.__self__)
    with naming(target):
        definition = _definition(target, options, skip_first=isinstance(function, classmethod) or _wants_self(target))
    try:
        setattr(holder, ATTRIBUTE, definition)
    except (AttributeError, TypeError):
        raise InvalidToolError(
            f"a `{type(target).__name__}` cannot be declared a tool",
            hint="`runtime.register(...)` accepts it directly; to declare options, wrap it in a function",
        ) from None
    return function


def _copy(function: types.FunctionType) -> types.FunctionType:
    """The same function again, so that a definition on it applies to the methods of one instance only."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    for name in (*functools.WRAPPER_ASSIGNMENTS, "__kwdefaults__"):
        setattr(copy, name, getattr(function, name))
    vars(copy).update(vars(function))
    return copy


def _definition(function: Callable[..., Any], options: dict[str, Any], *, skip_first: bool = False) -> Tool:
    target = resolve(function)
    if inspect.isgeneratorfunction(target.function) or inspect.isasyncgenfunction(target.function):
        raise InvalidToolError("a generator cannot be a tool", hint="write a function that returns a value")
    fields = _fields(options)
    name = fields["name"] = fields.get("name") or getattr(target.function, "__name__", None)
    if not isinstance(name, str) or not _is_name(name):
        raise InvalidToolError(
            f"{f'`{name}`' if name else 'the function'} cannot be a tool's name: it must be 1 to 256 visible characters without "
            "spaces",
            path="name",
            hint='give it one: `interlock.tool(name="...")(FUNCTION)`',
        )
    if fields.get("description") is None:
        fields["description"] = docstring.summary(target.function.__doc__)
    read_only = bool(fields.get("read_only"))
    if read_only and fields.get("destructive"):
        raise InvalidToolError("a tool cannot be `read_only` and `destructive`", path="destructive")
    if fields.get("destructive") is None:
        fields["destructive"] = not read_only
    if fields.get("reversibility") is None:
        compensable = "compensable" if fields.get("compensation") else "irreversible"
        fields["reversibility"] = "reversible" if read_only else compensable
    if fields.get("isolation") not in (None, "process"):
        raise InvalidToolError("`isolation` must be `process`", path="isolation", hint="or omit it")
    fields["parameters"] = read(target, skip_first=skip_first).schema
    try:
        definition = typed.convert({key: value for key, value in fields.items() if value is not None}, Tool)
    except msgspec.ValidationError as error:
        raise _misdeclared(name, error) from None
    Schema.compile(definition.parameters)
    marks(definition.parameters)
    if definition.returns is not None:
        Schema.compile(definition.returns)
    return definition


def _misdeclared(name: str, error: msgspec.ValidationError) -> InvalidToolError:
    """The error for an option with a wrong value. If the option takes only certain texts, it lists them."""
    text, _, at = str(error).partition(" - at `$.")
    option = at.rstrip("`")
    if text.startswith("Invalid enum value") and option == "reversibility":
        text = f"expected one of {', '.join(get_args(Reversibility))}"
    return InvalidToolError(f"`{name}` is not declared correctly: {text}", path=option or None)


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the decorator's options as fields of Tool."""
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
        option = min(unknown or {"parameters"})
        near = nearest_name(option, _OPTIONS)
        raise InvalidToolError(
            f"`tool` has no option `{option}`",
            hint=f"did you mean `{near}`?" if near else f"its options: {', '.join(_OPTIONS)}",
        )
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
    """Returns True for a method that is not bound to an instance."""
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


def _adapter(
    function: Callable[..., Any], signature: Signature, observe: Callable[[Any, Context], None] | None
) -> Function:
    """Adapt a function with named parameters to the signature that the engine calls."""
    is_plain = not (signature.converters or signature.context or signature.hidden or signature.rest)

    def finish(result: Any, ctx: Context) -> Any:
        if observe is not None:
            observe(result, ctx)
        return to_json(result)

    if signature.is_async:

        async def call_async(params: dict[str, Any], ctx: Context) -> Any:
            result = function(**(params if is_plain else _prepared(params, ctx, signature)))
            return finish(await result if inspect.isawaitable(result) else result, ctx)

        return call_async
    if is_plain and observe is None:
        return lambda params, _ctx: to_json(function(**params))

    def call(params: dict[str, Any], ctx: Context) -> Any:
        return finish(function(**(params if is_plain else _prepared(params, ctx, signature))), ctx)

    return call


def _prepared(params: dict[str, Any], ctx: Context, signature: Signature) -> dict[str, Any]:
    """Convert parameters to the function's types. Raises: ToolError `invalid_parameters`."""
    named = params.copy()
    for name in signature.hidden:
        if name in named:  # the derived schema refuses it too, but a given schema may not
            raise ToolError(
                f"`{name}` is already bound and cannot be passed",
                code="invalid_parameters",
                path=f"$.{name}",
                retryable=False,
            )
    for name, convert in signature.converters:
        if name in named:
            named[name] = convert(named[name])
    if signature.rest is not None:
        own = {parameter.name for parameter in signature.parameters}
        for name in named.keys() - own:
            named[name] = _converted(signature.rest, name, named[name])
    if signature.context is not None:
        named[signature.context] = ctx
    return named


def _converted(convert: Converter, name: str, value: Any) -> Any:
    """Convert a parameter that only `**kwargs` accepts; an error names the parameter."""
    try:
        return convert(value)
    except ToolError as error:
        inner = re.sub(r"\A\$\.[^.\[]+", "", error.path or "")
        raise ToolError(error.message, code=error.code, path=f"${step(name)}{inner}", retryable=False) from None


def _by_name(function: Callable[..., Any], signature: Signature) -> Callable[..., Any]:
    """Wrap a function so that its positional-only parameters can be passed by name."""
    positional_only = signature.positional_only
    if not positional_only:
        return function

    def call(**named: Any) -> Any:
        return function(*[named.pop(name, default) for name, default in positional_only], **named)

    return call


def name_only(name: str, function: Callable[[dict[str, Any]], Awaitable[Any]]) -> Binding:
    """Returns a tool defined only by its name: an open schema, the most cautious traits, and a function of its parameters."""

    async def call(parameters: dict[str, Any], _ctx: Context) -> Any:
        return await function(parameters)

    return Binding(tool=Tool(name=name), function=call, mode="async")
