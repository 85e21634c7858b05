"""The runtime's end of the fork server: start it when first needed, hand it requests, wait without a thread.

One `ForkServer` serves any number of event loops and threads: a request is one atomic datagram, and each action has a
socket of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from interlock.isolation.wire import MESSAGE_BYTES, RUN, STARTED, STOP, Report, Request, memory_file, read_memory_file
from interlock.model.errors import ToolError

_CLOSE_MS: Final = 1_000
_STOP_S: Final = 20.0
"""After being asked to end a tree, a supervisor answers within its grace and the time of its sweep."""
_QUEUED_S: Final = 1.0
"""After that a request that no supervisor has taken up is withdrawn."""

_BOOT: Final = """
import sys, types
for name, path in (("interlock", sys.argv[2]), ("interlock.isolation", sys.argv[2] + "/isolation")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from interlock.isolation.server import main
main()
"""
"""Imports the room without its package's `__init__`, which would bring the whole runtime, keys and all."""


class Outcome(NamedTuple):
    """What came back: the report, and what was kept of the two output streams."""

    report: Report
    stdout: bytes
    stderr: bytes


class Stopped(Exception):  # noqa: N818 - not an error: how a cancelled action ended
    """Raised in place of CancelledError once the tree is gone; `outcome` is what it had done until then."""

    def __init__(self, outcome: Outcome) -> None:
        """`outcome.report["stopped"]` is `asked`, unless the program was quicker."""
        super().__init__("cancelled")
        self.outcome = outcome


def fork_server_command() -> list[str]:
    """How to start the plain fork server; the runtime's process id follows as the next argument."""
    return [sys.executable, "-I", "-S", "-c", _BOOT]


class ForkServer:
    """A fork server and the way to it. Made anew after a crash, for the next action.

    `command` starts it (its first further argument is our process id, then the directory of the package), `environment` is all it
    gets. Close it: its process ends then, or with ours.
    """

    def __init__(self, command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Start nothing yet."""
        self._command = list(command) if command is not None else fork_server_command()
        self._environment = {"LC_ALL": "C.UTF-8"} if environment is None else dict(environment)
        if "LD_LIBRARY_PATH" in os.environ:  # a Python built with a shared library may not start without it
            self._environment.setdefault("LD_LIBRARY_PATH", os.environ["LD_LIBRARY_PATH"])
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._pid: int | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it is not running."""
        return self._pid

    async def run(
        self, request: Request, *, cwd: int, stdin: bytes | None = None, channel: int | None = None
    ) -> Outcome:
        """Perform one request and return when its process tree is gone.

        `cwd` is a directory descriptor (O_PATH will do), `stdin` what the program can read (nothing: /dev/null),
        `channel` a descriptor that a function call gets as number 3. All stay the caller's.

        Raises: ToolError `spawn_failed` if no process could be had; `process_lost` if supervisor or server were killed.
        Stopped if the awaiting task was cancelled: the tree is gone by then. CancelledError if nothing had been started, or
        when cancelled twice: then the tree is killed without grace and nobody waits for it.
        """
        for _ in range(2):
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError as error:
                raise _no_descriptors(error) from error
            ours.setblocking(False)
            with ours:
                with theirs:
                    await self._submit(theirs, request, cwd, stdin, channel)
                outcome = await _wait_ended(ours)
            if outcome is not None:
                return outcome
            # The server was killed before it took the request up: nothing has run, so a new one may.
        raise ToolError(
            "the fork server could not be started",
            code="spawn_failed",
            hint="its standard error, just above, says why; nothing has run",
        )

    def close(self) -> None:
        """End the server; it goes when its last action has gone. Actions that still run are not waited for long."""
        with self._lock:
            channel, self._channel = self._channel, None
            pid, self._pid = self._pid, None
        if channel is not None:
            channel.close()
        if pid is not None:
            _reap(pid, _CLOSE_MS)

    async def _submit(
        self, control: socket.socket, request: Request, cwd: int, stdin: bytes | None, channel: int | None
    ) -> None:
        """Send a request; a server that has died is replaced by a new one."""
        with contextlib.ExitStack() as stack:
            try:
                body = memory_file("request", json.dumps(request).encode())
                stack.callback(os.close, body)
                source = _nothing() if stdin is None else memory_file("stdin", stdin)
                stack.callback(os.close, source)
            except OSError as error:
                raise _no_descriptors(error) from error
            fds = [control.fileno(), body, cwd, source, *([] if channel is None else [channel])]
            server = self._connect()
            try:
                await _send(server, fds)
            except (BrokenPipeError, ConnectionResetError):
                self._forget(server)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then the caller sees the end of file
                    await _send(self._connect(), fds)

    def _connect(self) -> socket.socket:
        """The socket of the running server, starting one if need be."""
        with self._lock:
            if self._channel is None:
                self._start()
            assert self._channel is not None
            return self._channel

    def _start(self) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise _no_descriptors(error) from error
        ours.setblocking(False)
        package = str(Path(__file__).parent.parent)
        with theirs:
            try:
                pid = os.posix_spawn(
                    self._command[0],
                    [*self._command, str(os.getpid()), package],
                    self._environment,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    ],
                    setsid=True,  # Ctrl-C is for the runtime, which then ends the actions in order
                    setsigmask=[],
                    setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
                )
            except OSError as error:
                ours.close()
                raise ToolError(
                    f"the fork server could not be started: {os.strerror(error.errno or 0)}",
                    code="spawn_failed",
                    hint="Interlock starts it with the Python that it runs on itself; is that still there?",
                ) from error
        self._channel, self._pid = ours, pid

    def _forget(self, channel: socket.socket) -> None:
        """A server has gone: collect it, unless another thread has already."""
        with self._lock:
            if self._channel is not channel:
                return
            pid, self._channel, self._pid = self._pid, None, None
        channel.close()
        if pid is not None:
            _reap(pid, 0)


def _nothing() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


async def _send(server: socket.socket, fds: list[int]) -> None:
    while True:
        try:
            socket.send_fds(server, [RUN], fds)
        except BlockingIOError:  # hundreds of requests are queued: let the server catch up
            await asyncio.sleep(0.002)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:  # too many descriptors in flight
                await asyncio.sleep(0.002)
            elif error.errno == errno.EBADF:  # closed by another thread
                raise BrokenPipeError from error
            else:
                raise
        else:
            return


async def _wait_ended(control: socket.socket) -> Outcome | None:
    """Wait for the report; None if nobody took the request up. On cancellation end the tree, wait for that, raise Stopped."""
    started = False
    cancelled = False
    while True:
        try:
            async with asyncio.timeout(None if not cancelled else _STOP_S if started else _QUEUED_S):
                await _wait_readable(control)
        except TimeoutError:
            raise asyncio.CancelledError from None
        except asyncio.CancelledError:
            if cancelled:
                raise
            cancelled = True
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended; its report can be read
                control.send(STOP)
            continue
        message, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        if message == STARTED:
            started = True
            continue
        if not message and not started:
            return None
        outcome = _decode(message, fds)
        if cancelled:
            raise Stopped(outcome)
        return outcome


async def _wait_readable(control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(control, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(control)


def _decode(message: bytes, fds: list[int]) -> Outcome:
    if not message:
        raise ToolError(
            "the process that watches over this action was killed; the program was ended with it",
            code="process_lost",
            retryable=False,
            hint="what the program had done until then is not known",
        )
    report: Report = json.loads(message)
    if not fds:
        return Outcome(report, b"", b"")
    try:
        data = read_memory_file(fds[0])
    finally:
        os.close(fds[0])
    middle = report["stdout_kept"]
    return Outcome(report, data[:middle], data[middle:])


def _reap(pid: int, wait_ms: int) -> None:
    """Collect the server; killed if it does not go by itself."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):  # somebody else's SIGCHLD handler was quicker
        pidfd = os.pidfd_open(pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(wait_ms):
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(pidfd)
        os.waitpid(pid, 0)


def _no_descriptors(error: OSError) -> ToolError:
    return ToolError(
        f"no descriptors for a new process: {os.strerror(error.errno or 0)}",
        code="spawn_failed",
        hint="raise the limit of open files (ulimit -n), or run less at once",
    )
