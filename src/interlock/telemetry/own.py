"""What an action itself used: CPU, memory and I/O, by rusage and by its control group where it has one."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final, Literal

from interlock.telemetry.procfs import Absent, read

Scope = Literal["thread", "process"]
_BLOCK_BYTES: Final = 512
"""`ru_inblock` and `ru_oublock` count blocks of 512 bytes on Linux (getrusage(2))."""


class Meter:
    """Measures from its making to `usage()`. A `thread` meter must be asked on the thread that made it."""

    __slots__ = ("_before", "_who")

    def __init__(self, scope: Scope = "thread") -> None:
        """Start measuring this thread, or this whole process where calls share the loop."""
        self._who = resource.RUSAGE_THREAD if scope == "thread" else resource.RUSAGE_SELF
        self._before = resource.getrusage(self._who)

    def usage(self) -> dict[str, int | float]:
        """`{cpu_ms, user_ms, system_ms, read_bytes, write_bytes}` since the start."""
        now, before = resource.getrusage(self._who), self._before
        user, system = now.ru_utime - before.ru_utime, now.ru_stime - before.ru_stime
        return {
            "cpu_ms": round((user + system) * 1000, 3),
            "user_ms": round(user * 1000, 3),
            "system_ms": round(system * 1000, 3),
            "read_bytes": (now.ru_inblock - before.ru_inblock) * _BLOCK_BYTES,
            "write_bytes": (now.ru_oublock - before.ru_oublock) * _BLOCK_BYTES,
        }


def process_usage(ended: resource.struct_rusage) -> dict[str, int | float]:
    """The use of a process (with the children it waited for) from the rusage that `os.wait4` gave when it ended."""
    return {
        "cpu_ms": round((ended.ru_utime + ended.ru_stime) * 1000, 3),
        "user_ms": round(ended.ru_utime * 1000, 3),
        "system_ms": round(ended.ru_stime * 1000, 3),
        "memory_bytes": ended.ru_maxrss * 1024,
        "read_bytes": ended.ru_inblock * _BLOCK_BYTES,
        "write_bytes": ended.ru_oublock * _BLOCK_BYTES,
    }


def control_group_usage(group: Path) -> dict[str, int | float]:
    """The use of a whole control group (v2) so far; what its controllers do not tell is left out.

    `cpu_ms` is always told; `memory_bytes` (the peak), `read_bytes`, `write_bytes` and `processes_peak` if the memory, io
    and pids controllers are delegated.
    """
    out: dict[str, int | float] = {}
    cpu = _words(group / "cpu.stat")
    for name, key in (("cpu_ms", b"usage_usec"), ("user_ms", b"user_usec"), ("system_ms", b"system_usec")):
        if key in cpu:
            out[name] = round(cpu[key] / 1000, 3)
    for name, file in (("memory_bytes", "memory.peak"), ("processes_peak", "pids.peak")):
        try:
            out[name] = int(read(group / file))
        except (Absent, ValueError):
            continue
    try:
        lines = read(group / "io.stat").split(b"\n")
    except Absent:
        return out
    for name, key in (("read_bytes", b"rbytes="), ("write_bytes", b"wbytes=")):
        words = [w for line in lines for w in line.split() if w.startswith(key)]
        out[name] = sum(int(w[len(key) :]) for w in words)
    return out


def _words(path: Path) -> dict[bytes, int]:
    try:
        lines = read(path).split(b"\n")
    except Absent:
        return {}
    pairs = (line.split() for line in lines)
    return {p[0]: int(p[1]) for p in pairs if len(p) == 2 and p[1].isdigit()}
