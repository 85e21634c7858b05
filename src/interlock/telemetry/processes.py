"""One bounded scan of the process table: totals, zombies, top consumers, and the part that is our own.

The scan reads one file per process (about 15 us) and stops at `PROCESSES_MAX` or `SCAN_MAX_NS`; then the summary says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from interlock.model.clock import Clock
from interlock.telemetry.procfs import PAGE_BYTES, TICKS_PER_S, Absent, read
from interlock.telemetry.snapshot import Process, Processes, ProcessKey

PROCESSES_MAX: Final = 4096
SCAN_MAX_NS: Final = 50_000_000
TOP: Final = 3


class Stat(NamedTuple):
    """The fields of `/proc/PID/stat` that are used."""

    pid: int
    name: str
    state: str
    parent: int
    ticks: int
    """User and system time."""
    reaped_ticks: int
    """The same, of children that have ended and were waited for."""
    start: int
    rss_bytes: int


class Scan(NamedTuple):
    """A scan: the table, to be compared with another scan, and what our own tree has used since it began (or last shrank)."""

    mono_ns: int
    rows: dict[ProcessKey, Stat]
    truncated: bool
    own: frozenset[int]
    own_ticks: int
    own_memory_bytes: int


def parse_stat(data: bytes) -> Stat:
    """Parses a `/proc/PID/stat` line (proc_pid_stat(5)). The name may contain spaces and parentheses. Raises: ValueError."""
    close = data.rindex(b")")
    head, tail = data[:close], data[close + 1 :].split()
    pid, _, name = head.partition(b" (")
    if len(tail) < 22:
        raise ValueError("too few fields")
    return Stat(
        pid=int(pid),
        name=name.decode("utf-8", "replace"),
        state=tail[0].decode("ascii", "replace"),
        parent=int(tail[1]),
        ticks=int(tail[11]) + int(tail[12]),
        reaped_ticks=int(tail[13]) + int(tail[14]),
        start=int(tail[19]),
        rss_bytes=int(tail[21]) * PAGE_BYTES,
    )


def scan(proc: Path, own_pid: int, clock: Clock) -> Scan:
    """Read the process table. Raises: Absent if `/proc` cannot be listed."""
    began = clock.mono_ns()
    try:
        names = os.listdir(proc)  # noqa: PTH208 - twice as fast, and only names are needed
    except OSError as error:
        raise Absent(f"{proc}: {os.strerror(error.errno or 0)}") from None
    pids = [n for n in names if n.isdigit()]
    rows: dict[ProcessKey, Stat] = {}
    read_count = 0
    # Our own tree should be in a scan that is cut short: our own process first, then the newest ones.
    for name in (str(own_pid), *reversed(pids)):
        if read_count >= PROCESSES_MAX or (read_count % 64 == 0 and clock.mono_ns() - began > SCAN_MAX_NS):
            break
        read_count += 1
        # Our own process comes twice, in the same row; or never, if this /proc belongs to another PID namespace.
        try:
            row = parse_stat(read(f"{proc}/{name}/stat"))
        except (Absent, ValueError):
            continue  # it ended during the scan
        rows[row.pid, row.start] = row
    own = _tree(rows, own_pid)
    mine = [row for row in rows.values() if row.pid in own]
    return Scan(
        mono_ns=began,
        rows=rows,
        truncated=read_count <= len(pids),
        own=own,
        own_ticks=sum(row.ticks + row.reaped_ticks for row in mine),
        own_memory_bytes=sum(_unshared_bytes(proc, row) for row in mine),
    )


def summarize(now: Scan, before: Scan | None) -> Processes:
    """Summarise a scan. CPU percentages need the previous scan."""
    rows = now.rows
    old = before.rows if before is not None else {}
    seconds = (now.mono_ns - before.mono_ns) / 1e9 if before is not None else 0.0

    def cpu_percent(item: tuple[ProcessKey, Stat]) -> float:
        earlier = old.get(item[0])
        if earlier is None or seconds <= 0:
            return 0.0
        return 100.0 * max(0, item[1].ticks - earlier.ticks) / TICKS_PER_S / seconds

    def process(item: tuple[ProcessKey, Stat]) -> Process:
        row = item[1]
        percent = round(cpu_percent(item), 1)
        return Process(pid=row.pid, name=row.name, cpu_percent=percent, rss_bytes=row.rss_bytes, own=row.pid in now.own)

    states = [row.state for row in rows.values()]
    busy = sorted(((cpu_percent(i), i) for i in rows.items()), key=lambda p: (-p[0], p[1][0]))[:TOP]
    big = sorted(rows.items(), key=lambda i: (-i[1].rss_bytes, i[0]))[:TOP]
    return Processes(
        total=len(rows),
        running=states.count("R"),
        blocked=states.count("D"),
        zombies=states.count("Z"),
        own=len(now.own),
        own_zombies=sum(1 for row in rows.values() if row.state == "Z" and row.pid in now.own),
        truncated=now.truncated,
        top_cpu=tuple(process(i) for percent, i in busy if percent > 0),
        top_memory=tuple(process(i) for i in big if i[1].rss_bytes > 0),
    )


def _tree(rows: dict[ProcessKey, Stat], root: int) -> frozenset[int]:
    """Returns the process and all its descendants that are in the table."""
    children: dict[int, list[int]] = {}
    for row in rows.values():
        children.setdefault(row.parent, []).append(row.pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, ())
    return frozenset(found) & {row.pid for row in rows.values()}


def _unshared_bytes(proc: Path, row: Stat) -> int:
    """Returns the resident memory that is neither file-backed nor shared, so that forks of one process are not counted twice."""
    try:
        words = read(f"{proc}/{row.pid}/statm").split()
        return max(0, int(words[1]) - int(words[2])) * PAGE_BYTES
    except (Absent, ValueError, IndexError):
        return row.rss_bytes
