"""Layer C: a version 2 control group for each action, if a subtree was delegated to us. Uses only the standard library.

The group limits the memory of a whole tree, counts its CPU time exactly, and can end any process in it. Delegation is
detected by trying: from its own group upwards, the launcher looks for a directory in which it may create groups with
the controllers `memory` and `pids`. That can be a service or scope with `Delegate=yes`, the slice of the user's
systemd, or a container with a writable /sys/fs/cgroup.

All access is through directory descriptors, because behind walls there is no path to the groups.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final, Self

from interlock.isolation.wire import Limits

CONTROLLERS: Final = ("memory", "pids")
_TASKS_A_PROCESS: Final = 16
"""pids.max counts threads, while the meter counts processes. This limit only stops a fork bomb that is faster than the meter.
"""
_PREFIX: Final = "interlock-"
_RUNTIME: Final = "interlock.runtime"
"""The group to which our processes are moved, because a group with processes cannot delegate controllers."""
_MOUNT_TYPE: Final = "cgroup2"
_COUNTER_BYTES: Final = 4096


class Group:
    """The control group of one action, as seen by its supervisor, which is in it too."""

    def __init__(self, directory: int) -> None:
        """`directory` is a descriptor that the caller keeps. Raises: OSError."""
        self._directory = directory
        # Open these now; behind the walls, no file of the group can be opened.
        self._counters = {name: _open(directory, name) for name in ("memory.events", "pids.events", "cpu.stat")}

    def hold(self, limits: Limits) -> None:
        """Set the limits. Raises: OSError."""
        self._write("memory.max", str(limits["memory_bytes"]))
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap
            self._write("memory.swap.max", "0")
        self._write("pids.max", str(limits["processes"] * _TASKS_A_PROCESS))

    def oom_kills(self) -> int:
        """Returns how many processes the kernel killed because the group's memory limit was reached."""
        return self._count("memory.events", b"oom_kill")

    def refused_forks(self) -> int:
        """Returns how often a new process or thread was refused because of pids.max."""
        return self._count("pids.events", b"max")

    def cpu_ms(self) -> float | None:
        """CPU time of all processes that were ever in the group; None if the kernel does not report it."""
        return self._count("cpu.stat", b"usage_usec") / 1000 or None

    def _count(self, name: str, key: bytes) -> int:
        with contextlib.suppress(OSError, ValueError):
            for line in os.pread(self._counters[name], _COUNTER_BYTES, 0).splitlines():
                word, _, number = line.partition(b" ")
                if word == key:
                    return int(number)
        return 0

    def _write(self, name: str, text: str) -> None:
        _write(self._directory, name, text)


class Groups:
    """The directory in which the launcher creates groups. It exists as long as the launcher."""

    def __init__(self, directory: int) -> None:
        """`directory` is a descriptor of a group that delegates `CONTROLLERS`; see `find`."""
        self._directory = directory
        self._made = 0
        self._old: set[str] = set()
        """Groups of ended actions that could not be removed yet."""
        self._remove_left_over()

    @classmethod
    def find(cls, runtime: int) -> Self:
        """Find a directory for groups. If necessary, moves our own processes to a group below.

        `runtime` is the pid of the process that started the launcher. Raises: OSError, which says why there is none.
        """
        mount, path = _own_group()
        reason = OSError(errno.EACCES, "no control group is delegated to this user")
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            place = "/".join((mount, *parts[:depth]))
            try:
                return cls._open(place, runtime, own=depth == len(parts))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    reason = error
        raise reason

    @classmethod
    def _open(cls, place: str, runtime: int, *, own: bool) -> Self:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _pass_on(directory, runtime, own=own)
            made = cls(directory)
            made.remove(*made.make())
        except BaseException:
            os.close(directory)
            raise
        return made

    def make(self) -> tuple[str, int]:
        """Create a group. Returns its name, and a directory descriptor that the caller owns. Raises: OSError."""
        self._made += 1
        name = f"{_PREFIX}{os.getpid()}-{self._made}"
        os.mkdir(name, 0o755, dir_fd=self._directory)
        try:
            return name, os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            os.rmdir(name, dir_fd=self._directory)
            raise

    def remove(self, name: str, directory: int | None = None) -> None:
        """Remove a group, and end the processes left in it."""
        if directory is not None:
            os.close(directory)
        self._old.add(name)
        self.tidy()

    def tidy(self) -> None:
        """Try again to remove the groups that were busy."""
        for name in list(self._old):
            try:
                os.rmdir(name, dir_fd=self._directory)
            except FileNotFoundError:
                pass
            except OSError:
                self._end(name)
                continue
            self._old.discard(name)

    @property
    def busy(self) -> bool:
        """True while the group of an ended action still exists."""
        return bool(self._old)

    def _end(self, name: str) -> None:
        with contextlib.suppress(OSError):
            directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
            try:
                _write(directory, "cgroup.kill", "1")
            finally:
                os.close(directory)

    def _remove_left_over(self) -> None:
        """Remove the groups of launchers that were killed; they are empty."""
        for name in os.listdir(self._directory):
            if name.startswith(_PREFIX):
                owner = name.removeprefix(_PREFIX).partition("-")[0]
                if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                    with contextlib.suppress(OSError):
                        os.rmdir(name, dir_fd=self._directory)


def _own_group() -> tuple[str, str]:
    """Returns the mount point of cgroup version 2, and our group beneath it. Raises: OSError."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        own = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.split(" ", 1)[0] == _MOUNT_TYPE:
                top, mount = before.split(" ")[3:5]
                inside = own is not None and f"{own.rstrip('/')}/".startswith(f"{top.rstrip('/')}/")
                if inside and own is not None and "/../" not in f"{own}/":
                    return mount, own[len(top.rstrip("/")) :]
    raise OSError(errno.ENOENT, "cgroup version 2 is not mounted")


def _pass_on(directory: int, runtime: int, *, own: bool) -> None:
    """Ensure that a group delegates `CONTROLLERS` to the groups below it. Raises: OSError."""
    offered = _read(directory, "cgroup.controllers").split()
    missing = [name for name in CONTROLLERS if name not in offered]
    if missing:
        raise OSError(errno.ENOENT, f"cgroup version 2 has no controller {' and '.join(missing)} here")
    if any(name not in _read(directory, "cgroup.subtree_control").split() for name in CONTROLLERS):
        if not own:
            raise OSError(
                errno.EBUSY, "the controllers are not delegated, and the group has processes that are not ours"
            )
        _step_down(directory, runtime)


def _step_down(directory: int, runtime: int) -> None:
    """Move the runtime and its children to a group below, so that this group can delegate controllers. Raises: OSError.

    Does nothing if other processes are in the group, because we must not move them.
    """
    pids = [int(line) for line in _read(directory, "cgroup.procs").split()]
    foreign = [pid for pid in pids if pid not in (runtime, os.getpid()) and _parent_of(pid) not in (runtime, 0)]
    if foreign:
        raise OSError(errno.EBUSY, f"the control group has other processes too ({foreign[0]})")
    with contextlib.suppress(FileExistsError):
        os.mkdir(_RUNTIME, 0o755, dir_fd=directory)
    inner = os.open(_RUNTIME, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                _write(inner, "cgroup.procs", str(pid))
    finally:
        os.close(inner)
    _write(directory, "cgroup.subtree_control", " ".join(f"+{name}" for name in CONTROLLERS))


def _parent_of(pid: int) -> int:
    """Returns the parent's pid; 0 if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return 0
    return int(line[line.rindex(b")") + 2 :].split()[1])


def _open(directory: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)


def _read(directory: int, name: str) -> str:
    with os.fdopen(_open(directory, name), "rb") as file:
        return file.read().decode()


def _write(directory: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
