"""Durability `batch`: one thread for all journals of the process syncs written batches shortly after they were written.

A thread per run would cost a single-call run more than the sync itself, and the run's end would wait until the thread
wakes up.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

AFTER_S: Final = 0.003
"""Durability `batch` promises 5 ms; the remaining time is for the sync itself."""

Sync = Callable[[], None]


class LateSync:
    """Calls the scheduled functions on a daemon thread, `AFTER_S` after the first was scheduled. They must not raise."""

    def __init__(self) -> None:
        """Create the queue. The thread starts with the first call of `schedule`."""
        self._scheduled: SimpleQueue[Sync] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def schedule(self, sync: Sync) -> None:
        """Schedule a sync. Can be called from any thread."""
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
            while not self._scheduled.empty():  # only this thread takes from the queue
                due.append(self._scheduled.get())
            for sync in due:
                sync()


LATE_SYNC: Final = LateSync()
"""The instance shared by all journals of this process."""

os.register_at_fork(after_in_child=LATE_SYNC.__init__)  # type: ignore[misc] # threads do not survive a fork
