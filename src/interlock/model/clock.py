"""The clock and id source that other packages take as parameters, instead of using `time` and `uuid`."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """A source of time: `interlock.engine.local.clock.SystemClock`, or the fake `interlock.testing.FakeClock`."""

    def now_us(self) -> int:
        """Wall-clock time, integer microseconds since the Unix epoch."""
        ...

    def mono_ns(self) -> int:
        """Monotonic time, integer nanoseconds from an arbitrary start."""
        ...


class Ids(Protocol):
    """A source of identifiers. The real one draws 128 bits from the operating system; the fake one counts."""

    def new(self, prefix: str) -> str:
        """A new id `PREFIX_` + 32 hex digits, for example `run_0f...`."""
        ...
