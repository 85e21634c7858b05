"""The messages of one client: requests in flight, cancellation, and the answers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

from interlock.engine.runtime import Runtime
from interlock.model import json_rpc as frames
from interlock.model.errors import InterlockError
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
)
from interlock.surfaces.gateway import protocol
from interlock.surfaces.gateway.calls import Agent, Progress, call_tool
from interlock.surfaces.gateway.protocol import Envelope, Unsupported

IN_FLIGHT_MAX: Final = 512


class Session:
    """One client's connection. Not thread-safe: use it on one event loop."""

    def __init__(self, runtime: Runtime, agent: Agent, send: Callable[[bytes], None], *, wait_s: float) -> None:
        """`send` takes a frame and returns at once. `wait_s` is how long a held call waits for its answer."""
        self._runtime = runtime
        self._agent = agent
        self._send = send
        self._wait_s = wait_s
        self._revision: str | None = None
        self._in_flight: dict[Id, asyncio.Task[None]] = {}

    def receive(self, line: bytes | None) -> None:
        """Take a line; None is one that was too long. Answers come later, in any order."""
        if line is None:
            most = frames.FRAME_BYTES_MAX // (1024 * 1024)
            self._send(frames.error(Fault(None, INVALID_REQUEST, f"the message is longer than {most} MiB")))
            return
        frame = frames.read_frame(line)
        if isinstance(frame, Batch):
            self._take_batch(frame)
        else:
            self._take(frame, self._send)

    async def close(self) -> None:
        """Cancel what is in flight, and wait for its end."""
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def drain(self) -> None:
        """Wait until everything in flight has ended."""
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
            self._take(member, collect)

    def _take(self, message: Message, answer: Callable[[bytes], None]) -> None:
        match message:
            case Fault():
                answer(frames.error(message))
            case Request():
                self._begin(message, answer)
            case Notification(method="notifications/cancelled"):
                self._cancel(message.params.get("requestId"))
            case _:  # other notifications ask for nothing, and a response was not asked for
                pass

    def _cancel(self, request_id: Any) -> None:
        # `1 == True` and `1 == 1.0` in Python, and none of them is the id `"1"`.
        if isinstance(request_id, str) or (isinstance(request_id, int) and not isinstance(request_id, bool)):
            task = self._in_flight.get(request_id)
            if task is not None:
                task.cancel()

    def _begin(self, request: Request, answer: Callable[[bytes], None]) -> None:
        if request.id in self._in_flight:
            answer(frames.error(Fault(request.id, INVALID_REQUEST, "a request with this id is still in flight")))
            return
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            answer(frames.error(Fault(request.id, INTERNAL_ERROR, f"more than {IN_FLIGHT_MAX} requests are in flight")))
            return
        envelope = protocol.read_envelope(request, self._revision)
        match envelope:
            case Fault():
                answer(frames.error(envelope))
            case Unsupported():
                answer(frames.error(envelope.fault, envelope.data))
            case Envelope():
                task = asyncio.get_running_loop().create_task(self._answer(request, envelope, answer))
                self._in_flight[request.id] = task

    async def _answer(self, request: Request, envelope: Envelope, answer: Callable[[bytes], None]) -> None:
        try:
            found = await self._handle(request, envelope)
            reply = (
                frames.error(found)
                if isinstance(found, Fault)
                else frames.result(request.id, protocol.complete(found, envelope))
            )
        except asyncio.CancelledError:
            # MCP wants no answer to a cancelled request; in a batch one is missing else.
            reply = frames.error(Fault(request.id, INVALID_REQUEST, "the request was cancelled"))
            if answer == self._send:
                return
        except InterlockError as error:
            reply = frames.error(Fault(request.id, INTERNAL_ERROR, error.message), _error_data(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours ends this call, not the connection
            sys.excepthook(type(error), error, error.__traceback__)
            reply = frames.error(Fault(request.id, INTERNAL_ERROR, "an internal error; the gateway's log has it"))
        finally:
            del self._in_flight[request.id]
        answer(reply)

    async def _handle(self, request: Request, envelope: Envelope) -> dict[str, Any] | Fault:
        match request.method:
            case "initialize":
                revision = protocol.negotiate(request.params)
                if revision is None:
                    return Fault(request.id, INVALID_PARAMS, "`protocolVersion` must be a string")
                self._revision = revision
                return protocol.initialized(revision)
            case "ping":
                return {}
            case "server/discover":
                return protocol.discovered()
            case _ if envelope.revision is None:
                return Fault(request.id, INVALID_REQUEST, "the connection was not initialized")
            case "tools/list":
                if request.params.get("cursor") is not None:
                    return Fault(
                        request.id, INVALID_PARAMS, "`cursor` is not one of this server's: its list has one page"
                    )
                return protocol.tool_list(await self._tools(), envelope)
            case "tools/call":
                return await self._call(request, envelope)
            case _:
                return Fault(request.id, METHOD_NOT_FOUND, f"no method `{request.method[:80]}`")

    async def _tools(self) -> list[dict[str, Any]]:
        await self._runtime.prepare()
        self._runtime.refresh()  # so that the list is what the rules say now
        return self._runtime.tools_for("mcp", agent=self._agent.name, session=self._agent.session)

    async def _call(self, request: Request, envelope: Envelope) -> dict[str, Any] | Fault:
        name, arguments = request.params.get("name"), request.params.get("arguments")
        if not isinstance(name, str) or not name:
            return Fault(request.id, INVALID_PARAMS, "`name` must be the name of a tool")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            return Fault(request.id, INVALID_PARAMS, "`arguments` must be an object")
        await self._runtime.prepare()
        tool = self._runtime.tool_named(name, "mcp")
        if tool is None:
            return Fault(request.id, INVALID_PARAMS, f"there is no tool `{name[:80]}`")
        return await call_tool(
            self._runtime, self._agent, tool, arguments, wait_s=self._wait_s, progress=self._progress(envelope)
        )

    def _progress(self, envelope: Envelope) -> Progress | None:
        token = envelope.progress_token
        if token is None:
            return None

        def tell(value: float, message: str) -> None:
            params = {"progressToken": token, "progress": value, "message": message}
            self._send(frames.notification("notifications/progress", params))

        return Progress(tell)


def _error_data(error: InterlockError) -> dict[str, Any]:
    found = {"code": error.code, "path": error.path, "hint": error.hint}
    return {name: value for name, value in found.items() if value}
