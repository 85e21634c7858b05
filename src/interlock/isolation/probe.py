"""Finds out which walls this machine supports, by raising each once in a process made for it. Uses only the standard library.

It never reads versions or settings, because distributions, containers and security modules refuse what a kernel has.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Final

from interlock.isolation import landlock, root, seccomp, syscalls, walls
from interlock.isolation.cgroup import Group, Groups
from interlock.isolation.layer0 import RefusedError
from interlock.isolation.recorder.attach import record_this_process
from interlock.isolation.recorder.watch import record
from interlock.isolation.wire import Walls
from interlock.server_process import bare_environment, module_command

ACTIVE: Final = "active"
_WAIT_S: Final = 10.0
_MARK: Final = "/nonexistent/interlock-probe"
_RUNTIME: Final = os.getppid()
"""The probing process, for which launchers will be started."""


def probe() -> dict[str, str]:
    """Maps each layer to `active` or `absent(reason)`. Takes about 100 ms."""
    command = module_command("interlock.isolation.probe")
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=True, env=bare_environment())
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        detail = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else type(error).__name__
        why = f"absent(it could not be found out: {detail})"
        return dict.fromkeys(_PROBES, why)
    return found


def main() -> None:
    """Print the results as JSON."""
    print(json.dumps({name: _in_a_process(check) for name, check in _PROBES.items()}))  # noqa: T201 - the result


class _AbsentError(Exception):
    """A layer is missing; the message says briefly why."""


def _in_a_process(check: Callable[[], None]) -> str:
    """Run a probe in a child, so that no wall remains. A probe that hangs or dies counts as absent."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        answer = ACTIVE
        try:
            check()
        except _AbsentError as absent:
            answer = f"absent({absent})"
        except OSError as error:
            answer = f"absent({error.strerror or error})"
        except BaseException as error:  # noqa: BLE001 - whatever the error, the wall is not in place
            answer = f"absent({error})"
        os.write(writer, answer.encode()[:512])
        os._exit(0)
    os.close(writer)
    received = b""
    if select.select([reader], [], [], _WAIT_S)[0]:
        received = os.read(reader, 512)
    os.close(reader)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return received.decode() or "absent(the probe did not answer)"


def _syscalls() -> None:
    if not syscalls.SUPPORTED:
        raise _AbsentError(f"the filter is not written for {syscalls.MACHINE}")
    seccomp.load("all")
    _must_fail(lambda: syscalls.call("ptrace", 0, 0, 0, 0), errno.EPERM, "the filter has no effect")


def _files() -> None:
    if not syscalls.landlock_version():
        raise _AbsentError("the kernel has no Landlock, or it is switched off")
    landlock.confine(read=["/usr"], write=[], devices=[], ports=None)
    _must_fail(lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)), errno.EACCES, "Landlock has no effect")


def _signals() -> None:
    if syscalls.landlock_version() < 6:
        raise _AbsentError("Landlock of this kernel does not confine signals: it takes Linux 6.12")


def _namespaces() -> None:
    before = os.getpid()
    try:
        root.prepare([])
    except OSError as error:
        raise _AbsentError(f"user namespaces are refused: {error.strerror or error}") from error
    pid = syscalls.clone(walls.NAMESPACES)
    if pid == 0:
        os._exit(_enter(before))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise _AbsentError(f"a private root could not be set up: {os.strerror(status) if status > 0 else 'killed'}")


def _enter(before: int) -> int:
    """Run as pid 1 of new namespaces. Returns the errno of the failure, or 0."""
    request: Walls = {
        "profile": "ns",
        "workspace": "/usr",
        "layer": False,
        "copy": "",
        "writable": [],
        "readable": [""],
        "protected": [],
        "guarded": False,
        "hidden": [],
        "binds": [],
        "network": "none",
        "tcp_ports": [],
        "egress": None,
        "tmp_bytes": 1 << 20,
    }
    try:
        walls.enter_namespaces(request, {})
        walls.confine_inside(request, [], {})
        if os.getpid() != 1 or os.path.exists(f"/proc/{before}/exe") or os.path.exists("/home"):
            return errno.EEXIST
    except RefusedError as refused:
        return refused.number
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def _groups() -> None:
    place = Groups.find(_RUNTIME)
    name, directory = place.make()
    try:
        Group(directory).hold(
            {"memory_bytes": 1 << 30, "file_bytes": 0, "open_files": 0, "processes": 8, "cpu_ms": None}
        )
        pid = syscalls.clone_into(0, directory)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    finally:
        place.remove(name, directory)


def _record() -> None:
    with contextlib.suppress(OSError):  # as in a launcher, whose recorders may read processes in its user namespace
        root.prepare([])
    _record_alone()


def _record_alone() -> None:
    """Check that a recorder started by a third process records what another process opens."""
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    recorder = os.fork()
    if recorder == 0:
        record(ours, writer, "none")
        os._exit(0)
    os.close(writer)
    ours.close()
    program = os.fork()
    if program == 0:
        syscalls.forbid_new_privileges()
        record_this_process(theirs.detach())
        with contextlib.suppress(OSError):
            os.execv(_MARK, [_MARK])  # noqa: S606 - no such program: only the attempt matters
        os._exit(0)
    theirs.close()
    answer = b""
    while data := os.read(reader, 65536):
        answer += data
    if f'"argv":["{_MARK}"]'.encode() not in answer:
        raise _AbsentError("a process cannot be read by its recorder: Yama, or a filter around Interlock")


def _network() -> None:
    """Check that no connection is possible, by a network namespace or because sockets cannot be created."""
    seccomp.load("pairs")
    _must_fail(lambda: socket.socket(socket.AF_INET).close(), errno.EAFNOSUPPORT, "sockets can be made")


def _must_fail(attempt: Callable[[], object], number: int, otherwise: str) -> None:
    try:
        attempt()
    except OSError as error:
        if error.errno == number:
            return
        raise
    raise _AbsentError(otherwise)


_PROBES: Final = {
    "syscalls": _syscalls,
    "fs": _files,
    "signals": _signals,
    "namespaces": _namespaces,
    "net": _network,
    "cgroup": _groups,
    "record": _record,
    "record_alone": _record_alone,
}
