"""A session with one MCP server: what the revisions of MCP differ in, for a client.

A server of 2026-07-28 answers `server/discover`; an older one is greeted with `initialize`. What a newer server returns as
`input_required` and what an older one asks by a request of its own is asked here in one way: `Peer`'s `ask`.
Sources: the specification at modelcontextprotocol.io, of each revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from interlock._version import __version__
from interlock.executors.mcp.definitions import TOOLS_MAX, read_instructions
from interlock.executors.mcp.peer import Ask, LostError, OnProgress, Peer, RpcError
from interlock.model.json_rpc import INVALID_REQUEST

REVISIONS: Final = ("2025-03-26", "2025-06-18", "2025-11-25")
"""Those that begin with `initialize`. An even older server may answer with 2024-11-05, whose tools are the same."""
MODERN: Final = "2026-07-28"
_ALSO: Final = ("2024-11-05",)
_PROBE_S: Final = 5.0
"""How long a server may take to say that it does not know `server/discover`. An old one may never answer."""
_START_S: Final = 60.0
_LIST_S: Final = 30.0
_PAGES_MAX: Final = 100
_ROUNDS_MAX: Final = 10
_ME: Final = {"name": "interlock", "title": "Interlock", "version": __version__}
_REVISION: Final = "io.modelcontextprotocol/protocolVersion"
_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"


class NotSpokenError(Exception):
    """The server speaks no revision that is spoken here, or does not speak MCP at all."""


class ServerSession:
    """An agreed session. Made by `open_session`."""

    def __init__(
        self, peer: Peer, ask: Ask, revision: str, greeting: Mapping[str, Any], capabilities: dict[str, Any]
    ) -> None:
        """`said` is the server's answer to `initialize` or `server/discover`; `capabilities` are those of the client."""
        self._peer = peer
        self._ask = ask
        self._client = capabilities
        self.revision = revision
        own = greeting.get("capabilities")
        self.capabilities: dict[str, Any] = own if isinstance(own, dict) else {}
        self.instructions = read_instructions(greeting.get("instructions"))
        self.program = _program(greeting)

    @property
    def is_modern(self) -> bool:
        """True if each request carries revision and capabilities."""
        return self.revision == MODERN

    async def list_tools(self, owner: Any = None) -> list[Any]:
        """What `tools/list` gives, all pages, unchecked. Raises: RpcError, LostError, TimeoutError."""
        return await self.list_all("tools/list", "tools", owner) if "tools" in self.capabilities else []

    async def list_all(self, method: str, key: str, owner: Any = None) -> list[Any]:
        """All pages of a list, unchecked; bounded."""
        found: list[Any] = []
        cursor: str | None = None
        for _ in range(_PAGES_MAX):
            params = {} if cursor is None else {"cursor": cursor}
            page = await self.request(method, params, timeout_s=_LIST_S, owner=owner)
            items = page.get(key)
            found += items if isinstance(items, list) else []
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str) or len(found) >= TOOLS_MAX:
                break
        return found[:TOOLS_MAX]

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        timeout_s: float | None = None,
        on_progress: OnProgress | None = None,
        owner: Any = None,
    ) -> dict[str, Any]:
        """A request and its result, with everything that the server needs in between asked for, of its `owner`.

        Raises: RpcError, LostError, TimeoutError.
        """
        given = dict(params)
        for _ in range(_ROUNDS_MAX):
            result = await self._peer.request(
                method, self._enveloped(given), timeout_s=timeout_s, on_progress=on_progress, owner=owner
            )
            if not self.is_modern or result.get("resultType") != "input_required":
                return result
            given = {**params, **await self._inputs(result, owner)}
        raise RpcError(INVALID_REQUEST, f"the server asked for input more than {_ROUNDS_MAX} times")

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification."""
        self._peer.notify(method, params)

    async def _inputs(self, result: dict[str, Any], owner: Any) -> dict[str, Any]:
        """The answers to an `input_required`, one after the other, and the state that goes back with them."""
        wanted = result.get("inputRequests", {})
        if not isinstance(wanted, dict) or len(wanted) > _ROUNDS_MAX:
            raise RpcError(INVALID_REQUEST, "the server's `inputRequests` cannot be read")
        answers: dict[str, Any] = {}
        for key, one in wanted.items():
            method, params = (one.get("method"), one.get("params", {})) if isinstance(one, dict) else (None, {})
            if not isinstance(method, str) or not isinstance(params, dict):
                raise RpcError(INVALID_REQUEST, "the server's `inputRequests` cannot be read")
            answers[key] = await self._ask(method, params, [] if owner is None else [owner])
        found: dict[str, Any] = {"inputResponses": answers} if wanted else {}
        if isinstance(result.get("requestState"), str):
            found["requestState"] = result["requestState"]
        if not wanted:  # the server only wants to be asked again
            await asyncio.sleep(0.05)
        return found

    def _enveloped(self, params: dict[str, Any]) -> dict[str, Any]:
        return _enveloped(params, self._client) if self.is_modern else params


async def open_session(peer: Peer, ask: Ask, capabilities: dict[str, Any], owner: Any) -> ServerSession:
    """Agree on a revision, for the client `owner`. Raises: NotSpokenError, LostError, TimeoutError."""
    discover = peer.request("server/discover", _enveloped({}, capabilities), timeout_s=_START_S, owner=owner)
    newer = asyncio.ensure_future(discover)
    older: asyncio.Future[dict[str, Any]] | None = None
    try:
        await asyncio.wait([newer], timeout=_PROBE_S)
        if (greeting := _succeeded(newer)) is None or MODERN not in _listed(greeting.get("supportedVersions")):
            # It is an older server, or one that is slow to start: then the first answer counts.
            greet = peer.request("initialize", _greeting(capabilities), timeout_s=_START_S, owner=owner)
            older = asyncio.ensure_future(greet)
            while (greeting := _succeeded(older)) is None and not (older.done() and newer.done()):
                await asyncio.wait(
                    [each for each in (newer, older) if not each.done()], return_when=asyncio.FIRST_COMPLETED
                )
                found = _succeeded(newer)
                if found is not None and MODERN in _listed(found.get("supportedVersions")):
                    return ServerSession(peer, ask, MODERN, found, capabilities)
            return _greeted(peer, ask, capabilities, await older)
        return ServerSession(peer, ask, MODERN, greeting, capabilities)
    except RpcError as error:
        raise NotSpokenError(f"it refuses `initialize`: {error.message[:200]}") from None
    finally:
        for each in (newer, older):
            if each is not None and not each.done():
                each.cancel()


def _succeeded(answer: asyncio.Future[dict[str, Any]]) -> dict[str, Any] | None:
    """The result, if it is there. Raises: LostError."""
    if not answer.done() or answer.cancelled():
        return None
    error = answer.exception()
    if isinstance(error, LostError):
        raise error
    return answer.result() if error is None else None


def _greeting(capabilities: dict[str, Any]) -> dict[str, Any]:
    return {"protocolVersion": REVISIONS[-1], "capabilities": capabilities, "clientInfo": _ME}


def _greeted(peer: Peer, ask: Ask, capabilities: dict[str, Any], greeting: dict[str, Any]) -> ServerSession:
    revision = greeting.get("protocolVersion")
    if revision not in (*REVISIONS, *_ALSO):
        raise NotSpokenError(f"it speaks revision {str(revision)[:40]!r} of MCP, which is not spoken here")
    peer.notify("notifications/initialized", {})
    return ServerSession(peer, ask, str(revision), greeting, capabilities)


def _enveloped(params: dict[str, Any], capabilities: dict[str, Any]) -> dict[str, Any]:
    meta = {**params.get("_meta", {}), _REVISION: MODERN, _CLIENT: _ME, _CAPABILITIES: capabilities}
    return {**params, "_meta": meta}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _program(greeting: Mapping[str, Any]) -> str:
    info = greeting.get("serverInfo")
    if not isinstance(info, dict):
        meta = greeting.get("_meta")
        info = meta.get("io.modelcontextprotocol/serverInfo") if isinstance(meta, dict) else None
    if not isinstance(info, dict):
        return ""
    text = f"{info.get('name', '')} {info.get('version', '')}"
    return read_instructions(text[:200]).strip()


__all__ = ["LostError", "NotSpokenError", "RpcError", "ServerSession", "open_session"]
