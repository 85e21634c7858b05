"""The runtime's end of the fork server: start it when first needed, hand it requests, wait without a thread.

One `ForkServer` serves any number of event loops and threads: a request is one atomic datagram, and each action has a
socket of its own.

The clock and the end of a tree are the supervisor's work. A program can keep its supervisor from that, so the runtime has a
pidfd of each one, and ends the tree itself when the supervisor is late.
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
    run_message,
)
from interlock.model.errors import ToolError
from interlock.server_process import ServerProcess, module_command

_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "LD_BIND_NOW": "1"}
"""Functions of libraries are bound once in the server, not in each supervisor at the first call."""
_ENDING_S: Final = 1.0
"""How long a server that is killed may take to be gone."""
_CLOSE_MS: Final = 1_000
_LATE_S: Final = 1.0
"""How long after time-out or STOP, and grace, a supervisor may report. Then it is late: the tree is ended from outside."""
_OUTSIDE_S: Final = 3.0
"""How long ending a tree from outside may take; what lives then is of another user, or hangs in the kernel."""
_SWEEP_S: Final = 8.0
"""How long a supervisor whose tree was ended from outside has to report: more than its own sweep takes. Then it is killed."""
_QUEUED_S: Final = 1.0
"""How long a request may wait for a supervisor to take it up; then it is withdrawn."""


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


class NotStarted(Exception):  # noqa: N818 - the caller says it in the words of its tool
    """`ForkServer.start` could not start the program."""

    def __init__(self, failure: Failure | None) -> None:
        """`failure` as the supervisor reports it."""
        super().__init__("not started")
        self.failure: Failure = failure or {"step": "request", "errno": errno.EINVAL}


def fork_server_command() -> list[str]:
    """How to start the plain fork server; the runtime's process id and `launch` follow as arguments."""
    return module_command("interlock.isolation.server")


class ForkServer:
    """A fork server and the connection to it. Started again after a crash, for the next action.

    `command` starts it (its further arguments are our process id, and `launch` as JSON),
    `environment` is all it gets. Close it: its process ends then, or with ours.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        launch: Callable[[], Launch] | None = None,
    ) -> None:
        """Start nothing yet. `launch` says which walls there will be, and is asked when the server starts; none unless given."""
        launched = launch or _no_walls
        self._process = ServerProcess(
            fork_server_command() if command is None else command,
            _ENVIRONMENT if environment is None else environment,
            arguments=lambda: (str(os.getpid()), json.dumps(launched())),
        )

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it is not running."""
        return self._process.pid

    def warm_up(self) -> None:
        """Start the server ahead of its first request, without waiting for it. Raises: OSError, and what `launch` raises."""
        self._process.connect()

    async def run(
        self,
        request: Request,
        *,
        cwd: int,
        stdin: bytes | None = None,
        descriptors: Mapping[str, int] | None = None,
    ) -> Outcome:
        """Perform one request and return when its process tree is gone.

        `cwd` is a directory descriptor (O_PATH will do), `stdin` what the program can read (nothing: /dev/null),
        `descriptors` what the walls or a function call need, by name. All stay the caller's.

        Raises: ToolError `spawn_failed` if no process could be had; `process_lost` if supervisor or server were killed.
        Stopped if the awaiting task was cancelled: the tree is gone by then. CancelledError if nothing had been started, or
        when cancelled twice: then the tree is killed without grace and is not waited for.
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
            # The server was killed before it took the request up: nothing has run, so a new one may.
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
        """Hand a request over and return once its supervisor has started: the action's socket, and the supervisor's pidfd.

        `stdin` may be a descriptor, which stays the caller's.
        The caller watches over it; closing the socket ends the tree. See `background`, which is where to call it from.
        Raises: ToolError `spawn_failed`, `process_lost`; CancelledError: then the tree is killed.
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
        """End the server; it goes when its last action has gone. Actions that still run are not waited for long."""
        self._process.close(_CLOSE_MS)

    async def _submit(
        self,
        control: socket.socket,
        request: Request,
        cwd: int,
        stdin: bytes | int | None,
        descriptors: Mapping[str, int],
    ) -> socket.socket:
        """Send a request; a server that has died is replaced by a new one. Returns the socket that it was sent through."""
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
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then the caller sees the end of file
                    await _send(server, message, fds)
            return server

    async def _leave(self, server: socket.socket) -> None:
        """A request that was sent to `server` was not taken up: wait for the server's end, and connect to another then.

        A dying process closes the sockets of requests before the one that they come through, which would take the next one
        too. Where it lives on, only a supervisor was killed.
        """
        until = time.monotonic() + _ENDING_S
        while not self._process.has_ended(server):
            if time.monotonic() > until:
                return
            await asyncio.sleep(0.005)
        self._process.forget(server)

    def _connect(self) -> socket.socket:
        """The socket of the running server, which is started if need be."""
        try:
            return self._process.connect()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise _no_descriptors(error) from error
            raise ToolError(
                f"the fork server could not be started: {os.strerror(error.errno or 0)}",
                code="spawn_failed",
                hint="Interlock starts it with the Python that it runs on itself; is that still there?",
            ) from error


def _no_walls() -> Launch:
    return {"namespaces": False, "shown": []}


def _nothing() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _path_of(cwd: int, request: Request) -> str:
    """Where the process finds its working directory: beneath a layer's root the kernel names paths as within the layer."""
    path = os.readlink(f"/proc/self/fd/{cwd}")
    top = request["directory"]
    if top:  # where the layer is: a mount that is in no namespace names paths as within itself
        return path if f"{path}/".startswith(f"{top}/") else top + path.rstrip("/")
    walls = request["walls"]
    if walls is None:
        return path
    copy = walls["copy"]
    if copy and f"{path}/".startswith(f"{copy}/"):  # a copy that is shown nowhere outside
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
    """The runtime's watch over one action and its supervisor."""

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
        """Wait for the report; None if the request was not taken up. If cancelled, end the tree, wait for that, raise Stopped."""
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
        """The action starts. Raises: ToolError if its supervisor's pidfd did not arrive."""
        if not fds:  # closing the socket ends the action
            raise _unwatched()
        self._supervisor = fds[0]
        self._pid = pid_of(fds[0])
        if self._cancelled:
            self._acts_at = self._now() + self._grace_s + _LATE_S
        elif self._timeout_s is not None:
            self._acts_at = self._now() + self._timeout_s + self._grace_s + _LATE_S

    def _stop(self) -> None:
        """The awaiting task was cancelled. Raises: CancelledError the second time, with the tree ended without grace."""
        if self._cancelled:
            self._kill()
            raise asyncio.CancelledError
        self._cancelled = True
        self._send(STOP)
        self._acts_at = self._now() + (_QUEUED_S if self._supervisor is None else self._grace_s + _LATE_S)

    async def _end_from_outside(self) -> None:
        """The supervisor is late. Raises: CancelledError if nothing had been started."""
        if self._supervisor is None:
            raise asyncio.CancelledError
        if self._ended_outside:
            self._signal(signal.SIGKILL)  # the fork server ends what is left
            self._acts_at = None
            return
        until = self._now() + _OUTSIDE_S
        try:
            while self._end_once() and self._now() < until:  # noqa: ASYNC110 - there is no notification for another process's child
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self._stop()
            self._acts_at = self._now()  # continue with it
        else:
            self._ended_outside = True
            self._send(LATE)
            self._acts_at = self._now() + _SWEEP_S
        finally:
            self._signal(
                signal.SIGCONT
            )  # with its tree gone, nothing stops it again: it collects, tidies up and reports

    def _kill(self) -> None:
        """End the tree now. The supervisor, resumed, finds the runtime gone and does the rest."""
        if self._supervisor is not None:
            for _ in range(10):  # each turn ends one generation
                if not self._end_once():
                    break
            self._signal(signal.SIGCONT)

    def _end_once(self) -> bool:
        """One turn of ending the tree; True if some of it still lives."""
        assert self._supervisor is not None
        self._signal(signal.SIGSTOP)
        pid = pid_of(self._supervisor)
        return pid > 0 and end_children_of(pid)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended; its report can be read
            self._control.send(message)

    def _signal(self, number: int) -> None:
        assert self._supervisor is not None
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._supervisor, number)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """The next message and its descriptors; an empty one at the end."""
    try:
        message, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The supervisor ended with something of ours unread. Reported once; what it had sent before follows.
        message, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    return message, fds


async def _wait_readable(control: socket.socket, until: float | None) -> bool:
    """True once there is something to read; False if it is `until` (seconds of the event loop) before that.

    Not `asyncio.timeout`: in a task that was cancelled before, Python 3.11.2 reports its end as another cancellation.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[bool] = loop.create_future()
    loop.add_reader(control, lambda: None if ready.done() else ready.set_result(True))
    timer = None if until is None else loop.call_at(until, lambda: None if ready.done() else ready.set_result(False))
    try:
        return await ready
    finally:
        loop.remove_reader(control)
        if timer is not None:
            timer.cancel()


def decode(message: bytes, fds: list[int]) -> Outcome:
    """A report, with the output that came along. Raises: ToolError `process_lost` for the end of the socket."""
    if not message:
        raise ToolError(
            "the process that watches over this action was killed; the program was ended with it",
            code="process_lost",
            retryable=False,
            hint="what the program had done until then is not known",
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
        hint="raise the limit of open files (ulimit -n), or run less at once",
    )


def _no_server() -> ToolError:
    return ToolError(
        "the fork server could not be started",
        code="spawn_failed",
        hint="its standard error, just above, says why; nothing has run",
    )


def _unwatched() -> ToolError:
    return ToolError(
        "no descriptor was left to watch over the action, which was ended as it started",
        code="process_lost",
        retryable=False,
        hint="raise the limit of open files (ulimit -n), or run less at once",
    )
