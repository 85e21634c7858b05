"""The messages of one client: requests in flight, cancellation, and the answers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from interlock.engine.runtime import Runtime
from interlock.executors.mcp.peer import error_of
from interlock.model import json_rpc as frames
from interlock.model.errors import InterlockError, StoreError
from interlock.model.json_rpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Batch,
    Fault,
    Id,
    Message,
    Notification,
    Request,
    Response,
)
from interlock.surfaces.gateway import protocol
from interlock.surfaces.gateway.asking import OpenCalls
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.data_requests import METHODS, DataRequests
from interlock.surfaces.gateway.protocol import Envelope
from interlock.surfaces.gateway.tool_requests import ToolRequests

IN_FLIGHT_MAX: Final = 512
Send = Callable[[bytes], None]


class Reply(NamedTuple):
    """Where to send the answer to a message, and the notifications before it."""

    answer: Send
    tell: Send


class Session:
    """One client's connection. Not thread-safe: use it on one event loop."""

    def __init__(
        self, runtime: Runtime, agent: Agent, send: Send, *, wait_s: float, open_calls: OpenCalls | None = None
    ) -> None:
        """`send` takes a frame and returns at once. `wait_s` is how long a held call waits for its approval.

        `open_calls` are calls that other connections of the same client may resume; by default only its own.
        """
        self._runtime = runtime
        self._send = send
        self._revision: str | None = None
        self._capabilities: dict[str, Any] = {}
        self._in_flight: dict[Id, asyncio.Task[None]] = {}
        self._own_calls = open_calls is None
        self._open_calls = open_calls or OpenCalls(f"{agent.name}/{agent.session}")
        self._requests = ToolRequests(runtime, agent, self._open_calls, wait_s)
        self._data = DataRequests(runtime, agent, wait_s)
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._last_asked = 0

    def receive(self, line: bytes | None) -> None:
        """Handle a line; None stands for a line that was too long. Answers come later, in any order."""
        if line is None:
            most = frames.FRAME_BYTES_MAX // (1024 * 1024)
            self._send(frames.error(Fault(None, INVALID_REQUEST, f"the message is longer than {most} MiB")))
            return
        frame = frames.read_frame(line)
        if isinstance(frame, Batch):
            self._take_batch(frame)
        else:
            self.take(frame, Reply(self._send, self._send))

    def tell_tools_changed(self) -> None:
        """Tell the client that the list of tools has changed, if it was promised such notifications."""
        if self._revision is not None:
            self._send(frames.notification("notifications/tools/list_changed", {}))

    @property
    def revision(self) -> str | None:
        """The revision for the whole connection, if one was agreed on."""
        return self._revision

    @property
    def is_busy(self) -> bool:
        """True while a request is in flight."""
        return bool(self._in_flight)

    async def close(self) -> None:
        """Cancel all requests in flight, and wait until they have ended."""
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._own_calls:
            await self._open_calls.close()

    async def drain(self) -> None:
        """Wait until all requests in flight have ended."""
        while self._in_flight:
            await asyncio.wait(list(self._in_flight.values()))

    def _take_batch(self, batch: Batch) -> None:
        if self._revision != protocol.BATCHES:
            self._send(frames.error(Fault(None, INVALID_REQUEST, "batches are not part of this revision of MCP")))
            return
        answers: list[bytes] = []
        missing = sum(isinstance(member, Request | Fault) for member in batch.members)

        def collect(answer: bytes) -> None:
            answers.append(answer)
            if len(answers) == missing:
                self._send(frames.join_batch(answers))

        for member in batch.members:
            self.take(member, Reply(collect, self._send))

    def take(self, message: Message, reply: Reply) -> None:
        """Handle one message; its answer and notifications go to `reply`."""
        match message:
            case Fault():
                reply.answer(frames.error(message))
            case Request():
                self._begin(message, reply)
            case Notification(method="notifications/cancelled"):
                self.cancel(message.params.get("requestId"))
            case Response():
                self._settle(message)
            case _:  # other notifications need no handling
                pass

    def _settle(self, message: Response) -> None:
        asked = self._asked.get(message.id) if isinstance(message.id, str) else None
        if asked is None or asked.done():  # no such request, or nobody waits for it any more
            return
        if message.result is not None:
            asked.set_result(message.result)
        else:
            asked.set_exception(error_of(message.error or {}))

    async def _ask(self, method: str, params: dict[str, Any], tell: Send) -> dict[str, Any]:
        """Send the client a request, and wait for its answer. Raises: RpcError."""
        self._last_asked += 1
        name = f"interlock-{self._last_asked}"
        asked: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[name] = asked
        tell(frames.request(name, method, params))
        try:
            return await asked
        except asyncio.CancelledError:
            tell(frames.notification("notifications/cancelled", {"requestId": name}))
            raise
        finally:
            del self._asked[name]

    def cancel(self, request_id: Any) -> None:
        """Cancel a request on behalf of the client."""
        # In Python `1 == True` and `1 == 1.0`, and none of them is the id `"1"`.
        if isinstance(request_id, str) or (isinstance(request_id, int) and not isinstance(request_id, bool)):
            task = self._in_flight.get(request_id)
            if task is not None:
                task.cancel()

    def _begin(self, request: Request, reply: Reply) -> None:
        if request.id in self._in_flight:
            fault = Fault(request.id, INVALID_REQUEST, "a request with this id is still in flight")
            reply.answer(frames.error(fault))
            return
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            fault = Fault(request.id, INTERNAL_ERROR, f"more than {IN_FLIGHT_MAX} requests are in flight")
            reply.answer(frames.error(fault))
            return
        envelope = protocol.read_envelope(request, self._revision)
        match envelope:
            case Fault():
                reply.answer(frames.error(envelope))
            case Envelope():
                if request.method == "initialize" and not envelope.is_modern:
                    self._agree(request.params)  # set at once: the client's next message may have been read already
                task = asyncio.get_running_loop().create_task(self._answer(request, envelope, reply))
                self._in_flight[request.id] = task

    def _agree(self, params: dict[str, Any]) -> None:
        revision, capabilities = protocol.negotiate(params), params.get("capabilities")
        if revision is not None:
            self._revision = revision
            self._capabilities = capabilities if isinstance(capabilities, dict) else {}

    async def _answer(self, request: Request, envelope: Envelope, reply: Reply) -> None:
        try:
            found = await self._handle(request, envelope, reply)
            frame = (
                frames.error(found)
                if isinstance(found, Fault)
                else frames.result(request.id, protocol.complete(found, envelope))
            )
        except asyncio.CancelledError:
            # MCP wants no answer to a cancelled request, but a batch needs one for each.
            frame = frames.error(Fault(request.id, INVALID_REQUEST, "the request was cancelled"))
            if reply.answer == reply.tell:
                return
        except InterlockError as error:
            frame = frames.error(Fault(request.id, INTERNAL_ERROR, _message(request, error), _error_data(error)))
        except Exception as error:  # noqa: BLE001 - an internal error ends this call, not the connection
            sys.excepthook(type(error), error, error.__traceback__)
            frame = frames.error(Fault(request.id, INTERNAL_ERROR, "an internal error; see the gateway's log"))
        finally:
            del self._in_flight[request.id]
        reply.answer(frame)

    async def _handle(self, request: Request, envelope: Envelope, reply: Reply) -> dict[str, Any] | Fault:
        match request.method:
            case method if method in protocol.REMOVED and envelope.is_modern:
                return Fault(request.id, METHOD_NOT_FOUND, protocol.explain_missing(method, envelope))
            case "initialize":
                revision = protocol.negotiate(request.params)
                if revision is None:
                    return Fault(request.id, INVALID_PARAMS, "`protocolVersion` must be a string")
                return protocol.initialized(
                    revision, self._runtime.servers.instructions(), self._runtime.servers.capabilities()
                )
            case "ping":
                return {}
            case "server/discover":
                return protocol.discovered(self._runtime.servers.instructions(), self._runtime.servers.capabilities())
            case _ if envelope.revision is None:
                return Fault(request.id, INVALID_REQUEST, "the connection was not initialized")
            case "tools/list":
                return await self._requests.list(request, envelope)
            case "tools/call":
                return await self._requests.call(
                    request, envelope, reply.tell,
                    origin=self, capabilities=self._capabilities, ask_older=self._ask,
                )  # fmt: skip
            case method if method in METHODS and method.partition("/")[0] in self._runtime.servers.capabilities():
                return await self._data.handle(
                    request, envelope, reply.tell,
                    origin=self, capabilities=self._capabilities, ask_older=self._ask,
                )  # fmt: skip
            case _:
                return Fault(request.id, METHOD_NOT_FOUND, protocol.explain_missing(request.method, envelope))


def _message(request: Request, error: InterlockError) -> str:
    doubt = isinstance(error, StoreError) and request.method == "tools/call"
    return error.message + ("; the call may have been carried out all the same" if doubt else "")


def _error_data(error: InterlockError) -> dict[str, Any]:
    found = {"code": error.code, "path": error.path, "hint": error.hint}
    return {name: value for name, value in found.items() if value}
