"""Writes a run's journal: events are collected in memory, and a flush writes them under one seal.

Everything but the flush itself (`sealed_file`) runs on one thread, that of the event loop. `append` takes a fraction of
a microsecond and encodes nothing. `durable` is the group commit: all waiters share one write and one fdatasync. On a
fast disk the flush runs on the loop itself, because switching threads costs more than it saves; on a slow disk the
flusher thread waits.

A failure to write or sync is final: every later call raises the same error.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from interlock.disk import Disk
from interlock.journal.sealed_file import Durability, SealedFile
from interlock.journal.sealing import Head
from interlock.model.canonical import canonical, digest_bytes, keyed_digest
from interlock.model.clock import Clock
from interlock.model.errors import StoreError, UsageError
from interlock.model.events import APART, Event, Kept
from interlock.model.limits import DEFAULT_LIMITS

INLINE_ALONE_NS: Final = 2_000_000
"""With one waiter, flush on the loop if the average sync takes less than this (measured: a thread switch costs 60 us)."""
INLINE_COMPANY_NS: Final = 500_000
"""The same limit with several waiters, when the loop has other work to do."""
INLINE_ORIGINALS_BYTES: Final = 256 * 1024
_NOT_KEPT: Final = Kept(digest="", bytes=0)


class _Work:
    """The work of one flush, and its waiters."""

    __slots__ = ("end", "events", "finished", "loop", "originals", "waiters")

    def __init__(
        self,
        events: list[Event],
        originals: list[tuple[str, bytes]],
        end: int,
        waiters: list[asyncio.Future[None]],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.events = events
        self.originals = originals
        self.waiters = waiters
        self.end = end
        self.loop = loop
        self.finished: threading.Event | None = None
        """Set when the flusher thread has finished; None if the flush runs on the loop."""


class JournalWriter:
    """The only live writer of a run. Create it with `open`; `close` it, or use it as a context manager."""

    def __init__(self, file: SealedFile, clock: Clock, durability: Durability) -> None:
        """Called by `open`, which takes the lock and checks the journal first."""
        self.durability: Durability = durability
        self._clock = clock
        self._file = file
        self._next = self._done = file.head.seq + 1  # events before `_done` are durable
        self._pending: list[Event] = []
        self._originals: list[tuple[str, bytes]] = []
        self._original_bytes = 0
        self._off = durability == "off"
        self._closed = False
        # group commit
        self._waiters: list[asyncio.Future[None]] = []
        self._flight: _Work | None = None
        self._scheduled: asyncio.AbstractEventLoop | None = None
        self._kicked: asyncio.AbstractEventLoop | None = None
        self._company = False  # the last flush had several waiters
        self._again = False  # `kick` was called during a flush
        self._this_turn: asyncio.AbstractEventLoop | None = None  # the loop in whose current turn an inline flush ran

    @classmethod
    def open(
        cls, run_dir: Path, *, run_id: str, disk: Disk, clock: Clock, durability: Durability = "full", create: bool
    ) -> Self:
        """Become the run's writer. `create` starts a new run; otherwise writing continues after the last seal.

        `run_dir` must be named `run_id`. With durability `off` no file is touched. Raises: UsageError (`run_exists`,
        `not_found`); StoreError (`run_locked` and disk errors); IntegrityError (`journal_corrupt`, or `needs_recovery`
        if the last writer left a torn tail: call `recover` first).
        """
        if run_dir.name != run_id:
            raise UsageError(f"the directory of run `{run_id}` must be named like the run")
        return cls(SealedFile.open(run_dir, disk, clock, durability, create=create), clock, durability)

    def append(self, event: Event) -> int:
        """Add an event to the journal and return its number. Do not modify the event afterwards.

        Sets the event's number, and its times if it has none. The next flush writes it. Raises: StoreError.
        """
        if self._file.failure is not None:
            raise self._file.failure
        event.seq = seq = self._next
        if event.ts < 0:
            clock = self._clock
            event.ts, event.mono = clock.now_us(), clock.mono_ns()
        self._next = seq + 1
        if not self._off:
            self._pending.append(event)
        return seq

    def keep(self, data: bytes, view: Any, value: Any) -> Kept:
        """The `Kept` form of a value: `data` is its canonical JSON, `view` the redacted value (or `value` itself).

        The event holds the view unless it is over 64 KiB (`Limits.inline_value_bytes`). If the event does not hold the
        original, the next flush writes it to `private/`. The view is encoded here, so the value may change afterwards.
        With durability `off` nothing is computed. The view `APART` means that everything is redacted.
        """
        if self._off:
            return _NOT_KEPT
        if self._file.failure is not None:
            raise self._file.failure
        shown = data if view is value else b"" if view is APART else canonical(view)
        redacted = shown != data
        inline = view is not APART and len(shown) <= DEFAULT_LIMITS.inline_value_bytes
        private = not inline or redacted
        run_key = self._file.pack.key if private else b""  # created here, because the flush may run on another thread
        key = keyed_digest(run_key, "value", data) if redacted else digest_bytes("value", data)
        if private:
            self._originals.append((key, data))
            self._original_bytes += len(data)
        return Kept(digest=key, bytes=len(data), view=msgspec.Raw(shown) if inline else None, private=private)

    async def durable(self, *, alone: bool = False) -> None:
        """Return once everything appended so far is as durable as the level promises.

        `full`: on disk. `batch`: written, which survives a killed process, and on disk within 5 ms. `off`: returns at
        once. `alone` promises that nothing else appends before the loop's next turn, so the flush need not wait for it.
        Raises: StoreError, the same one on every later call.
        """
        if self._file.failure is not None:
            raise self._file.failure
        if self._off or self._done >= self._next:
            return
        if alone and self._flight is None and not self._waiters and not self._company and self._quick(1):
            self._run_inline()
            return
        loop = asyncio.get_running_loop()
        if self._flight is not None and self._flight.loop is not loop:
            self._settle_flight()  # its loop was closed, so its callback never runs
        if self._flight is None and not self._waiters and not self._company:
            if self._this_turn is not loop and self._quick(1):
                self._this_turn = loop
                loop.call_soon(self._turn_over)
                self._run_inline()
                return
            # This is the second caller in one turn of the loop, so wait for the rest of the turn.
            self._company = True
        waiter = loop.create_future()
        if self._flight is not None and self._flight.end >= self._next:
            self._flight.waiters.append(waiter)
        else:
            self._waiters.append(waiter)
            self._schedule(loop)
        await waiter

    def kick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a flush soon, from this event loop, for events without a waiter. A failure is raised by the next call.

        It starts in the loop's second turn, because by then a flush with a waiter may have included these events.
        """
        if self._kicked is not loop and self._pending and self._file.failure is None:
            self._kicked = loop
            loop.call_soon(self._next_turn, loop)

    def flush(self, *, synced: bool = True) -> None:
        """Write everything appended before returning, and sync it (`batch`: only if `synced`). Raises: StoreError."""
        self._settle_flight()
        waiters, self._waiters = self._waiters, []
        try:
            self._run_inline()
            if synced and self.durability == "batch":
                self._file.sync()
        finally:
            self._answer(waiters)
        if self._file.failure is not None:
            raise self._file.failure

    def head(self) -> Head:
        """The journal's position on disk. Later events are not sealed yet."""
        return self._file.head

    def close(self) -> None:
        """Flush, and release the lock. A second call does nothing.

        Raises: StoreError, after releasing everything, if some appended events are not on disk.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            self.close()
        except StoreError as failure:
            if error is None:
                raise
            error.add_note(f"the journal could not be closed: {failure.message}")

    # -- group commit: when and where a flush runs ------------------------------------------------------------------------

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._scheduled is not loop:  # compared, because a callback of a closed loop never runs
            self._scheduled = loop
            loop.call_soon(self._turn)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._kicked = None
        if self._pending and self._file.failure is None:
            self._schedule(loop)

    def _turn(self) -> None:
        """Flush once for all tasks that were ready in this turn of the loop."""
        self._scheduled = None
        if self._flight is not None:
            self._again = True  # flush again when the current one has finished
            return
        self._company = len(self._waiters) > 1
        if self._file.failure is not None or not self._pending or self._quick(len(self._waiters)):
            waiters, self._waiters = self._waiters, []
            try:
                self._run_inline()
            except StoreError:
                pass  # the failure is kept in `SealedFile.failure`
            finally:
                self._answer(waiters)
            return
        self._flight = self._take(asyncio.get_running_loop())

    def _take(self, loop: asyncio.AbstractEventLoop) -> _Work:
        work = _Work(self._pending, self._originals, self._next, self._waiters, loop)
        self._pending, self._originals, self._waiters, self._original_bytes = [], [], [], 0
        work.finished = finished = threading.Event()

        def job() -> None:
            # kept in `SealedFile.failure`: this thread has no caller to raise to
            with contextlib.suppress(BaseException):
                self._file.commit(work.events, work.originals)
            finished.set()
            with contextlib.suppress(RuntimeError):  # the loop was closed: the next caller settles the flush
                loop.call_soon_threadsafe(self._landed, work)

        self._file.flusher.submit(job)
        return work

    def _landed(self, work: _Work) -> None:
        if self._flight is not work:
            return
        self._flight = None
        self._done = max(self._done, work.end)
        self._answer(work.waiters)
        again, self._again = self._again, False
        if self._waiters or again:
            self._turn()

    def _settle_flight(self) -> None:
        if self._flight is not None:
            assert self._flight.finished is not None
            self._flight.finished.wait()
            self._landed(self._flight)

    def _answer(self, waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if waiter.done():
                continue
            if self._file.failure is not None:
                waiter.set_exception(self._file.failure)
            else:
                waiter.set_result(None)

    def _turn_over(self) -> None:
        self._this_turn = None

    def _quick(self, waiters: int) -> bool:
        """True if the flush is short enough to run on the loop."""
        if self.durability == "batch":
            return True
        limit = INLINE_ALONE_NS if waiters <= 1 else INLINE_COMPANY_NS
        return self._file.sync_ns < limit and self._original_bytes < INLINE_ORIGINALS_BYTES

    def _run_inline(self) -> None:
        if self._file.failure is not None:
            raise self._file.failure
        if not self._pending and not self._originals:
            return
        events, originals, end = self._pending, self._originals, self._next
        self._pending, self._originals, self._original_bytes = [], [], 0
        self._file.commit(events, originals)
        if self._file.failure is not None:
            raise self._file.failure
        self._done = end
