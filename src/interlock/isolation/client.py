"""The runtime's side of the fork server: starts it when first needed, sends it requests, and waits without a thread.

One `ForkServer` serves any number of event loops and threads: a request is one atomic datagram, and each action has its
own socket.

The supervisor enforces the time-out and ends the tree. Because a program could keep its supervisor from doing so, the
runtime holds a pidfd of each supervisor, and ends the tree itself if the supervisor is late.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Self

from interlock.isolation.tree import end_children_of, pid_of
from interlock.isolation.wire import (
    LATE,
    MESSAGE_BYTES,
    STARTED,
    STOP,
    Failure,
    Launch,
    Report,
    Request,
    memory_file,
    read_memory_file,
    receive_message,
    run_message,
)
from interlock.model.errors import ToolError
from interlock.server_process import ServerProcess, module_command

_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8"}
_BIND_NOW: Final = {"LD_BIND_NOW": "1"}
"""Binds library functions once in the server instead of in each supervisor at the first call."""
_ENDING_S: Final = 1.0
"""How long a killed server may take to end."""
_CLOSE_MS: Final = 1_000
_LATE_S: Final = 1.0
"""How long after the time-out or STOP, plus the grace period, a supervisor may take to report.

Then the tree is ended from outside.
"""
_OUTSIDE_S: Final = 3.0
"""How long ending a tree from outside may take. What is still running then belongs to another user or hangs in the kernel."""
_SWEEP_S: Final = 8.0
"""How long a supervisor whose tree was ended from outside has to report (more than its own sweep takes), before it is killed.
"""
_KILL_S: Final = 0.1
"""How long killing a tree may take after a second cancellation, before its supervisor is killed as well."""
_QUEUED_S: Final = 1.0
"""How long a request may wait for a supervisor before it is withdrawn."""


class Outcome(NamedTuple):
    """The result of a request: the report, and what was kept of the two output streams."""

    report: Report
    stdout: bytes
    stderr: bytes


class Stopped(Exception):  # noqa: N818 - not an error: describes how a cancelled action ended
    """Raised instead of CancelledError once the tree has ended. `outcome` is what the action did until then."""

    def __init__(self, outcome: Outcome) -> None:
        """`outcome.report["stopped"]` is `asked`, unless the program ended first."""
        super().__init__("cancelled")
        self.outcome = outcome


class NotStarted(Exception):  # noqa: N818 - the caller converts it to its tool's error
    """`ForkServer.start` could not start the program."""

    def __init__(self, failure: Failure | None) -> None:
        """`failure` as the supervisor reported it."""
        super().__init__("not started")
        self.failure: Failure = failure or {"step": "request", "errno": errno.EINVAL}


def fork_server_command() -> list[str]:
    """Returns the command that starts the plain fork server; the runtime's pid and `launch` are appended as arguments."""
    return module_command("interlock.isolation.server")


class ForkServer:
    """A fork server and the connection to it. After a crash, it is restarted for the next action.

    `command` starts it; our pid and `launch` (as JSON) are appended as arguments. `environment` is its whole
    environment, besides `LD_BIND_NOW`. Must be closed: its process ends then, or when ours does.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        launch: Callable[[], Launch] | None = None,
    ) -> None:
        """Starts nothing yet. `launch` is called when the server starts.

        It returns how to launch the server; by default without walls.
        """
        launched = launch or _no_walls
        self._process = ServerProcess(
            fork_server_command() if command is None else command,
            {**(_ENVIRONMENT if environment is None else environment), **_BIND_NOW},
            arguments=lambda: (str(os.getpid()), json.dumps(launched())),
        )

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it is not running."""
        return self._process.pid

    def warm_up(self) -> None:
        """Start the server before its first request, without waiting. Raises: OSError, and what `launch` raises."""
        self._process.connect()

    async def run(
        self,
        request: Request,
        *,
        cwd: int,
        stdin: bytes | None = None,
        descriptors: Mapping[str, int] | None = None,
    ) -> Outcome:
        """Perform one request. Returns when its process tree has ended.

        `cwd` is a directory descriptor (O_PATH is sufficient), `stdin` the program's input (by default /dev/null), and
        `descriptors` what the walls or a function call need, by name. The caller keeps all descriptors.

        Raises: ToolError `spawn_failed` if no process could be started; `process_lost` if the supervisor or server was
        killed. Stopped if the awaiting task was cancelled, after the tree has ended. CancelledError if nothing was
        started, or when cancelled twice; the tree is then killed without grace, without waiting for it.
        """
        for _ in range(2):
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError as error:
                raise _no_descriptors(error) from error
            ours.setblocking(False)
            with ours:
                with theirs:
                    server = await self._submit(theirs, request, cwd, stdin, descriptors or {})
                with _Watch(ours, request) as watch:
                    outcome = await watch.wait_ended()
            if outcome is not None:
                return outcome
            # The server was killed before it accepted the request, so nothing has run and another server can.
            await self._leave(server)
        raise _no_server()

    async def start(
        self,
        request: Request,
        *,
        cwd: int,
        stdin: bytes | int | None = None,
        descriptors: Mapping[str, int] | None = None,
    ) -> tuple[socket.socket, int]:
        """Send a request and return when its supervisor has started: the action's socket, and the supervisor's pidfd.

        `stdin` may be a descriptor, which the caller keeps. The caller supervises the action; closing the socket ends
        the tree. Called by `background`.

        Raises: ToolError `spawn_failed`, `process_lost`; CancelledError, after which the tree is killed.
        """
        for _ in range(2):
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError as error:
                raise _no_descriptors(error) from error
            ours.setblocking(False)
            try:
                with theirs:
                    server = await self._submit(theirs, request, cwd, stdin, descriptors or {})
                await _wait_readable(ours, None)
                message, fds = receive(ours)
                if message == STARTED and fds:
                    return ours, fds[0]
            except BaseException:
                ours.close()
                raise
            ours.close()
            if message == STARTED:
                raise _unwatched()
            if message:
                raise NotStarted(decode(message, fds).report["failure"])
            await self._leave(server)
        raise _no_server()

    def close(self) -> None:
        """Close the server, which ends after its last action. Waits only briefly for running actions."""
        self._process.close(_CLOSE_MS)

    async def _submit(
        self,
        control: socket.socket,
        request: Request,
        cwd: int,
        stdin: bytes | int | None,
        descriptors: Mapping[str, int],
    ) -> socket.socket:
        """Send a request, replacing a server that has died. Returns the socket through which it was sent."""
        request = {**request, "directory": _path_of(cwd, request), "descriptors": list(descriptors)}
        with contextlib.ExitStack() as stack:
            try:
                body = memory_file("request", json.dumps(request).encode())
                stack.callback(os.close, body)
                if isinstance(stdin, int):
                    source = stdin
                else:
                    source = _nothing() if stdin is None else memory_file("stdin", stdin)
                    stack.callback(os.close, source)
            except OSError as error:
                raise _no_descriptors(error) from error
            message, fds = run_message(request), [control.fileno(), body, cwd, source, *descriptors.values()]
            server = self._connect()
            try:
                await _send(server, message, fds)
            except (BrokenPipeError, ConnectionResetError):
                self._process.forget(server)
                server = self._connect()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the caller then sees the end of file
                    await _send(server, message, fds)
            return server

    async def _leave(self, server: socket.socket) -> None:
        """Wait for the end of a server that did not accept a request, so that the next connection goes to a new one.

        A dying process closes the sockets in its queue before the one on which they arrive, which would still accept
        the next request. If the server stays alive, only a supervisor was killed.
        """
        until = time.monotonic() + _ENDING_S
        while not self._process.has_ended(server):
            if time.monotonic() > until:
                return
            await asyncio.sleep(0.005)
        self._process.forget(server)

    def _connect(self) -> socket.socket:
        """Returns the socket of the running server; starts one if necessary."""
        try:
            return self._process.connect()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise _no_descriptors(error) from error
            raise ToolError(
                f"the fork server could not be started: {os.strerror(error.errno or 0)}",
                code="spawn_failed",
                hint="Interlock starts it with its own Python; does that still exist?",
            ) from error


def _no_walls() -> Launch:
    return {"namespaces": False, "shown": []}


def _nothing() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _path_of(cwd: int, request: Request) -> str:
    """Returns the path of the working directory as the process sees it.

    For a layer, the kernel reports paths within the layer.
    """
    path = os.readlink(f"/proc/self/fd/{cwd}")
    top = request["directory"]
    if top:  # where the layer is mounted: a mount outside all namespaces has paths relative to itself
        return path if f"{path}/".startswith(f"{top}/") else top + path.rstrip("/")
    walls = request["walls"]
    if walls is None:
        return path
    copy = walls["copy"]
    if copy and f"{path}/".startswith(f"{copy}/"):  # a copy, which is not visible outside
        return walls["workspace"] + path[len(copy) :]
    return walls["workspace"] + path.rstrip("/") if walls["layer"] else path


async def _send(server: socket.socket, message: bytes, fds: list[int]) -> None:
    while True:
        try:
            socket.send_fds(server, [message], fds)
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


class _Watch:
    """Watches one action and its supervisor for the runtime."""

    def __init__(self, control: socket.socket, request: Request) -> None:
        """`control` is the runtime's end of the action's socket."""
        self._control = control
        self._grace_s = request["grace_ms"] / 1000
        self._timeout_s = None if request["timeout_ms"] is None else request["timeout_ms"] / 1000
        self._pid = 0
        self._supervisor: int | None = None
        """Its pidfd, once it has started."""
        self._cancelled = False
        self._ended_outside = False
        self._acts_at: float | None = None
        """When the runtime stops waiting (seconds of the event loop)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._supervisor is not None:
            os.close(self._supervisor)

    async def wait_ended(self) -> Outcome | None:
        """Wait for the report; None if the request was not accepted.

        If cancelled, end the tree, wait for that, and raise Stopped.
        """
        message, fds = STARTED, list[int]()
        while message == STARTED:
            try:
                late = not await _wait_readable(self._control, self._acts_at)
            except asyncio.CancelledError:
                self._stop()
                continue
            if late:
                await self._end_from_outside()
                continue
            message, fds = receive(self._control)
            if message == STARTED:
                self._take_supervisor(fds)
        if not message and self._supervisor is None:
            return None
        outcome = decode(message, fds)
        outcome.report["pid"] = self._pid
        if self._cancelled:
            raise Stopped(outcome)
        return outcome

    def _take_supervisor(self, fds: list[int]) -> None:
        """Store the supervisor's pidfd as the action starts. Raises: ToolError if it did not arrive."""
        if not fds:  # closing the socket ends the action
            raise _unwatched()
        self._supervisor = fds[0]
        self._pid = pid_of(fds[0])
        if self._cancelled:
            self._acts_at = self._now() + self._grace_s + _LATE_S
        elif self._timeout_s is not None:
            self._acts_at = self._now() + self._timeout_s + self._grace_s + _LATE_S

    def _stop(self) -> None:
        """Stop the action, because the awaiting task was cancelled.

        Raises: CancelledError the second time, after killing the tree.
        """
        if self._cancelled:
            self._kill()
            raise asyncio.CancelledError
        self._cancelled = True
        self._send(STOP)
        self._acts_at = self._now() + (_QUEUED_S if self._supervisor is None else self._grace_s + _LATE_S)

    async def _end_from_outside(self) -> None:
        """End the tree, because the supervisor is late. Raises: CancelledError if nothing was started."""
        if self._supervisor is None:
            raise asyncio.CancelledError
        if self._ended_outside:
            self._signal(signal.SIGKILL)  # the fork server ends what is left
            self._acts_at = None
            return
        until = self._now() + _OUTSIDE_S
        try:
            while self._end_once() and self._now() < until:  # noqa: ASYNC110 - there is no notification about children of another process
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self._stop()
            self._acts_at = self._now()  # continue with ending it
        else:
            self._ended_outside = True
            self._send(LATE)
            self._acts_at = self._now() + _SWEEP_S
        finally:
            self._signal(
                signal.SIGCONT
            )  # without its tree, nothing stops the supervisor again: it cleans up and reports

    def _kill(self) -> None:
        """Kill the tree now. The resumed supervisor finds the runtime gone, and does the rest.

        If the tree cannot be ended at once, the supervisor is killed too, and the fork server ends what is left. A
        supervisor that was only resumed could be stopped again by its program, and nobody would notice.
        """
        if self._supervisor is None:
            return
        until = time.monotonic() + _KILL_S
        while self._end_once():  # each pass ends one generation
            if time.monotonic() > until:
                self._signal(signal.SIGKILL)
                return
            time.sleep(0.001)  # blocks the event loop, because whoever cancels twice does not wait
        self._signal(signal.SIGCONT)

    def _end_once(self) -> bool:
        """One pass of ending the tree. Returns True if part of it is still running."""
        assert self._supervisor is not None
        self._signal(signal.SIGSTOP)
        pid = pid_of(self._supervisor)
        return pid > 0 and end_children_of(pid)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended, and its report can be read
            self._control.send(message)

    def _signal(self, number: int) -> None:
        assert self._supervisor is not None
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._supervisor, number)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """Returns the next message and its descriptors; an empty message at the end."""
    try:
        message, fds, _ = receive_message(control, MESSAGE_BYTES, 1)
    except ConnectionResetError:
        # The supervisor ended with unread messages from us. This is reported once; what it sent before follows.
        message, fds, _ = receive_message(control, MESSAGE_BYTES, 1)
    return message, fds


async def _wait_readable(control: socket.socket, until: float | None) -> bool:
    """Wait until there is something to read. Returns False if `until` (seconds of the event loop) comes first.

    Not `asyncio.timeout`: in a task that was cancelled before, Python 3.11.2 reports its end as another cancellation.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[bool] = loop.create_future()
    number = control.fileno()  # the event loop formats a socket as text, with two system calls, when it adds one
    loop.add_reader(number, lambda: None if ready.done() else ready.set_result(True))
    timer = None if until is None else loop.call_at(until, lambda: None if ready.done() else ready.set_result(False))
    try:
        return await ready
    finally:
        loop.remove_reader(number)
        if timer is not None:
            timer.cancel()


def decode(message: bytes, fds: list[int]) -> Outcome:
    """Decode a report and its output. Raises: ToolError `process_lost` at the end of the socket."""
    if not message:
        raise ToolError(
            "the supervisor of this action was killed; the program was ended with it",
            code="process_lost",
            retryable=False,
            hint="what the program did until then is unknown",
        )
    head, _, data = message.partition(b"\n")
    report: Report = json.loads(head)
    if fds:
        try:
            data = read_memory_file(fds[0])
        finally:
            os.close(fds[0])
    elif not data:
        return Outcome(report, b"", b"")
    middle = report["stdout_kept"]
    return Outcome(report, data[:middle], data[middle:])


def _no_descriptors(error: OSError) -> ToolError:
    return ToolError(
        f"no descriptors for a new process: {os.strerror(error.errno or 0)}",
        code="spawn_failed",
        hint="raise the limit of open files (ulimit -n), or run fewer actions at once",
    )


def _no_server() -> ToolError:
    return ToolError(
        "the fork server could not be started",
        code="spawn_failed",
        hint="its standard error, printed above, says why; nothing has run",
    )


def _unwatched() -> ToolError:
    return ToolError(
        "no descriptor was left to supervise the action, which was ended as it started",
        code="process_lost",
        retryable=False,
        hint="raise the limit of open files (ulimit -n), or run fewer actions at once",
    )
