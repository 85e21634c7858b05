"""`runtime.servers`: the configured MCP servers, as doors see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlock.engine.kit import toolset
from interlock.engine.services import Services
from interlock.lazy import lazy
from interlock.model.tool import DATA_TAG

if TYPE_CHECKING:
    from interlock.engine.inspect import server_tools
    from interlock.executors.mcp.definitions import Definition
    from interlock.executors.mcp.prompts import PromptDefinition
else:
    server_tools = lazy("interlock.engine.inspect.server_tools")


class McpServers:
    """The MCP servers of a runtime. Their tools are tools of the runtime; this class has their other functions."""

    def __init__(self, services: Services) -> None:
        """Use `runtime.servers`."""
        self._services = services
        self._servers = services.mcp

    @property
    def names(self) -> list[str]:
        """The configured servers."""
        return [] if self._servers is None else self._servers.names

    def definition(self, tool: str) -> Definition | None:
        """The locked definition of a tool by its full name (`files/read_file`); None if it is not a server's."""
        return None if self._servers is None else self._servers.definition(tool)

    def marked_parameters(self, tool: str) -> Mapping[tuple[str, ...], str]:
        """The parameters of a tool, by its own name, that HTTP headers repeat: paths in the arguments, and headers' names."""
        return {} if self._servers is None else self._servers.marked_parameters(tool)

    def instructions(self) -> dict[str, str]:
        """The servers' own instructions, as they are locked, by server."""
        return {} if self._servers is None else self._servers.instructions()

    def capabilities(self) -> dict[str, dict[str, Any]]:
        """What the servers have besides tools, as locked: `prompts`, `resources`."""
        locked = () if self._servers is None else self._servers.lock.servers.values()
        found = {"prompts": any(one.prompts for one in locked), "resources": any(one.resources for one in locked)}
        return {kind: {} for kind, has in found.items() if has}

    def offering(self, method: str, agent: str | None, session: str | None) -> list[str]:
        """The servers of which an agent might make a request, as far as grants and rules say: `resources/read`, `prompts/get`.

        Each such request is a call of the tool `SERVER/METHOD`. Raises: ConfigurationError if the rules cannot be used.
        """
        if self._servers is None:
            return []
        agent = agent or self._services.agent
        reached = {tool.name for tool in toolset.reachable(self._services, agent, session) if DATA_TAG in tool.tags}
        return [name for name in self._servers.names if f"{name}/{method}" in reached]

    def prompts(self) -> dict[str, tuple[PromptDefinition, ...]]:
        """The locked prompts of each server, without those that are known to have changed."""
        return {} if self._servers is None else self._servers.prompts()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when tools were hidden or are shown again, on an event loop of the servers."""
        if self._servers is not None:
            self._servers.on_change.append(listener)

    async def end_session(self, session: str) -> None:
        """End the servers that were started for a client's session, once the client has gone."""
        if self._servers is not None:
            await self._servers.end_session(session)

    async def compare(self, names: Sequence[str] = ()) -> list[server_tools.Difference]:
        """Start the servers (all, unless named) and compare their tools with the lock. Raises: UsageError `not_found`."""
        return await server_tools.compare_servers(self._services, names)

    def write_lock(self, found: Iterable[server_tools.Difference]) -> Path:
        """Lock these definitions; other servers do not change. The lock takes effect once it is trusted. Raises: StoreError."""
        return server_tools.write_lock(self._services, found)
