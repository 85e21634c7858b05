"""The program's own executor, for tools without a function: `Runtime.set_executor`."""

from __future__ import annotations

from typing import Any, Final

from interlock.engine.tools.registry import Registry
from interlock.model.errors import ToolError, UsageError
from interlock.model.proposal import Proposal
from interlock.model.tool import Binding, Context, Tool, ToolExecutor

NAMES_MAX: Final = 1_000
"""Maximum number of unregistered names that become tools. Beyond it, names that an agent makes up are unknown tools."""


class Executors:
    """The executor for tools without a function. Shared by a runtime and its forks."""

    def __init__(self) -> None:
        """Start without an executor."""
        self.default: ToolExecutor | None = None
        self._adopted: set[str] = set()

    def set_default(self, executor: ToolExecutor | None) -> None:
        """Set the executor; None removes it. Raises UsageError if the object has no method `execute`."""
        if executor is not None and not callable(getattr(executor, "execute", None)):
            raise UsageError(
                f"the executor is a `{type(executor).__name__}`, which has no method `execute`",
                hint="it needs `async def execute(self, tool, parameters, ctx)`",
            )
        self.default = executor

    def binding(self, tool: Tool) -> Binding:
        """The tool with a function that passes each call to the executor set at that time."""

        async def perform(parameters: dict[str, Any], ctx: Context) -> Any:
            if self.default is None:
                message = f"the tool `{tool.name}` has no function, and the runtime has no executor"
                raise ToolError(message, code="no_executor", retryable=False)
            return await self.default.execute(tool.name, parameters, ctx)

        return Binding(tool=tool, function=perform, mode="async")

    def adopt(self, proposal: Proposal, registry: Registry) -> bool:
        """Register the unknown names of a proposal as tools, if there is an executor. True if there were any."""
        if self.default is None:
            return False
        names = {action.tool for action in proposal.actions if action.tool} - registry.by_name.keys()
        for name in sorted(names)[: max(0, NAMES_MAX - len(self._adopted))]:
            registry.register(self.binding(Tool(name=name)))
            self._adopted.add(name)
        return bool(names)
