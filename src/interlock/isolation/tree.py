"""Finds and ends the descendants of a subreaper. Uses only the standard library.

Only direct children are ever signalled: their pids cannot be reused before the subreaper has waited for them, so there
is no race. When a child dies, its own children become the subreaper's, and the next pass ends those.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple


class Task(NamedTuple):
    """A process as shown in /proc. Times are in clock ticks."""

    parent: int
    cpu: int
    """CPU time of its own threads."""
    cpu_of_children: int
    """CPU time of the children that it has collected, including what those had collected."""
    start: int
    """Start time since boot; together with the pid, it identifies a process uniquely."""
    resident: int
    """Pages in memory, including pages of files."""
    ended: bool
    """It is a zombie without running threads, and its children have gone to the subreaper."""


def reap() -> Iterator[tuple[int, int]]:
    """Yield (pid, wait status) of ended children. Raises: ChildProcessError at the end if no children are left at all."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        yield pid, status


def kill_children(*, spare: Collection[int] = ()) -> list[int]:
    """Send SIGKILL to all children except `spare`. Returns the pids that were signalled."""
    killed = []
    for pid in _families().get(os.getpid(), ()):
        if pid not in spare:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue  # just ended; or another user's process, which the caller notices because it never ends
            killed.append(pid)
    return killed


def sweep(patience_s: float, *, spare: Collection[int] = ()) -> tuple[set[int], dict[int, int], bool]:
    """Kill and collect all descendants except those in `spare`, which end themselves when the others have.

    Returns the killed pids, the wait status of each that ended, and whether any are left after `patience_s` seconds
    (because they belong to another user, or hang in the kernel).
    """
    killed: set[int] = set()
    ended: dict[int, int] = {}
    until = time.monotonic() + patience_s
    pause = 0.0002
    while True:
        try:
            ended.update(reap())
        except ChildProcessError:
            return killed, ended, False
        if time.monotonic() > until:
            return killed, ended, True
        killed.update(kill_children(spare=spare))
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def end_children_of(subreaper: int) -> bool:
    """One pass of ending another process's children from outside. Returns True if any were still running as it began.

    Such a child may have passed children of its own to the subreaper during the pass, so another pass is needed even if
    it has ended by now. The caller has stopped the subreaper (SIGSTOP), so it does not collect them: ended children stay
    zombies and keep their pids.
    """
    some = False
    for pid, task in list(_tasks()):
        if task.parent != subreaper or task.ended:
            continue
        some = True
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue  # already collected: another process has resumed the subreaper
        try:
            if _parent_of(pid) == subreaper:
                with contextlib.suppress(
                    ProcessLookupError, PermissionError
                ):  # another user's process counts as running
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
    return some


def pid_of(pidfd: int) -> int:
    """Returns the pid of the process behind a pidfd; -1 if it has been collected."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return next(int(line[4:]) for line in os.read(fd, 4096).splitlines() if line.startswith(b"Pid:"))
    finally:
        os.close(fd)


def descendants() -> dict[int, Task]:
    """Maps pids to the processes beneath this one."""
    tasks = dict(_tasks())
    families: dict[int, list[int]] = defaultdict(list)
    for pid, task in tasks.items():
        families[task.parent].append(pid)
    found: dict[int, Task] = {}
    front = families.get(os.getpid(), [])
    while front:
        found |= {pid: tasks[pid] for pid in front}
        front = [child for pid in front for child in families.get(pid, ()) if child not in found]
    return found


def _parent_of(pid: int) -> int:
    """Returns the parent of a process; 0 if it has been collected."""
    task = _task(str(pid))
    return 0 if task is None else task.parent


def _families() -> dict[int, list[int]]:
    """Maps each parent to its children."""
    families: dict[int, list[int]] = defaultdict(list)
    for pid, task in _tasks():
        families[task.parent].append(pid)
    return families


def _tasks() -> Iterator[tuple[int, Task]]:
    """Yields all visible processes, from /proc/*/stat, because many kernels lack `task/*/children`."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            task = _task(name)
            if task is not None:
                yield int(name), task


def _task(pid: str) -> Task | None:
    """Returns a process as shown in /proc; None if it has been collected, or must not be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # pid (name) state ppid ...: the name may contain anything, including parentheses
    field = line[line.rindex(b")") + 2 :].split()
    # A process whose first thread has ended looks like a zombie but still runs.
    ended = field[0] in {b"Z", b"X"} and int(field[17]) <= 1
    cpu, cpu_of_children = int(field[11]) + int(field[12]), int(field[13]) + int(field[14])
    return Task(int(field[1]), cpu, cpu_of_children, int(field[19]), int(field[21]), ended)
