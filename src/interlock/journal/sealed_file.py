"""The open files of a journal's writer: appends sealed batches, and writes originals to the pack first.

A failure to write or sync is final. Nothing is retried on that file (after a failed fsync, the kernel may have dropped
the pages and report success): `failure` is set, and every later call of the writer raises it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from interlock.disk import Disk
from interlock.journal import lock
from interlock.journal.flusher import Flusher
from interlock.journal.late_sync import LATE_SYNC
from interlock.journal.private import Pack
from interlock.journal.reader import corrupt, scan
from interlock.journal.sealing import HEAD_NAME, JOURNAL_NAME, Head, encode_batches, genesis, seal_digest, seal_line
from interlock.model.clock import Clock
from interlock.model.errors import IntegrityError, InterlockError, StoreError, UsageError
from interlock.model.events import Event, Seal

Durability = Literal["full", "batch", "memory", "off"]
"""`memory` uses a `MemoryJournal` instead of a file."""


class SealedFile:
    """`commit` is called by one thread at a time (the loop's or the flusher's), `sync` (durability `batch`) by any thread."""

    def __init__(
        self, run_dir: Path, disk: Disk, clock: Clock, durability: Durability, head: Head, descriptors: tuple[int, int]
    ) -> None:
        """`descriptors`: the lock file's and the journal's; both are -1 if nothing is written."""
        self.head = head
        """The journal's position on disk."""
        self.failure: StoreError | None = None
        """The error that ended this journal."""
        self.sync_ns = 0.0
        """Average duration of a sync; 0 before the first."""
        self.pack = Pack(run_dir, head.epoch + 1, disk)
        self.flusher = Flusher()
        self._disk = disk
        self._clock = clock
        self._durability = durability
        self._lock_fd, self._fd = descriptors
        self._epoch = head.epoch + 1
        self._syncing = threading.Lock()
        self._unsynced = self._closed = False
        self._new_names: tuple[Path, ...] = ()
        """Directories with new names, perhaps of an earlier writer that wrote nothing: synced with the first events."""

    @classmethod
    def open(cls, run_dir: Path, disk: Disk, clock: Clock, durability: Durability, *, create: bool) -> Self:
        """Take the run's lock and check its journal; see `JournalWriter.open`."""
        head = Head(run=run_dir.name, seq=-1, seal=genesis(run_dir.name), epoch=0)
        if durability == "off":
            return cls(run_dir, disk, clock, durability, head, (-1, -1))
        if create:
            disk.make_directory(run_dir.parent)
            disk.make_directory(run_dir, durable=False)
        lock_fd = lock.take(run_dir, disk)
        try:
            if create:
                _require_new(run_dir)
            else:
                head = _require_whole(run_dir)
            if create:
                os.close(disk.open_append(run_dir / HEAD_NAME))
            fd = disk.open_append(run_dir / JOURNAL_NAME)
        except BaseException:
            os.close(lock_fd)
            raise
        found = cls(run_dir, disk, clock, durability, head, (lock_fd, fd))
        found._new_names = (run_dir.parent, run_dir)
        return found

    def commit(self, events: Sequence[Event], originals: list[tuple[str, bytes]]) -> None:
        """Write the originals, then the batches, syncing each before the next. Sets `failure` instead of raising."""
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
                    self._sync_names()
                self.head = Head(run=self.head.run, seq=seal.last, seal=seal.digest, epoch=seal.epoch)
            if self._durability == "batch" and not self._unsynced:
                self._unsynced = True
                LATE_SYNC.schedule(self.sync)
        except Exception as error:  # noqa: BLE001 - any error ends this journal; none is swallowed
            self._poison(error)
        except BaseException:
            self._poison(StoreError("the flush of the journal was interrupted"))
            raise

    def sync(self) -> None:
        """Sync what durability `batch` has written but not synced. Sets `failure` instead of raising."""
        with self._syncing:  # a second caller waits for the sync of the first
            if not self._unsynced or self._closed:
                return
            self._unsynced = False  # cleared first: a write during the sync requests another one
            try:
                self.pack.sync()
                self._disk.sync_data(self._fd)
                self._sync_names()
            except BaseException as error:  # noqa: BLE001 - kept for the next call: a late sync has no caller
                self._poison(error)

    def close(self) -> None:
        """Close the files and release the lock."""
        self.flusher.close()
        self.failure = self.failure or StoreError(f"the journal of run `{self.head.run}` is closed")
        with self._syncing:
            self._closed = True
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

    def _sync_names(self) -> None:
        """Make the names of a new run durable: after its first events, whose sync has then done most of this already."""
        for directory in self._new_names:
            self._disk.sync_directory(directory)
        self._new_names = ()

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
