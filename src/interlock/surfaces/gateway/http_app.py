"""MCP's streamable HTTP as an ASGI application, for clients on this machine.

Access is checked before the body is read: first the Host and Origin of the request (a page in a browser can reach this
port too, also through its own host name that resolves to this machine), then the bearer token. Sources: the
specification, "Transports", of each revision; its "Security warning".
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from interlock.engine.runtime import Runtime
from interlock.executors.mcp.headers import decode_value, find_mismatch
from interlock.model import json_rpc
from interlock.model.json_rpc import (
    FRAME_BYTES_MAX,
    INVALID_REQUEST,
    Batch,
    Fault,
    Notification,
    Request,
    Response,
)
from interlock.surfaces.gateway import protocol
from interlock.surfaces.gateway.asking import OpenCalls
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.http_sessions import Held, Sessions
from interlock.surfaces.gateway.session import Reply, Session
from interlock.surfaces.gateway.streams import Stream, Streams, event, opening

PATH: Final = "/mcp"
QUICK_S: Final = 0.1
"""An answer that comes within this time is sent as JSON, by itself; a later one on an event stream, with what comes before it."""
HEADER_MISMATCH: Final = -32020
_STATUS: Final = {
    json_rpc.METHOD_NOT_FOUND: 404,
    json_rpc.INVALID_PARAMS: 400,
    json_rpc.INVALID_REQUEST: 400,
    json_rpc.MISSING_CAPABILITY: 400,
    json_rpc.UNSUPPORTED_REVISION: 400,
}
"""The HTTP statuses of errors; others are 200."""
_READ_ONCE: Final = frozenset((b"host", b"authorization", b"origin", b"content-type", b"last-event-id"))
_STRANGERS: Final = (401, 403, 421)
_KEEP_ALIVE_S: Final = 15.0
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Refused(Exception):  # noqa: N818 - a response, not an internal error
    """A request that is refused with an HTTP status."""

    def __init__(
        self, status: int, text: str, *, code: int = INVALID_REQUEST, message_id: Any = None, **headers: str
    ) -> None:
        """`text` is the message in the body's JSON-RPC error."""
        super().__init__(text)
        self.status = status
        self.fault = Fault(message_id, code, text)
        self.headers = headers


class HttpApp:
    """The application. Use it on one event loop; close it."""

    def __init__(self, runtime: Runtime, agent: Agent, token: str, port: int, *, wait_s: float) -> None:
        """`port` is the loopback port on which it is served; `token` is the token of clients."""
        self._runtime = runtime
        self._agent = agent
        self._token = token.encode()
        self._wait_s = wait_s
        names = [f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")]
        self._hosts = {name.encode() for name in names}
        self._origins = {f"http://{name}".encode() for name in names}
        self._sessions = Sessions(runtime)
        self._open_calls: OpenCalls | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            self._check(scope, headers)
            match scope["method"]:
                case "POST":
                    await self._post(headers, receive, send)
                case "GET":
                    await self._get(headers, receive, send)
                case "DELETE":
                    await self._delete(headers, send)
                case _:
                    await _answer(send, 405, b"", [(b"allow", b"POST, GET, DELETE")])
        except Refused as refused:
            more = [
                (name.replace("_", "-").lower().encode(), value.encode()) for name, value in refused.headers.items()
            ]
            if refused.status in _STRANGERS:  # its connection takes no room from clients that have the token
                more.append((b"connection", b"close"))
            await _answer(send, refused.status, json_rpc.error(refused.fault), [_JSON, *more])

    def tell_tools_changed(self) -> None:
        """Notify clients that the list of tools has changed."""
        for held in self._sessions.all():
            held.session.tell_tools_changed()

    async def close(self) -> None:
        """End all sessions, and wait until their work has ended."""
        await self._sessions.close()
        if self._open_calls is not None:
            await self._open_calls.close()

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises: Refused."""
        # Something in between may have used the first of two, and here the last one counts.
        read = [name for name, _ in scope["headers"] if name in _READ_ONCE or name.startswith(b"mcp-")]
        if len(read) != len(set(read)):
            raise Refused(400, "a header occurs twice")
        if headers.get(b"host", b"").lower() not in self._hosts:
            raise Refused(421, "the Host header does not name this server")
        if b"origin" in headers and headers[b"origin"].lower() not in self._origins:
            raise Refused(403, "requests from this origin are not allowed")
        if scope["path"] != PATH:
            raise Refused(404, f"there is only `{PATH}` here")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise Refused(401, "a bearer token is required", WWW_Authenticate="Bearer")

    # -- POST

    async def _post(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise Refused(415, "the body must be `application/json`")
        accept = headers.get(b"accept", b"*/*")
        if b"*/*" not in accept and not (b"application/json" in accept and b"text/event-stream" in accept):
            raise Refused(406, "`Accept` must name `application/json` and `text/event-stream`")
        frame = json_rpc.read_frame(await _body(headers, receive))
        if isinstance(frame, Fault):
            raise Refused(400, frame.message, code=frame.code, message_id=frame.id)
        if isinstance(frame, Request) and _is_modern(frame, headers):
            await self._modern(frame, headers, receive, send)
        elif isinstance(frame, Notification) and _is_modern(frame, headers):
            # The revision defines no notifications over HTTP, and their ids could belong to another client's requests.
            await _answer(send, 202, b"", [])
        elif isinstance(frame, Request) and frame.method == "initialize":
            await self._initialize(frame, send)
        else:
            await self._older(frame, headers, receive, send)

    async def _modern(self, request: Request, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        """Handle a self-contained request. The end of its connection cancels it."""
        envelope = protocol.read_envelope(request, None, required=True)
        if isinstance(envelope, Fault) and envelope.code != json_rpc.UNSUPPORTED_REVISION:
            raise Refused(400, envelope.message, code=envelope.code, message_id=request.id)
        _check_mirrored(request, headers)
        await _check_parameters(self._runtime, request, headers)
        if self._open_calls is None:
            self._open_calls = OpenCalls(f"{self._agent.name}/{self._agent.session}")
        stream = Stream("0")
        session = Session(self._runtime, self._agent, stream.put, wait_s=self._wait_s, open_calls=self._open_calls)
        session.take(request, Reply(lambda frame: stream.put(frame, last=True), stream.put))
        gone: asyncio.Future[None] | None = None
        try:
            only = await stream.wait_only(QUICK_S)
            if only is None:
                gone = asyncio.ensure_future(_disconnected(receive))
                first = asyncio.ensure_future(stream.first.wait())
                await asyncio.wait([first, gone], return_when=asyncio.FIRST_COMPLETED)
                first.cancel()
                only = stream.only
            if only is not None:
                await _answer(send, _status_of(only), only, [_JSON])
            elif gone is not None and not gone.done():
                await self._stream(stream, 0, gone, send, resumable=False)
        finally:
            if gone is not None:
                gone.cancel()
            await session.close()

    async def _initialize(self, request: Request, send: Send) -> None:
        if not self._sessions.make_room():
            raise Refused(503, "too many sessions are open", message_id=request.id, Retry_After="10")
        name = secrets.token_urlsafe(24)
        agent = Agent(self._agent.name, f"{self._agent.session}-{secrets.token_hex(4)}")
        streams = Streams()
        held = Held(Session(self._runtime, agent, streams.own.put, wait_s=self._wait_s), streams, agent)
        stream = Stream("0")
        held.session.take(request, Reply(lambda frame: stream.put(frame, last=True), stream.put))
        await stream.first.wait()
        frame = stream.after(0)[-1][1]
        more = []
        if held.session.revision is not None:
            self._sessions.add(name, held)
            more = [(b"mcp-session-id", name.encode())]
        await _answer(send, 200, frame, [_JSON, *more])

    async def _older(self, frame: json_rpc.Frame, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        held = self._held(headers, frame.id if isinstance(frame, Request) else None)
        members = frame.members if isinstance(frame, Batch) else [frame]
        if isinstance(frame, Batch) and held.session.revision != protocol.BATCHES:
            raise Refused(400, "batches are not part of this revision of MCP")
        requests = sum(isinstance(member, Request | Fault) for member in members)
        if not requests:
            for member in members:
                held.session.take(member, Reply(held.streams.own.put, held.streams.own.put))
            await _answer(send, 202, b"", [])
            return
        stream = held.streams.open()
        left = requests

        def answer(reply: bytes) -> None:
            nonlocal left
            left -= 1
            stream.put(reply, last=left == 0)

        for member in members:
            held.session.take(member, Reply(answer, stream.put))
        if requests == 1 and (only := await stream.wait_only(QUICK_S)) is not None:
            await _answer(send, 200, only, [_JSON])
            return
        gone = asyncio.ensure_future(_disconnected(receive))
        try:  # a broken connection cancels nothing: the client can come back for the answer
            await self._stream(stream, 0, gone, send, resumable=True)
        finally:
            gone.cancel()

    # -- GET and DELETE

    async def _get(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        if b"text/event-stream" not in headers.get(b"accept", b""):
            raise Refused(406, "`Accept` must name `text/event-stream`")
        held = self._held(headers)
        stream, after = held.streams.own, 0
        if b"last-event-id" in headers:
            found = held.streams.find(headers[b"last-event-id"].decode("latin-1"))
            if found is None:
                raise Refused(404, "the stream is no longer stored")
            stream, after = found
        gone = asyncio.ensure_future(_disconnected(receive))
        held.streams.readers += 1
        try:
            await self._stream(stream, after, gone, send, resumable=True)
        finally:
            held.streams.readers -= 1
            gone.cancel()

    async def _delete(self, headers: dict[bytes, bytes], send: Send) -> None:
        self._held(headers)
        self._sessions.end(headers[b"mcp-session-id"].decode())
        await _answer(send, 204, b"", [])

    async def _stream(
        self, stream: Stream, after: int, gone: asyncio.Future[None], send: Send, *, resumable: bool
    ) -> None:
        """Send the messages of a stream as they arrive, until the stream or the client ends."""
        await send({"type": "http.response.start", "status": 200, "headers": [*_EVENTS]})
        await _more(send, opening(stream) if resumable and not after else b": hello\n\n")
        while not gone.done():
            news = asyncio.ensure_future(stream.wait_after(after))
            waited: list[asyncio.Future[Any]] = [news, gone]
            await asyncio.wait(waited, timeout=_KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if not news.done():
                news.cancel()
                await _more(send, b": waiting\n\n")
                continue
            for number, frame in news.result():
                body = event(stream, number, frame) if resumable else b"data: %s\n\n" % frame.rstrip(b"\n")
                await _more(send, body)
                after = number
            if stream.ended and not stream.after(after):
                break
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    # -- sessions

    def _held(self, headers: dict[bytes, bytes], message_id: json_rpc.Id | None = None) -> Held:
        """The session of an older client. Raises: Refused."""
        if b"mcp-session-id" not in headers:
            raise Refused(400, "`Mcp-Session-Id` is missing: start a session with `initialize`", message_id=message_id)
        name = headers[b"mcp-session-id"].decode("latin-1")
        held = self._sessions.find(name)
        if held is None:
            raise Refused(404, "there is no such session: start another one", message_id=message_id)
        revision = headers.get(b"mcp-protocol-version")
        if revision is not None and revision.decode("latin-1") not in protocol.HANDSHAKE:
            raise Refused(400, "`MCP-Protocol-Version` names a revision that is not supported", message_id=message_id)
        self._sessions.touch(name)
        return held


def _is_modern(message: Request | Notification, headers: dict[bytes, bytes]) -> bool:
    """True for a message of a revision without sessions, as given in the message itself or its header."""
    meta = message.params.get("_meta")
    if isinstance(meta, dict) and protocol.REVISION_KEY in meta:
        return True
    named = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
    return message.method == "server/discover" or (named in protocol.ENVELOPE and message.method != "initialize")


_NAMED_BY: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""The parameter that the header `Mcp-Name` repeats. Source: the specification, "Transports", of 2026-07-28."""


def _check_mirrored(request: Request, headers: dict[bytes, bytes]) -> None:
    """Check that headers match the request, because something in between may have used them. Raises: Refused."""
    wanted = {
        "MCP-Protocol-Version": request.params["_meta"][protocol.REVISION_KEY],
        "Mcp-Method": request.method,
        **({"Mcp-Name": request.params.get(_NAMED_BY[request.method])} if request.method in _NAMED_BY else {}),
    }
    for name, value in wanted.items():
        given = headers.get(name.lower().encode())
        if given is None or decode_value(given.decode("latin-1").strip()) != value:
            raise _mismatch(request, name)


async def _check_parameters(runtime: Runtime, request: Request, headers: dict[bytes, bytes]) -> None:
    """The same check for the parameters of a tool that its schema puts into headers. Raises: Refused."""
    name, arguments = request.params.get("name"), request.params.get("arguments")
    if request.method != "tools/call" or not isinstance(name, str):
        return
    await runtime.prepare()
    tool = runtime.tool_named(name, "mcp")
    marked = {} if tool is None else runtime.servers.marked_parameters(tool)
    header = find_mismatch(marked, arguments if isinstance(arguments, dict) else {}, headers)
    if header is not None:
        raise _mismatch(request, header)


def _mismatch(request: Request, header: str) -> Refused:
    said = f"the header `{header}` does not match the body"
    return Refused(400, said, code=HEADER_MISMATCH, message_id=request.id)


def _status_of(frame: bytes) -> int:
    """The HTTP status for a newer request's answer. Source: the specification, "Transports", of 2026-07-28."""
    found = json_rpc.read_frame(frame)
    code = found.error.get("code") if isinstance(found, Response) and found.error is not None else None
    return _STATUS.get(code, 200) if isinstance(code, int) else 200


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The body of a request. Raises: Refused if it is too long, or the client is gone."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > FRAME_BYTES_MAX:
        raise Refused(413, f"the message is longer than {FRAME_BYTES_MAX // 1024**2} MiB")
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the body is incomplete")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > FRAME_BYTES_MAX:
            raise Refused(413, f"the message is longer than {FRAME_BYTES_MAX // 1024**2} MiB")
        if not message.get("more_body"):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
