"""Reads the kernel's own files in `/proc` and `/sys`, without a process or a library in between.

Every function returns a value or raises `Absent` with the reason (hidden in a container, no such kernel option). Formats:
proc(5), Documentation/filesystems/proc.rst, Documentation/accounting/psi.rst, Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_READ_BYTES: Final = 64 * 1024


class Absent(Exception):  # noqa: N818 - not an error: the machine does not provide this measure
    """A measure that this machine does not provide; the text says why."""


class CpuTimes(NamedTuple):
    """Ticks since boot, all CPUs together."""

    total: int
    idle: int


class Memory(NamedTuple):
    """In bytes."""

    total: int
    used: int


def read(path: str | Path) -> bytes:
    """Returns the start of a kernel file. Raises: Absent."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, _READ_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        raise Absent(f"{path}: {os.strerror(error.errno or 0)}") from None


def cpu_times(proc: Path) -> CpuTimes:
    """Returns the first line of `stat`. Waiting for a disk counts as idle, as in `top`."""
    line = read(f"{proc}/stat").split(b"\n", 1)[0].split()
    if len(line) < 5 or line[0] != b"cpu":
        raise Absent(f"{proc / 'stat'}: no `cpu` line")
    # user nice system idle iowait irq softirq steal; user time already includes guest time.
    ticks = [_number(word, proc / "stat") for word in line[1:9]]
    return CpuTimes(sum(ticks), ticks[3] + (ticks[4] if len(ticks) > 4 else 0))


def load(proc: Path) -> tuple[float, float, float]:
    """Returns the load averages over 1, 5 and 15 minutes."""
    words = read(f"{proc}/loadavg").split()
    try:
        return float(words[0]), float(words[1]), float(words[2])
    except (ValueError, IndexError):
        raise Absent(f"{proc / 'loadavg'}: not three numbers") from None


def memory(proc: Path) -> Memory:
    """Returns the machine's total memory, and the total minus `MemAvailable` as used."""
    fields: dict[bytes, int] = {}
    for line in read(f"{proc}/meminfo").split(b"\n"):
        name, _, rest = line.partition(b":")
        if name in (b"MemTotal", b"MemAvailable"):
            fields[name] = _number(rest.split()[0] if rest.split() else b"", proc / "meminfo") * 1024
            if len(fields) == 2:
                break
    if len(fields) < 2:
        raise Absent(f"{proc / 'meminfo'}: no MemTotal or MemAvailable")
    return Memory(fields[b"MemTotal"], max(0, fields[b"MemTotal"] - fields[b"MemAvailable"]))


def pressure(proc: Path) -> dict[str, float]:
    """Returns stall percentages over 10 s, of `pressure/cpu`, `memory`, `io`: `{"cpu.some": 0.0, "io.full": 1.2, ...}`."""
    out: dict[str, float] = {}
    for resource in ("cpu", "memory", "io"):
        for line in read(f"{proc}/pressure/{resource}").split(b"\n"):
            words = line.split()
            # `cpu.full` is always 0 for the whole machine (only control groups have it).
            if len(words) > 1 and words[1].startswith(b"avg10=") and (resource, words[0]) != ("cpu", b"full"):
                out[f"{resource}.{words[0].decode()}"] = float(words[1][6:])
    return out


def control_group(proc: Path, sys: Path, pid: int | str = "self") -> Path | None:
    """Returns the directory of a process's cgroup (v2), or None if there is no unified hierarchy or it is hidden."""
    try:
        lines = read(f"{proc}/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines()
    except Absent:
        return None
    for line in lines:
        if line.startswith("0::/"):
            path = sys / "fs" / "cgroup" / line[4:].removeprefix("../")
            return path if (path / "cgroup.controllers").exists() else None
    return None


def control_group_memory(proc: Path, sys: Path) -> Memory:
    """Returns limit and use of our control group, or of the fullest one above it. Raises: Absent if there is no limit."""
    group = control_group(proc, sys)
    if group is None:
        raise Absent("no cgroup v2 directory of this process")
    root, place = f"{sys}/fs/cgroup", str(group)
    limited = []
    while place.startswith(root):
        if (found := _limited(place)) is not None:
            limited.append(found)
        place = place.rpartition("/")[0]
    if not limited:
        raise Absent("the control group has no memory limit")
    return max(limited, key=lambda memory: memory.used / max(1, memory.total))


def _limited(group: str) -> Memory | None:
    """Returns limit and use of one control group, without file cache that can be dropped; None if it has no limit."""
    try:
        limit = read(f"{group}/memory.max").strip()
    except Absent:  # the root has none, nor has a group without the memory controller
        return None
    if limit == b"max":
        return None
    used = _number(read(f"{group}/memory.current"), group)
    for line in read(f"{group}/memory.stat").split(b"\n"):
        if line.startswith(b"inactive_file "):
            used -= _number(line.split()[1], group)
    return Memory(_number(limit, group), max(0, used))


def _number(word: bytes, path: str | Path) -> int:
    try:
        return int(word)
    except ValueError:
        raise Absent(f"{path}: expected a number") from None
