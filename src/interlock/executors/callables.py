"""Finds the parameters that a callable really takes, through partials, methods, callable objects and decorators.

A tool's schema and its path and host marks come from the parameters of the innermost function. A wrapper whose effect
on the arguments is unknown could lose a mark, or let an agent replace a bound argument. Therefore a layer is followed
only if its effect is certain:

- `functools.partial`: bound arguments are removed; no caller may pass them.
- methods and callable objects: the instance is removed.
- `functools.wraps`: the wrapper either calls the function with exactly `*args, **kwargs` (determined from its compiled
  code), or names its parameters, and each is one of the function's. It supplies the parameters that it does not name.
- `functools.cache` and `lru_cache`.

Everything else raises InvalidToolError.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from inspect import Parameter
from typing import Any, Final, NamedTuple

from interlock.model.errors import Fault, InterlockError

_CACHED: Final = type(functools.lru_cache(lambda: None))
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_HINT: Final = "write a function that has these parameters and calls it, and register that function"
_STORES: Final = frozenset(("STORE_FAST", "DELETE_FAST", "STORE_DEREF", "DELETE_DEREF", "STORE_FAST_STORE_FAST"))
_SILENT: Final = frozenset(("PUSH_NULL", "NOP", "CACHE", "PRECALL", "EXTENDED_ARG"))


class InvalidToolError(InterlockError):
    """The function cannot be made into a tool."""

    exit_code = 2
    fault: Fault = "user"
    default_code = "invalid_tool"


class Target(NamedTuple):
    """A callable's parameters, and the innermost function that it calls."""

    function: Callable[..., Any]
    """The innermost function, which gives the tool its name, docstring and declaration."""
    parameters: tuple[Parameter, ...]
    """The parameters that a caller may pass, in order."""
    hints: dict[str, Any]
    """Maps each name to its type, including `Annotated`."""
    hidden: frozenset[str]
    """Names of bound or supplied parameters, which no caller may pass."""
    is_async: bool
    """True if a call must be awaited."""


def resolve(function: Any) -> Target:
    """Find a callable's parameters. Raises: InvalidToolError if a layer obscures what happens to the arguments."""
    if type(function) is functools.partial:
        return _bound(function)
    if isinstance(function, types.MethodType):
        return _without_first(resolve(function.__func__))
    if isinstance(function, _CACHED):
        return resolve(function.__wrapped__)
    if inspect.isclass(function) or not callable(function):
        what = "a class" if inspect.isclass(function) else f"a value of type `{type(function).__name__}`"
        raise InvalidToolError(
            f"{what} cannot be a tool", hint="write a function; options have names: `@tool(name=...)`"
        )
    if hasattr(function, "__signature__"):
        raise _opaque(function, "`__signature__` differs from the parameters in its code")
    if inspect.isfunction(function):
        return _wrapper(function) if "__wrapped__" in vars(function) else _plain(function)
    if inspect.isroutine(function):
        return _builtin(function)
    return _object(function)


@contextlib.contextmanager
def naming(function: Any) -> Iterator[None]:
    """Add the function and its line to the place of each InvalidToolError of the block."""
    try:
        yield
    except InvalidToolError as error:
        place = _place(function)
        if place is None or (error.path or "").startswith(place):
            raise
        path = f"{place}: {error.path}" if error.path else place
        raise InvalidToolError(error.message, code=error.code, path=path, hint=error.hint) from error.__cause__


def _place(function: Any) -> str | None:
    """`file:line: name` of a callable's own code; None if it has none."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if not isinstance(code, types.CodeType):
        return None
    return f"{code.co_filename}:{code.co_firstlineno}: {title(function)}"


def title(function: Any) -> str:
    """Returns the name of a callable in messages."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _plain(function: types.FunctionType) -> Target:
    return Target(
        function, _own_parameters(function), _hints(function), frozenset(), inspect.iscoroutinefunction(function)
    )


def _builtin(function: Any) -> Target:
    try:
        parameters = tuple(inspect.signature(function).parameters.values())
    except ValueError:
        raise _opaque(function, "it does not declare its parameters") from None
    return Target(function, parameters, {}, frozenset(), is_async=False)


def _object(function: Any) -> Target:
    call = getattr(type(function), "__call__", None)  # noqa: B004 - a call uses the class's attribute, not the instance's
    if isinstance(function, functools.partial) or hasattr(function, "__wrapped__") or not inspect.isfunction(call):
        raise _opaque(function, f"a `{type(function).__name__}` does not declare what it does with the arguments")
    if hasattr(call, "__signature__"):
        raise _opaque(function, "`__signature__` differs from the parameters in its code")
    found = _without_first(resolve(call))
    return found._replace(function=function, is_async=found.is_async or inspect.iscoroutinefunction(function))


def _without_first(found: Target) -> Target:
    if not found.parameters or found.parameters[0].kind not in _POSITIONAL:
        raise _opaque(found.function, "it has no parameter for its instance")
    first, *rest = found.parameters
    return found._replace(parameters=tuple(rest), hidden=found.hidden | {first.name})


def _bound(function: functools.partial[Any]) -> Target:
    """Resolve a partial: its positional arguments fill the first parameters, its keywords the parameters of the same names."""
    found = resolve(function.func)
    rest = list(found.parameters)
    hidden = set(found.hidden)
    placeholder = getattr(functools, "Placeholder", None)  # Python 3.14
    for value in function.args:
        if not rest or rest[0].kind not in _POSITIONAL or (placeholder is not None and value is placeholder):
            raise _opaque(function, "the parameter of a bound argument is unknown")
        hidden.add(rest.pop(0).name)
    open_ended = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in rest)
    for name in function.keywords:
        own = [parameter for parameter in rest if parameter.name == name]
        if (own and own[0].kind is Parameter.POSITIONAL_ONLY) or not (own or open_ended or name in hidden):
            raise _opaque(function, f"it binds `{name}`, which cannot be passed by name")
        rest = [parameter for parameter in rest if parameter.name != name]
        hidden.add(name)
    return found._replace(parameters=tuple(rest), hidden=frozenset(hidden))


def _wrapper(function: types.FunctionType) -> Target:
    """Resolve a function with `__wrapped__`, as `functools.wraps` creates it."""
    behind = resolve(function.__wrapped__)  # type: ignore[attr-defined]
    is_async = behind.is_async or inspect.iscoroutinefunction(function)
    own = _own_parameters(function)
    kinds = {parameter.kind for parameter in own}
    if kinds & {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
        if not _passes_on(function, own, function.__wrapped__):  # type: ignore[attr-defined]
            raise _opaque(function, "its decorator does more than pass `*args, **kwargs` to the function unchanged")
        return behind._replace(is_async=is_async)
    known = {parameter.name: parameter for parameter in behind.parameters}
    inner = inspect.unwrap(function)
    for parameter in own:
        if parameter.name not in known:
            raise _opaque(function, f"the wrapped function has no parameter `{parameter.name}`")
        theirs = getattr(inner, "__annotations__", {}).get(parameter.name)
        if function.__annotations__.get(parameter.name) != theirs:
            raise _opaque(
                function, f"its decorator and the wrapped function declare different types for `{parameter.name}`"
            )
    names = {parameter.name for parameter in own}
    return Target(
        behind.function, own, behind.hints, behind.hidden | {name for name in known if name not in names}, is_async
    )


def _own_parameters(function: types.FunctionType) -> tuple[Parameter, ...]:
    return tuple(inspect.signature(function, follow_wrapped=False).parameters.values())


def _hints(function: types.FunctionType) -> dict[str, Any]:
    if getattr(function, "__no_type_check__", False):
        raise _opaque(function, "`typing.no_type_check` hides its types")
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise InvalidToolError(
            f"an annotation of `{title(function)}` cannot be resolved: {error}",
            hint="classes used in annotations must be visible in the module",
        ) from None


_REFLECTIVE: Final = frozenset(
    ("exec", "eval", "compile", "locals", "vars", "dir", "_getframe", "currentframe", "stack", "settrace", "setprofile",
     "f_locals", "__import__", "globals")
)  # fmt: skip
"""Names through which a wrapper's code could reach its arguments without naming them."""


def _passes_on(function: types.FunctionType, own: tuple[Parameter, ...], behind: object) -> bool:
    """Returns True if a wrapper uses its arguments only to call `behind(FIRST, *args, **kwargs)`.

    Decided from the compiled code. Any other use of `args` or `kwargs`, and any assignment to a parameter, makes it
    False.
    """
    if len(own) < 2:
        return False
    *first, args, kwargs = own
    if args.kind is not Parameter.VAR_POSITIONAL or kwargs.kind is not Parameter.VAR_KEYWORD:
        return False
    if any(p.kind not in _POSITIONAL or p.default is not Parameter.empty for p in first):
        return False
    names = {p.name for p in own}
    if _REFLECTIVE & {*function.__code__.co_names, *function.__code__.co_freevars}:
        return False
    code = list(_tokens(function))
    if any(kind in _STORES and name in names for kind, name in code):
        return False
    leading: list[tuple[str, Any]] = [("load", p.name) for p in first]
    spread = (
        [*leading, ("BUILD_LIST", len(first)), ("load", args.name), ("LIST_EXTEND", 1), ("to tuple", None)]
        if first
        else [("load", args.name)]
    )
    call = [*spread, ("BUILD_MAP", 0), ("load", kwargs.name), ("DICT_MERGE", 1), ("CALL_FUNCTION_EX", None)]
    uses = sum(token in (("load", args.name), ("load", kwargs.name)) for token in code)
    calls = [at for at in range(1, len(code)) if code[at : at + len(call)] == call]
    return bool(calls) and uses == 2 * len(calls) and all(_is(function, code[at - 1], behind) for at in calls)


def _tokens(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yields a function's own instructions as (kind, argument), without those that only some Python versions have."""
    for step in dis.get_instructions(function):
        name = step.opname
        if name in _SILENT:
            continue
        if name.startswith(("LOAD_FAST", "STORE_FAST_LOAD")) and isinstance(step.argval, tuple):
            yield from (("load", each) for each in step.argval)
        elif name.startswith("LOAD_FAST"):
            yield "load", step.argval
        elif name == "LIST_TO_TUPLE" or (name == "CALL_INTRINSIC_1" and "LIST_TO_TUPLE" in step.argrepr):
            yield "to tuple", None
        elif name == "CALL_FUNCTION_EX":
            yield name, None
        elif name in ("BUILD_LIST", "BUILD_MAP", "LIST_EXTEND", "DICT_MERGE"):
            yield name, step.arg
        else:
            yield name, step.argval


def _is(function: types.FunctionType, token: tuple[str, Any], behind: object) -> bool:
    """Returns True if an instruction loads the wrapped function."""
    kind, name = token
    if kind == "LOAD_DEREF":
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        try:
            return name in cells and cells[name].cell_contents is behind
        except ValueError:  # an empty cell
            return False
    if kind == "LOAD_GLOBAL":
        return function.__globals__.get(name, vars(builtins).get(name)) is behind
    return False


def _opaque(function: Any, why: str) -> InvalidToolError:
    return InvalidToolError(f"the parameters of `{title(function)}` cannot be determined: {why}", hint=_HINT)
