"""Requests and responses with one MCP server, over any connection: frames go in and out.

Nothing that a server sends is trusted: a response counts only for an open request, a malformed message ends no other
call, and what the server may ask of the client is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

from interlock.model import json_rpc
from interlock.model.json_rpc import INTERNAL_ERROR, Batch, Fault, Notification, Request, Response

ASKS_MAX: Final = 32
"""Maximum number of requests of a server that are handled at the same time."""

Send = Callable[[bytes], None]
"""Sends a frame, or discards it if the connection is lost; then `Peer.lose` is called."""
OnProgress = Callable[[Mapping[str, Any]], None]
Owners = Sequence[Any]
"""The owners of the open requests, latest last: the server may be speaking for any of them."""


class Ask(Protocol):
    """Answers a request of the server."""

    def __call__(
        self, method: str, params: dict[str, Any], owners: Owners, key: str = ""
    ) -> Coroutine[Any, Any, dict[str, Any]]:
        """`key` is the server's own name for the question, if it has one. Raises: RpcError."""


Notice = Callable[[str, dict[str, Any], Owners], None]
"""Receives a notification from the server."""


class RpcError(Exception):
    """An error that the other side returned instead of a result."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        """`code`, `message` and `data` as in JSON-RPC."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class LostError(Exception):
    """The connection ended before the response, so the effect of the request is unknown."""


class SessionGoneError(LostError):
    """The server no longer knows the session, and did not process the request."""


class NotTakenError(LostError):
    """The server did not accept the request, so nothing was done. `hint` tells the operator what to do."""

    def __init__(self, why: str, hint: str) -> None:
        """`why` is the reason, `hint` what to do about it."""
        super().__init__(why)
        self.hint = hint


class Peer:
    """One server. Not thread-safe: use it on one event loop."""

    def __init__(self, ask: Ask, notice: Notice) -> None:
        """`ask` answers the server's requests, `notice` receives its notifications."""
        self._send: Send | None = None
        self._ask = ask
        self._notice = notice
        self._last_id = 0
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._progress: dict[int, OnProgress] = {}
        self._owners: dict[int, Any] = {}
        self._asked: dict[json_rpc.Id, asyncio.Task[None]] = {}
        self._asked_for: dict[int, set[json_rpc.Id]] = {}
        """The server's requests on the stream of each of ours, if the transport tells which stream it is."""
        self.lost: str | None = None
        """Why the connection was lost; None while it is open."""

    def connect(self, send: Send) -> None:
        """Set how frames are sent."""
        self._send = send

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        timeout_s: float | None = None,
        on_progress: OnProgress | None = None,
        owner: Any = None,
    ) -> dict[str, Any]:
        """Send a request and wait for its result. If the wait is cancelled, the request is cancelled at the server.

        `owner` is the client that the server may ask during the request; None if there is none.

        Raises: RpcError, LostError, TimeoutError.
        """
        if self.lost is not None or self._send is None:
            raise LostError(self.lost or "it is not connected")
        self._last_id += 1
        number = self._last_id
        if on_progress is not None:
            params = {**params, "_meta": {**params.get("_meta", {}), "progressToken": number}}
            self._progress[number] = on_progress
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        if owner is not None:
            self._owners[number] = owner
        self._send(json_rpc.request(number, method, params))
        try:
            if timeout_s is None:
                return await answer
            async with asyncio.timeout(timeout_s):
                return await answer
        except (asyncio.CancelledError, TimeoutError):
            if method != "initialize":  # the specification forbids cancelling `initialize`
                self.notify("notifications/cancelled", {"requestId": number})
            if not self._open.keys() - {number}:  # the server's questions belong to this request
                for task in self._asked.values():
                    task.cancel()
            raise
        finally:
            self._open.pop(number, None)
            self._progress.pop(number, None)
            self._owners.pop(number, None)
            for asked in self._asked_for.pop(number, ()):
                self._withdraw(asked)

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification."""
        if self.lost is None and self._send is not None:
            self._send(json_rpc.notification(method, params))

    def receive(self, line: bytes | None, about: json_rpc.Id | None = None) -> None:
        """Process a frame; None is a frame that was too long. An unreadable frame is dropped, and its request times out.

        `about` is the request on whose own stream the frame arrived.
        """
        if line is None:
            return
        frame = json_rpc.read_frame(line)
        for message in frame.members if isinstance(frame, Batch) else [frame]:
            match message:
                case Response():
                    self._settle(message)
                case Request():
                    self._answer(message, about)
                case Notification(method="notifications/progress"):
                    self._report(message.params)
                case Notification(method="notifications/cancelled"):
                    self._withdraw(message.params.get("requestId"))
                case Notification():
                    self._notice(message.method, message.params, self._owners_of(about))
                case Fault():
                    self._refuse(message)

    def fail(self, number: json_rpc.Id, error: Exception) -> None:
        """End one request with an error, because its connection has failed."""
        answer = self._open.get(number) if isinstance(number, int) else None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def waits_for(self, number: json_rpc.Id) -> bool:
        """Returns True while this request has no response."""
        answer = self._open.get(number) if isinstance(number, int) else None
        return answer is not None and not answer.done()

    def lose(self, why: str) -> None:
        """Mark the connection as lost, and fail all open requests."""
        if self.lost is None:
            self.lost = why
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(LostError(why))
        for task in self._asked.values():
            task.cancel()

    def _settle(self, message: Response) -> None:
        answer = self._open.get(message.id) if isinstance(message.id, int) else None
        if answer is None or answer.done():  # cancelled, or never sent
            return
        if message.result is not None:
            answer.set_result(message.result)
        else:
            answer.set_exception(error_of(message.error or {}))

    def _refuse(self, fault: Fault) -> None:
        if fault.id is not None:  # a malformed response to our request, or an unreadable request
            self.fail(fault.id, RpcError(fault.code, f"the server's answer cannot be read: {fault.message}"))

    def _report(self, params: dict[str, Any]) -> None:
        token = params.get("progressToken")
        hears = self._progress.get(token) if isinstance(token, int) and not isinstance(token, bool) else None
        if hears is not None:
            hears(params)

    def _owners_of(self, about: json_rpc.Id | None) -> Owners:
        if about is None:
            return list(self._owners.values())
        owner = self._owners.get(about) if isinstance(about, int) else None
        return [] if owner is None else [owner]

    def _answer(self, message: Request, about: json_rpc.Id | None) -> None:
        if message.method == "ping":
            self._reply(json_rpc.result(message.id, {}))
            return
        if message.id in self._asked or len(self._asked) >= ASKS_MAX:
            self._reply(
                json_rpc.error(Fault(message.id, INTERNAL_ERROR, "too many requests from this server are open"))
            )
            return
        self._asked[message.id] = asyncio.get_running_loop().create_task(self._take(message, self._owners_of(about)))
        if isinstance(about, int) and about in self._open:
            self._asked_for.setdefault(about, set()).add(message.id)

    def _withdraw(self, request_id: Any) -> None:
        if isinstance(request_id, str | int) and not isinstance(request_id, bool):
            task = self._asked.get(request_id)
            if task is not None:
                task.cancel()

    async def _take(self, message: Request, owners: Owners) -> None:
        try:
            self._reply(json_rpc.result(message.id, await self._ask(message.method, message.params, owners)))
        except RpcError as error:
            self._reply(json_rpc.error(Fault(message.id, error.code, error.message, error.data)))
        except asyncio.CancelledError:
            self._reply(json_rpc.error(Fault(message.id, INTERNAL_ERROR, "the question was withdrawn")))
            raise
        finally:
            del self._asked[message.id]

    def _reply(self, frame: bytes) -> None:
        if self.lost is None and self._send is not None:
            with contextlib.suppress(OSError):
                self._send(frame)


def error_of(body: dict[str, Any]) -> RpcError:
    """Returns the exception for an `error` object of JSON-RPC."""
    code, message = body.get("code"), body.get("message")
    return RpcError(
        code if isinstance(code, int) and not isinstance(code, bool) else INTERNAL_ERROR,
        message if isinstance(message, str) else "an error without a message",
        body.get("data"),
    )
