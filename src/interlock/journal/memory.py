"""Keeps the events of runs in memory, for a runtime without a state directory (durability `memory`).

A `MemoryJournal` has the interface of a `JournalWriter`, but nothing in it survives the process: it has no seals, no
lock and no recovery, and `durable` only guarantees order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import Any, Final, Self

import msgspec

from interlock.journal.sealing import Head, genesis
from interlock.model.canonical import canonical, digest_bytes, keyed_digest
from interlock.model.clock import Clock
from interlock.model.events import APART, Event, Kept, Unknown

EVENTS_MAX: Final = 100_000
"""Maximum number of events of all runs together. Beyond it, the oldest runs are dropped whole, except the one being written."""


class MemoryJournal:
    """The events of one run, in memory. Created by `KeptRuns.open`."""

    def __init__(self, kept: KeptRuns, run_id: str, key: bytes, clock: Clock) -> None:
        """Start with no events. `key` is the HMAC key for the digests of redacted values."""
        self._kept = kept
        self._clock = clock
        self._run_id = run_id
        self._key = key
        self.events: list[Event | Unknown] = []
        """The events, in order. Callers must not change the list."""

    def append(self, event: Event) -> int:
        """Add an event and return its number. Sets the event's times if it has none."""
        event.seq = len(self.events)
        if event.ts < 0:
            event.ts, event.mono = self._clock.now_us(), self._clock.mono_ns()
        self.events.append(event)
        self._kept.count(self._run_id)
        return event.seq

    def keep(self, data: bytes, view: Any, value: Any) -> Kept:
        """The `Kept` form of a value, as in `JournalWriter.keep`. The original is dropped."""
        if view is APART:
            return Kept(digest=keyed_digest(self._key, "value", data), bytes=len(data))
        shown = data if view is value else canonical(view)
        redacted = shown != data
        key = keyed_digest(self._key, "value", data) if redacted else digest_bytes("value", data)
        return Kept(digest=key, bytes=len(data), view=msgspec.Raw(shown), private=False)

    async def durable(self, *, alone: bool = False) -> None:
        """Return at once: there is no disk to wait for."""

    def kick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do nothing: there is nothing to flush."""

    def flush(self, *, synced: bool = True) -> None:
        """Do nothing: there is nothing to flush."""

    def head(self) -> Head:
        """The position after the last event. Its seal is always the genesis digest."""
        return Head(run=self._run_id, seq=len(self.events) - 1, seal=genesis(self._run_id), epoch=1)

    def close(self) -> None:
        """Do nothing: the events stay readable."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, _error: BaseException | None, _traceback: object) -> None:
        self.close()


class KeptRuns:
    """The in-memory journals of one runtime, oldest run first."""

    def __init__(self, key: bytes, clock: Clock, *, events_max: int = EVENTS_MAX) -> None:
        """Start with no runs. `key` is the HMAC key for digests of redacted values, which so cannot confirm a guess."""
        self._key = key
        self._clock = clock
        self._events_max = events_max
        self._runs: OrderedDict[str, MemoryJournal] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def open(self, run_id: str) -> MemoryJournal:
        """Create the journal of a new run."""
        with self._lock:
            journal = self._runs[run_id] = MemoryJournal(self, run_id, self._key, self._clock)
        return journal

    def get(self, run_id: str) -> MemoryJournal | None:
        """The journal of a run; None if the run is unknown or was dropped to stay within `events_max`."""
        return self._runs.get(run_id)

    def count(self, writing: str) -> None:
        """Count an event added to run `writing`, and drop the oldest other runs if there are too many events."""
        with self._lock:
            self._count += 1
            while self._count > self._events_max:
                oldest = next((run_id for run_id in self._runs if run_id != writing), None)
                if oldest is None:
                    return
                self._count -= len(self._runs.pop(oldest).events)
