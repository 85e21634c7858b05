"""The fork server: a small process that was exec'd with a clean environment and forks a supervisor for each action.

Children share its memory and address layout, so it holds nothing sensitive: no keys, no environment, no code outside
this package. It is single-threaded and ends with the runtime. It ends the orphans of a killed supervisor, and the trees
of supervisors that their programs keep stopped after the runtime has ended. It uses only the standard library, so it
starts in about 20 ms and stays small, which makes forking cheap.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Final

from interlock.isolation import syscalls
from interlock.isolation.homes import remove_left
from interlock.isolation.launcher import Launcher
from interlock.isolation.layer0 import RefusedError, resume_on
from interlock.isolation.networks import BUSY, UNTOUCHED
from interlock.isolation.payload import Perform
from interlock.isolation.recorder.filter import assembled
from interlock.isolation.recorder.watch import record, rehearse
from interlock.isolation.supervisor import execute_program, supervise
from interlock.isolation.tree import end_children_of, kill_children, reap
from interlock.isolation.wire import (
    RECORD,
    RECORDED,
    RUN,
    RUN_CONFINED,
    RUN_INSIDE,
    RUN_PROXIED,
    Request,
    read_memory_file,
    receive_message,
    send_message,
)

_SWEEP_S: Final = 5.0
_DESCRIPTORS_MAX: Final = 16
"""Maximum number of descriptors per request."""
WORK: Final = b"work"
"""The message that starts a recorder. It carries the request and the descriptors from the fifth on."""
_OWN_END_S: Final = 1.0
"""How long supervisors have to end their trees after the runtime has ended."""


def main() -> None:
    """Serve programs. Standard input is the socket; the arguments are those in `client.ForkServer`."""
    serve(int(sys.argv[1]), execute_program, Launcher(json.loads(sys.argv[2]), int(sys.argv[1])))


def serve(runtime_pid: int, perform: Perform, launcher: Launcher) -> None:
    """Serve the runtime on descriptor 0 until either ends. Returns when no supervisor is left."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    while nothing <= 2:  # without standard error in the runtime, none of our descriptors may get its number
        nothing = os.dup(nothing)
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(nothing, 0)
    os.close(nothing)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        runtime = os.pidfd_open(runtime_pid)
    except ProcessLookupError:
        return
    if os.getppid() != runtime_pid:
        return
    syscalls.become_subreaper()
    resume_on(channel.fileno())
    gc.collect()
    gc.freeze()
    Server(channel, runtime, perform, launcher).loop()


class Server:
    """The running supervisors, and the loop that waits for requests and for their end."""

    def __init__(self, channel: socket.socket, runtime: int, perform: Perform, launcher: Launcher) -> None:
        """`runtime` is a pidfd."""
        self.launcher = launcher
        self.channel = channel
        self.runtime = runtime
        self.perform = perform
        self.supervisors: dict[int, int] = {}
        """Maps each supervisor's pid to its pidfd."""
        self.recorders: dict[int, int] = {}
        """Maps each recorder's pid to its pidfd, the spare one included. Recorders end when the recorded processes have ended."""
        self.spare: socket.socket | None = None
        """The socket to a recorder that waits for the next recorded action. Forked after a recorded action has ended."""
        self.sweep_until = 0.0
        self.homes_left = bool(launcher.refused)
        """True if a killed supervisor may have left a home: one of ours, or of an earlier server without namespaces."""
        self.cleaners: dict[int, int] = {}
        """Maps the pid of each process that removes such homes to its pidfd."""
        self.closed_at = 0.0
        """When the runtime's end was noticed (monotonic seconds); 0 until then."""
        self.poller = select.poll()
        self.poller.register(channel, select.POLLIN)
        self.poller.register(runtime, select.POLLIN)
        self.open = True

    def loop(self) -> None:
        """Run until the runtime and the last supervisor have ended."""
        while self.open or self.supervisors or self.recorders or time.monotonic() < self.sweep_until:
            sweeping = self.launcher.tidy() or time.monotonic() < self.sweep_until
            if self.homes_left and not sweeping:
                self._remove_homes()
            ready = self.poller.poll(5 if sweeping else None if self.open else 20)
            self._collect()  # first, because the next action can reuse what an ended one returns
            for fd, _ in ready:
                if fd == self.runtime or (fd == self.channel.fileno() and not self._accept()):
                    self._close()
            if sweeping:
                kill_children(spare={*self.supervisors, *self.recorders, *self.cleaners})
            if not self.open and time.monotonic() > self.closed_at + _OWN_END_S:
                self._end_from_outside()

    def _close(self) -> None:
        """Stop accepting requests. Supervisors notice the end of the runtime themselves."""
        if self.open:
            self.open = False
            self.closed_at = time.monotonic()
            self.poller.unregister(self.channel)
            self.poller.unregister(self.runtime)
            self._drop_spare()

    def _end_from_outside(self) -> None:
        """One pass of ending the trees of supervisors that have not done so, because a program keeps them stopped.

        A supervisor whose tree has ended is resumed, and then cleans up and ends. Any that are left are killed after a while.
        """
        for pid, pidfd in self.supervisors.items():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
                if not end_children_of(pid):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                if time.monotonic() > self.closed_at + _OWN_END_S + _SWEEP_S:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _accept(self) -> bool:
        """Accept one request and fork its supervisor. Returns False at the end of the socket."""
        message, fds, flags = receive_message(self.channel, 64, _DESCRIPTORS_MAX)
        if not message:
            return False
        assert message.removesuffix(RECORDED) in {RUN, RUN_CONFINED, RUN_INSIDE, RUN_PROXIED}
        try:
            self._fork(message, fds, cut=bool(flags & socket.MSG_CTRUNC))
        except RefusedError as refused:
            self._refuse(fds[0], refused.step, refused.number)
        except OSError as error:
            if fds:
                self._refuse(fds[0], "fork", error.errno or errno.EAGAIN)
        for fd in fds:
            os.close(fd)
        return True

    def _fork(self, message: bytes, fds: list[int], *, cut: bool) -> None:
        if cut:
            raise OSError(errno.EMFILE, "no room for the descriptors of a request")
        recorder = self._start_recorder(fds) if message.endswith(RECORDED) else None
        try:
            pid = self.launcher.fork(message.removesuffix(RECORDED))
            if pid == 0:
                self._become_supervisor(fds, recorder)
        finally:
            if recorder is not None:
                os.close(recorder)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            raise
        self.supervisors[pid] = pidfd
        self.poller.register(pidfd, select.POLLIN)

    def _start_recorder(self, fds: list[int]) -> int:
        """Start a recorder for an action and return the socket to it. Raises: OSError.

        The recorder ends if no supervisor takes the socket.
        """
        assembled()  # once here, not in each child
        work = [fds[1], *fds[4:]]
        recorder, self.spare = self.spare, None
        if recorder is not None:
            with contextlib.suppress(OSError), recorder:  # fails if it was killed
                send_message(recorder, WORK, work)
                return fcntl.fcntl(recorder.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)
        with self._fork_recorder() as recorder:
            send_message(recorder, WORK, work)
            return fcntl.fcntl(recorder.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)

    def _make_spare(self) -> None:
        """Fork the recorder of the next action ahead of time."""
        if self.open and self.spare is None:
            with contextlib.suppress(OSError):  # the next action then forks its own
                self.spare = self._fork_recorder(ahead=True)

    def _drop_spare(self) -> None:
        """Close the socket to the spare recorder, which then ends."""
        if self.spare is not None:
            self.spare.close()
            self.spare = None

    def _fork_recorder(self, *, ahead: bool = False) -> socket.socket:
        """Fork a recorder that waits for a request and return the socket to it. Closing it ends the recorder. Raises: OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pid = os.fork()
            if pid == 0:
                self._become_recorder(theirs, ahead=ahead)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            ours.close()  # this ends the recorder
            raise
        self.recorders[pid] = pidfd
        self.poller.register(pidfd, select.POLLIN)
        return ours

    @staticmethod
    def _become_recorder(channel: socket.socket, *, ahead: bool) -> None:
        """Run in the forked child; never returns."""
        code = 1
        try:
            syscalls.close_range(3, channel.fileno() - 1)
            syscalls.close_range(channel.fileno() + 1)
            if ahead:
                rehearse()
            message, fds, _ = receive_message(channel, 64, _DESCRIPTORS_MAX)
            if message:
                request: Request = json.loads(read_memory_file(fds[0]))
                walls, out = request["walls"], fds[1 + request["descriptors"].index(RECORD)]
                for fd in fds:
                    if fd != out:
                        os.close(fd)
                record(channel, out, "none" if walls is None else walls["profile"])
            code = 0
        except BrokenPipeError:  # the runtime and its processes have ended
            pass
        except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _become_supervisor(self, fds: list[int], recorder: int | None) -> None:
        """Run in the forked child; never returns."""
        code = 1
        try:
            self.channel.close()
            self._drop_spare()
            for pidfd in (*self.supervisors.values(), *self.recorders.values(), *self.cleaners.values()):
                os.close(pidfd)
            code = supervise(fds, self.runtime, self.perform, self.launcher, recorder)
        except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _collect(self) -> None:
        """Reap supervisors and orphans. A supervisor that did not end well may have left some: sweep."""
        recorded = False
        try:
            for pid, status in reap():
                pidfd = self.cleaners.pop(pid, None)
                if pidfd is not None:
                    self.poller.unregister(pidfd)
                    os.close(pidfd)
                pidfd = self.recorders.pop(pid, None)
                if pidfd is not None:
                    self.poller.unregister(pidfd)
                    os.close(pidfd)
                    recorded = recorded or os.waitstatus_to_exitcode(status) == 0
                pidfd = self.supervisors.pop(pid, None)
                if pidfd is not None:
                    self.poller.unregister(pidfd)
                    os.close(pidfd)
                    code = os.waitstatus_to_exitcode(status)
                    self.launcher.forget(pid, code)
                    if code not in (0, UNTOUCHED, BUSY):
                        self.homes_left = True
                        self.sweep_until = time.monotonic() + _SWEEP_S
        except ChildProcessError:  # without children there are no orphans either
            self.sweep_until = 0.0
        if recorded:  # expect another recorded action; never after a failure, which could repeat for ever
            self._make_spare()

    def _remove_homes(self) -> None:
        """Fork a process that removes the homes of killed supervisors, because that can take long."""
        self.homes_left = False
        with contextlib.suppress(OSError):  # the next server does it
            pid = os.fork()
            if pid == 0:
                try:
                    remove_left()
                finally:
                    os._exit(0)
            pidfd = self.cleaners[pid] = os.pidfd_open(pid)
            self.poller.register(pidfd, select.POLLIN)

    @staticmethod
    def _refuse(control: int, step: str, number: int) -> None:
        """Report that no supervisor could be started."""
        report = json.dumps({"failure": {"step": step, "errno": number}}).encode()
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(control)) as answer:
            answer.send(report)
