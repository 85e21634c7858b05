"""A clock that moves only on request, and ids that count."""

from __future__ import annotations


class FakeClock:
    """A `Clock` that does not move until `advance` is called; wall clock and monotonic clock can be moved apart."""

    def __init__(self, now_us: int = 1_700_000_000_000_000, mono_ns: int = 1_000_000_000) -> None:
        """Start at the given times."""
        self._now_us = now_us
        self._mono_ns = mono_ns

    def now_us(self) -> int:
        """Wall-clock time in microseconds."""
        return self._now_us

    def mono_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        return self._mono_ns

    def advance(self, seconds: float) -> None:
        """Advance both clocks."""
        self._now_us += round(seconds * 1_000_000)
        self._mono_ns += round(seconds * 1_000_000_000)

    def set_wall(self, now_us: int) -> None:
        """Set only the wall clock, also backwards, as an administrator or NTP would."""
        self._now_us = now_us


class CountingIds:
    """An `Ids` that returns `prefix_00...01`, `prefix_00...02`, and so on."""

    def __init__(self) -> None:
        """Start at one."""
        self._count = 0

    def new(self, prefix: str) -> str:
        """The next id."""
        self._count += 1
        return f"{prefix}_{self._count:032x}"
