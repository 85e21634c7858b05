"""`govern(fn)`: one function behind the gate. Calling it proposes the call; it runs only if the gate lets it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, Final, ParamSpec, TypeVar, cast

import msgspec

from interlock.engine.runtime import Runtime
from interlock.executors.callables import resolve
from interlock.executors.python import bind
from interlock.executors.signature import Signature, read
from interlock.executors.type_schemas import as_json
from interlock.model.errors import ToolError, UsageError
from interlock.model.result import ActionResult
from interlock.model.tool import Context
from interlock.model.values import step
from interlock.verify.references import References

P = ParamSpec("P")
R = TypeVar("R")
ACTION: Final = "a1"
"""The id of the one action of a governed call."""
_NOTHING: Final = object()


class DeniedError(ToolError):
    """The call has no result: `code` is the row's reason, `row` the whole row."""

    def __init__(self, row: ActionResult) -> None:
        """From the row of the call."""
        super().__init__(row.error or row.reason or row.status, code=row.reason, retryable=False, output=row.output)
        self.row = row


def govern(function: Callable[P, R], runtime: Runtime) -> Callable[P, R]:
    """Put a function behind the runtime's gate: same parameters, same result, recorded; a refusal raises DeniedError.

    The gate judges the arguments as JSON, and the function gets them converted back to the types of its hints; an argument
    that cannot be converted (a `Path` for a parameter without a hint) is a UsageError that names it. The caller gets the
    function's own return value; a result that an earlier call stored (an idempotent or cached tool) is returned as JSON.

    An async function stays async. A plain one runs its own event loop, so it cannot be called from a running one.
    """
    returned: dict[str, Any] = {}

    def observe(value: Any, ctx: Context) -> None:
        if ctx.proposal_id in returned:
            returned[ctx.proposal_id] = value

    binding = bind(function, observe=observe)
    signature = read(resolve(function))
    runtime.register(binding)

    def proposal(arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        parameters = _as_json(_by_name(signature, arguments, named), signature)
        action = {"type": "tool_call", "id": ACTION, "tool": binding.tool.name, "parameters": parameters}
        return {"id": runtime.services.ids.new("prop"), "source": "govern", "actions": [action]}

    def result(row: ActionResult, value: Any) -> Any:
        if row.status != "succeeded":
            raise DeniedError(row)
        return row.output if value is _NOTHING else value

    if signature.is_async:

        @functools.wraps(function)
        async def governed(*arguments: Any, **named: Any) -> Any:
            proposed = proposal(arguments, named)
            returned[proposed["id"]] = _NOTHING
            try:
                row = (await runtime.execute(proposed)).results[0]
            finally:
                value = returned.pop(proposed["id"])
            return result(row, value)

        return cast("Callable[P, R]", governed)

    @functools.wraps(function)
    def governed_sync(*arguments: Any, **named: Any) -> Any:
        proposed = proposal(arguments, named)
        returned[proposed["id"]] = _NOTHING
        try:
            row = runtime.execute_sync(proposed).results[0]
        finally:
            value = returned.pop(proposed["id"])
        return result(row, value)

    return cast("Callable[P, R]", governed_sync)


def _by_name(signature: Signature, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name. The gate refuses missing ones. Raises: TypeError, as a call does."""
    takes = [parameter for parameter in signature.parameters if parameter.name != signature.context]
    # A default before a parameter that has none would be refused here, but is valid in a call by name.
    bare = [parameter.replace(default=Parameter.empty, annotation=Parameter.empty) for parameter in takes]
    given = inspect.Signature(bare).bind_partial(*arguments, **named).arguments
    rest = next((parameter.name for parameter in takes if parameter.kind is Parameter.VAR_KEYWORD), None)
    more = given.pop(rest, {}) if rest is not None else {}
    return given | more


def _as_json(given: dict[str, Any], signature: Signature) -> dict[str, Any]:
    """The arguments as a proposal has them: JSON, in which no text is a reference. Raises: UsageError naming the argument."""
    properties, converted = signature.schema["properties"], dict(signature.converters)
    own = {parameter.name for parameter in signature.parameters if parameter.kind is not Parameter.VAR_KEYWORD}
    found = {}
    for name, value in given.items():
        shown = as_json(value)
        # A parameter declared as text also accepts a path.
        is_text = name in own and properties[name].get("type") == "string"
        typed = is_text or name in converted or (name not in own and signature.rest is not None)
        if shown is msgspec.UNSET or not (typed or _is_same(value, shown)):
            raise UsageError(
                f"the argument `{name}` is a `{type(value).__name__}`, which the function would not get back from JSON",
                path=f"${step(name)}",
                hint="annotate the parameter with the type that it takes",
            )
        found[name] = References((ACTION,)).escape(shown)
    return found


def _is_same(value: Any, shown: Any) -> bool:
    """True if the value survives the round trip through JSON."""
    if isinstance(value, dict):
        return (
            isinstance(shown, dict)
            and value.keys() == shown.keys()
            and all(_is_same(v, shown[k]) for k, v in value.items())
        )
    if isinstance(value, list):
        return isinstance(shown, list) and all(map(_is_same, value, shown))
    return bool(value == shown)
