"""Standard input and output as a connection.

They belong to the client: output of other code in this process, or of a child, goes to standard error instead, and
nothing else reads standard input.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
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
    """Writes frames: as far as that cannot block on the loop, the rest on a thread.

    Standard output may be a pipe that the client reads slowly, or a file. It is never set to non-blocking, because other
    processes can share its description.
    """

    def __init__(self, target: int) -> None:
        """`close` closes the descriptor `target`."""
        self._target = _target_of(target)
        self._frames: list[bytes] = []
        self._gathering = False
        """True after the first frame of a turn of the loop: the others are written together, at its end."""
        self._rest: asyncio.Task[None] | None = None
        """Writes on a thread. Until it has ended, nothing is written on the loop."""
        self._loop = asyncio.get_running_loop()
        self.broken: asyncio.Future[None] = self._loop.create_future()

    def send(self, frame: bytes) -> None:
        self._frames.append(frame)
        if not self._gathering and self._rest is None:
            self._gathering = True
            self._loop.call_soon(self._gathered)
            self._flush()

    async def close(self) -> None:
        self._flush()
        if self._rest is not None:
            await self._rest
        self._target.close()

    def _gathered(self) -> None:
        self._gathering = False
        self._flush()

    def _flush(self) -> None:
        if self._rest is not None or not self._frames:
            return
        data = self._take()
        try:
            written = self._target.write_some(data[:_CHUNK])
        except OSError:
            self._break()
            return
        if written < len(data):
            self._rest = self._loop.create_task(self._write_rest(data[written:]))

    async def _write_rest(self, data: bytes) -> None:
        try:
            while data:
                await asyncio.to_thread(self._target.write, data)
                data = self._take()
        except OSError:
            self._break()
        finally:
            self._rest = None

    def _take(self) -> bytes:
        data = b"".join(self._frames)
        self._frames.clear()
        return data

    def _break(self) -> None:
        """The client is gone."""
        self._frames.clear()
        if not self.broken.done():
            self.broken.set_result(None)


class _File:
    """A descriptor that any write may block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_some(self, data: bytes) -> int:  # noqa: ARG002
        """Write what can be written without blocking. Returns the number of bytes. Raises: OSError."""
        return 0

    def write(self, data: bytes) -> None:
        """Write everything. Raises: OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view[:_CHUNK]) :]

    def close(self) -> None:
        os.close(self._descriptor)


class _Pipe(_File):
    """A pipe: if it is ready for writing, it takes `PIPE_BUF` bytes."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)

    def write_some(self, data: bytes) -> int:
        written = 0
        while written < len(data) and self._ready.poll(0):
            written += os.write(self._descriptor, data[written : written + select.PIPE_BUF])
        return written


class _Socket(_File):
    """A socket, which can be written to without blocking."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._socket = socket.socket(fileno=descriptor)

    def write_some(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self._socket.close()


def _target_of(descriptor: int) -> _File:
    mode = os.fstat(descriptor).st_mode
    return (_Socket if stat.S_ISSOCK(mode) else _Pipe if stat.S_ISFIFO(mode) else _File)(descriptor)


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
