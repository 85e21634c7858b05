"""Enforces time-outs: one watchdog for all the actions of a proposal or run, with a single timer however many of them run.

A worker writes its deadline into its slot; the watchdog sleeps until the earliest one. An action that ends in time costs no
timer, only one comparison.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol, TypeVar

from interlock.model.clock import Clock

NEVER: Final = 1 << 62
_AGAIN_NS: Final = 5_000_000_000
"""How long a cancelled tool may clean up before it is cancelled again."""
T = TypeVar("T")


class Pool(Protocol):
    """The functions of its pool that an action may use."""

    @property
    def alone(self) -> bool:
        """True if nothing else of the run can happen before the loop's next turn."""
        ...

    async def wait_outside(self, answer: Awaitable[T]) -> T:
        """Wait for a person, while another action uses this one's place."""
        ...


class Alone:
    """The pool of a call outside the plan, which runs alone."""

    alone = True

    async def wait_outside(self, answer: Awaitable[T]) -> T:
        """No other call could use the place."""
        return await answer


class Slot:
    """A worker's place in the pool: the task that runs there, and its deadline.

    `expired` counts how often the watchdog cancelled the task; `stopped` holds the reason when the engine did.
    """

    __slots__ = ("_acknowledged", "before", "deadline", "ended_ns", "expired", "pool", "stopped", "task", "watchdog")

    def __init__(self, task: asyncio.Task[None], watchdog: Watchdog, pool: Pool) -> None:
        """A slot without a deadline, watched from now on."""
        self.task = task
        self.pool = pool
        self.watchdog = watchdog
        watchdog.add(self)
        self.deadline = NEVER
        """When the watchdog cancels the task (monotonic nanoseconds); wake the watchdog after setting an earlier one."""
        self.ended_ns = 0
        """The end of the last attempt in this slot; saves the worker a reading of the clock."""
        self.expired = 0
        self.stopped: str | None = None
        self._acknowledged = False
        self.before = task.cancelling()
        """Cancellations requested before: without a further one, a CancelledError is the tool's own."""

    def acknowledge(self) -> None:
        """Withdraw the cancellations that the watchdog and the engine requested of the task, which may be the caller's."""
        for _ in range(self.expired):
            self.task.uncancel()
        self.expired = 0
        if self.stopped is not None and not self._acknowledged:
            self._acknowledged = True
            self.task.uncancel()


class Watchdog:
    """Cancels the task of each slot whose deadline has passed."""

    __slots__ = ("_armed", "_clock", "_handle", "_slots", "at", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """No slots, no timer."""
        self.loop = loop
        self._clock = clock
        self._slots: set[Slot] = set()
        self.at = NEVER
        """When the timer fires (monotonic nanoseconds)."""
        self._handle: asyncio.Handle | None = None
        self._armed = False
        """False while the timer is not set yet, but will be at the loop's next turn."""

    @property
    def count(self) -> int:
        """How many slots it watches: one for each worker, and one for each deadline of a proposal."""
        return len(self._slots)

    def add(self, slot: Slot) -> None:
        """Watch a slot."""
        self._slots.add(slot)

    def discard(self, slots: Iterable[Slot], *, last: bool = False) -> None:
        """Watch these slots no longer. Unless they are the `last`, the timer stays: later slots mostly have later deadlines."""
        self._slots.difference_update(slots)
        if last:
            self.close()

    def close(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.cancel()
        self._slots.clear()

    def wake(self, at: int) -> None:
        """Set the timer to an earlier time (monotonic nanoseconds).

        It is set at the loop's next turn, before which it could not fire: most proposals of quick tools have ended by then.
        """
        self.at = at
        if self._handle is not None:
            if not self._armed:
                return
            self._handle.cancel()
        self._armed = False
        self._handle = self.loop.call_soon(self._arm)

    def _arm(self) -> None:
        # Slightly late rather than early: a timer that fires too soon would have to be set again.
        seconds = max(0, self.at - self._clock.mono_ns()) / 1e9 + 0.0005
        self._armed = True
        self._handle = self.loop.call_later(seconds, self._fire)

    def _fire(self) -> None:
        now = self._clock.mono_ns()
        self._handle = None
        self.at = NEVER
        following = NEVER
        for slot in self._slots:
            if slot.deadline <= now:
                # Repeatedly: a tool may catch the first cancellation and continue.
                slot.deadline = now + _AGAIN_NS
                slot.expired += 1
                slot.task.cancel()
            following = min(following, slot.deadline)
        if following < NEVER:
            self.wake(following)


class Deadline:
    """The deadline of a whole proposal: a slot of the watchdog whose task, when it is cancelled, calls `passed`."""

    def __init__(
        self, watchdog: Watchdog, pool: Pool, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]
    ) -> None:
        """Not armed."""
        self._watchdog = watchdog
        self._pool = pool
        self._loop = loop
        self._passed = passed
        self._slot: Slot | None = None

    def arm(self, deadline_ns: int) -> None:
        """Call `passed` at that time (monotonic nanoseconds), unless it is `NEVER` or `close` comes first."""
        if deadline_ns == NEVER:
            return
        self._slot = Slot(self._loop.create_task(self._wait()), self._watchdog, self._pool)
        self._slot.deadline = deadline_ns
        self._watchdog.wake(deadline_ns)

    def close(self) -> None:
        """Disarm the deadline, even if it is about to fire."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._watchdog.discard([slot])
            slot.task.cancel()

    async def _wait(self) -> None:
        try:
            await self._loop.create_future()
        except asyncio.CancelledError:
            if self._slot is not None and self._slot.expired:
                self._passed()
