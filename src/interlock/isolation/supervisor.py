"""Supervises one action: starts the program, reads its output, ends its tree. Standard library only.

The fork server forks a supervisor for each action. It is a subreaper, so every descendant of the program, however often
forked and whatever its session, ends up as its child; and it lives until none is left. It watches in one poll loop: the
runtime's socket and pidfd (either one ending means that the runtime is gone), the program's pidfd, and both output pipes.

The program has the same user, so it can stop its supervisor (SIGSTOP). News from the runtime resumes it; if the program
stops it again and again, the runtime (or, without one, the fork server) ends the tree from outside: `tree.end_children_of`.
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
import stat
import sys
import time
from typing import Any, Final

from interlock.isolation import inward, root, syscalls, walls
from interlock.isolation.cgroup import Group
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
from interlock.isolation.networks import UNTOUCHED
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
"""In place of `json.loads`, which does more in Python: each page of memory that a supervisor touches first is copied for it."""
_SWEEP_S: Final = 5.0
_READ_BYTES: Final = 256 * 1024
_HOME_FILE_BYTES_MAX: Final = 1024 * 1024
_READS: Final = 16
"""How many reads of a pipe in a row: a program that writes without end must not keep its supervisor from other work."""


def execute_program(request: Request) -> None:
    """Become the program of the request. Raises: RefusedError."""
    execute(request["argv"], request["environment"], request["search"])


def supervise(
    descriptors: list[int], runtime: int, perform: Perform, launcher: Launcher, recorder: int | None = None
) -> int:
    """Carry out one request and report; returns the exit status of this process: 0 or `UNTOUCHED` if its tree is gone.

    `descriptors` as in `wire`; `runtime` is a pidfd of the runtime, `launcher` what the server has prepared, `recorder` the
    socket to the action's recorder, if it has one.
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
        home = _make_home(request["home_files"]) if request["home"] and not inside else None
        files = _read_files(request["home_files"]) if request["home"] and inside else {}
    except OSError as error:
        _answer(control, _failed("home", error.errno or errno.EINVAL))
        return 0
    try:
        if home is not None:
            request["environment"]["HOME"] = home
        try:
            _send_started(control)
        except (BrokenPipeError, ConnectionResetError):  # the runtime went away before anything was started
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
            _remove_home(home)
    supervisor.report()
    if supervisor.left:
        return 1
    return UNTOUCHED if launcher.is_network_untouched() else 0


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
        """Nothing is started yet."""
        self.recorder = recorder
        """The socket to the recorder: 10 or higher, out of the way of the numbers that the payload's descriptors get."""
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
        """When the tree is asked to end (TERM)."""
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
        # Out of the way of the numbers that the payload's descriptors get.
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
            self.request["environment"]["HOME"] = root.HOME
            try:
                root.make_home(home_files)
            except OSError as error:
                raise RefusedError("home", error.errno or errno.EINVAL) from error
        enter_directory(cwd, self.request["directory"])
        try:
            limit(self.request["limits"], grouped=self.group is not None)
            # Before the program lives: a process of the same user could write into the memory of one that can be traced.
            syscalls.set_dumpable(dumpable=False)
            syscalls.close_on_exec(3)  # what the runtime left inheritable has come down to here
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
        """Wait until the program has ended, or its tree has been asked to and had its grace."""
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
                if select.select([self.control], [], [], 0)[0]:  # it came while a program kept this process stopped
                    self._listen(self.control.fileno())
                return

    def end(self) -> None:
        """End what is left of the tree, and read what is still in the pipes: more will never be written.

        A process outside the tree that was handed a pipe may hold it open; it is not waited for.
        """
        killed, ended, self.left = sweep(_SWEEP_S)
        self.status = ended.get(self.pid, self.status)
        self.strays = len(killed - {self.pid})
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        if self.exceeded is None and code is not None:
            self.exceeded = self.meter.at_end(-code if code < 0 else None, failed=code != 0 and self.stopped is None)
        for fd in self.outputs:
            while self._read(fd):
                if not select.select([fd], [], [], 0)[0]:
                    break

    def report(self) -> None:
        """Report the outcome to the runtime, with what was kept of the output."""
        assert self.status is not None or self.left
        self._answer(ended=True)

    def _answer(self, *, ended: bool) -> None:
        (out, _), (err, _) = ((self.outputs[fd], self.totals[fd]) for fd in self.outputs)
        _answer(self.control, _report_of(self, ended=ended), out, err)

    def _overdue(self) -> bool:
        """Act on the limits that are due. True if everything has to be killed now."""
        now = time.monotonic()
        if now >= self.ends_at and self.stopped is None:
            self._stop("timeout")
        if self.exceeded is None and (exceeded := self.meter.exceeded()) is not None:
            self.exceeded = exceeded
            if exceeded != "cpu":  # what grows has to end at once
                self.stopped = "limit"
                return True
            if self.stopped is None:
                self._stop("limit")
        return now >= self.kill_at

    def _pause_ms(self) -> float:
        now = time.monotonic()
        if self.stopped is not None:  # strays end without notification: poll often
            return max(0.0, min(0.01, self.kill_at - now)) * 1000
        return max(0.0, min(self.meter.pause_s(), self.ends_at - now)) * 1000

    def _stop(self, why: str) -> None:
        """Ask the program and its process group to end. Anything outside the group, or left after the grace, is killed."""
        self.stopped = why
        self.kill_at = time.monotonic() + self.request["grace_ms"] / 1000
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)

    def _listen(self, fd: int) -> bool:
        """Something from the runtime, or the end of the recorder; False if one is gone and everything has to end at once."""
        if fd == self.recorder:
            self.stopped = "recorder_lost"
            return False
        try:
            message = self.control.recv(64) if fd == self.control.fileno() else b""
        except ConnectionResetError:  # it died with something of ours unread
            message = b""
        if message == OUTPUT:
            for output in self.outputs:  # what the program wrote before the question belongs to the answer
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
        """The recorder has ended: True if that is because no process is left. Else nothing may continue unseen."""
        assert self.recorder is not None
        try:
            return os.read(self.recorder, 64) == DONE
        except OSError:
            return False

    def _ended(self) -> bool:
        """Collect what has ended. True when the program has; when stopping, only when its whole process group has."""
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
        """Read from an output pipe once; False at its end, or if there is nothing."""
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
    """Reading and writing ends for the two output streams; ours do not block."""
    readers, writers = [], []
    for _ in range(2):
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        readers.append(reader)
        writers.append(writer)
    return readers, writers


def _outputs(named: dict[str, int], writers: list[int]) -> list[int]:
    """What the program gets as standard output and standard error."""
    return [named.get(STDOUT, writers[0]), writers[1]]


def _send_started(control: socket.socket) -> None:
    """From here on the runtime can end this process and its children itself."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        send_message(control, STARTED, [pidfd])
    finally:
        os.close(pidfd)


def _failed(step: str, number: int) -> dict[str, Failure]:
    return {"failure": {"step": step, "errno": number}}


def _answer(control: socket.socket, report: Any, *output: bytearray) -> None:
    """A report with the output streams. Raises: OSError."""
    data = [json.dumps(report).encode(), b"\n"]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then no reader is left
        if sum(len(part) for part in output) <= INLINE_BYTES:
            control.sendmsg([*data, *output])
            return
        fd = memory_file("output", *output)
        try:
            send_message(control, b"".join(data), [fd])
        finally:
            os.close(fd)


def _make_home(files: dict[str, str]) -> str:
    """A fresh directory of our own: copies of the user's files that are named, and nothing that an earlier action left behind.

    A missing file, or anything but a regular file, is left out.
    """
    path = f"/tmp/interlock-home-{os.urandom(8).hex()}"  # noqa: S108 - made by us, exclusively, with 64 random bits
    os.mkdir(path, 0o700)
    try:
        root.write_files(path, _read_files(files))
    except OSError:
        _remove_home(path)
        raise
    return path


def _read_files(files: dict[str, str]) -> dict[str, bytes]:
    """The contents of those that are there. Raises OSError."""
    found = {}
    for name, source in files.items():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found[name] = _read_file(source)
    return found


def _read_file(source: str) -> bytes:
    """At most 1 MiB of a regular file; a FIFO must not make the action wait. Raises OSError."""
    fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", source)
        data = file.read(_HOME_FILE_BYTES_MAX + 1)
    if len(data) > _HOME_FILE_BYTES_MAX:
        raise OSError(errno.EFBIG, "larger than 1 MiB", source)
    return data


def _remove_home(path: str) -> None:
    """Remove it with all that the program put there, without following a link; closed directories are opened first.

    What cannot be removed (another user's files) stays where every temporary file is: that is not a failure of the action.
    """
    with contextlib.suppress(OSError):
        if os.path.islink(path):
            os.unlink(path)
            return
        os.chmod(path, 0o700)
        for directory, names, _ in os.walk(path):
            for name in names:
                inner = os.path.join(directory, name)
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
        for _, names, files, opened in os.fwalk(path, topdown=False):
            for name in files:
                os.unlink(name, dir_fd=opened)
            for name in names:
                if stat.S_ISLNK(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=opened)
                else:
                    os.rmdir(name, dir_fd=opened)
        os.rmdir(path)
