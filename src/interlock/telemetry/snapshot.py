"""A sample of the machine, its JSON view, and the difference between two samples.

A measure that the machine does not provide is None (or empty), and `absent` says why under the measure's name. Nothing
is guessed, and nothing raises because a container hides a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import msgspec

CHANGED_MAX: Final = 20
"""Maximum number of appeared or vanished processes that a report names; their count is always exact."""
_COMPARED: Final = ("disk_used_bytes", "memory_used_bytes")

ProcessKey = tuple[int, int]
"""Process id and start time in clock ticks since boot: a pair that is never reused."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer. `cpu_percent` is of one CPU since the previous scan; 0 for a new process."""

    pid: int
    name: str
    cpu_percent: float
    rss_bytes: int
    own: bool = False
    """True for Interlock itself and its descendants."""


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of one scan."""

    total: int = 0
    running: int = 0
    blocked: int = 0
    """Processes in uninterruptible sleep, mostly waiting for a disk."""
    zombies: int = 0
    own: int = 0
    """Number of processes that are Interlock or its descendants."""
    own_zombies: int = 0
    truncated: bool = False
    """True if the scan stopped at its limit: the numbers are lower bounds."""
    top_cpu: tuple[Process, ...] = ()
    top_memory: tuple[Process, ...] = ()


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU or a similar device; None for what the driver's files do not report."""

    name: str
    busy_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One sample. Percentages are 0 to 100; `own_*` is the part that Interlock and its descendants use."""

    ts: int
    """Microseconds since the epoch."""
    mono_ns: int
    cpus: int
    cpu_percent: float | None = None
    """Of all CPUs together, since the previous sample."""
    own_cpu_percent: float | None = None
    load: tuple[float, float, float] | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    """Total minus what is available without swapping; of the control group if that limit is tighter."""
    own_memory_bytes: int | None = None
    disk_total_bytes: int | None = None
    disk_used_bytes: int | None = None
    disk_percent: float | None = None
    """As `df` counts it: the used part of what an ordinary user may use."""
    pressure: dict[str, float] = {}
    """`cpu.some`, `memory.some`, `memory.full`, `io.some`, `io.full`: percentage of the last 10 s in which work was stalled."""
    accelerators: tuple[Accelerator, ...] = ()
    processes: Processes | None = None
    absent: dict[str, str] = {}
    took_ms: float = 0.0
    """The cost of taking the sample."""
    table: dict[ProcessKey, str] = {}
    """Every process of the last scan with its name, for `diff`; not part of the view."""

    @property
    def memory_percent(self) -> float | None:
        """Used memory as a percentage."""
        if not self.memory_total_bytes or self.memory_used_bytes is None:
            return None
        return 100.0 * self.memory_used_bytes / self.memory_total_bytes

    @cached_property
    def unchanged(self) -> dict[str, Any]:
        """The `report` of an action that ended before the next sample, as most do. All callers share what is in it."""
        return {"before": self.view, "after": self.view, "change": diff(self, self)}

    @cached_property
    def view(self) -> dict[str, Any]:
        """The snapshot as a JSON object, without absent measures. All callers share the object: do not change it."""
        fields = msgspec.to_builtins(msgspec.structs.replace(self, table={}))
        return {k: v for k, v in fields.items() if k not in ("table", "mono_ns") and v not in (None, {}, ())}


def diff(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """Returns what changed: `{interval_ms, disk_used_bytes?, memory_used_bytes?, appeared[], vanished[], *_count}`.

    `interval_ms` is 0 if both times fall on the same sample: then nothing is known, and the lists are empty. A process
    is named `PID NAME`. Processes that start and end between two samples are not seen.
    """
    change: dict[str, Any] = {"interval_ms": round((after.mono_ns - before.mono_ns) / 1e6)}
    for name in _COMPARED:
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None:
            change[name] = new - old
    appeared, vanished = _only_in(after, before), _only_in(before, after)
    change["appeared_count"], change["vanished_count"] = len(appeared), len(vanished)
    change["appeared"], change["vanished"] = appeared[:CHANGED_MAX], vanished[:CHANGED_MAX]
    return change


def _only_in(one: Snapshot, other: Snapshot) -> list[str]:
    if one.table is other.table or not one.table or not other.table:
        return []  # the same scan, or one sample has no scan
    return [f"{key[0]} {one.table[key]}" for key in sorted(one.table.keys() - other.table.keys())]


def report(before: Snapshot, after: Snapshot, own: dict[str, int | float] | None = None) -> dict[str, Any]:
    """Returns the `telemetry` of an action's result: `{before, after, change, own?}`."""
    if after is before:
        out = before.unchanged.copy()
    else:
        out = {"before": before.view, "after": after.view, "change": diff(before, after)}
    if own:
        out["own"] = own
    return out


def expand(telemetry: dict[str, Any] | None, samples: Mapping[int, dict[str, Any]]) -> dict[str, Any] | None:
    """Expand an event's `telemetry` to that of a result.

    In an event, `before` and `after` are sample numbers. `samples` maps them to views.
    """
    if telemetry is None or "before" not in telemetry:
        return telemetry
    before, after = telemetry["before"], telemetry["after"]
    out = {"before": samples[before], "after": samples[after], "change": telemetry.get("change")}
    if before == after:
        out["change"] = _no_change(samples[before])
    return out | {key: value for key, value in telemetry.items() if key not in out}


def _no_change(view: dict[str, Any]) -> dict[str, Any]:
    """Returns the `diff` of a sample with itself."""
    measures: dict[str, Any] = {name: 0 for name in _COMPARED if name in view}
    return {"interval_ms": 0, **measures, "appeared_count": 0, "vanished_count": 0, "appeared": [], "vanished": []}
