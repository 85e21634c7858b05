"""Worker processes of capsules, as seen by the runtime: started behind walls, each lent to one call at a time.

A worker that is overdue, or sends a malformed message, is killed; nothing else is lost with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from interlock.executors.capsules import frames
from interlock.executors.network import environment_of
from interlock.executors.process import ProcessRunner
from interlock.isolation.background import Background
from interlock.isolation.wire import Bind
from interlock.model.errors import ToolError
from interlock.server_process import module_command

_STDERR_BYTES: Final = 16 * 1024
_COMPILER_BYTES: Final = 1024**3
"""Memory of a compiling process: a component built from Python takes 370 MB."""
_CHUNK: Final = 256 * 1024
_PRINTED: Final = 1
"""The log level of printed lines."""
_IDLE_MAX: Final = 4
"""Maximum number of idle workers kept for later calls, whose memory is fresh in any case."""
_LASTING_MAX: Final = 32
"""Maximum number of idle workers with a lasting store.

Beyond it, the least recently used worker is ended, and its store is lost.
"""

Answer = Callable[[str, list[Any], bytes], Awaitable[tuple[int, bytes]]]
"""Answers a host function, given its name, arguments and bytes. Returns the reply's kind and bytes."""


class Reply(NamedTuple):
    """The final message of a request."""

    header: dict[str, Any]
    body: bytes


class WorkerLostError(Exception):
    """The worker has ended or sent a malformed message."""


class Start(Protocol):
    """Starts a worker process. Returns the runtime's end of its socket, and the process."""

    async def __call__(self, code_directory: str | None) -> tuple[socket.socket, Background]:
        """`code_directory` is readable for the worker, besides its own program; without one, the worker compiles.

        Raises: ToolError.
        """
        ...


class WalledStart:
    """Starts workers behind the walls of process actions. They reach no host and write nothing."""

    def __init__(self, runner: ProcessRunner, workspace: Any) -> None:
        """`workspace` is never a layer, because a worker outlives layers. The worker cannot see its files."""
        self._runner = runner
        self._workspace = workspace

    async def __call__(self, code_directory: str | None) -> tuple[socket.socket, Background]:
        """Start a worker. Raises: ToolError `spawn_failed`, `isolation_failed`, `process_lost`."""
        binds: list[Bind] = [] if code_directory is None else [{"path": code_directory, "writable": False}]
        walls = self._runner.enclosure.around(self._workspace, network="none", binds=binds)
        if walls is not None:
            walls = walls._replace(writable=(), readable=(), hidden=self._hidden(code_directory))
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await self._runner.serve(
                    module_command("interlock.executors.capsules.worker", site=True),
                    workspace=self._workspace,
                    walls=walls,
                    env=environment_of(walls),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr_bytes_max=_STDERR_BYTES,
                    memory_bytes_max=_COMPILER_BYTES if code_directory is None else sys.maxsize,
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return ours, process

    def _hidden(self, code_directory: str | None) -> tuple[str, ...]:
        """Returns the paths to hide. Raises: ToolError.

        A state directory that contains the code is not among them, because it is not shown anyway.
        """
        enclosure = self._runner.enclosure
        above = {path for path in enclosure.hidden if f"{code_directory}/".startswith(f"{path.rstrip('/')}/")}
        if any(f"{path}/".startswith(f"{place.rstrip('/')}/") for path in above for place in enclosure.shown):
            raise ToolError(
                "the state directory is inside a directory that processes may read, but capsule workers must not see it",
                code="isolation_failed",
                retryable=False,
                hint="nothing has run; set INTERLOCK_STATE_DIR to another directory, or remove it from `isolation.read`",
            )
        return tuple(path for path in enclosure.hidden if path not in above)

    @property
    def walled(self) -> bool:
        """False if the configuration disables walls."""
        return self._runner.enclosure.profile != "none"

    def posture(self) -> dict[str, str]:
        """Returns the posture of a worker. Raises: ToolError `isolation_failed` if `isolation.require` names `record`."""
        return self._runner.enclosure.posture_unrecorded("none")


class Worker:
    """One worker process. Used by one request at a time, from any event loop."""

    def __init__(self, link: socket.socket, process: Background) -> None:
        """Wraps a started process."""
        self._link = link
        self._process = process
        self.loaded: set[str] = set()
        """Keys of the modules that it has loaded."""
        self.broken = False
        self.lasting = False
        """True if it holds a lasting store."""
        self.unwanted = False
        """True once it must not serve another call."""

    async def request(self, header: dict[str, Any], body: bytes, answer: Answer) -> Reply:
        """Send a request, answer its host functions, and return the final message.

        After a cancellation the worker is broken: close it. Raises: WorkerLostError.
        """
        self.broken = True  # until the final message has been read
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._link, frames.encode(header, body))
            while True:
                message, data = await self._receive(loop)
                for line in message.get("printed", ()):
                    await answer("log.write", [_PRINTED, str(line)], b"")
                if "done" in message:
                    self.broken = False
                    return Reply(message, data)
                kind, reply = await answer(str(message["host"]), list(message["arguments"]), data)
                await loop.sock_sendall(self._link, frames.encode({"kind": kind}, reply))
        except (OSError, KeyError, TypeError, frames.FrameError) as error:
            raise WorkerLostError(type(error).__name__) from error

    @property
    def ended(self) -> bool:
        """True if the process of an idle worker has ended, or has written without being asked."""
        try:
            self._link.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    async def close(self) -> None:
        """End the process and wait until it has ended."""
        self._link.close()
        await asyncio.to_thread(self._process.close)

    def end(self) -> None:
        """End the process, blocking briefly. Safe on any thread."""
        self._link.close()
        self._process.close()

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> tuple[dict[str, Any], bytes]:
        prefix = await self._read(loop, frames.PREFIX.size)
        header, body = frames.checked_sizes(*frames.PREFIX.unpack(prefix))
        return frames.decode_header(await self._read(loop, header)), await self._read(loop, body)

    async def _read(self, loop: asyncio.AbstractEventLoop, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = await loop.sock_recv(self._link, min(_CHUNK, count - len(data)))
            if not part:
                raise OSError("the worker has ended")
            data += part
        return bytes(data)


class Workers:
    """The workers of a runtime, in groups: a worker never serves another group. Must be closed. Thread-safe."""

    def __init__(self, start: Start, code_directory: str | None, most: int) -> None:
        """Starts nothing. At most `most` workers of a group run at once; further calls wait."""
        self._start = start
        self._code_directory = code_directory
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[tuple[str, Worker]] = []
        self._lent: list[tuple[str, Worker]] = []
        self._running: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]] = {}
        self._closed = False

    @contextlib.asynccontextmanager
    async def lend(self, group: str, most: int | None = None, *, lasting: bool = False) -> AsyncIterator[Worker]:
        """Lend a worker of the group for one call. If `lasting`, the worker is kept with its store.

        Raises: ToolError if no worker can be started.
        """
        worker = await self._take(group, self._most if most is None else most)
        while worker.ended:  # it ended while idle, so nothing was lost
            await asyncio.shield(worker.close())
            self._give_back(group, None)
            worker = await self._take(group, self._most if most is None else most)
        worker.lasting = lasting
        with self._lock:
            self._lent.append((group, worker))
        try:
            yield worker
        finally:
            with self._lock:
                self._lent.remove((group, worker))
            done = worker.broken or worker.unwanted
            if done:
                await asyncio.shield(worker.close())
            self._give_back(group, None if done else worker)

    @contextlib.contextmanager
    def parked(self, group: str) -> Iterator[None]:
        """Inside the block, in which a call waits for people, let another call use the worker slot."""
        with self._lock:
            self._running[group] -= 1
        self._wake(group)
        try:
            yield
        finally:
            with self._lock:
                self._running[group] += 1

    def drop(self, key: str, group: str) -> None:
        """End the workers that hold a module or serve a group with this prefix; busy workers end after their call."""

        def holds(pair: tuple[str, Worker]) -> bool:
            return key in pair[1].loaded or pair[0].startswith(group)

        with self._lock:
            ended = [pair for pair in self._idle if holds(pair)]
            self._idle = [pair for pair in self._idle if pair not in ended]
            for pair in ended:
                self._running[pair[0]] -= 1
            for pair in self._lent:
                pair[1].unwanted = pair[1].unwanted or holds(pair)
        for _, worker in ended:
            worker.end()

    def close(self) -> None:
        """End the idle workers. A running call ends its own worker."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, worker in idle:
            worker.end()

    async def compile(self, source: bytes, abi: str, *, fuel: bool, answer: Answer) -> Reply:
        """Compile a module in a worker used only for that. Raises: ToolError, WorkerLostError."""
        worker = Worker(*await self._start(None))
        try:
            return await worker.request({"do": "compile", "abi": abi, "fuel": fuel}, source, answer)
        finally:
            await asyncio.shield(worker.close())

    async def _take(self, group: str, most: int) -> Worker:
        while True:
            with self._lock:
                if self._closed:
                    raise ToolError("the runtime is closed", code="cancelled", retryable=False)
                found = next((pair for pair in reversed(self._idle) if pair[0] == group), None)
                if found is not None:
                    self._idle.remove(found)
                    return found[1]
                if self._running.get(group, 0) < most:
                    self._running[group] = self._running.get(group, 0) + 1
                    break
                loop = asyncio.get_running_loop()
                turn: asyncio.Future[None] = loop.create_future()
                self._waiting.setdefault(group, []).append((loop, turn))
            await turn
        try:
            return Worker(*await self._start(self._code_directory))
        except BaseException:
            self._give_back(group, None)
            raise

    def _give_back(self, group: str, worker: Worker | None) -> None:
        """Keep a worker for later calls, or count it as gone. Wakes the waiting calls."""
        surplus: list[tuple[str, Worker]] = []
        with self._lock:
            if worker is not None and not self._closed:
                self._idle.append((group, worker))
                worker = None
            else:
                self._running[group] -= 1
            for lasting, most in ((False, _IDLE_MAX), (True, _LASTING_MAX)):
                those = [pair for pair in self._idle if pair[1].lasting is lasting]
                surplus += those[: max(0, len(those) - most)]
            for pair in surplus:
                self._idle.remove(pair)
                self._running[pair[0]] -= 1
        self._wake(group)
        for one in (*(pair[1] for pair in surplus), *([worker] if worker is not None else [])):
            threading.Thread(target=one.end, daemon=True).start()

    def _wake(self, group: str) -> None:
        """Wake the calls that wait for a worker of the group."""
        with self._lock:
            turns, self._waiting[group] = self._waiting.get(group, []), []
        for loop, turn in turns:
            with contextlib.suppress(RuntimeError):  # its event loop has ended
                loop.call_soon_threadsafe(_wake, turn)


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
