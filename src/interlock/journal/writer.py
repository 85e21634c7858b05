"""Writes a run's journal: events are collected in memory, and a flush writes all of them under one seal.

Everything but `_commit` runs on one thread, that of the event loop. `append` costs a fraction of a microsecond and encodes
nothing. `durable` is the group commit: all waiters share one write and one fdatasync. On a fast disk the flush runs on the
loop itself, because a hop to another thread costs more than it saves; on a slow one the flusher thread waits.

A failure to write or sync is final. Nothing is retried on that file (after a failed fsync the kernel may have dropped the
pages and would report success); the writer is poisoned, and every later call raises the same error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec

from interlock.disk import Disk
from interlock.journal import lock
from interlock.journal.flusher import Flusher
from interlock.journal.private import Pack
from interlock.journal.reader import corrupt, scan
from interlock.journal.sealing import JOURNAL_NAME, Head, encode_batches, genesis, seal_digest, seal_line
from interlock.model.canonical import canonical, digest_bytes, keyed_digest
from interlock.model.clock import Clock
from interlock.model.errors import IntegrityError, InterlockError, StoreError, UsageError
from interlock.model.events import Event, Kept, Seal
from interlock.model.limits import DEFAULT_LIMITS

Durability = Literal["full", "batch", "memory", "off"]
"""`memory` is not written by a `JournalWriter` but kept in a `MemoryJournal`."""

INLINE_ALONE_NS: Final = 2_000_000
"""With one waiter, a flush runs on the loop if syncing takes less than this on average (measured: a hop costs 60 us)."""
INLINE_COMPANY_NS: Final = 500_000
"""The limit with more waiters, when the loop has other work to do."""
INLINE_ORIGINALS_BYTES: Final = 256 * 1024
BATCH_SYNC_AFTER_S: Final = 0.003
"""Durability `batch` promises 5 ms; the rest is for the sync itself."""
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
    """The one live writer of a run. Make it with `open`; `close` it, or use it as a context manager."""

    def __init__(
        self, run_dir: Path, disk: Disk, clock: Clock, durability: Durability, head: Head, descriptors: tuple[int, int]
    ) -> None:
        """Not for callers: `open` takes the lock and checks the journal first."""
        self.durability: Durability = durability
        self._disk = disk
        self._clock = clock
        self._lock_fd, self._fd = descriptors
        self._head = head
        self._epoch = head.epoch + 1
        self._pack = Pack(run_dir, self._epoch, disk)
        self._next = head.seq + 1
        self._done = self._next  # events before this one are as durable as the level promises
        self._pending: list[Event] = []
        self._originals: list[tuple[str, bytes]] = []
        self._original_bytes = 0
        self._failure: StoreError | None = None
        self._off = durability == "off"
        self._closed = False
        # group commit
        self._waiters: list[asyncio.Future[None]] = []
        self._flight: _Work | None = None
        self._scheduled: asyncio.AbstractEventLoop | None = None
        self._kicked: asyncio.AbstractEventLoop | None = None
        self._company = False  # did the last flush have several waiters?
        self._again = False  # was `kick` called during a flush?
        self._this_turn: asyncio.AbstractEventLoop | None = None  # was there an inline flush in this turn of the loop?
        self._flusher = Flusher()
        self._sync_ns = 0.0
        self._unsynced = False

    @classmethod
    def open(
        cls, run_dir: Path, *, run_id: str, disk: Disk, clock: Clock, durability: Durability = "full", create: bool
    ) -> Self:
        """Become the run's writer. `create` makes a new run; otherwise writing continues after the last seal.

        `run_dir` is named `run_id`. With durability `off` nothing is touched. Raises: UsageError (`run_exists`,
        `not_found`); StoreError (`run_locked` and disk errors); IntegrityError (`journal_corrupt`, or `needs_recovery` if
        the last writer left a torn tail: `recover` first).
        """
        if run_dir.name != run_id:
            raise UsageError(f"the directory of run `{run_id}` must have its name")
        head = Head(run=run_id, seq=-1, seal=genesis(run_id), epoch=0)
        if durability == "off":
            return cls(run_dir, disk, clock, durability, head, (-1, -1))
        if create:
            disk.make_directory(run_dir)
        lock_fd = lock.take(run_dir, disk)
        try:
            if create:
                _require_new(run_dir)
            else:
                head = _require_whole(run_dir)
            fd = disk.open_append(run_dir / JOURNAL_NAME)
            try:
                disk.sync_directory(run_dir)
            except BaseException:
                os.close(fd)
                raise
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(run_dir, disk, clock, durability, head, (lock_fd, fd))

    def append(self, event: Event) -> int:
        """Add an event to the journal and return its number; on disk after the next flush. Do not modify it afterwards.

        Here it gets its number, and its times if it has none. Raises: the StoreError that ended the journal.
        """
        if self._failure is not None:
            raise self._failure
        seq = self._next
        event.seq = seq
        if event.ts < 0:
            event.ts, event.mono = self._clock.now_us(), self._clock.mono_ns()
        self._next = seq + 1
        if not self._off:
            self._pending.append(event)
        return seq

    def keep(self, data: bytes, view: Any, value: Any) -> Kept:
        """The `Kept` form of a value: `data` is its canonical JSON, `view` the redacted value (or `value` itself).

        The view goes into the event unless it is over 64 KiB (`Limits.inline_value_bytes`); the original goes to `private/`
        with the next flush if the event does not hold it. The view is encoded here, so later changes to the value do not
        affect the journal. With durability `off` nothing is computed.
        """
        if self._off:
            return _NOT_KEPT
        if self._failure is not None:
            raise self._failure
        shown = data if view is value else canonical(view)
        redacted = shown != data
        inline = len(shown) <= DEFAULT_LIMITS.inline_value_bytes
        private = not inline or redacted
        run_key = self._pack.key if private else b""  # created here, because the flush may run on another thread
        key = keyed_digest(run_key, "value", data) if redacted else digest_bytes("value", data)
        if private:
            self._originals.append((key, data))
            self._original_bytes += len(data)
        return Kept(digest=key, bytes=len(data), view=msgspec.Raw(shown) if inline else None, private=private)

    async def durable(self, *, alone: bool = False) -> None:
        """Return once everything appended so far is as durable as the level promises.

        `alone` promises that nothing else appends before the loop's next turn, so there is no reason to wait for it. `full`:
        on disk. `batch`: written, which a killed process survives, and on disk within 5 ms. `off`: at once. Raises:
        StoreError, the same one on every later call.
        """
        if self._failure is not None:
            raise self._failure
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
            # The second caller within one turn of the loop: wait for the others of this turn.
            self._company = True
        waiter = loop.create_future()
        if self._flight is not None and self._flight.end >= self._next:
            self._flight.waiters.append(waiter)
        else:
            self._waiters.append(waiter)
            self._schedule(loop)
        await waiter

    def kick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a flush soon (from this event loop), for events without a waiter. The next call raises a failure.

        It starts in the second turn of the loop, because by then another caller may flush with a waiter, and include these
        events.
        """
        if self._kicked is not loop and self._pending and self._failure is None:
            self._kicked = loop
            loop.call_soon(self._next_turn, loop)

    def flush(self) -> None:
        """Put everything appended so far on disk (durability `batch` included) before returning. Raises: StoreError."""
        self._settle_flight()
        waiters, self._waiters = self._waiters, []
        try:
            self._run_inline()
            if self.durability == "batch":
                self._sync_batch()
        finally:
            self._answer(waiters)
        if self._failure is not None:
            raise self._failure

    def head(self) -> Head:
        """The journal's position on disk; later events are not sealed yet."""
        return self._head

    def close(self) -> None:
        """Flush, give up the lock. A second call does nothing.

        Raises: StoreError, after releasing everything, if some appended events are not on disk.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._flusher.close()
            self._failure = self._failure or StoreError(f"the journal of run `{self._head.run}` is closed")
            self._pack.close()
            for fd in (self._fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)

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
        if self._scheduled is not loop:  # not only None: a callback of a loop that was closed never runs
            self._scheduled = loop
            loop.call_soon(self._turn)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._kicked = None
        if self._pending and self._failure is None:
            self._schedule(loop)

    def _turn(self) -> None:
        """Flush once for all tasks that were ready in this turn of the loop."""
        self._scheduled = None
        if self._flight is not None:
            self._again = True  # when it has landed
            return
        self._company = len(self._waiters) > 1
        if self._failure is not None or not self._pending or self._quick(len(self._waiters)):
            waiters, self._waiters = self._waiters, []
            try:
                self._run_inline()
            except StoreError:
                pass  # kept in _failure
            finally:
                self._answer(waiters)
            return
        self._flight = self._take(asyncio.get_running_loop())

    def _take(self, loop: asyncio.AbstractEventLoop) -> _Work:
        work = _Work(self._pending, self._originals, self._next, self._waiters, loop)
        self._pending, self._originals, self._waiters, self._original_bytes = [], [], [], 0
        work.finished = finished = threading.Event()

        def job() -> None:
            with contextlib.suppress(BaseException):  # kept in _failure: this thread has no caller to raise to
                self._commit(work)
            finished.set()
            with contextlib.suppress(RuntimeError):  # the loop was closed: the next caller settles the flush
                loop.call_soon_threadsafe(self._landed, work)

        self._flusher.submit(job)
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
            if self._failure is not None:
                waiter.set_exception(self._failure)
            else:
                waiter.set_result(None)

    def _turn_over(self) -> None:
        self._this_turn = None

    def _quick(self, waiters: int) -> bool:
        """True if the flush is short enough to run on the loop."""
        if self.durability == "batch":
            return True
        limit = INLINE_ALONE_NS if waiters <= 1 else INLINE_COMPANY_NS
        return self._sync_ns < limit and self._original_bytes < INLINE_ORIGINALS_BYTES

    # -- the flush itself -------------------------------------------------------------------------------------------------

    def _run_inline(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._pending and not self._originals:
            return
        work = _Work(self._pending, self._originals, self._next, [], None)
        self._pending, self._originals, self._original_bytes = [], [], 0
        self._commit(work)
        if self._failure is not None:
            raise self._failure
        self._done = work.end

    def _commit(self, work: _Work) -> None:
        """Originals first, then the batches, each synced before the next is written. Sets `_failure`; on either thread."""
        try:
            if work.originals:
                self._pack.write(work.originals)
                if self.durability == "full":
                    self._pack.sync()
            for count, lines in encode_batches(work.events, self._head.seq + 1):
                seal = self._seal(count, lines)
                self._disk.write(self._fd, lines + seal_line(seal))
                if self.durability == "full":
                    self._sync_measured()
                self._head = Head(run=self._head.run, seq=seal.last, seal=seal.digest, epoch=seal.epoch)
            if self.durability == "batch" and not self._unsynced:
                self._unsynced = True
                self._flusher.submit(self._sync_later)
        except Exception as error:  # noqa: BLE001 - any error ends this journal; none is swallowed
            self._poison(error)
        except BaseException:
            self._poison(StoreError("the flush of the journal was interrupted"))
            raise

    def _seal(self, count: int, lines: bytes) -> Seal:
        first = self._head.seq + 1
        last = first + count - 1
        return Seal(
            first=first,
            last=last,
            bytes=len(lines),
            epoch=self._epoch,
            prev=self._head.seal,
            digest=seal_digest(self._head.seal, first, last, self._epoch, lines),
        )

    def _sync_measured(self) -> None:
        start = self._clock.mono_ns()
        self._disk.sync_data(self._fd)
        self._sync_ns += 0.2 * (self._clock.mono_ns() - start - self._sync_ns)

    def _sync_later(self) -> None:
        time.sleep(BATCH_SYNC_AFTER_S)
        self._sync_batch()

    def _sync_batch(self) -> None:
        """Sync the writes of durability `batch`. The flag is cleared first, so that a write meanwhile requests another sync."""
        self._unsynced = False
        try:
            self._pack.sync()
            self._disk.sync_data(self._fd)
        except BaseException as error:  # noqa: BLE001 - kept for the next call: this thread has no caller
            self._poison(error)

    def _poison(self, error: BaseException) -> None:
        if self._failure is not None:
            return
        if isinstance(error, StoreError):
            self._failure = error
        elif isinstance(error, InterlockError):
            self._failure = StoreError(error.message, code=error.code, hint=error.hint)
        else:
            self._failure = StoreError(f"the journal cannot be written: {type(error).__name__}", code="internal")
            self._failure.__cause__ = error


def _require_new(run_dir: Path) -> None:
    if os.path.lexists(run_dir / JOURNAL_NAME):
        raise UsageError(f"run `{run_dir.name}` exists already", code="run_exists", hint="use another run id")


def _require_whole(run_dir: Path) -> Head:
    status = scan(run_dir)
    if status.corruption is not None:
        raise corrupt(run_dir, status.corruption)
    if status.torn is not None:
        raise IntegrityError(
            f"the last process of run `{run_dir.name}` died while writing",
            code="needs_recovery",
            hint="run `interlock recover`",
        )
    return status.head
