"""One MCP server for one client: started when first needed, and again after its end, with a growing pause if it keeps failing.

What it offers is compared with the lock each time it starts, and whenever it says that its list has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol

from interlock.detect import find_unseen
from interlock.executors.mcp.launch import Link, Lost, Receive, ServerSpec
from interlock.executors.mcp.lock import LockedServer
from interlock.executors.mcp.offers import Mismatch, Offers
from interlock.executors.mcp.peer import (
    LostError,
    NotTakenError,
    OnProgress,
    Owners,
    Peer,
    RpcError,
    SessionGoneError,
)
from interlock.executors.mcp.session import NotSpokenError, ServerSession, open_session
from interlock.model.errors import ToolError
from interlock.model.json_rpc import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND

_PAUSE_MAX_S: Final = 60.0
_STEADY_S: Final = 10.0
"""A server that ended sooner after its start counts as one that failed to start."""
_PING_S: Final = 5.0
_LIST_CHANGED: Final = "notifications/tools/list_changed"


class Client(Protocol):
    """The client on whose behalf a call is made: what a server may ask it, and tell it."""

    @property
    def origin(self) -> object:
        """Its connection to the door: the same for calls of one client."""
        ...

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What it said that it can be asked, as in `initialize`."""
        ...

    @property
    def trace(self) -> Mapping[str, str]:
        """The trace to which the call belongs, as W3C Trace Context names its parts; empty if there is none."""
        ...

    @property
    def is_modern(self) -> bool:
        """True if it speaks a revision in which each request carries everything."""
        ...

    async def ask(self, method: str, params: dict[str, Any], key: str = "") -> dict[str, Any]:
        """Ask it; `key` is the asker's own name for the question. Raises: RpcError, also where it cannot be asked."""
        ...

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Tell it, if it is there."""
        ...

    def progress(self, params: Mapping[str, Any]) -> None:
        """Progress of the call that is being made."""
        ...


CLIENT: Final[ContextVar[Client | None]] = ContextVar("mcp_client", default=None)
"""Set around a call by the door through which it came; None where no MCP client stands behind it."""

_ASKABLE: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
_MESSAGE_CHARS_MAX: Final = 8_192
_WALLED: Final = "behind walls it sees the system, the project, and what its `reads` names"
Start = Callable[[ServerSpec, Peer, Receive, Lost], Awaitable[Link]]


_DETAILS: Final = {"elicitation": ("form", "url"), "sampling": ("tools", "context"), "roots": ()}
"""What the capabilities of a client may say more, as far as it is passed on."""


def askable(spec: ServerSpec, client: Client | None) -> dict[str, Any]:
    """What a server is told that it may ask of a client: few values, whatever the client says."""
    given = {} if client is None else client.capabilities
    found: dict[str, Any] = {}
    for name in spec.asks:
        declared = given.get(name)
        if isinstance(declared, dict):
            found[name] = {detail: {} for detail in _DETAILS[name] if isinstance(declared.get(detail), dict)}
    return found


def _one_client(owners: Owners) -> Client | None:
    """The last of these callers if they are all one client, who may then be asked in any of its calls."""
    client: Client | None = owners[-1] if owners else None
    return client if client is not None and all(each.origin is client.origin for each in owners) else None


def _attributed(server: str, message: Any) -> str:
    """The question with the name of the server that asks: for the client, it all comes from Interlock."""
    if not isinstance(message, str) or len(message) > _MESSAGE_CHARS_MAX or find_unseen(message):
        raise RpcError(INVALID_PARAMS, "the question is too long, or holds characters that a reader does not see")
    return f"The MCP server `{server}` asks: {message}"


def _changed(server: str, tool: str, why: str) -> ToolError:
    return ToolError(
        f"`{tool}` of the MCP server `{server}` was not called: {why}",
        code="tool_changed",
        retryable=False,
        hint=f"`interlock tools diff {server}` shows it to a person, who can agree with `interlock tools lock`",
    )


def _lost(server: str, error: LostError, last_words: str) -> ToolError:
    if isinstance(error, NotTakenError):
        return ToolError(
            f"the MCP server `{server}` did not take the call: {error}",
            code="server_unavailable",
            retryable=False,
            hint=f"nothing was called; {error.hint}",
        )
    return ToolError(
        f"the MCP server `{server}` was lost during the call: {error}{last_words}",
        code="server_lost",
        retryable=False,
        hint="what the call had done by then is not known; the server is started again by the next call",
    )


class _Live(NamedTuple):
    peer: Peer
    link: Link
    session: ServerSession
    began: float


class Connection:
    """Use it on the event loop on which it was made; `close` from anywhere."""

    def __init__(
        self,
        spec: ServerSpec,
        start: Start,
        locked: Callable[[], LockedServer | None],
        compared: Callable[[str, Mismatch], None],
        capabilities: dict[str, Any],
        *,
        newest_first: bool,
    ) -> None:
        """Start nothing yet. `compared` is told of each comparison with what is `locked`.

        `capabilities` are what the server may ask of the clients, as `askable` gives them.
        """
        self.loop = asyncio.get_running_loop()
        self._spec = spec
        self._start = start
        self._locked = locked
        self._compared = compared
        self._live: _Live | None = None
        self._starting: asyncio.Task[_Live] | None = None
        self._capabilities = capabilities
        self._newest_first = newest_first
        self._failures = 0
        self._not_before = 0.0
        self._why = ""
        self._hint = ""
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._offers: Offers | None = None
        self._differing: Mapping[str, str] | None = None
        """The locked tools that the server has otherwise by now, with the reason; None if nothing is locked, or known."""
        self._checking: asyncio.Task[None] | None = None
        self._closed = False

    async def session(self) -> ServerSession:
        """The session, which is opened if need be. Raises: ToolError `server_unavailable`, `spawn_failed`, `isolation_failed`."""
        if self._checking is not None:  # whether it hangs is being found out
            await asyncio.shield(self._checking)
        live = self._live
        if live is not None and live.peer.lost is None:
            return live.session
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._open())
            self._starting.add_done_callback(self._started)
        # Shielded: a call that is given up does not end the start, which the next call needs.
        return (await asyncio.shield(self._starting)).session

    async def call(self, tool: str, params: dict[str, Any], *, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Call a tool, if it is as it is locked: the result of `tools/call`.

        Raises: RpcError; ToolError: `tool_changed`, `server_unavailable`, `server_lost` if it ended before it answered.
        """
        try:
            with contextlib.suppress(SessionGoneError):
                return await self._call(tool, params, on_progress)
            # It was refused unread: asked once more, in a new session, whose tools may be others.
            return await self._call(tool, params, on_progress)
        except LostError as error:
            raise _lost(self._spec.name, error, await self._last_words()) from None
        except asyncio.CancelledError:
            if self._checking is None:  # given up or too slow: a server that hangs is replaced
                self._checking = self._spawn(self._check_alive())
            raise

    async def _call(self, tool: str, params: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        session = await self.session()
        changed = "it is not locked any more" if self._differing is None else self._differing.get(tool)
        if changed is not None:
            raise _changed(self._spec.name, tool, changed)
        given = {"name": tool, **params}
        return await session.request("tools/call", given, on_progress=on_progress, owner=CLIENT.get())

    def disconnect(self) -> None:
        """Let go of the server. On its event loop's thread, or after the loop's end; then `end` ends the processes."""
        self._closed = True
        for task in (*self._tasks, *([self._starting] if self._starting else ())):
            if not task.get_loop().is_closed():
                task.cancel()
        if self._live is not None:
            self._live.peer.lose("it was closed")
        for link in self._links:
            link.disconnect()

    def end(self) -> None:
        """End its processes. Any thread; blocks briefly."""
        while self._links:
            self._links.pop().end()

    # -- start

    def _started(self, task: asyncio.Task[_Live]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # retrieved: those who wait for it have it

    async def _open(self) -> _Live:
        loop = asyncio.get_running_loop()
        await self._retire()
        pause = self._not_before - loop.time()
        if pause > 0:
            raise self._unavailable(f"{self._why}; it is tried again in {pause:.0f} s")
        peer = Peer(self._ask, self._notice)
        link: Link | None = None
        try:
            link = await self._start(self._spec, peer, peer.receive, peer.lose)
            self._links.add(link)
            peer.connect(link.send)
            session = await open_session(
                peer, self._ask, self._capabilities, CLIENT.get(), newest_first=self._newest_first
            )
            live = _Live(peer, link, session, loop.time())
            await self._list(session, CLIENT.get())
        except (LostError, TimeoutError, NotSpokenError, RpcError) as error:
            words = await link.describe_end() if link is not None else ""
            reason = str(error) or "it did not answer in time"
            self._hint = error.hint if isinstance(error, NotTakenError) else ""
            raise self._failed(f"{reason}{f' (it declared: {words})' if words else ''}") from None
        except ToolError as error:
            self._failed(error.message)
            raise
        except asyncio.CancelledError:
            self._failed("its start was stopped")
            raise
        self._live = live
        return live

    def _failed(self, why: str) -> ToolError:
        self._failures += 1
        self._why = why
        self._not_before = asyncio.get_running_loop().time() + min(_PAUSE_MAX_S, 0.5 * 2**self._failures)
        return self._unavailable(why)

    def _unavailable(self, why: str) -> ToolError:
        return ToolError(
            f"the MCP server `{self._spec.name}` cannot be reached: {why}",
            code="server_unavailable",
            hint=f"nothing was called; {self._hint or (_WALLED if self._spec.url is None else 'is its `url` right?')}",
        )

    async def _retire(self) -> None:
        """End what is left of the session before this one."""
        live, self._live = self._live, None
        if live is not None:
            lived = asyncio.get_running_loop().time() - live.began
            self._why = f"{live.peer.lost or 'it ended'}, {lived:.1f} s after its start"
            if lived >= _STEADY_S:
                self._failures = 0
            elif not self._failures:  # once, it is started again at once
                self._failures = 1
            else:
                self._failed(self._why)
        await self._end_links()

    async def _end_links(self) -> None:
        for link in list(self._links):
            self._links.discard(link)
            link.disconnect()
            await asyncio.to_thread(link.end)

    async def _last_words(self) -> str:
        live = self._live
        words = "" if live is None else await live.link.describe_end()
        return f" (it said: {words})" if words else ""

    async def _check_alive(self) -> None:
        live = self._live
        try:
            if live is not None and not live.session.is_modern:
                await live.peer.request("ping", {}, timeout_s=_PING_S)
        except RpcError:
            pass  # it answers
        except (LostError, TimeoutError):
            assert live is not None
            live.peer.lose("it does not answer")
            await self._end_links()
        finally:
            self._checking = None

    # -- what it offers

    async def _list(self, session: ServerSession, client: Client | None = None) -> None:
        """Read what it offers, and compare it with the lock."""
        self._offers = Offers(await session.list_tools(client))
        self.compare()

    def compare(self) -> None:
        """Compare what the server last listed with what is locked now, and report changes."""
        locked = self._locked()
        if locked is None or self._offers is None:
            self._differing = None
        else:
            found = self._offers.against(locked)
            self._differing = found.tools
            self._compared(self._spec.name, found)

    async def _list_again(self) -> None:
        """After the server has said that its list is another one. Does not raise for what the server does."""
        live = self._live
        if live is not None and live.peer.lost is None:
            try:
                await self._list(live.session)
            except (LostError, TimeoutError, RpcError):
                live.peer.lose("it did not say which tools it has")

    # -- what it asks and tells

    async def _ask(self, method: str, params: dict[str, Any], owners: Owners, key: str = "") -> dict[str, Any]:
        if not owners:
            raise RpcError(METHOD_NOT_FOUND, "no call of a client that could be asked is under way")
        client = _one_client(owners)
        if client is None:
            why = "calls of several clients are under way, and it cannot be known for which of them this is asked"
            raise RpcError(INVALID_REQUEST, why)
        needed = _ASKABLE.get(method)
        if needed not in self._spec.asks:
            raise RpcError(METHOD_NOT_FOUND, "this server may not ask for that")
        if needed == "elicitation":
            params = {**params, "message": _attributed(self._spec.name, params.get("message"))}
        return await client.ask(method, params, key)

    def _notice(self, method: str, params: dict[str, Any], owners: Owners) -> None:
        if method == _LIST_CHANGED:
            self._spawn(self._list_again())
        elif (client := _one_client(owners)) is not None:
            client.notify(method, params)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        if self._closed:
            work.close()
            return None
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
