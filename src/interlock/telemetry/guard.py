"""The resource guard: no action starts while the machine is over its limits.

CPU, memory and disk are over when both the last sample and the average over 30 s are: a short peak has no effect. They
then stay over until the samples have been at or under the limit for the cool-down, so that waiting actions do not all
start at the first dip. Zombies count at once. What Interlock and its descendants use is subtracted first: an agent's
own build must not hold up its next step. A measure that the machine does not provide is not judged.

The verdict is computed once per sample; asking again in between costs an attribute and a comparison.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from interlock.model.clock import Clock
from interlock.telemetry.snapshot import Snapshot

AVERAGE_NS: Final = 30 * 10**9
COOL_DOWN_NS: Final = 5 * 10**9
_POLL_S: Final = 0.25
_UNITS: Final = {"zombies": ("", 1.0)}


class GuardLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper limits, inclusive: shares from 0 to 1, and a count. None: not judged."""

    cpu: float | None = 0.8
    memory: float | None = 0.8
    disk: float | None = 0.9
    zombies: int | None = 10


class Reading(msgspec.Struct, frozen=True):
    """The measures that are over their limits.

    `values` has for each `NAME`: `NAME`, `NAME_limit`, and `NAME_average` (of 30 s).
    """

    values: dict[str, float]

    def as_dict(self) -> dict[str, float]:
        """Returns the values in the form that is journaled."""
        return self.values

    def describe(self) -> str:
        """Returns one sentence for people: `cpu is at 93 % (30 s average 91 %), the limit is 80 %`."""
        parts = []
        for name in ("cpu", "memory", "disk", "zombies"):
            if name not in self.values:
                continue
            unit, factor = _UNITS.get(name, (" %", 100.0))
            now, limit = (f"{self.values[key] * factor:.0f}{unit}" for key in (name, f"{name}_limit"))
            average = self.values.get(f"{name}_average")
            note = f" (30 s average {average * factor:.0f}{unit})" if average is not None else ""
            verb = "are" if name == "zombies" else "is"
            parts.append(f"{name} {verb} at {now}{note}, the limit is {limit}")
        return "; ".join(parts)


class Source(Protocol):
    """The source of samples: a `Sampler`."""

    def latest(self) -> Snapshot:
        """Returns the last sample; the same object until there is a new one."""
        ...


class ResourceGuard:
    """Judges the samples of a source against limits."""

    def __init__(
        self,
        limits: GuardLimits,
        source: Source,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`sleep` takes seconds; tests replace it together with the clock."""
        self._limits = limits
        self._source = source
        self._clock = clock
        self._sleep = sleep
        self._seen: Snapshot | None = None
        self._verdict: Reading | None = None
        self._windows: dict[str, deque[tuple[int, float]]] = {}
        self._over: set[str] = set()
        self._under_since: dict[str, int] = {}

    def check(self) -> Reading | None:
        """Returns None if an action may start, otherwise the measures that are over their limits. Never waits."""
        sample = self._source.latest()
        if sample is self._seen:
            return self._verdict
        self._verdict = self._judge(sample)
        self._seen = sample
        return self._verdict

    async def wait(self, max_wait_ms: int = 30_000, on_wait: Callable[[Reading], None] | None = None) -> Reading | None:
        """Wait until the machine is within its limits. Returns None then, or what is still over its limit after `max_wait_ms`.

        `on_wait` is called once with the reading, if it has to wait at all.
        """
        reading = self.check()
        if reading is None:
            return None
        if on_wait is not None:
            on_wait(reading)
        until_ns = self._clock.mono_ns() + max_wait_ms * 1_000_000
        while reading is not None and (left_ns := until_ns - self._clock.mono_ns()) > 0:
            await self._sleep(min(_POLL_S, left_ns / 1e9))
            reading = self.check()
        return reading

    def _judge(self, sample: Snapshot) -> Reading | None:
        values: dict[str, float] = {}
        for name, limit, value in (
            ("cpu", self._limits.cpu, _cpu(sample)),
            ("memory", self._limits.memory, _memory(sample)),
            ("disk", self._limits.disk, None if sample.disk_percent is None else sample.disk_percent / 100.0),
        ):
            if value is None or limit is None:
                continue
            average = self._average(name, sample, value)
            if self._is_over(name, sample.mono_ns, value, average, limit):
                values |= {name: round(value, 4), f"{name}_average": round(average, 4), f"{name}_limit": limit}
        if sample.processes is not None and self._limits.zombies is not None:
            zombies = sample.processes.zombies - sample.processes.own_zombies
            if zombies > self._limits.zombies:
                values |= {"zombies": float(zombies), "zombies_limit": float(self._limits.zombies)}
        return Reading(values) if values else None

    def _average(self, name: str, sample: Snapshot, value: float) -> float:
        window = self._windows.setdefault(name, deque())
        window.append((sample.mono_ns, value))
        while window[0][0] < sample.mono_ns - AVERAGE_NS:
            window.popleft()
        average = sum(v for _, v in window) / len(window)
        if name == "cpu" and sample.load is not None and sample.mono_ns - window[0][0] < AVERAGE_NS - 2 * 10**9:
            # Less than 30 s have been observed so far. The kernel's one-minute load covers that time, and keeps our own
            # start from looking like a busy machine. (Memory and disk change slowly: the average of the samples so far
            # is good enough.)
            average = min(average, sample.load[0] / sample.cpus)
        return average

    def _is_over(self, name: str, now_ns: int, value: float, average: float, limit: float) -> bool:
        if value > limit:
            self._under_since.pop(name, None)
            if average > limit:
                self._over.add(name)
        elif name in self._over and now_ns - self._under_since.setdefault(name, now_ns) >= COOL_DOWN_NS:
            self._over.discard(name)
            del self._under_since[name]
        return name in self._over


def _cpu(sample: Snapshot) -> float | None:
    """Returns the share that other programs use; None until our own share is known too."""
    if sample.cpu_percent is None or sample.own_cpu_percent is None:
        return None
    return max(0.0, sample.cpu_percent - sample.own_cpu_percent) / 100.0


def _memory(sample: Snapshot) -> float | None:
    if not sample.memory_total_bytes or sample.memory_used_bytes is None:
        return None
    return max(0, sample.memory_used_bytes - (sample.own_memory_bytes or 0)) / sample.memory_total_bytes
