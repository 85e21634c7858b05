"""The client side of a session with one MCP server, and the differences between revisions of MCP.

A server of 2026-07-28 answers `server/discover`; an older one is greeted with `initialize`. A newer server returns its
questions as `input_required`, an older one sends a separate request; both are passed to the same `ask`. Sources: the
specification at modelcontextprotocol.io, of each revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from interlock._version import __version__
from interlock.executors.mcp.definitions import TOOLS_MAX, read_instructions
from interlock.executors.mcp.peer import Ask, LostError, OnProgress, Peer, RpcError
from interlock.model.json_rpc import INVALID_REQUEST, UNSUPPORTED_REVISION

REVISIONS: Final = ("2025-03-26", "2025-06-18", "2025-11-25")
"""The revisions that start with `initialize`. An even older server may answer with 2024-11-05, whose tools are the same."""
MODERN: Final = "2026-07-28"
_ALSO: Final = ("2024-11-05",)
_PROBE_S: Final = 5.0
"""How long to wait for an error to `server/discover`. An old server may never answer."""
_START_S: Final = 60.0
_LIST_S: Final = 30.0
_PAGES_MAX: Final = 100
_ROUNDS_MAX: Final = 10
_ME: Final = {"name": "interlock", "title": "Interlock", "version": __version__}
_REVISION: Final = "io.modelcontextprotocol/protocolVersion"
_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"


class NotSpokenError(Exception):
    """The server speaks no supported revision of MCP, or does not speak MCP at all."""


class ServerSession:
    """An agreed session; created by `open_session`."""

    def __init__(
        self, peer: Peer, ask: Ask, revision: str, greeting: Mapping[str, Any], capabilities: dict[str, Any]
    ) -> None:
        """`greeting` is the server's result of `initialize` or `server/discover`; `capabilities` are those of the client."""
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
        """Returns all pages of `tools/list`, unchecked. Raises: RpcError, LostError, TimeoutError."""
        return await self.list_all("tools/list", "tools", owner) if "tools" in self.capabilities else []

    async def list_prompts(self, owner: Any = None) -> list[Any]:
        """Returns all pages of `prompts/list`, unchecked; none if the server refuses. Raises: LostError, TimeoutError."""
        if "prompts" not in self.capabilities:
            return []
        try:
            return await self.list_all("prompts/list", "prompts", owner)
        except RpcError:
            return []

    async def list_all(self, method: str, key: str, owner: Any = None) -> list[Any]:
        """Returns all pages of a list, unchecked and bounded. Raises: RpcError, LostError, TimeoutError."""
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
        """Send a request and return its result, after asking its `owner` for any input that the server requires.

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
        """Ask all questions of an `input_required` concurrently. Returns the answers and the state to send back."""
        wanted = result.get("inputRequests", {})
        if not isinstance(wanted, dict) or len(wanted) > _ROUNDS_MAX:
            raise RpcError(INVALID_REQUEST, "the server's `inputRequests` cannot be read")
        questions = {key: _question(one) for key, one in wanted.items()}
        owners = [] if owner is None else [owner]
        answers = await _all_of(
            {key: self._ask(method, params, owners, key) for key, (method, params) in questions.items()}
        )
        found: dict[str, Any] = {"inputResponses": answers} if wanted else {}
        if isinstance(result.get("requestState"), str):
            found["requestState"] = result["requestState"]
        if not wanted:  # the server only wants a repeated request
            await asyncio.sleep(0.05)
        return found

    def _enveloped(self, params: dict[str, Any]) -> dict[str, Any]:
        return _enveloped(params, self._client) if self.is_modern else params


def _question(one: Any) -> tuple[str, dict[str, Any]]:
    method, params = (one.get("method"), one.get("params", {})) if isinstance(one, dict) else (None, {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise RpcError(INVALID_REQUEST, "the server's `inputRequests` cannot be read")
    return method, params


async def _all_of(work: Mapping[str, Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Run all concurrently and return their results. If one fails, cancel the others and raise its error."""
    # Not a TaskGroup: in Python 3.11 it leaves its task marked as cancelled after a failure, and the engine relies on
    # that mark.
    tasks = {key: asyncio.ensure_future(one) for key, one in work.items()}
    try:
        return dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
    finally:
        for task in tasks.values():
            task.cancel()


async def _greet(peer: Peer, method: str, params: dict[str, Any], owner: Any) -> dict[str, Any]:
    """The answer to a greeting. A server that names this revision among those that it speaks is asked once more."""
    try:
        return await peer.request(method, params, timeout_s=_START_S, owner=owner)
    except RpcError as error:
        spoken = error.data.get("supported") if isinstance(error.data, dict) else None
        if error.code != UNSUPPORTED_REVISION or method != "server/discover" or MODERN not in _listed(spoken):
            raise
    return await peer.request(method, params, timeout_s=_START_S, owner=owner)


async def open_session(
    peer: Peer, ask: Ask, capabilities: dict[str, Any], owner: Any, *, newest_first: bool
) -> ServerSession:
    """Agree on a revision for the client `owner`: the newest, or if not `newest_first` the newest of the older ones.

    Raises: NotSpokenError, LostError, TimeoutError.
    """
    greetings = {"server/discover": _enveloped({}, capabilities), "initialize": _greeting(capabilities)}
    order = list(greetings) if newest_first else list(reversed(greetings))
    answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
    try:
        for method in order:
            # An old server may not answer unknown requests. If a server starts slowly, its first good answer decides.
            patience = None if method == order[-1] else _PROBE_S
            answers[method] = asyncio.ensure_future(_greet(peer, method, greetings[method], owner))
            while left := [each for each in answers.values() if not each.done()]:
                done, _ = await asyncio.wait(left, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                agreed = _agreed(peer, ask, capabilities, answers)
                if agreed is not None:
                    return agreed
                if not done:
                    break
        raise _refusal(answers["initialize"])
    finally:
        for each in answers.values():
            if each.done():
                each.exception()  # mark as retrieved
            else:
                each.cancel()


def _agreed(
    peer: Peer, ask: Ask, capabilities: dict[str, Any], answers: Mapping[str, asyncio.Future[dict[str, Any]]]
) -> ServerSession | None:
    """Returns the session of the first greeting that was answered with a supported revision; None if there is none yet."""
    for method, answer in answers.items():
        if not answer.done() or answer.exception() is not None:
            continue
        said = answer.result()
        if method == "server/discover" and MODERN in _listed(said.get("supportedVersions")):
            return ServerSession(peer, ask, MODERN, said, capabilities)
        revision = said.get("protocolVersion")
        if method == "initialize" and revision in (*REVISIONS, *_ALSO):
            peer.notify("notifications/initialized", {})
            return ServerSession(peer, ask, str(revision), said, capabilities)
    return None


def _refusal(answer: asyncio.Future[dict[str, Any]]) -> Exception:
    """Returns the error that explains why `initialize` failed."""
    error = answer.exception()
    if isinstance(error, RpcError):
        return NotSpokenError(f"it refuses `initialize`: {error.message[:200]}")
    if isinstance(error, Exception):
        return error
    revision = answer.result().get("protocolVersion")
    return NotSpokenError(f"it speaks revision {str(revision)[:40]!r} of MCP, which is not supported")


def _greeting(capabilities: dict[str, Any]) -> dict[str, Any]:
    return {"protocolVersion": REVISIONS[-1], "capabilities": capabilities, "clientInfo": _ME}


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
