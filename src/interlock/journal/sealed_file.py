"""The files of one journal as its writer has them open: batches are sealed and appended, originals go into the pack before.

A failure to write or sync is final. Nothing is retried on that file (after a failed fsync the kernel may have dropped the
pages and would report success): `failure` is set, and every later call of the writer raises it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Self

from interlock.disk import Disk
from interlock.journal import lock
from interlock.journal.flusher import Flusher
from interlock.journal.private import Pack
from interlock.journal.reader import corrupt, scan
from interlock.journal.sealing import JOURNAL_NAME, Head, encode_batches, genesis, seal_digest, seal_line
from interlock.model.clock import Clock
from interlock.model.errors import IntegrityError, InterlockError, StoreError, UsageError
from interlock.model.events import Event, Seal

Durability = Literal["full", "batch", "memory", "off"]
"""`memory` is not written to a file but kept in a `MemoryJournal`."""

BATCH_SYNC_AFTER_S: Final = 0.003
"""Durability `batch` promises 5 ms; the rest is for the sync itself."""


class SealedFile:
    """`commit` is called by one thread at a time, the loop's or the flusher's; durability `batch` syncs on the flusher's."""

    def __init__(
        self, run_dir: Path, disk: Disk, clock: Clock, durability: Durability, head: Head, descriptors: tuple[int, int]
    ) -> None:
        """`descriptors` are those of the lock and of the journal; both are -1 if nothing is written."""
        self.head = head
        """The journal's position on disk."""
        self.failure: StoreError | None = None
        """What ended this journal."""
        self.sync_ns = 0.0
        """How long a sync takes on average: 0 before the first."""
        self.pack = Pack(run_dir, head.epoch + 1, disk)
        self.flusher = Flusher()
        self._disk = disk
        self._clock = clock
        self._durability = durability
        self._lock_fd, self._fd = descriptors
        self._epoch = head.epoch + 1
        self._unsynced = False

    @classmethod
    def open(cls, run_dir: Path, disk: Disk, clock: Clock, durability: Durability, *, create: bool) -> Self:
        """Take the lock of a run's directory and check its journal; see `JournalWriter.open`."""
        head = Head(run=run_dir.name, seq=-1, seal=genesis(run_dir.name), epoch=0)
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

    def commit(self, events: Sequence[Event], originals: list[tuple[str, bytes]]) -> None:
        """Write originals first, then the batches, each synced before the next is written. Sets `failure`, and does not raise."""
        full = self._durability == "full"
        try:
            if originals:
                self.pack.write(originals)
                if full:
                    self.pack.sync()
            for count, lines in encode_batches(events, self.head.seq + 1):
                seal = self._seal(count, lines)
                self._disk.write(self._fd, lines + seal_line(seal))
                if full:
                    self._sync_measured()
                self.head = Head(run=self.head.run, seq=seal.last, seal=seal.digest, epoch=seal.epoch)
            if self._durability == "batch" and not self._unsynced:
                self._unsynced = True
                self.flusher.submit(self._sync_later)
        except Exception as error:  # noqa: BLE001 - any error ends this journal; none is swallowed
            self._poison(error)
        except BaseException:
            self._poison(StoreError("the flush of the journal was interrupted"))
            raise

    def sync(self) -> None:
        """Sync the writes of durability `batch`. The flag is cleared first, so that a write meanwhile requests another sync."""
        self._unsynced = False
        try:
            self.pack.sync()
            self._disk.sync_data(self._fd)
        except BaseException as error:  # noqa: BLE001 - kept for the next call: this thread has no caller
            self._poison(error)

    def close(self) -> None:
        """Let go of the files and the lock."""
        self.flusher.close()
        self.failure = self.failure or StoreError(f"the journal of run `{self.head.run}` is closed")
        self.pack.close()
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)

    def _seal(self, count: int, lines: bytes) -> Seal:
        first = self.head.seq + 1
        last = first + count - 1
        return Seal(
            first=first,
            last=last,
            bytes=len(lines),
            epoch=self._epoch,
            prev=self.head.seal,
            digest=seal_digest(self.head.seal, first, last, self._epoch, lines),
        )

    def _sync_measured(self) -> None:
        start = self._clock.mono_ns()
        self._disk.sync_data(self._fd)
        self.sync_ns += 0.2 * (self._clock.mono_ns() - start - self.sync_ns)

    def _sync_later(self) -> None:
        time.sleep(BATCH_SYNC_AFTER_S)
        self.sync()

    def _poison(self, error: BaseException) -> None:
        if self.failure is not None:
            return
        if isinstance(error, StoreError):
            self.failure = error
        elif isinstance(error, InterlockError):
            self.failure = StoreError(error.message, code=error.code, hint=error.hint)
        else:
            self.failure = StoreError(f"the journal cannot be written: {type(error).__name__}", code="internal")
            self.failure.__cause__ = error


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
