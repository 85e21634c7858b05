"""One live writer per run: a lock on a file in the run's directory, which also names its holder."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from interlock.disk import Disk
from interlock.model.errors import StoreError, UsageError

LOCK_NAME: Final = "lock"


def take(run_dir: Path, disk: Disk) -> int:
    """Take the run's lock. It is held until the descriptor is closed or the process exits.

    The lock file contains `PID STARTED` (`STARTED` in clock ticks since boot, to detect a reused pid). Raises:
    UsageError `not_found` if there is no such run; StoreError `run_locked`, which names the pid.
    """
    if not run_dir.is_dir():
        raise UsageError(f"there is no run `{run_dir.name}`", code="not_found", hint="`interlock runs list` shows them")
    path = run_dir / LOCK_NAME
    fd = disk.lock(path)
    if fd is None:
        raise _locked(run_dir, path)
    try:
        disk.truncate(fd, 0)
        disk.write(fd, f"{os.getpid()} {_own_start(os.getpid())}\n".encode())
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def held(run_dir: Path, disk: Disk) -> Iterator[None]:
    """Hold the run's lock for the duration of a block. Raises as `take` does."""
    fd = take(run_dir, disk)
    try:
        yield
    finally:
        os.close(fd)


def _locked(run_dir: Path, path: Path) -> StoreError:
    pid, started = "", ""
    with suppress(OSError, ValueError):
        pid, started = path.read_text().split()
    who = f"process {pid}" if pid else "another process"
    if pid and started_of(pid) != started:
        # The lock outlives its holder only through a child that inherited the descriptor.
        who = f"a child process of process {pid}"
    return StoreError(
        f"run `{run_dir.name}` is being written by {who}",
        code="run_locked",
        hint="wait for it, or stop that process and run `interlock recover`",
    )


@functools.lru_cache(maxsize=1)
def _own_start(_pid: int) -> str:
    return started_of("self")


def started_of(pid: str) -> str:
    """The start time of a process, field 22 of proc(5) `stat`; empty if there is no such process."""
    try:
        stat = Path("/proc", pid, "stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
