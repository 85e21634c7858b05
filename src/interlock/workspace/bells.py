"""Wakes waiters in the queue of writers (`lease`): when their bell is rung, when a process dies, or after a time-out.

All waiters on an event loop share one FIFO, whose messages name the waiter, and one pidfd per process for which they
wait. A loop closes them when it has no waiters left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_numbers = itertools.count(1)
_of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Path | None, _Bells]] = weakref.WeakKeyDictionary()
_READ_BYTES: Final = 65_536


class Bell:
    """Wakes one waiter."""

    def __init__(self, bells: _Bells, number: int) -> None:
        """Created by `bell`."""
        self._bells = bells
        self._rung = asyncio.Event()
        self.number = number
        self.watched: tuple[int, str] | None = None

    @property
    def wake(self) -> str:
        """The argument for `ring`, stored in the queue's table; empty if there is no FIFO."""
        return f"{self._bells.name}:{self.number}" if self._bells.fd is not None else ""

    def watch(self, pid: int, started: str) -> None:
        """Wake when that process dies, instead of the previously watched process."""
        if self.watched != (pid, started):
            self._bells.watch(self, pid, started)

    def ring(self) -> None:
        """Wake the waiter."""
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Wait until the bell is rung, for at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        self._rung.clear()


@contextlib.contextmanager
def bell(directory: Path | None) -> Iterator[Bell]:
    """A bell on the running loop. `directory` (created if missing) holds its FIFO; without one the bell cannot be rung."""
    loop = asyncio.get_running_loop()
    shared = _of_loops.setdefault(loop, {})
    bells = shared.get(directory)
    if bells is None:
        bells = shared[directory] = _Bells(loop, directory)
    made = Bell(bells, next(_numbers))
    bells.waiting[made.number] = made
    try:
        yield made
    finally:
        del bells.waiting[made.number]
        bells.forget(made)
        if not bells.waiting:
            del shared[directory]
            bells.close()


def ring(directory: Path | None, wake: str) -> None:
    """Wake the waiter with this `Bell.wake`, in any process. Failures are ignored, because waiters also poll."""
    name, _, number = wake.partition(":")
    if directory is None or not number:
        return
    with contextlib.suppress(OSError):
        fd = os.open(directory / name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.write(fd, f"{number}\n".encode())  # short, so it is written as a whole
        finally:
            os.close(fd)


def remove_left(directory: Path | None, wake: str) -> None:
    """Remove the FIFO of a dead process."""
    name = wake.partition(":")[0]
    if directory is not None and name:
        with contextlib.suppress(OSError):
            (directory / name).unlink()


class _Bells:
    """The waiters of one loop on one queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path | None) -> None:
        self.name = f"{os.getpid()}-{next(_numbers)}"
        self.waiting: dict[int, Bell] = {}
        self.fd: int | None = None
        self._loop = loop
        self._path = None if directory is None else directory / self.name
        self._deaths: dict[tuple[int, str], tuple[int, set[Bell]]] = {}
        if self._path is not None:
            with contextlib.suppress(OSError):  # the file system has no FIFOs: rely on the timer
                self._path.parent.mkdir(mode=0o700, exist_ok=True)
                os.mkfifo(self._path, 0o600)
                # Open it for writing too: a FIFO without a writer is always readable.
                self.fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
                loop.add_reader(self.fd, self._on_ring)

    def watch(self, one: Bell, pid: int, started: str) -> None:
        self.forget(one)
        one.watched = pid, started
        if one.watched not in self._deaths:
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                return  # the process has exited already, or there are no pidfds: rely on the timer
            self._deaths[one.watched] = fd, set()
            self._loop.add_reader(fd, self._on_death, one.watched)
        self._deaths[one.watched][1].add(one)

    def forget(self, one: Bell) -> None:
        watched, one.watched = one.watched, None
        if watched is None or watched not in self._deaths:
            return
        fd, bells = self._deaths[watched]
        bells.discard(one)
        if not bells:
            del self._deaths[watched]
            self._loop.remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        if self.fd is not None:
            self._loop.remove_reader(self.fd)
            os.close(self.fd)
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _on_ring(self) -> None:
        assert self.fd is not None
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, _READ_BYTES)
        for number in data.split():
            one = self.waiting.get(int(number)) if number.isdigit() else None
            if one is not None:
                one.ring()

    def _on_death(self, who: tuple[int, str]) -> None:
        for one in tuple(self._deaths[who][1]):
            self.forget(one)
            one.ring()
