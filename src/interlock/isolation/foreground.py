"""Runs a person's own command in the foreground, with or without walls. Uses only the standard library.

Unlike an action's program, the command keeps the terminal, session and process group of its starter: a TTY remains one,
job control and window size work, and what the terminal sends (Ctrl-C, Ctrl-Z) reaches the command directly. A signal
from another process is forwarded by this process to the first process in the namespaces, and from there to the command.

If the command is to be recorded, its recorder is a child of this process, outside the walls. Then the processes that
the command leaves behind are ended even without walls, because without its recorder a process could not open any file.

This process starts with a clean environment, raises the walls, reports on a pipe how the command ended, and ends with
its starter.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
from typing import Final, NoReturn

from interlock.isolation import root, syscalls, walls
from interlock.isolation.launcher import Launcher
from interlock.isolation.layer0 import DEFAULT_SIGNALS, RefusedError, execute, spawn_in_session
from interlock.isolation.recorder.attach import Announce, record_this_process, spawn_recorded
from interlock.isolation.recorder.watch import record
from interlock.isolation.tree import reap, sweep
from interlock.isolation.wire import Command, CommandEnd, read_memory_file

PASSED_ON: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals forwarded to the command, whichever of our processes receives them."""
FROM_KERNEL: Final = 0x80
"""`si_code` of a signal from the terminal, which the whole process group receives, including the command."""
GRACE_S: Final = 5.0
"""Time between SIGTERM and SIGKILL at the time-out; a person's program may have to save something."""
_SWEEP_S: Final = 5.0
_PAUSE_MAX_S: Final = 3600.0


def main() -> None:
    """Run the command. Arguments: the descriptors of the request and of the report's pipe, and the starter's pid."""
    request, report, starter = (int(text) for text in sys.argv[1:4])
    for fd in (request, report):
        os.set_inheritable(fd, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
    syscalls.die_with_parent()
    if os.getppid() != starter:
        return
    command: Command = json.loads(read_memory_file(request))
    os.close(request)
    if command["recorder"] is not None:
        os.set_inheritable(command["recorder"], False)
    try:
        run(command, report)
    except RefusedError as refused:
        _say(report, _failed(refused))
    except OSError as error:
        _say(report, _failed(RefusedError("request", error.errno or errno.EINVAL)))


def run(command: Command, report: int) -> None:
    """Run a command to its end, and report it. Raises: RefusedError or OSError if it was not started."""
    launcher = Launcher(command["launch"], os.getppid())
    around = command["walls"]
    recorder, channel = 0, None
    if command["recorder"] is not None:
        recorder, channel = _fork_recorder(command["recorder"], "none" if around is None else around["profile"], report)
    if around is not None and around["profile"] == "ns":
        _run_inside(command, launcher, report, recorder, channel)
        return
    if around is not None or channel is not None:
        syscalls.become_subreaper()
    if around is not None:
        launcher.readable = root.readable(launcher.shown)
    pid = _fork_program(command, launcher, channel)
    _say(report, _attended(pid, command, recorder, walled=around is not None or channel is not None))


def _fork_recorder(out: int, profile: str, report: int) -> tuple[int, int]:
    """Fork the recorder, which writes to `out`.

    Returns its pid and the socket to it (numbered 10 or higher). Raises: OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ours.close()
                os.close(report)
                record(theirs, out, profile)
                code = 0
            except BrokenPipeError:  # the runtime has ended
                pass
            except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        os.close(out)
        return pid, fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 10)


def attend(pid: int, timeout_ms: int | None = None, recorder: int = 0) -> tuple[int, bool]:
    """Wait for a child while forwarding signals from other processes to it. Returns its wait status.

    If its `recorder` is killed, so is the child: nothing runs unrecorded. After `timeout_ms`, the child gets SIGTERM,
    and SIGKILL after a grace period; the second value is then True.
    """
    ends_at = float("inf") if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    late = False
    while True:
        for ended, status in reap():
            if ended == pid:
                return status, late
            if ended == recorder and status:
                _signal(pid, signal.SIGKILL)
        pause = min(ends_at - time.monotonic(), _PAUSE_MAX_S)
        found = signal.sigtimedwait({*PASSED_ON, signal.SIGCHLD}, max(0.0, pause))
        if found is not None and found.si_signo != signal.SIGCHLD and found.si_code != FROM_KERNEL:
            _signal(pid, found.si_signo)
        if time.monotonic() >= ends_at:
            _signal(pid, signal.SIGKILL if late else signal.SIGTERM)
            late, ends_at = True, time.monotonic() + GRACE_S


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _attended(pid: int, command: Command, recorder: int = 0, *, walled: bool) -> CommandEnd:
    status, late = attend(pid, command["timeout_ms"], recorder)
    killed = sweep(_SWEEP_S, spare={recorder})[0] if walled else ()
    return {"failure": None, "status": status, "strays": len(killed), "timed_out": late}


def _run_inside(command: Command, launcher: Launcher, report: int, recorder: int, channel: int | None) -> None:
    """Start the first process of new namespaces, which raises walls around itself, starts the command and reports its end.

    Its own end kills everything left in the namespaces. If it is killed, nothing is reported, and how the command ended
    is unknown.
    """
    around = command["walls"]
    assert around is not None
    if launcher.refused:
        raise RefusedError("namespaces", launcher.refused)
    flags = walls.NAMESPACES & ~syscalls.CLONE_NEWNET if around["network"] == "machine" else walls.NAMESPACES
    try:
        first = syscalls.clone(flags)
    except OSError as error:
        raise RefusedError("namespaces", error.errno or errno.EAGAIN) from error
    if first == 0:
        _be_first(command, launcher, report, channel)
    if channel is not None:
        os.close(channel)
    attend(first, recorder=recorder)


def _be_first(command: Command, launcher: Launcher, report: int, channel: int | None) -> NoReturn:
    """Run in the first process; never returns."""
    try:
        try:
            end = _perform_inside(command, launcher, channel)
        except RefusedError as refused:
            end = _failed(refused)
        _say(report, end)
    except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _perform_inside(command: Command, launcher: Launcher, channel: int | None) -> CommandEnd:
    around, environment = command["walls"], command["environment"]
    assert around is not None
    walls.enter_namespaces(around, {})
    try:
        if command["home"]:
            root.make_home({})
            environment["HOME"] = root.HOME
    except OSError as error:
        raise RefusedError("home", error.errno or errno.EINVAL) from error
    _enter(command["directory"])
    try:
        syscalls.set_dumpable(dumpable=False)
        _close_others(command)
        syscalls.die_with_parent()
    except OSError as error:
        raise RefusedError("walls", error.errno or errno.EINVAL) from error
    walls.confine_inside(around, launcher.shown, environment)
    argv, search, mask = command["argv"], command["search"], command["mask"]

    def start(announce: Announce | None = None) -> int:
        return spawn_in_session(argv, environment, search, mask=mask, announce=announce)

    pid = start() if channel is None else spawn_recorded(channel, argv, start)
    return _attended(pid, command, walled=True)


def _fork_program(command: Command, launcher: Launcher, channel: int | None) -> int:
    """Fork the command, which raises its walls itself. Raises: RefusedError, OSError."""
    trouble, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(trouble)
        _become_program(command, launcher, ours, channel)
    os.close(ours)
    if channel is not None:
        os.close(channel)
    with open(trouble, "rb") as file:
        failure = file.read()  # end of file when exec closes the other end
    if failure:
        os.waitpid(pid, 0)
        step, _, number = failure.partition(b" ")
        raise RefusedError(step.decode(), int(number))
    return pid


def _become_program(command: Command, launcher: Launcher, trouble: int, channel: int | None) -> NoReturn:
    around, environment = command["walls"], command["environment"]
    try:
        _enter(command["directory"])
        if around is not None:
            syscalls.die_with_parent()
            walls.confine_alone(around, launcher.readable, environment)
        _close_others(command)
        if channel is not None:
            if around is None:
                syscalls.forbid_new_privileges()
            record_this_process(channel)
        for number in DEFAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, command["mask"])
        execute(command["argv"], environment, command["search"])
    except RefusedError as refused:
        os.write(trouble, f"{refused.step} {refused.number}".encode())
    except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(127)


def _close_others(command: Command) -> None:
    """Keep only the standard streams and a shim's socket open for the program. Raises: OSError."""
    syscalls.close_on_exec(3)
    if command["sdk"] is not None:
        os.set_inheritable(command["sdk"], True)


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise RefusedError("cwd", error.errno or errno.EINVAL) from error


def _failed(refused: RefusedError) -> CommandEnd:
    return {"failure": {"step": refused.step, "errno": refused.number}, "status": 0, "strays": 0, "timed_out": False}


def _say(report: int, end: CommandEnd) -> None:
    with contextlib.suppress(BrokenPipeError):  # no reader is left
        os.write(report, json.dumps(end).encode() + b"\n")
