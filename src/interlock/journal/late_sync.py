"""Durability `batch`: what was written is synced a little later, by one thread for all journals of the process.

A thread for each run would cost a run of one call more than its sync does, and its end would wait for the thread's sleep.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

AFTER_S: Final = 0.003
"""Durability `batch` promises 5 ms; the rest is for the sync itself."""

Sync = Callable[[], None]


class LateSync:
    """Calls what is scheduled on a daemon thread, `AFTER_S` after the first of it. What is scheduled must not raise."""

    def __init__(self) -> None:
        """Starts no thread yet."""
        self._scheduled: SimpleQueue[Sync] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def schedule(self, sync: Sync) -> None:
        """Call it soon; any thread."""
        self._scheduled.put(sync)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="interlock-late-sync", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            due = [self._scheduled.get()]
            time.sleep(AFTER_S)
            while not self._scheduled.empty():  # this thread alone takes from it
                due.append(self._scheduled.get())
            for sync in due:
                sync()


LATE_SYNC: Final = LateSync()
"""That of this process."""

os.register_at_fork(after_in_child=LATE_SYNC.__init__)  # type: ignore[misc] # threads do not survive a fork
