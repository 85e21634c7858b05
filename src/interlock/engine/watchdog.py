"""One watchdog for all the time-outs of a loop: a single timer, however many actions run.

A worker puts its deadline into its slot; the watchdog sleeps until the earliest one. An action that comes to its end in
time costs no timer, only the comparison in `arm`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from interlock.model.clock import Clock

NEVER: Final = 1 << 62
_AGAIN_NS: Final = 5_000_000_000
"""So long has a cancelled tool to clean up, before it is cancelled again."""


class Slot:
    """A worker's place: the task that runs there, and until when.

    `expired` counts how often the watchdog cancelled the task; `stopped` holds the reason when the engine did.
    """

    __slots__ = ("before", "deadline", "ended_ns", "expired", "stopped", "task")

    def __init__(self, task: asyncio.Task[None]) -> None:
        """A slot without a deadline."""
        self.task = task
        self.deadline = NEVER
        self.ended_ns = 0
        """When the last attempt here ended: spares the worker a look at the clock."""
        self.expired = 0
        self.stopped: str | None = None
        self.before = task.cancelling()
        """Cancellations that were asked for before: more of them, or the exception is a tool's own."""


class Watchdog:
    """Cancels the task of each slot whose deadline has passed."""

    __slots__ = ("_clock", "_handle", "_loop", "_slots", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """No slots, no timer."""
        self._loop = loop
        self._clock = clock
        self._slots: list[Slot] = []
        self.at = NEVER
        """When the timer fires (monotonic nanoseconds)."""
        self._handle: asyncio.TimerHandle | None = None

    def add(self, slot: Slot) -> None:
        """Watch a slot."""
        self._slots.append(slot)

    def arm(self, slot: Slot, deadline_ns: int, now_ns: int) -> None:
        """Give a slot a deadline (monotonic nanoseconds); `NEVER` takes it away at no cost."""
        slot.deadline = deadline_ns
        if deadline_ns < self.at:
            self.wake(deadline_ns, now_ns)

    def close(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.cancel()
        self._slots.clear()

    def wake(self, at: int, now: int) -> None:
        """Set the timer to an earlier time: `arm`, for those who have set the slot's deadline themselves."""
        if self._handle is not None:
            self._handle.cancel()
        self.at = at
        # A hair late rather than early: a timer that fires before its time would have to be set again.
        self._handle = self._loop.call_later(max(0, at - now) / 1e9 + 0.0005, self._fire)

    def _fire(self) -> None:
        now = self._clock.mono_ns()
        self._handle = None
        self.at = NEVER
        following = NEVER
        for slot in self._slots:
            if slot.deadline <= now:
                # Again and again: a tool may catch the first cancellation and go on.
                slot.deadline = now + _AGAIN_NS
                slot.expired += 1
                slot.task.cancel()
            following = min(following, slot.deadline)
        if following < NEVER:
            self.wake(following, now)
