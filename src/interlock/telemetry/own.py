"""The CPU time and I/O that an action used in this process (rusage). Its child processes are measured by their supervisor."""

from __future__ import annotations

import resource
from typing import Final, Literal

Scope = Literal["thread", "process"]
_BLOCK_BYTES: Final = 512
"""`ru_inblock` and `ru_oublock` count blocks of 512 bytes on Linux (getrusage(2))."""


class Meter:
    """Measures from its creation to `usage()`. `usage()` of a `thread` meter must be called on the thread that created it."""

    __slots__ = ("_before", "_who")

    def __init__(self, scope: Scope = "thread") -> None:
        """Start measuring this thread, or this whole process if calls share the event loop."""
        self._who = resource.RUSAGE_THREAD if scope == "thread" else resource.RUSAGE_SELF
        self._before = resource.getrusage(self._who)

    def usage(self) -> dict[str, int | float]:
        """Returns `{cpu_ms, cpu_user_ms, cpu_system_ms, read_bytes, written_bytes}` since the start, as for a process."""
        now, before = resource.getrusage(self._who), self._before
        user, system = now.ru_utime - before.ru_utime, now.ru_stime - before.ru_stime
        return {
            "cpu_ms": round((user + system) * 1000, 3),
            "cpu_user_ms": round(user * 1000, 3),
            "cpu_system_ms": round(system * 1000, 3),
            "read_bytes": (now.ru_inblock - before.ru_inblock) * _BLOCK_BYTES,
            "written_bytes": (now.ru_oublock - before.ru_oublock) * _BLOCK_BYTES,
        }
