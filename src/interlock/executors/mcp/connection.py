"""One MCP server for one client. It is started when first needed, and restarted with a growing delay if it keeps failing.

The server's tools are compared with the lock each time it starts, and whenever it reports that its list has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from interlock.executors.mcp.definitions import UnusableDefinition, check_shown
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
"""A server that ends sooner after its start counts as failed to start."""
_PING_S: Final = 5.0
_LISTS_CHANGED: Final = ("notifications/tools/list_changed", "notifications/prompts/list_changed")
_LOCKED: Final = ("tools/call", "prompts/get")
"""Requests that name what is locked."""


class Client(Protocol):
    """The client for which a call is made: receives the server's requests and notifications."""

    @property
    def origin(self) -> object:
        """The client's connection to the door; the same object for all calls of one client."""
        ...

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """The capabilities that the client declared in `initialize`."""
        ...

    @property
    def trace(self) -> Mapping[str, str]:
        """The trace context of the call, with the keys of W3C Trace Context; empty if there is none."""
        ...

    @property
    def is_modern(self) -> bool:
        """True if the client speaks a revision without sessions, in which each request carries everything."""
        ...

    async def ask(self, method: str, params: dict[str, Any], key: str = "") -> dict[str, Any]:
        """Send a request to the client and return its result. `key` is the server's name for the question.

        Raises: RpcError, also if the client cannot be asked.
        """
        ...

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification to the client, if it is still connected."""
        ...

    def progress(self, params: Mapping[str, Any]) -> None:
        """Report progress of the current call."""
        ...


CLIENT: Final[ContextVar[Client | None]] = ContextVar("mcp_client", default=None)
"""Set during a call by the door that received it; None if the caller is not an MCP client."""

_ASKABLE: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
_MESSAGE_CHARS_MAX: Final = 8_192
_ELICITED: Final[tuple[str, ...]] = ("mode", "message", "requestedSchema", "url", "elicitationId")
"""The fields of a question that are passed on."""
_LIST_PAUSE_S: Final = 0.1
_WALLED: Final = "behind walls it sees the system, the project, and what its `reads` names"
Start = Callable[[ServerSpec, Peer, Receive, Lost], Awaitable[Link]]


_DETAILS: Final = {"elicitation": ("form", "url"), "sampling": ("tools", "context"), "roots": ()}
"""The details of client capabilities that are passed on to servers."""


def askable(spec: ServerSpec, client: Client | None) -> dict[str, Any]:
    """Returns the capabilities declared to a server: those that the configuration allows and the client has, with few details."""
    given = {} if client is None else client.capabilities
    found: dict[str, Any] = {}
    for name in spec.asks:
        declared = given.get(name)
        if isinstance(declared, dict):
            found[name] = {detail: {} for detail in _DETAILS[name] if isinstance(declared.get(detail), dict)}
    return found


def _one_client(owners: Owners) -> Client | None:
    """Returns the latest of these callers if they are all the same client, else None.

    This client may then be asked during any of its calls.
    """
    client: Client | None = owners[-1] if owners else None
    return client if client is not None and all(each.origin is client.origin for each in owners) else None


def _for_people(server: str, params: dict[str, Any]) -> dict[str, Any]:
    """Returns a question that a person sees as it is, with the name of the asking server, because the client sees only Interlock.

    Raises: RpcError for one that cannot be shown, or has a link that leads elsewhere than it looks.
    """
    kept = {key: params[key] for key in _ELICITED if key in params}
    message, url = kept.get("message"), kept.get("url")
    if not isinstance(message, str) or len(message) > _MESSAGE_CHARS_MAX:
        raise RpcError(
            INVALID_PARAMS, f"the question has no message, or one of more than {_MESSAGE_CHARS_MAX} characters"
        )
    try:
        check_shown("", kept)
    except UnusableDefinition as problem:
        raise RpcError(INVALID_PARAMS, f"the question cannot be shown: {problem.why}") from None
    if not isinstance(kept.get("requestedSchema", {}), dict) or (url is not None and not _is_plain_link(url)):
        raise RpcError(
            INVALID_PARAMS, "the question's form is not an object, or its link is not a plain http or https URL"
        )
    lines = message.splitlines()
    quoted = message if len(lines) < 2 else "".join(f"\n| {line}" for line in lines)
    return {**kept, "message": f"The MCP server `{server}` asks: {quoted}"}


def _is_plain_link(url: Any) -> bool:
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.isascii() and url.isprintable() else None
    except ValueError:
        return False
    return parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def _changed(server: str, tool: str, why: str) -> ToolError:
    return ToolError(
        f"`{tool}` of the MCP server `{server}` was not called: {why}",
        code="tool_changed",
        retryable=False,
        hint=f"`interlock tools diff {server}` shows the change to a person, who can accept it with `interlock tools lock`",
    )


def _lost(server: str, method: str, error: LostError, last_words: str) -> ToolError:
    if isinstance(error, NotTakenError):
        return ToolError(
            f"the MCP server `{server}` did not take the call: {error}",
            code="server_unavailable",
            retryable=False,
            hint=f"nothing was called; {error.hint}",
        )
    unknown = method == "tools/call" and not isinstance(error, SessionGoneError)
    return ToolError(
        f"the MCP server `{server}` was lost during the call"
        f"{', so whether it had any effect is unknown' if unknown else ''}: {error}{last_words}",
        code="server_lost",
        retryable=False,
        unknown_outcome=unknown,
        hint="the next call restarts the server",
    )


def _left(server: str) -> ToolError:
    return ToolError(
        f"the MCP server `{server}` had received the call, and may carry it out",
        code="cancelled",
        retryable=False,
        unknown_outcome=True,
    )


class _Failures:
    """Failed starts of one server in a row, and the pause before the next one, which grows with them."""

    def __init__(self, spec: ServerSpec) -> None:
        """None yet."""
        self._spec = spec
        self._count = 0
        self._not_before = 0.0
        self._why = ""
        self.hint = ""
        """What to do about the last one; empty for the usual advice."""

    def add(self, why: str) -> ToolError:
        """Count a failure. Returns the error for the calls that wait for the start."""
        self._count += 1
        self._why = why
        self._not_before = asyncio.get_running_loop().time() + min(_PAUSE_MAX_S, 0.5 * 2**self._count)
        return self._unavailable(why)

    def add_end(self, why: str, lived_s: float) -> None:
        """Count the end of a server that had started."""
        self._why = f"{why}, {lived_s:.1f} s after its start"
        if lived_s >= _STEADY_S:
            self._count = 0
        elif not self._count:  # after the first failure, restart immediately
            self._count = 1
        else:
            self.add(self._why)

    def check_pause(self) -> None:
        """Raises: ToolError during the pause."""
        pause = self._not_before - asyncio.get_running_loop().time()
        if pause > 0:
            raise self._unavailable(f"{self._why}; the next attempt is possible in {pause:.0f} s")

    def _unavailable(self, why: str) -> ToolError:
        return ToolError(
            f"the MCP server `{self._spec.name}` cannot be reached: {why}",
            code="server_unavailable",
            hint=f"nothing was called; {self.hint or (_WALLED if self._spec.url is None else 'is its `url` right?')}",
        )


class _Live(NamedTuple):
    peer: Peer
    link: Link
    session: ServerSession
    began: float


class Connection:
    """Connection to one server. Use it on the event loop on which it was created; `close` is safe anywhere."""

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
        """Starts nothing yet. `compared` is called after each comparison with the `locked` tools.

        `capabilities` are what the server may ask of the clients, as returned by `askable`.
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
        self._failures = _Failures(spec)
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._offers: Offers | None = None
        self._differing: Mapping[str, str] | None = None
        """The locked tools that the server now defines differently, with the reason; None if nothing is locked or known."""
        self._prompts: Mapping[str, str] | None = None
        """As `_differing`, for prompts."""
        self._checking: asyncio.Task[None] | None = None
        self._listing: asyncio.Task[None] | None = None
        self._list_due = False
        """True if the server has reported a change since its tools were last read."""
        self._closed = False

    async def session(self) -> ServerSession:
        """Returns the session. Starts the server if necessary.

        Raises: ToolError `server_unavailable`, `spawn_failed`, `isolation_failed`.
        """
        if self._checking is not None:  # a check is in progress whether the server hangs
            await asyncio.shield(self._checking)
        live = self._live
        if live is not None and live.peer.lost is None:
            return live.session
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._open())
            self._starting.add_done_callback(self._started)
        # Shielded: cancelling one call must not cancel the start, which the next call needs.
        return (await asyncio.shield(self._starting)).session

    async def request(
        self, method: str, params: dict[str, Any], *, on_progress: OnProgress | None = None
    ) -> dict[str, Any]:
        """Make a request, and return its result. The tool or prompt that it names must match the lock.

        Raises: RpcError; ToolError `tool_changed`, `server_unavailable`, `server_lost` if the connection ended before
        the answer, or `cancelled` instead of CancelledError if the server has the call of a tool, which it may not stop.
        """
        sent = asyncio.Event()
        try:
            with contextlib.suppress(SessionGoneError):
                return await self._request(method, params, on_progress, sent)
            # The request was refused unprocessed: repeat it once in a new session, whose tools may differ.
            return await self._request(method, params, on_progress, sent)
        except LostError as error:
            raise _lost(self._spec.name, method, error, await self._last_words()) from None
        except asyncio.CancelledError:
            if self._checking is None:  # cancelled or timed out: replace the server if it hangs
                self._checking = self._spawn(self._check_alive())
            if sent.is_set() and method == "tools/call":
                raise _left(self._spec.name) from None
            raise

    async def _request(
        self, method: str, params: dict[str, Any], on_progress: OnProgress | None, sent: asyncio.Event
    ) -> dict[str, Any]:
        sent.clear()
        session = await self.session()
        if method in _LOCKED:
            differing = self._prompts if method == "prompts/get" else self._differing
            changed = "it is no longer locked" if differing is None else differing.get(params["name"])
            if changed is not None:
                raise _changed(self._spec.name, params["name"], changed)
        sent.set()
        return await session.request(method, params, on_progress=on_progress, owner=CLIENT.get())

    def disconnect(self) -> None:
        """Close the connection, on the event loop's thread or after the loop has ended; `end` then ends the processes."""
        self._closed = True
        for task in (*self._tasks, *([self._starting] if self._starting else ())):
            if not task.get_loop().is_closed():
                task.cancel()
        if self._live is not None:
            self._live.peer.lose("it was closed")
        for link in self._links:
            link.disconnect()

    def end(self) -> None:
        """End the server's processes. Safe on any thread; blocks briefly."""
        while self._links:
            self._links.pop().end()

    # -- start

    def _started(self, task: asyncio.Task[_Live]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # mark the exception as retrieved; the waiting calls get it

    async def _open(self) -> _Live:
        await self._retire()
        self._failures.check_pause()
        peer = Peer(self._ask, self._notice)
        link: Link | None = None
        try:
            link = await self._start(self._spec, peer, peer.receive, peer.lose)
            self._links.add(link)
            peer.connect(link.send)
            session = await open_session(
                peer, self._ask, self._capabilities, CLIENT.get(), newest_first=self._newest_first
            )
            live = _Live(peer, link, session, asyncio.get_running_loop().time())
            await self._list(session, CLIENT.get())
        except (LostError, TimeoutError, NotSpokenError, RpcError) as error:
            words = await link.describe_end() if link is not None else ""
            reason = str(error) or "it did not answer in time"
            self._failures.hint = error.hint if isinstance(error, NotTakenError) else ""
            raise self._failures.add(f"{reason}{f' (it declared: {words})' if words else ''}") from None
        except ToolError as error:
            self._failures.add(error.message)
            raise
        except asyncio.CancelledError:
            self._failures.add("its start was stopped")
            raise
        self._live = live
        return live

    async def _retire(self) -> None:
        """End what is left of the previous session."""
        live, self._live = self._live, None
        if live is not None:
            lived_s = asyncio.get_running_loop().time() - live.began
            self._failures.add_end(live.peer.lost or "it ended", lived_s)
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
            pass  # an error is an answer too
        except (LostError, TimeoutError):
            assert live is not None
            live.peer.lose("it does not answer")
            await self._end_links()
        finally:
            self._checking = None

    # -- offered tools

    async def _list(self, session: ServerSession, client: Client | None = None) -> None:
        """Read the server's tools and compare them with the lock."""
        self._offers = Offers(await session.list_tools(client), await session.list_prompts(client))
        self.compare()

    def compare(self) -> None:
        """Compare the server's last listed tools with the present lock, and report changes."""
        locked = self._locked()
        if locked is None or self._offers is None:
            self._differing = self._prompts = None
        else:
            found = self._offers.against(locked)
            self._differing, self._prompts = found.tools, found.prompts
            self._compared(self._spec.name, found)

    async def _list_again(self) -> None:
        """Read the tools again until the server reports no further change. Does not raise for failures of the server."""
        try:
            while self._list_due and (live := self._live) is not None and live.peer.lost is None:
                self._list_due = False
                try:
                    await self._list(live.session)
                except (LostError, TimeoutError, RpcError):
                    live.peer.lose("it did not list its tools")
                await asyncio.sleep(_LIST_PAUSE_S)  # a server may report changes as fast as it can
        finally:
            self._listing = None

    # -- requests and notifications of the server

    async def _ask(self, method: str, params: dict[str, Any], owners: Owners, key: str = "") -> dict[str, Any]:
        if not owners:
            raise RpcError(METHOD_NOT_FOUND, "there is no call in progress from a client that could be asked")
        client = _one_client(owners)
        if client is None:
            why = "calls of several clients are in progress, and the request does not show which one it belongs to"
            raise RpcError(INVALID_REQUEST, why)
        needed = _ASKABLE.get(method)
        if needed not in self._spec.asks:
            raise RpcError(METHOD_NOT_FOUND, "this server is not allowed to ask for that")
        if needed == "elicitation":
            params = _for_people(self._spec.name, params)
        return await client.ask(method, params, key)

    def _notice(self, method: str, params: dict[str, Any], owners: Owners) -> None:
        if method in _LISTS_CHANGED:
            self._list_due = True
            if self._listing is None:
                self._listing = self._spawn(self._list_again())
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
