"""Finding and ending the descendants of a subreaper. Standard library only.

Only direct children are ever signalled: their numbers cannot be given to another process before the subreaper has waited for
them, so there is no race with reuse. When a child dies, its own children become the subreaper's, and the next turn ends those.
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
    """A process as /proc shows it. Times in clock ticks."""

    parent: int
    cpu: int
    """Of its own threads."""
    cpu_of_children: int
    """Of the children that it has collected, and what they had collected."""
    start: int
    """Since boot; together with the pid it identifies a process uniquely."""
    resident: int
    """Pages in memory, pages of files included."""


def reap() -> Iterator[tuple[int, int]]:
    """Collect ended children, (pid, wait status) each. Raises ChildProcessError, in the end, if no child is left at all."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        yield pid, status


def kill_children(*, spare: Collection[int] = ()) -> list[int]:
    """Send SIGKILL to all children but `spare`; returns which could be signalled."""
    killed = []
    for pid in _families().get(os.getpid(), ()):
        if pid not in spare:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue  # gone just now; or of another user, which the caller sees because it never ends
            killed.append(pid)
    return killed


def sweep(patience_s: float, *, spare: Collection[int] = ()) -> tuple[set[int], dict[int, int], bool]:
    """Kill and collect all descendants, but do not kill those in `spare`, which end by themselves when the others have.

    Returns which were killed, the wait status of each that ended, and whether some are left after `patience_s` seconds
    (of another user, or hanging in the kernel).
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
    """One turn of ending another process's children, from outside; True if some of them still live.

    The caller has stopped that process (SIGSTOP), so it does not collect them: what has ended stays a zombie, under its number.
    """
    some = False
    for pid in _families().get(subreaper, ()):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue  # collected after all: another process has resumed it
        try:
            if _lives(pid, subreaper):
                some = True
                with contextlib.suppress(ProcessLookupError, PermissionError):  # of another user: it counts as living
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
    return some


def pid_of(pidfd: int) -> int:
    """The number of the process behind a pidfd, -1 if it has been collected."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        return next(int(line[4:]) for line in file if line.startswith(b"Pid:"))


def descendants() -> dict[int, Task]:
    """The processes beneath this one, by pid."""
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


def _lives(pid: int, parent: int) -> bool:
    """True if the process is still a child of `parent` and not a zombie all of whose threads have ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    fields = line[line.rindex(b")") + 2 :].split()
    state, father, threads = fields[0], int(fields[1]), int(fields[17])
    return father == parent and (state not in {b"Z", b"X"} or threads > 1)


def _families() -> dict[int, list[int]]:
    """Parent to children."""
    families: dict[int, list[int]] = defaultdict(list)
    for pid, task in _tasks():
        families[task.parent].append(pid)
    return families


def _tasks() -> Iterator[tuple[int, Task]]:
    """All processes that /proc shows, from /proc/*/stat: `task/*/children` is missing from many kernels.

    Zombies count too: a process whose first thread has ended looks like one and still runs.
    """
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                line = file.read()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # pid (name) state ppid ...: the name may hold anything, parentheses too
        field = line[line.rindex(b")") + 2 :].split()
        cpu, cpu_of_children = int(field[11]) + int(field[12]), int(field[13]) + int(field[14])
        yield int(name), Task(int(field[1]), cpu, cpu_of_children, int(field[19]), int(field[21]))
