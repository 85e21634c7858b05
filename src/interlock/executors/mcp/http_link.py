"""A server reached over streamable HTTP: each message is a POST, and its response arrives on that request's own stream.

Sources: the specification, "Transports", of 2025-03-26 to 2026-07-28.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from interlock.executors.mcp.headers import Path, encode_value, headers_of
from interlock.executors.mcp.http_wire import Address, Answer, EventSplitter, HttpClient, HttpError, UnreachableError
from interlock.executors.mcp.launch import Lost, Receive, ServerSpec
from interlock.executors.mcp.peer import LostError, NotTakenError, Peer, SessionGoneError
from interlock.model import json_rpc
from interlock.model.json_rpc import FRAME_BYTES_MAX, Response

_REVISION: Final = "io.modelcontextprotocol/protocolVersion"
_RESUMES_MAX: Final = 5
_ERROR_BYTES: Final = 64 * 1024


def _refusal(status: int, headers: Mapping[str, str]) -> LostError:
    """Returns the error for an HTTP status."""
    if status in (401, 403):
        if any(name.lower() == "authorization" for name in headers):
            why = "it does not accept the `Authorization` in the `headers` of its table"
            hint = "renew the token; it is read when Interlock starts"
        else:
            why = "it requires authentication, but its table has no `Authorization` in `headers`"
            hint = 'configure a token: `headers = { Authorization = "Bearer ${TOKEN}" }`, with `TOKEN` in `[mcp] env`'
        return NotTakenError(
            f"it answered HTTP {status}: {why}", f"{hint}; Interlock does not sign in by itself (OAuth)"
        )
    if 300 <= status < 400:
        return LostError(f"it answered HTTP {status}: it redirects to another address, which must be set as its `url`")
    return LostError(f"it answered HTTP {status}")


class HttpLink:
    """Messages to one address. Bound to the event loop on which it was created."""

    def __init__(
        self,
        spec: ServerSpec,
        peer: Peer,
        receive: Receive,
        lost: Lost,
        marked: Callable[[str], Mapping[Path, str]],
    ) -> None:
        """Connects to nothing yet. Single requests fail through `peer`.

        `marked` returns a tool's parameters that headers repeat.
        """
        assert spec.url is not None
        self._client = HttpClient(Address.parse(spec.url))
        self._headers = spec.headers
        self._peer = peer
        self._receive = receive
        self._lost = lost
        self._marked = marked
        self._session: str | None = None
        self._revision: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._before: asyncio.Task[None] | None = None
        """The last notification; later messages are sent after it."""
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._spawn(self._keep())

    async def _keep(self) -> None:
        """Close the connections if the event loop ends first, because it then cancels this task."""
        try:
            await self._loop.create_future()
        finally:
            self._client.close()

    def send(self, frame: bytes) -> None:
        """Send a frame as a POST."""
        message = msgspec.json.decode(frame)
        task = self._spawn(self._post(frame, message, self._before))
        if "id" not in message:
            self._before = task

    async def describe_end(self) -> str:
        """Returns an empty text, because the error of the request already has the server's answer."""
        return ""

    def disconnect(self) -> None:
        """Close all connections."""
        if not self._open:
            return
        self._open = False
        if self._loop.is_closed():
            return
        for task in self._tasks:
            task.cancel()
        self._client.close()

    def end(self) -> None:
        """Do nothing, because no process was started."""

    async def _post(self, frame: bytes, message: dict[str, Any], before: asyncio.Task[None] | None) -> None:
        number = message.get("id") if "method" in message else None
        try:
            if before is not None:
                with contextlib.suppress(Exception):
                    await asyncio.shield(before)
            headers = self._head(message) | {
                "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
            }  # fmt: skip
            await self._read(await self._client.send("POST", headers, frame.rstrip(b"\n")), message, number)
        except LostError as error:
            self._fail(number, error)
        except UnreachableError as error:
            self._fail(number, NotTakenError(str(error), "is the server running, and its `url` right?"))
        except HttpError as error:
            self._fail(number, LostError(str(error)))

    def _fail(self, number: Any, error: LostError) -> None:
        if number is not None:
            self._peer.fail(number, error)
        if isinstance(error, SessionGoneError):
            self._lost(str(error))

    async def _read(self, answer: Answer, message: dict[str, Any], number: Any) -> None:
        """Process the response to a POST. Raises: HttpError, LostError."""
        if answer.status == 404 and self._session is not None:
            answer.close()
            raise SessionGoneError("its session has ended")
        if answer.status >= 300:
            text = await answer.body(_ERROR_BYTES)
            if answer.status != 401 and self._is_error_of(text, number):
                self._receive(text)
                return
            if (
                answer.status == 400 and self._session is not None
            ):  # some servers use 400 for an ended session, without naming a request
                raise SessionGoneError("its session has ended")
            raise _refusal(answer.status, self._headers)
        if message.get("method") == "initialize":
            self._session = answer.headers.get("mcp-session-id")
        if number is None:
            answer.close()
            if message.get("method") == "notifications/initialized":
                self._spawn(self._listen())
        elif answer.is_stream:
            await self._events(answer, number)
        else:
            self._take(await answer.body(FRAME_BYTES_MAX), message)
            if self._peer.waits_for(number):
                raise LostError("its answer cannot be read, or belongs to another request")

    def _take(self, data: bytes, message: dict[str, Any], about: Any = None) -> None:
        if message.get("method") == "initialize":
            found = json_rpc.read_frame(data)
            revision = found.result.get("protocolVersion") if isinstance(found, Response) and found.result else None
            self._revision = revision if isinstance(revision, str) and revision.isascii() else None
        self._receive(data, about)

    async def _events(self, answer: Answer, number: Any) -> None:
        """Read the stream of a request until its response, resuming it where it broke. Raises: HttpError, LostError."""
        splitter = EventSplitter()
        for _ in range(_RESUMES_MAX):
            with contextlib.suppress(HttpError):
                async with contextlib.aclosing(answer.parts()) as parts:
                    async for part in parts:
                        for event in splitter.feed(part):
                            self._take(event, {"method": "initialize"} if self._revision is None else {}, number)
                            if not self._peer.waits_for(number):
                                return
            if splitter.last_id is None:
                break
            await asyncio.sleep(splitter.retry_s)
            answer = await self._client.send("GET", self._get_head(splitter.last_id))
            if answer.status != 200:
                answer.close()
                break
        raise LostError("its stream ended before the answer")

    async def _listen(self) -> None:
        """Read the separate stream on which an older server sends its own messages, if it has one."""
        splitter = EventSplitter()
        while self._open:
            with contextlib.suppress(HttpError):
                answer = await self._client.send("GET", self._get_head(splitter.last_id))
                if answer.status != 200 or not answer.is_stream:
                    answer.close()
                    return
                async with contextlib.aclosing(answer.parts()) as parts:
                    async for part in parts:
                        for event in splitter.feed(part):
                            self._receive(event)
            await asyncio.sleep(splitter.retry_s)

    def _head(self, message: dict[str, Any]) -> dict[str, str]:
        """Returns the headers that describe a message, so that intermediaries need not read it."""
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        meta = params.get("_meta")
        modern = meta.get(_REVISION) if isinstance(meta, dict) else None
        found = dict(self._headers)
        revision = modern or self._revision
        if revision is not None:
            found["MCP-Protocol-Version"] = revision
        if modern is not None and "method" in message:
            found["Mcp-Method"] = message["method"]
            name = params.get("name", params.get("uri"))
            if isinstance(name, str):
                found["Mcp-Name"] = encode_value(name)
            if message["method"] == "tools/call" and isinstance(params.get("arguments"), dict):
                found |= headers_of(self._marked(params["name"]), params["arguments"])
        if self._session is not None:
            found["Mcp-Session-Id"] = self._session
        return found

    def _get_head(self, last_id: str | None) -> dict[str, str]:
        found = self._head({}) | {"Accept": "text/event-stream"}
        return found if last_id is None else found | {"Last-Event-ID": last_id}

    @staticmethod
    def _is_error_of(text: bytes, number: Any) -> bool:
        """Returns True if the body of a refusal is the JSON-RPC error of this request."""
        found = json_rpc.read_frame(text)
        return isinstance(found, Response) and found.error is not None and found.id == number

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
