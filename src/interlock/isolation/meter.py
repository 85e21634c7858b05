"""Holds a process tree to its limits by measuring it, and reports which limit was exceeded. Uses only the standard library.

The kernel's own limits are set in `layer0.limit` (per process) and `cgroup` (for the tree). The rest is measured here
about 20 times a second, with sums that never exceed what the tree really uses. A limit is named only if it was
observed: by a measurement here, a counter of the cgroup, or a signal from the kernel. A call that failed (EMFILE,
ENOMEM, ENOSPC) is visible only to the program.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterable
from typing import Final

from interlock.isolation import syscalls
from interlock.isolation.cgroup import Group
from interlock.isolation.layer0 import machine_tasks
from interlock.isolation.tree import Task, descendants
from interlock.isolation.wire import Limits

_TICK_S: Final = 0.05
_SHARE: Final = 20
"""A measurement is followed by a pause of this many times its CPU time, so that measuring takes 5 % of one processor."""
_ALWAYS_S: Final = 1.0
"""The longest interval between measurements.

It holds even if the machine as a whole gives no reason to measure, and even if a measurement is slow, because a program
could slow it down.
"""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_CLOCK_MS: Final = 1000 / os.sysconf("SC_CLK_TCK")
_FULL_BYTES: Final = 64 * 1024
"""A file system with less free space is full: no program can write a buffer to it."""


class Meter:
    """Measures the descendants of this process."""

    def __init__(self, limits: Limits, group: Group | None, temporary: str | None = None) -> None:
        """Measures nothing yet. `temporary` is the action's private /tmp, if it has one."""
        self._limits = limits
        self._group = group
        self._temporary = temporary
        self._last = time.monotonic()
        self._next = self._last + _TICK_S
        self._tasks_before = machine_tasks()
        self._memory_before = _machine_memory()
        self._seen: dict[tuple[int, int], float] = {}
        """CPU time in ms, without children, of each process ever seen, keyed by pid and start time."""
        self._crowded = False
        """True if a process was seen with as many open files as its limit allows."""

    def pause_s(self) -> float:
        """Seconds until the next measurement."""
        return max(0.0, self._next - time.monotonic())

    def exceeded(self) -> str | None:
        """Measure if it is time to. Returns the limit that is now exceeded (`processes`, `memory`, `cpu`), or None."""
        now = time.monotonic()
        if now < self._next:
            return None
        began = time.thread_time()
        found = self._measure() if self._reason(now) else None
        pause = _SHARE * (time.thread_time() - began)
        self._next = time.monotonic() + min(max(_TICK_S, pause), _ALWAYS_S)
        return found

    def at_end(self, code: int, *, failed: bool) -> str | None:
        """Returns the limit that the ended tree exceeded, or None. `code` is the exit code of the program.

        With `failed`, includes limits that a program notices only by a failed call: a full /tmp, and open files.
        """
        if self._group is not None:
            if self._group.oom_kills():
                return "memory"
            if self._group.refused_forks():
                return "processes"
        if code in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ):  # how a shell reports the signal of its command
            return "file_size"
        if failed and self._temporary is not None and _is_full(self._temporary):
            return "tmp"
        return "open_files" if failed and self._crowded else None

    def _reason(self, now: float) -> bool:
        """Returns True if the tree must be measured.

        Avoids a walk through /proc while the machine as a whole has hardly grown.
        """
        if self._limits["cpu_ms"] is not None or now - self._last >= _ALWAYS_S:
            return True
        if self._group is not None and (self._group.refused_forks() or self._group.oom_kills()):
            return True
        tasks = machine_tasks()
        if tasks is None or self._tasks_before is None or tasks - self._tasks_before >= self._limits["processes"] // 2:
            return True
        free, shared = _machine_memory()
        was_free, was_shared = self._memory_before
        share = self._limits["memory_bytes"] // 4
        return was_free - free >= share or shared - was_shared >= share

    def _measure(self) -> str | None:
        self._last = time.monotonic()
        tree = descendants()
        self._crowded = self._crowded or any(_open_files(pid) >= self._limits["open_files"] for pid in tree)
        if len(tree) > self._limits["processes"] or (self._group is not None and self._group.refused_forks()):
            return "processes"
        if self._is_large(tree):
            return "memory"
        allowed = self._limits["cpu_ms"]
        return "cpu" if allowed is not None and self._cpu_ms(tree) > allowed else None

    def _is_large(self, tree: dict[int, Task]) -> bool:
        allowed = self._limits["memory_bytes"]
        if self._group is not None:  # the kernel enforces it
            return False
        _, shared = _machine_memory()
        files = shared - self._memory_before[1] >= allowed // 4
        if not files and sum(task.resident for task in tree.values()) * _PAGE <= allowed:
            return False
        own = mapped = 0
        for pid in tree:
            private, common = _memory_of(pid)
            own += private
            mapped += common
        segments = _segments() if self._temporary is not None else 0  # else they may be of others
        return own + max(mapped, _memory_files(tree) + segments if files else 0) > allowed

    def _cpu_ms(self, tree: dict[int, Task]) -> float:
        """CPU time of the tree: the larger of two sums that each leave something out, so it is never too high.

        One is what parents collected, without the children of those that ignore SIGCHLD; the other is everything ever seen.
        """
        if self._group is not None and (counted := self._group.cpu_ms()) is not None:
            return counted
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        collected = (usage.ru_utime + usage.ru_stime) * 1000
        for pid, task in tree.items():
            self._seen[pid, task.start] = task.cpu * _CLOCK_MS
            collected += (task.cpu + task.cpu_of_children) * _CLOCK_MS
        return max(collected, sum(self._seen.values()))


def _machine_memory() -> tuple[int, int]:
    """Bytes of available memory and of shared memory on the machine; zeros if /proc does not report them."""
    try:
        said = syscalls.read_kernel_file("/proc/meminfo")
        return _kilobytes_after(said, b"\nMemAvailable:"), _kilobytes_after(said, b"\nShmem:")
    except (OSError, ValueError):
        return 0, 0


def _kilobytes_after(said: bytes, name: bytes) -> int:
    start = said.index(name) + len(name)
    return int(said[start : said.index(b"kB", start)]) * 1024


def _memory_of(pid: int) -> tuple[int, int]:
    """Bytes of a process's own memory, and its share of shared memory. Pages of files are not counted.

    A process that denies access counts only with its anonymous pages.
    """
    for source, own, common in (
        ("smaps_rollup", (b"Pss_Anon", b"SwapPss"), (b"Pss_Shmem",)),
        ("status", (b"RssAnon", b"VmSwap"), ()),
    ):
        try:
            with open(f"/proc/{pid}/{source}", "rb") as file:
                rows = dict(line.split(b":", 1) for line in file if b":" in line)
            return _kilobytes(rows, own), _kilobytes(rows, common)
        except OSError:
            continue
    return 0, 0


def _kilobytes(rows: dict[bytes, bytes], names: Iterable[bytes]) -> int:
    return sum(int(rows[name].split()[0]) * 1024 for name in names if name in rows)


def _memory_files(tree: Iterable[int]) -> int:
    """Bytes of the memory files (memfd_create) that the tree has open, each counted once."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in tree:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{name}"
                if os.readlink(path).startswith("/memfd:"):
                    found = os.stat(path)
                    sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
        except OSError:
            continue
    return sum(sizes.values())


def _segments() -> int:
    """Bytes of the System V shared memory of this process's namespace, attached or not. Source: proc_sysvipc(5)."""
    try:
        with open("/proc/sysvipc/shm", "rb") as file:
            names = file.readline().split()
            columns = names.index(b"rss"), names.index(b"swap")
            return sum(int(fields[at]) for fields in map(bytes.split, file) for at in columns)
    except (OSError, ValueError, IndexError):
        return 0


def _open_files(pid: int) -> int:
    """Returns the number of open descriptors of a process; 0 before Linux 6.2, where the directory's size does not give it."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size
    except OSError:
        return 0


def _is_full(directory: str) -> bool:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize < _FULL_BYTES or (found.f_files > 0 and found.f_ffree == 0)
