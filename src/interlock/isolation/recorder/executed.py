"""Finds out which program runs after an `exec`: of a script it is the interpreter. Uses only the standard library."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

_KNOWN_MAX: Final = 4096
_START_STACK: Final = 25
"""Index of `startstack` in /proc/PID/stat, counted from the field after the name."""


class Running(NamedTuple):
    """The program that a process runs. Two that are equal are the same execution."""

    path: str
    stack: bytes
    """Where its stack begins, in digits: elsewhere after each `exec`."""


class _Executed(NamedTuple):
    call: str
    named: str
    before: Running | None


class Executions:
    """By process: the last `exec` that was let continue, until the next recorded call shows what runs."""

    def __init__(self) -> None:
        """Nothing was executed yet."""
        self._last: dict[int, _Executed] = {}

    def add(self, pid: int, call: str, named: str, before: Running | None) -> None:
        """Remember a call, the program that it names, with links resolved, and the one that made it (None if unknown)."""
        self._last.pop(pid, None)
        if len(self._last) >= _KNOWN_MAX:
            del self._last[next(iter(self._last))]
        self._last[pid] = _Executed(call, named, before)

    def other(self, pid: int) -> tuple[str, str] | None:
        """Returns the last call and the program that runs after it, if it named another one; once. Call it while `pid` waits.

        The call named a script, or a link that was replaced meanwhile. Until the process runs another program than before,
        nothing is known: the call failed, or other threads still run.
        """
        executed = self._last.get(pid)
        now = None if executed is None else running(pid)
        if executed is None or now is None or now == executed.before:
            return None
        del self._last[pid]
        return None if now.path == executed.named else (executed.call, now.path)


def running(pid: int) -> Running | None:
    """Returns the program that a process runs; None if it cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(1024).rpartition(b")")[2].split()
        return Running(os.readlink(f"/proc/{pid}/exe"), fields[_START_STACK])
    except (OSError, IndexError):
        return None
