"""Standard input and output as a connection.

They belong to the client: output of other code in this process, or of a child, goes to standard error instead, and
nothing else reads standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from typing import Any, Final

from interlock.model.errors import UsageError
from interlock.model.json_rpc import LineSplitter
from interlock.surfaces.gateway.session import Session

_CHUNK: Final = 1 << 18


class _Input(asyncio.Protocol):
    def __init__(self, receive: Callable[[bytes | None], None]) -> None:
        self._lines = LineSplitter()
        self._receive = receive
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            self._receive(line)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def serve(start: Callable[[Callable[[bytes], None]], Session], stop: asyncio.Event) -> None:
    """Serve one client until the end of its input, or `stop`. `start` creates the session, given the send function.

    At the end of input, requests in flight are completed and answered; at `stop`, they are cancelled. Raises:
    UsageError if standard input is not a pipe, a socket or a terminal.
    """
    _require_stream(0)
    source, target = _take_over()
    loop = asyncio.get_running_loop()
    output = _Output(target)
    session = start(output.send)
    transport, protocol = await loop.connect_read_pipe(lambda: _Input(session.receive), os.fdopen(source, "rb", 0))
    stopped = loop.create_task(stop.wait())
    ends: list[asyncio.Future[Any]] = [stopped, output.broken]
    try:
        await asyncio.wait([protocol.ended, *ends], return_when=asyncio.FIRST_COMPLETED)
        if protocol.ended.done() and not output.broken.done():
            drained = loop.create_task(session.drain())
            await asyncio.wait([drained, *ends], return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
    finally:
        stopped.cancel()
        transport.close()
        await session.close()
        await output.close()


class _Output:
    """Writes frames on a thread, because standard output may be a pipe that the client reads slowly, or a file."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._write_all())

    def send(self, frame: bytes) -> None:
        self._queue.put_nowait(frame)

    async def close(self) -> None:
        self._queue.put_nowait(None)
        with contextlib.suppress(OSError):
            await self._task
        os.close(self._target)

    async def _write_all(self) -> None:
        try:
            last = False
            while not last:
                found = [await self._queue.get()]
                while not self._queue.empty():
                    found.append(self._queue.get_nowait())
                last = found[-1] is None  # nothing is sent after `close`
                parts = [frame for frame in found if frame is not None]
                await asyncio.to_thread(_write, self._target, b"".join(parts))
        except OSError:  # the client is gone
            if not self.broken.done():
                self.broken.set_result(None)


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view[:_CHUNK]) :]


def _require_stream(descriptor: int) -> None:
    """Raises: UsageError for a file, a directory, or a device that cannot be waited for, such as `/dev/null`."""
    with select.epoll() as poll:
        try:
            poll.register(descriptor, select.EPOLLIN)
        except OSError:
            raise UsageError("standard input is not a pipe", hint="an MCP client starts `interlock gateway`") from None


def _take_over() -> tuple[int, int]:
    """Descriptors for the connection. Afterwards, descriptor 0 leads nowhere and descriptor 1 to standard error."""
    source, target = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return source, target
