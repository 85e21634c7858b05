"""The program's own executor, for tools that have no function here: `Runtime.set_executor`."""

from __future__ import annotations

from typing import Any, Final

from interlock.engine.tools.registry import Registry
from interlock.model.errors import ToolError
from interlock.model.proposal import Proposal
from interlock.model.tool import Binding, Context, Tool, ToolExecutor

NAMES_MAX: Final = 1_000
"""Limit of unregistered names that become tools; beyond it, the names that an agent makes up are unknown tools."""


class Executors:
    """Who performs the calls of tools without a function. Shared by a runtime and its forks' copies of its tools."""

    def __init__(self) -> None:
        """No executor yet."""
        self.default: ToolExecutor | None = None
        self._adopted: set[str] = set()

    def binding(self, tool: Tool) -> Binding:
        """The tool with a function that hands each call to the executor of that moment."""

        async def perform(parameters: dict[str, Any], ctx: Context) -> Any:
            if self.default is None:
                message = f"the tool `{tool.name}` has no function, and the runtime no executor"
                raise ToolError(message, code="no_executor", retryable=False)
            return await self.default.execute(tool.name, parameters, ctx)

        return Binding(tool=tool, function=perform, mode="async")

    def adopt(self, proposal: Proposal, registry: Registry) -> bool:
        """Make tools of the names in a proposal that no one registered, if there is an executor; True if there were any."""
        if self.default is None:
            return False
        names = {action.tool for action in proposal.actions if action.tool} - registry.by_name.keys()
        for name in sorted(names)[: max(0, NAMES_MAX - len(self._adopted))]:
            registry.register(self.binding(Tool(name=name)))
            self._adopted.add(name)
        return bool(names)
