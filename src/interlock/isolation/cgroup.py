"""Layer C: a control group (version 2) for each action, where a part of the tree was delegated to us. Standard library only.

It holds the memory of a whole tree, counts its CPU time exactly, and ends what nothing else would. Whether anything is delegated
is found out by doing. From its own group upwards, the launcher looks for a directory beneath which it may make groups that have
the controllers `memory` and `pids`: a service or scope with `Delegate=yes`, the slice of the user's systemd, a container with a
writable /sys/fs/cgroup.

Everything goes by descriptors of directories: behind walls there is no path to them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final, Self

from interlock.isolation.wire import Limits

CONTROLLERS: Final = ("memory", "pids")
_TASKS_A_PROCESS: Final = 16
"""pids.max counts threads; processes are counted by the meter. So this only stops a bomb that outruns it."""
_PREFIX: Final = "interlock-"
_RUNTIME: Final = "interlock.runtime"
"""The group that processes of ours are moved to, because a group with processes cannot pass controllers on."""
_MOUNT_TYPE: Final = "cgroup2"
_COUNTER_BYTES: Final = 4096


class Group:
    """The control group of one action, as its supervisor sees it: the supervisor is in it too."""

    def __init__(self, directory: int) -> None:
        """`directory` is a descriptor and remains the caller's. Raises: OSError."""
        self._directory = directory
        # Opened now: behind the walls nothing of the group can be opened.
        self._counters = {name: _open(directory, name) for name in ("memory.events", "pids.events", "cpu.stat")}

    def hold(self, limits: Limits) -> None:
        """Set the limits. Raises: OSError."""
        self._write("memory.max", str(limits["memory_bytes"]))
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap
            self._write("memory.swap.max", "0")
        self._write("pids.max", str(limits["processes"] * _TASKS_A_PROCESS))

    def oom_kills(self) -> int:
        """How many processes the kernel has killed because the group's memory was used up."""
        return self._count("memory.events", b"oom_kill")

    def refused_forks(self) -> int:
        """How often a process or thread was refused because of pids.max."""
        return self._count("pids.events", b"max")

    def cpu_ms(self) -> float | None:
        """CPU time used by all that ever was in the group; None if the kernel does not tell."""
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
    """The directory beneath which the launcher makes groups. It lives as long as the launcher."""

    def __init__(self, directory: int) -> None:
        """`directory` is a descriptor of a group that passes `CONTROLLERS` on; see `find`."""
        self._directory = directory
        self._made = 0
        self._old: set[str] = set()
        """Groups of actions that have ended, which could not be removed yet."""
        self._remove_left_over()

    @classmethod
    def find(cls, runtime: int) -> Self:
        """Look for a place. Processes of ours in a group of their own are moved, if that is what it takes.

        `runtime` is the pid of the process that starts the launcher. Raises: OSError saying why there is none.
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
        """Make a group: its name, and a descriptor of its directory, which is the caller's. Raises: OSError."""
        self._made += 1
        name = f"{_PREFIX}{os.getpid()}-{self._made}"
        os.mkdir(name, 0o755, dir_fd=self._directory)
        try:
            return name, os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            os.rmdir(name, dir_fd=self._directory)
            raise

    def remove(self, name: str, directory: int | None = None) -> None:
        """Remove a group, and end what is left in it."""
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
        """True while a group of an action that has ended is still there."""
        return bool(self._old)

    def _end(self, name: str) -> None:
        with contextlib.suppress(OSError):
            directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
            try:
                _write(directory, "cgroup.kill", "1")
            finally:
                os.close(directory)

    def _remove_left_over(self) -> None:
        """Groups of launchers that were killed: empty, so they can be removed."""
        for name in os.listdir(self._directory):
            if name.startswith(_PREFIX):
                owner = name.removeprefix(_PREFIX).partition("-")[0]
                if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                    with contextlib.suppress(OSError):
                        os.rmdir(name, dir_fd=self._directory)


def _own_group() -> tuple[str, str]:
    """Where cgroup version 2 is mounted, and our group beneath. Raises: OSError."""
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
    """See that a group passes `CONTROLLERS` on to those beneath. Raises: OSError."""
    offered = _read(directory, "cgroup.controllers").split()
    missing = [name for name in CONTROLLERS if name not in offered]
    if missing:
        raise OSError(errno.ENOENT, f"cgroup version 2 has no controller {' and '.join(missing)} here")
    if any(name not in _read(directory, "cgroup.subtree_control").split() for name in CONTROLLERS):
        if not own:
            raise OSError(errno.EBUSY, "the controllers are not passed on, and others have processes there")
        _step_down(directory, runtime)


def _step_down(directory: int, runtime: int) -> None:
    """Move the runtime and its children to a group beneath, so that this one can pass controllers on. Raises: OSError.

    Only if nothing else is in it: the processes of others are not ours to move.
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
    """The parent's pid; 0 if the process is gone."""
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
