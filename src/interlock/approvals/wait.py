"""Waits for an answer from another process, without a busy loop.

A process that changes a hold touches a file in the state directory after the commit; a waiting process watches that
file's directory with inotify and reads the database after a touch. It also reads once a second, and when the hold
expires, because a touch can be lost (the writer was killed, or the file system does not notify).

inotify(7) is called through ctypes: the standard library has no binding.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from interlock.approvals.hold import Hold
from interlock.approvals.store import ApprovalStore
from interlock.lazy import lazy
from interlock.model.errors import StoreError, UsageError

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy("asyncio")

POLL_S: Final = 1.0

_IN_ATTRIB, _IN_CREATE = 0x4, 0x100  # linux/inotify.h
_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK


class Wake(Protocol):
    """How waiters learn that a hold has changed."""

    def ring(self) -> None:
        """Signal that a hold has changed. Never raises."""
        ...

    def watch(self) -> int | None:
        """Returns a descriptor that becomes readable when a hold changes, or None. The caller closes it."""
        ...


class LocalWake:
    """For holds in memory, which no other process can change."""

    def __init__(self) -> None:
        """Starts without watchers."""
        self._lock = threading.Lock()
        self._watches: set[int] = set()

    def ring(self) -> None:
        """Wake every watcher."""
        with self._lock:
            for watch in self._watches:
                with contextlib.suppress(OSError):  # the counter is full, so its watcher is already being woken
                    os.eventfd_write(watch, 1)

    def watch(self) -> int:
        """Returns a separate descriptor for each watcher: reading one does not consume another watcher's notification."""
        watch = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Return a duplicate: the caller may close it at any time, and its number may then name another file.
        with self._lock:
            self._watches.add(watch)
        return os.dup(watch)

    def close(self) -> None:
        """Stop waking watchers."""
        with self._lock:
            for watch in self._watches:
                os.close(watch)
            self._watches.clear()


class WakeFile:
    """The file to touch. `directory` should contain nothing that is written for other reasons."""

    def __init__(self, directory: Path, name: str = "approvals") -> None:
        """Create the directory (0700) if it does not exist."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / name

    def ring(self) -> None:
        """Touch the file. A failure is ignored, because waiters poll every `POLL_S`."""
        with contextlib.suppress(OSError):
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.utime(fd)
            finally:
                os.close(fd)

    def watch(self) -> int | None:
        """Returns an inotify descriptor on the directory."""
        return watch_directory(self.path.parent)


class _Question:
    """A hold that this process waits for."""

    def __init__(self, expires_at_us: int) -> None:
        self.expires_at_us = expires_at_us
        self.futures: list[asyncio.Future[Hold]] = []

    @property
    def done(self) -> bool:
        return all(f.done() for f in self.futures)


class Waiter:
    """All waits of one event loop: one inotify descriptor, one timer, one query for any number of holds.

    Close it at the end; an unclosed one closes its descriptor when it and its loop are collected.
    """

    def __init__(self, store: ApprovalStore, wake: Wake) -> None:
        """Nothing is opened until the first `wait_answered`."""
        self._store = store
        self._wake = wake
        self._questions: dict[str, _Question] = {}
        self._watch: int | None = None
        self._close_watch: Callable[[], object] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait_answered(self, hold_id: str, *, withdraw: bool = True) -> Hold:
        """Wait until the hold is no longer pending; expiry is an answer too (`status == "expired"`).

        A cancelled caller withdraws its hold, unless it has been answered, or `withdraw` is False.

        Raises: UsageError (`not_found`); StoreError if the database cannot be read, to every waiter.
        """
        hold = self._store.get(hold_id)
        if hold is None:
            raise UsageError(f"there is no approval `{hold_id}`", code="not_found")
        loop = asyncio.get_running_loop()
        self._open(loop)
        future: asyncio.Future[Hold] = loop.create_future()
        question = self._questions.setdefault(hold_id, _Question(hold.expires_at_us))
        question.futures.append(future)
        try:
            self._look()
            return await future
        except asyncio.CancelledError:
            # If this cannot be written, the hold stays open and expires; its answer has no effect.
            if withdraw:
                with contextlib.suppress(StoreError):
                    self._store.cancel(hold_id, "the caller was cancelled")
            raise
        finally:
            question.futures.remove(future)
            if not question.futures:
                self._questions.pop(hold_id, None)
            if not self._questions and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    @property
    def notified(self) -> bool:
        """True if inotify works; False before the first wait, or if answers are only seen by polling every `POLL_S`."""
        return self._watch is not None

    def close(self) -> None:
        """Stop watching. (Not done after each wait: the kernel takes milliseconds to close an inotify descriptor.)"""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watch is not None and self._loop is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._watch)
            self._close_watch()
        self._watch = self._loop = None

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._questions:
            raise UsageError("one Waiter serves one event loop")
        self.close()
        self._loop = loop
        self._watch = self._wake.watch()
        if self._watch is not None:
            self._close_watch = weakref.finalize(self, os.close, self._watch)
            loop.add_reader(self._watch, self._on_touch, self._watch)

    def _on_touch(self, watch: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(watch, 65536):  # an inotify descriptor, or a counter
                pass
        self._look()

    def _look(self) -> None:
        """Read which holds are answered, wake their waiters, and reset the timer."""
        if self._loop is None or not self._questions:
            return
        now = 0
        try:
            now = self._store.time.now_us()
            if any(q.expires_at_us <= now for q in self._questions.values()):
                with contextlib.suppress(StoreError):  # they already read as expired: this only records it
                    self._store.expire()
            for hold in self._store.answered(list(self._questions)):
                _settle(self._questions[hold.id], hold)
        except StoreError as error:
            if error.code != "database_locked":
                for question in self._questions.values():
                    _settle(question, error)
                return
            # The database is busy: the timer tries again.
        soonest = min((q.expires_at_us for q in self._questions.values() if not q.done), default=now)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.001, min(POLL_S, (soonest - now) / 1e6)), self._look)


def _settle(question: _Question, answer: Hold | StoreError) -> None:
    for future in question.futures:
        if not future.done():
            if isinstance(answer, Hold):
                future.set_result(answer)
            else:
                future.set_exception(answer)


def watch_directory(path: Path) -> int | None:
    """Returns an inotify descriptor that becomes readable when a file in the directory is created or touched.

    None if inotify is not available.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
    if fd < 0:
        return None
    if libc.inotify_add_watch(fd, os.fsencode(path), _IN_ATTRIB | _IN_CREATE) < 0:
        os.close(fd)
        return None
    return int(fd)
