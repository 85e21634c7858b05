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


def sweep(patience_s: float) -> tuple[set[int], dict[int, int], bool]:
    """Kill and collect all descendants.

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
        killed.update(kill_children())
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
            continue  # collected after all: somebody has resumed the process
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


def outgrows(limit: int) -> bool:
    """True if this process has more than `limit` descendants."""
    families = _families()
    seen = 0
    front = families.get(os.getpid(), [])
    while front:
        seen += len(front)
        if seen > limit:
            return True
        front = [child for pid in front for child in families.get(pid, ())]
    return False


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
    """Parent to children, from /proc/*/stat: `task/*/children` is missing from many kernels.

    Zombies count too: a process whose first thread has ended looks like one and still runs.
    """
    families: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                line = file.read()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # pid (name) state ppid ...: the name may hold anything, parentheses too
        parent = line[line.rindex(b")") + 2 :].split(None, 2)[1]
        families[int(parent)].append(int(name))
    return families
