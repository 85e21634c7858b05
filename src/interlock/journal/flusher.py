"""The thread that waits for slow disks in place of the event loop. It starts with the first job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class Flusher:
    """Runs jobs one after the other on a daemon thread. Jobs must not raise; they store their own failure."""

    def __init__(self) -> None:
        """Create the queue. The thread starts with the first job."""
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Queue a job."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="interlock-journal", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        """Finish the queued jobs and end the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
