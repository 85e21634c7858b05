"""All MCP servers of a runtime, and their tools as the engine calls them.

Each client (a session of one agent) has its own server processes, so clients share no server state.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from interlock.executors.mcp.connection import CLIENT, Client, Connection, askable
from interlock.executors.mcp.data_tools import data_bindings
from interlock.executors.mcp.definitions import Definition, read_definition, read_list, remarks
from interlock.executors.mcp.headers import Path, marked_parameters
from interlock.executors.mcp.launch import Launcher, Link, Lost, Receive, ServerSpec
from interlock.executors.mcp.lock import Lock, LockedServer
from interlock.executors.mcp.offers import Mismatch
from interlock.executors.mcp.peer import LostError, Peer, RpcError
from interlock.executors.mcp.prompts import PromptDefinition, listed_prompts
from interlock.executors.mcp.results import read_result, text_of
from interlock.executors.mcp.session import ServerSession
from interlock.lazy import lazy
from interlock.model.errors import ProposalError, ToolError
from interlock.model.globs import name_matcher
from interlock.model.json_rpc import INVALID_PARAMS, MISSING_CAPABILITY
from interlock.model.schema import Schema
from interlock.model.tool import Binding, Context, Tool, Writes

if TYPE_CHECKING:
    from interlock.executors.mcp import http_link
else:
    http_link = lazy("interlock.executors.mcp.http_link")

SEPARATOR: Final = "/"
TAG: Final = "mcp"
"""The tag of all tools of MCP servers."""
TIMEOUT_MS: Final = 60_000
_LOCKING: Final = "tools lock"


class Listing(NamedTuple):
    """The present tools of a server, for `interlock tools lock`."""

    server: LockedServer
    problems: dict[str, str]
    """Maps each tool that cannot be locked to the reason."""
    remarks: dict[str, list[str]]
    """Excerpts of definitions that a person should read carefully."""


def tool_of(server: str, read_only: Sequence[str], definition: Definition) -> Tool:
    """Returns the tool for a locked definition. `read_only` has the operator's globs for names of tools that only read."""
    reads = name_matcher(read_only)(definition.name)
    return Tool(
        name=f"{server}{SEPARATOR}{definition.name}",
        description=definition.description or definition.title,
        parameters={"type": "object", **definition.input_schema},
        read_only=reads,
        destructive=not reads,
        timeout_ms=TIMEOUT_MS,
        tags=(TAG,),
    )


class Servers:
    """The servers of one runtime. Must be closed. Safe to use from several event loops."""

    def __init__(
        self,
        specs: Mapping[str, ServerSpec],
        lock: Lock,
        launcher: Launcher,
        *,
        tell: Callable[[str], None],
    ) -> None:
        """Starts nothing. `tell` receives sentences for people: a changed definition, a tool that is not locked."""
        self._specs = specs
        self._lock = lock
        self._launcher = launcher
        self._tell = tell
        self._changing = threading.Lock()
        self._connections: dict[tuple[int, str, str, str | None, tuple[tuple[str, ...], ...], bool], Connection] = {}
        self._schemas: dict[str, Schema] = {}
        self._marked: dict[str, Mapping[Path, str]] = {}
        self.hidden: dict[str, str] = {}
        """Maps the full name of each locked tool that its server now defines differently to the reason."""
        self.hidden_prompts: dict[str, str] = {}
        """As `hidden`, for prompts. A full name is the server's name, a slash, and the prompt's name."""
        self.on_change: list[Callable[[], None]] = []
        """Called on the event loop of the connection that caused a change of `hidden`."""

    @property
    def lock(self) -> Lock:
        """The lock in force."""
        return self._lock

    @property
    def names(self) -> list[str]:
        """The names of the configured servers."""
        return sorted(self._specs)

    def bindings(self) -> list[Binding]:
        """Returns the locked tools of the configured servers."""
        return [
            self._binding(self._specs[name], tool)
            for name, server in sorted(self._lock.servers.items())
            if name in self._specs
            for tool in server.tools
        ] + [
            binding
            for name, server in sorted(self._lock.servers.items())
            if name in self._specs
            for binding in data_bindings(self._specs[name], server, partial(self._connect, self._specs[name]))
        ]

    def definition(self, tool: str) -> Definition | None:
        """Returns the locked definition of a tool by its full name, for clients that show more of it than Interlock uses."""
        server, _, own = tool.partition(SEPARATOR)
        locked = self._lock.servers.get(server)
        return None if locked is None else locked.by_name().get(own)

    def marked_parameters(self, tool: str) -> Mapping[Path, str]:
        """Returns the parameters of a tool, by its full name, that HTTP headers repeat; see `headers.py`."""
        found = self._marked.get(tool)
        if found is None:
            definition = self.definition(tool)
            found = self._marked[tool] = {} if definition is None else marked_parameters(definition.input_schema)
        return found

    def prompts(self) -> dict[str, tuple[PromptDefinition, ...]]:
        """Returns the locked prompts of each server, without those that are known to have changed."""
        locked = self._lock.servers
        return {
            name: tuple(
                each for each in locked[name].prompts if f"{name}{SEPARATOR}{each.name}" not in self.hidden_prompts
            )
            for name in self.names
            if name in locked
        }

    def instructions(self) -> dict[str, str]:
        """Returns the locked, non-empty instructions of each server."""
        locked = self._lock.servers
        return {name: locked[name].instructions for name in self.names if name in locked and locked[name].instructions}

    def relock(self, lock: Lock) -> None:
        """Replace the lock, and compare the running servers with it."""
        self._lock = lock
        self.hidden.clear()
        self.hidden_prompts.clear()
        self._schemas.clear()
        self._marked.clear()
        for connection in self._all():
            connection.compare()
        for listener in self.on_change:
            listener()

    async def list_now(self, name: str) -> Listing:
        """Start a server and read its tools. Raises: ToolError, RpcError, LostError, TimeoutError."""
        connection = self._connection(name, "", _LOCKING)
        return await _listing(await connection.session())

    async def end_session(self, session: str) -> None:
        """End the servers of a client that has disconnected."""
        with self._changing:
            keys = [key for key in self._connections if key[3] == session]
            ended = [self._connections.pop(key) for key in keys]
        for connection in ended:
            connection.disconnect()
        await asyncio.gather(*(asyncio.to_thread(connection.end) for connection in ended))

    def close(self) -> None:
        """End all servers."""
        with self._changing:
            ended = list(self._connections.values())
            self._connections.clear()
        for connection in ended:
            connection.disconnect()
        threads = [threading.Thread(target=connection.end) for connection in ended]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # -- one call

    def _binding(self, spec: ServerSpec, definition: Definition) -> Binding:
        tool = tool_of(spec.name, spec.read_only, definition)

        async def call(parameters: dict[str, Any], ctx: Context) -> Any:
            return await self._call(spec, definition, parameters, ctx)

        writes: Writes = "anywhere" if spec.writes and not tool.read_only else "nothing"
        walls = None if spec.url is not None else functools.partial(self._launcher.posture, spec)
        return Binding(tool=tool, function=call, mode="async", writes=writes, walls=walls)

    async def _call(self, spec: ServerSpec, definition: Definition, parameters: dict[str, Any], ctx: Context) -> Any:
        connection = self._connect(spec, ctx)
        client = CLIENT.get()  # later callbacks run in another context
        try:
            result = await connection.request(
                "tools/call",
                {"name": definition.name, "arguments": parameters, **_trace(client)},
                on_progress=lambda params: _report(params, ctx, client),
            )
            found = read_result(result)
        except RpcError as error:
            raise _refused(error, spec, client) from None
        except ProposalError as error:
            raise ToolError(
                f"the server's result cannot be used: {error.message}", code="invalid_output", retryable=False
            ) from None
        if found["isError"]:
            raise ToolError(text_of(found) or "the tool reported a failure", code="tool_failed", output=found)
        self._check_structured(spec, definition, found)
        return found

    def _connect(self, spec: ServerSpec, ctx: Context) -> Connection:
        """Returns the connection for a call."""
        if spec.url is None:
            ctx.posture(**self._launcher.posture(spec))
        if spec.writes:
            ctx.not_exactly_undoable("an MCP server that may write in the workspace was called")
        return self._connection(spec.name, ctx.agent, ctx.session)

    def _check_structured(self, spec: ServerSpec, definition: Definition, found: dict[str, Any]) -> None:
        """Check the structured result against the `outputSchema`, which clients rely on. Raises: ToolError `invalid_output`."""
        if definition.output_schema is None:
            return
        name = f"{spec.name}{SEPARATOR}{definition.name}"
        schema = self._schemas.get(name)
        if schema is None:
            schema = self._schemas[name] = Schema.compile(definition.output_schema)
        structured = found.get("structuredContent")
        if structured is None or not schema.is_valid(structured):
            where = "$" if structured is None else schema.errors(structured)[0][0]
            raise ToolError(
                f"the result of `{definition.name}` of `{spec.name}` does not fit its `outputSchema` ({where})",
                code="invalid_output",
                retryable=False,
                output={"content": found["content"], "isError": True},
            )

    def _connection(self, name: str, agent: str, session: str | None) -> Connection:
        loop = asyncio.get_running_loop()
        # A server learns only once what it may ask, so clients with different capabilities have separate servers.
        client = CLIENT.get()
        capabilities = askable(self._specs[name], client)
        # A server with several revisions asks in the way of the agreed one, so each server uses the revision of its
        # client.
        newest_first = client is None or client.is_modern
        declared = tuple((each, *details) for each, details in capabilities.items())
        key = (id(loop), name, agent, session, declared, newest_first)
        with self._changing:
            found = self._connections.get(key)
            if found is None or found.loop is not loop:  # an ended loop may have had the same id
                spec = self._specs[name]
                found = Connection(
                    spec, self._start, lambda: self._lock.servers.get(name), self._compared, capabilities,
                    newest_first=newest_first,
                )  # fmt: skip
                self._connections[key] = found
            return found

    async def _start(self, spec: ServerSpec, peer: Peer, receive: Receive, lost: Lost) -> Link:
        if spec.url is not None:
            return http_link.HttpLink(
                spec, peer, receive, lost, lambda tool: self.marked_parameters(f"{spec.name}{SEPARATOR}{tool}")
            )
        return await self._launcher.start(spec, receive, lost)

    def _compared(self, server: str, mismatch: Mismatch) -> None:
        before = dict(self.hidden)
        self._hide("tool", server, self.hidden, mismatch.tools)
        self._hide("prompt", server, self.hidden_prompts, mismatch.prompts)
        if mismatch.unlocked:
            shown = ", ".join(f"`{name}`" for name in mismatch.unlocked[:5])
            self._tell(
                f"the MCP server `{server}` has tools that are not locked, and not offered: {shown}"
                f"{' and more' if len(mismatch.unlocked) > 5 else ''}; `interlock tools lock {server}` offers them"
            )
        if before != self.hidden:
            for listener in self.on_change:
                listener()

    def _hide(self, kind: str, server: str, hidden: dict[str, str], differing: Mapping[str, str]) -> None:
        """Replace the hidden names of a server, and notify people of new ones."""
        prefix = f"{server}{SEPARATOR}"
        before = {name: hidden.pop(name) for name in list(hidden) if name.startswith(prefix)}
        hidden.update({f"{prefix}{name}": why for name, why in differing.items()})
        for name, why in hidden.items():
            if name.startswith(prefix) and before.get(name) != why:
                self._tell(f"the {kind} `{name}` is hidden: {why}; `interlock tools diff {server}` shows it")

    def _all(self) -> list[Connection]:
        with self._changing:
            return list(self._connections.values())


async def _listing(session: ServerSession) -> Listing:
    tools, problems = read_list(await session.list_tools(), read_definition)
    prompts, more, odd = listed_prompts(await session.list_prompts())
    locked = LockedServer(
        program=session.program,
        instructions=session.instructions,
        tools=tools,
        prompts=prompts,
        resources="resources" in session.capabilities,
    )
    noted = {tool.name: remark for tool in tools if (remark := remarks(tool))}
    return Listing(locked, problems | more, noted | odd)


def _trace(client: Client | None) -> dict[str, Any]:
    """Returns the part of a request that adds it to the client's trace."""
    return {} if client is None or not client.trace else {"_meta": dict(client.trace)}


def _refused(error: RpcError, spec: ServerSpec, client: Client | None) -> ToolError:
    """Returns the error for a call that the server answered with an error."""
    said = f"the server refused the call: {error.message[:1000]}"
    required = error.data.get("requiredCapabilities") if isinstance(error.data, dict) else None
    if error.code != MISSING_CAPABILITY or not isinstance(required, dict):
        return ToolError(said, code="invalid_parameters" if error.code == INVALID_PARAMS else "tool_failed")
    declared = {} if client is None else client.capabilities
    lacking = sorted(name[:40] for name in required if name not in declared)
    if lacking:
        why = f"its client has not declared {_listed(lacking)}"
    else:
        why = f"`asks` in the table of `{spec.name}` lacks {_listed(sorted(set(required) - set(spec.asks)))}"
    output = {"client_lacks": lacking}
    return ToolError(f"{said} ({why})", code="client_capability_missing", retryable=False, output=output)


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name[:40]}`" for name in names)


def _report(params: Mapping[str, Any], ctx: Context, client: Client | None) -> None:
    """Report progress to people and to the client."""
    done, total = params.get("progress"), params.get("total")
    if isinstance(done, int | float) and not isinstance(done, bool):
        whole = total if isinstance(total, int | float) and not isinstance(total, bool) else None
        with contextlib.suppress(ValueError):
            ctx.progress(float(done), None if whole is None else float(whole))
        if client is not None:
            client.progress(params)


__all__ = ["CLIENT", "Listing", "LostError", "Servers"]
