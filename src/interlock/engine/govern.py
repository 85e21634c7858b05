"""`govern(fn)`: one function behind the gate. Calling it proposes the call; it runs only if the gate lets it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from interlock.engine.runtime import Runtime
from interlock.executors.python import bind
from interlock.model.errors import ToolError
from interlock.model.result import ActionResult

P = ParamSpec("P")
R = TypeVar("R")


class DeniedError(ToolError):
    """The call did not come to a result: `code` is the row's reason, `row` the whole row."""

    def __init__(self, row: ActionResult) -> None:
        """From the row of the call."""
        super().__init__(row.error or row.reason or row.status, code=row.reason, retryable=False, output=row.output)
        self.row = row


def govern(function: Callable[P, R], runtime: Runtime) -> Callable[P, R]:
    """The function, behind the runtime's gate: same parameters, same result, recorded, refused with DeniedError.

    An async function stays async. A plain one runs its own event loop, so it cannot be called from a running one.
    """
    binding = bind(function)
    runtime.register(binding)
    signature = inspect.signature(function)
    name = binding.tool.name

    def proposal(arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        bound = signature.bind_partial(*arguments, **named)
        return {
            "source": "govern",
            "actions": [{"type": "tool_call", "tool": name, "parameters": dict(bound.arguments)}],
        }

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def governed(*arguments: Any, **named: Any) -> Any:
            return _result((await runtime.execute(proposal(arguments, named))).results[0])

        return cast("Callable[P, R]", governed)

    @functools.wraps(function)
    def governed_sync(*arguments: Any, **named: Any) -> Any:
        return _result(runtime.execute_sync(proposal(arguments, named)).results[0])

    return cast("Callable[P, R]", governed_sync)


def _result(row: ActionResult) -> Any:
    if row.status != "succeeded":
        raise DeniedError(row)
    return row.output
