"""Supervises one action: starts the program, reads its output, ends its tree. Uses only the standard library.

The fork server forks a supervisor for each action. It is a subreaper: orphaned descendants of the program become its
children, however deeply they were forked and in whatever session, and it runs until none is left. One poll loop watches the
runtime's socket and pidfd (the end of either means that the runtime has ended), the program's pidfd, and both output pipes.

The program has the same user, so it can stop its supervisor (SIGSTOP). Messages from the runtime resume it. If the program
keeps stopping it, the runtime (or, without one, the fork server) ends the tree from outside: `tree.end_children_of`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, Final

from interlock.isolation import inward, root, syscalls, walls
from interlock.isolation.cgroup import Group
from interlock.isolation.homes import Home, read_files
from interlock.isolation.launcher import Launcher
from interlock.isolation.layer0 import (
    RefusedError,
    enter_directory,
    execute,
    limit,
    prefer_for_oom,
    resume_on,
    spawn,
)
from interlock.isolation.meter import Meter
from interlock.isolation.payload import Perform, begin, call
from interlock.isolation.recorder.attach import Announce, spawn_recorded
from interlock.isolation.recorder.watch import DONE
from interlock.isolation.tree import reap, sweep
from interlock.isolation.wire import (
    CHANNEL,
    INLINE_BYTES,
    LATE,
    OUTPUT,
    STARTED,
    STDOUT,
    STOP,
    VIEW_MOUNTS,
    VIEW_USER,
    Failure,
    Report,
    Request,
    memory_file,
    read_memory_file,
    send_message,
)

_DECODE: Final = json.JSONDecoder().raw_decode
"""Replaces `json.loads`, which does more work in Python: each memory page that a supervisor touches first is copied for it."""
_SWEEP_S: Final = 5.0
_READ_BYTES: Final = 64 * 1024
"""The capacity of a pipe. Python allocates all of it for each read, and libc maps more than 128 KiB anew each time."""
_READS: Final = 16
"""Maximum number of consecutive reads of a pipe, so that a program which writes endlessly cannot block its supervisor."""


def execute_program(request: Request) -> None:
    """Execute the program of the request. Raises: RefusedError."""
    execute(request["argv"], request["environment"], request["search"])


def supervise(
    descriptors: list[int], runtime: int, perform: Perform, launcher: Launcher, recorder: int | None = None
) -> int:
    """Perform one request and report. Returns this process's exit status: see `Launcher.exit_status`.

    `descriptors` as in `wire`. `runtime` is a pidfd of the runtime, `launcher` what the server has prepared, and
    `recorder` the socket to the action's recorder, if it has one.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptors[0])
    syscalls.become_subreaper()
    try:
        request: Request = _DECODE(read_memory_file(descriptors[1]).decode())[0]
        os.close(descriptors[1])
        supervisor = Supervisor(control, runtime, request, launcher, recorder)
        named = dict(zip(request["descriptors"], descriptors[4:], strict=True))
        if supervisor.group is not None:
            supervisor.group.hold(request["limits"])
    except (OSError, ValueError) as error:
        _answer(control, _failed("request", getattr(error, "errno", None) or errno.EINVAL))
        return 0
    inside = supervisor.inside
    if not inside:  # pid 1 of a namespace cannot be stopped from within
        resume_on(control.fileno())
    try:
        home = Home(request["home_files"]) if request["home"] and not inside else None
        files = read_files(request["home_files"]) if request["home"] and inside else {}
    except OSError as error:
        _answer(control, _failed("home", error.errno or errno.EINVAL))
        return 0
    try:
        if home is not None:
            root.point_home(request, home.path)
        try:
            _send_started(control)
        except (BrokenPipeError, ConnectionResetError):  # the runtime ended before anything was started
            return 0
        try:
            if inside:
                supervisor.start_inside(descriptors[2], descriptors[3], named, files, perform)
            else:
                supervisor.start(descriptors[2], descriptors[3], named, perform)
        except RefusedError as refused:
            sweep(_SWEEP_S)
            _answer(control, _failed(refused.step, refused.number))
            return 0
        supervisor.watch()
        supervisor.end()
    finally:
        if home is not None:
            home.remove()
    supervisor.report()
    return 1 if supervisor.left else launcher.exit_status()


class Supervisor:
    """The poll loop around one program."""

    def __init__(
        self,
        control: socket.socket,
        runtime: int,
        request: Request,
        launcher: Launcher,
        recorder: int | None = None,
    ) -> None:
        """Starts nothing yet."""
        self.recorder = recorder
        """The socket to the recorder, numbered 10 or higher so as not to collide with the payload's descriptors."""
        self.control = control
        self.runtime = runtime
        self.request = request
        self.walls = request["walls"]
        self.inside = self.walls is not None and self.walls["profile"] == "ns"
        """True if this process is pid 1 of the action's own namespaces, behind the same walls as the program."""
        self.launcher = launcher
        self.status: int | None = None
        self.stopped: str | None = None
        self.exceeded: str | None = None
        self.group = None if launcher.group is None else Group(launcher.group)
        self.began = time.monotonic()
        timeout_ms = request["timeout_ms"]
        self.ends_at = self.began + timeout_ms / 1000 if timeout_ms is not None else float("inf")
        """When the tree is asked to end (SIGTERM)."""
        self.kill_at = float("inf")
        self.strays = 0
        self.left = False
        self.outputs: dict[int, bytearray] = {}
        self.totals: dict[int, int] = {}
        self.inward: dict[int, socket.socket] = {}  # by descriptor: see `inward.channels`
        self.meter = Meter(request["limits"], self.group, "/tmp" if self.inside else None)  # noqa: S108 - its own

    def start(self, cwd: int, stdin: int, named: dict[str, int], perform: Perform) -> None:
        """Fork the payload, which raises its walls itself. Raises: RefusedError."""
        readers, writers = _output_pipes()
        trouble, spare = os.pipe()
        # Avoid the numbers that the payload's descriptors get.
        high = fcntl.fcntl(spare, fcntl.F_DUPFD_CLOEXEC, 10)
        os.close(spare)
        me = os.getpid()
        sys.stdout.flush()
        try:
            self.pid = os.fork()
        except OSError as error:
            raise RefusedError("fork", error.errno or errno.EAGAIN) from error
        if self.pid == 0:
            channel = [named[CHANNEL]] if CHANNEL in named else []
            view = (named[VIEW_USER], named[VIEW_MOUNTS]) if VIEW_USER in named else None
            streams = [stdin, *_outputs(named, writers), *channel]
            begin(self.request, self.launcher, (me, cwd, view), streams, high, perform, self.recorder)
        for fd in (*writers, high, cwd, stdin, *named.values()):
            os.close(fd)
        with open(trouble, "rb") as file:
            failure = file.read()  # end of file when exec closes the other end
        if failure:
            step, _, number = failure.partition(b" ")
            raise RefusedError(step.decode(), int(number))
        self._watch_program(readers)

    def start_inside(
        self, cwd: int, stdin: int, named: dict[str, int], home_files: dict[str, bytes], perform: Perform
    ) -> None:
        """As pid 1: raise the walls around this process, then start the program behind them. Raises: RefusedError."""
        assert self.walls is not None
        readers, writers = _output_pipes()
        try:
            score, before = prefer_for_oom() if self.group is not None else (-1, b"")
        except OSError as error:
            raise RefusedError("limits", error.errno or errno.EINVAL) from error
        walls.enter_namespaces(self.walls, named, self.launcher.enter_network)
        if self.request["home"]:
            root.point_home(self.request, root.HOME)
            try:
                root.make_home(home_files)
            except OSError as error:
                raise RefusedError("home", error.errno or errno.EINVAL) from error
        enter_directory(cwd, self.request["directory"])
        try:
            limit(self.request["limits"], grouped=self.group is not None)
            # Before the program starts: a process of the same user could write into the memory of a traceable process.
            syscalls.set_dumpable(dumpable=False)
            syscalls.close_on_exec(3)  # descriptors that the runtime left inheritable are inherited down to here
        except (OSError, ValueError) as error:
            raise RefusedError("walls", getattr(error, "errno", None) or errno.EINVAL) from error
        walls.confine_inside(self.walls, self.launcher.shown, self.request["environment"])
        if self.request["call"] is None:
            environment, search = self.request["environment"], self.request["search"]
            streams = [stdin, *_outputs(named, writers)]

            argv = self.request["argv"]

            def start(announce: Announce | None = None) -> int:
                return spawn(argv, environment, search, streams, announce)

            self.pid = start() if self.recorder is None else spawn_recorded(self.recorder, argv, start)
        else:
            self.pid = os.fork()
            if self.pid == 0:
                call(self.request, [stdin, *writers, named[CHANNEL]], perform, self.recorder)
        if score >= 0:
            os.pwrite(score, before, 0)
            os.close(score)
        self.inward = inward.channels(named)
        for fd in (*writers, cwd, stdin, *named.values()):
            os.close(fd)
        self._watch_program(readers)

    def _watch_program(self, readers: list[int]) -> None:
        self.program = os.pidfd_open(self.pid)
        self.outputs = {fd: bytearray() for fd in readers}
        self.totals = dict.fromkeys(readers, 0)

    def watch(self) -> None:
        """Wait until the program has ended, or its tree was asked to end and the grace period is over."""
        poller = select.poll()
        recorder = () if self.recorder is None else (self.recorder,)
        for fd in (self.control.fileno(), self.runtime, self.program, *self.outputs, *self.inward, *recorder):
            poller.register(fd, select.POLLIN)
        while not self._overdue():
            for fd, _ in poller.poll(self._pause_ms()):
                if fd in self.outputs or fd in self.inward:
                    if not (self._read(fd) if fd in self.outputs else inward.answer(self.inward[fd])):
                        poller.unregister(fd)
                elif fd == self.program or (fd == self.recorder and self._is_recorded()):
                    poller.unregister(fd)
                elif not self._listen(fd):
                    return
            if self._ended():
                if select.select([self.control], [], [], 0)[0]:  # it arrived while a program kept this process stopped
                    self._listen(self.control.fileno())
                return

    def end(self) -> None:
        """End what is left of the tree, and read what is still in the pipes; no more will be written.

        A process outside the tree may hold a pipe open; it is not waited for.
        """
        killed, ended, self.left = sweep(_SWEEP_S)
        self.status = ended.get(self.pid, self.status)
        self.strays = len(killed - {self.pid})
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        if self.exceeded is None and code is not None:
            self.exceeded = self.meter.at_end(code, failed=code != 0 and self.stopped is None)
        for fd in self.outputs:
            while self._read(fd):
                if not select.select([fd], [], [], 0)[0]:
                    break

    def report(self) -> None:
        """Report the outcome and the kept output to the runtime."""
        assert self.status is not None or self.left
        self._answer(ended=True)

    def _answer(self, *, ended: bool) -> None:
        (out, _), (err, _) = ((self.outputs[fd], self.totals[fd]) for fd in self.outputs)
        _answer(self.control, _report_of(self, ended=ended), out, err)

    def _overdue(self) -> bool:
        """Enforce the limits that are due. Returns True if everything must be killed now."""
        now = time.monotonic()
        if now >= self.ends_at and self.stopped is None:
            self._stop("timeout")
        if self.exceeded is None and (exceeded := self.meter.exceeded()) is not None:
            self.exceeded = exceeded
            if exceeded != "cpu":  # memory and processes keep growing, so end the tree at once
                self.stopped = "limit"
                return True
            if self.stopped is None:
                self._stop("limit")
        return now >= self.kill_at

    def _pause_ms(self) -> float:
        now = time.monotonic()
        if self.stopped is not None:  # strays end without notification, so poll often
            return max(0.0, min(0.01, self.kill_at - now)) * 1000
        return max(0.0, min(self.meter.pause_s(), self.ends_at - now)) * 1000

    def _stop(self, why: str) -> None:
        """Ask the program's process group to end. Other processes, and those left after the grace period, are killed."""
        self.stopped = why
        self.kill_at = time.monotonic() + self.request["grace_ms"] / 1000
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)

    def _listen(self, fd: int) -> bool:
        """Handle a message from the runtime, or the recorder's end. Returns False if the tree must end immediately."""
        if fd == self.recorder:
            self.stopped = "recorder_lost"
            return False
        try:
            message = self.control.recv(64) if fd == self.control.fileno() else b""
        except ConnectionResetError:  # it died with unread data from us
            message = b""
        if message == OUTPUT:
            for output in self.outputs:  # output written before the request belongs in the answer
                for _ in range(_READS):
                    if not self._read(output):
                        break
            self._answer(ended=False)
            return True
        if message in {STOP, LATE}:
            if self.stopped is None:
                self._stop("asked" if message == STOP else "timeout")
            return True
        self.stopped = "runtime_gone"
        return False

    def _is_recorded(self) -> bool:
        """Returns True if the recorder ended because no process is left. Otherwise nothing may continue unrecorded."""
        assert self.recorder is not None
        try:
            return os.read(self.recorder, 64) == DONE
        except OSError:
            return False

    def _ended(self) -> bool:
        """Collect ended children. Returns True when the program has ended; when stopping, only when its process group has."""
        try:
            for pid, status in reap():
                if pid == self.pid:
                    self.status = status
        except ChildProcessError:
            return True
        if self.status is None:
            return False
        if self.stopped is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, 0)
                return False
        return True

    def _read(self, fd: int) -> bool:
        """Read once from an output pipe. Returns False at its end, or if nothing is available."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        self.totals[fd] += len(data)
        kept = self.outputs[fd]
        if self.request["keep_last"]:
            kept += data
            del kept[: max(0, len(kept) - self.request["keep_bytes"])]
        else:
            kept += data[: max(0, self.request["keep_bytes"] - len(kept))]
        return bool(data)


def _report_of(one: Supervisor, *, ended: bool) -> Report:
    (out, out_total), (err, err_total) = ((one.outputs[fd], one.totals[fd]) for fd in one.outputs)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = os.waitstatus_to_exitcode(one.status) if one.status is not None else None
    report: Report = {
        "failure": None,
        "pid": 0,
        "ended": ended,
        "exit_code": code if code is not None and code >= 0 else None,
        "signal": -code if code is not None and code < 0 else None,
        "stopped": one.stopped,
        "exceeded": one.exceeded,
        "grouped": one.group is not None,
        "strays_killed": one.strays,
        "strays_left": one.left,
        "duration_ms": round((time.monotonic() - one.began) * 1000, 3),
        "cpu_user_ms": round(usage.ru_utime * 1000, 3),
        "cpu_system_ms": round(usage.ru_stime * 1000, 3),
        "memory_bytes": usage.ru_maxrss * 1024,
        "read_bytes": usage.ru_inblock * 512,
        "written_bytes": usage.ru_oublock * 512,
        "stdout_kept": len(out),
        "stderr_kept": len(err),
        "stdout_bytes": out_total,
        "stderr_bytes": err_total,
    }
    return report


def _output_pipes() -> tuple[list[int], list[int]]:
    """Create pipes for the two output streams. Returns the reading ends, which do not block, and the writing ends."""
    readers, writers = [], []
    for _ in range(2):
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        readers.append(reader)
        writers.append(writer)
    return readers, writers


def _outputs(named: dict[str, int], writers: list[int]) -> list[int]:
    """Returns the program's standard output and standard error."""
    return [named.get(STDOUT, writers[0]), writers[1]]


def _send_started(control: socket.socket) -> None:
    """Send our pidfd, with which the runtime can end this process and its children itself."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        send_message(control, STARTED, [pidfd])
    finally:
        os.close(pidfd)


def _failed(step: str, number: int) -> dict[str, Failure]:
    return {"failure": {"step": step, "errno": number}}


def _answer(control: socket.socket, report: Any, *output: bytearray) -> None:
    """Send a report with the output streams. Raises: OSError."""
    data = [json.dumps(report).encode(), b"\n"]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # no reader is left
        if sum(len(part) for part in output) <= INLINE_BYTES:
            control.sendmsg([*data, *output])
            return
        fd = memory_file("output", *output)
        try:
            send_message(control, b"".join(data), [fd])
        finally:
            os.close(fd)
