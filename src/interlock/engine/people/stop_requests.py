"""Looks for people's requests to stop the runs of this process, and passes them to the runs.

This happens on a thread, because a tool may block the event loop of a run, and a run may be idle.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from interlock.journal.stops import StopRequest, StopStore
from interlock.model.errors import StoreError, UsageError

LOOK_S: Final = 0.1
"""Poll interval of the wake file."""
_ANYWAY: Final = 10
"""After this many polls the table is read even if the file was not touched: the requester may have died before touching it."""
WAKE_NAME: Final = "stop"
"""Name of the wake file, next to that of the approvals."""


class Stoppable(Protocol):
    """A run as the listener sees it."""

    id: str

    def stop(self, request: StopRequest) -> None:
        """Stop the run, from any thread."""
        ...


class StopListener:
    """Looks for requests to stop the open runs of one runtime, on a thread that lives while there are any."""

    def __init__(self, store: StopStore, wake: Path, runs: Iterable[Stoppable]) -> None:
        """`runs` are the open runs at each moment; `wake` is the file that a requester touches."""
        self.store = store
        self._wake = wake
        self._runs = runs
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self) -> None:
        """Start listening, because there is an open run."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._watch, name="interlock-stop", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        if (thread := self._thread) is not None:
            thread.join(1.0)

    def _watch(self) -> None:
        touched, looks = self._touched(), 0
        due = True
        while True:
            with self._lock:
                runs = {run.id: run for run in tuple(self._runs)}
                if not runs:
                    self._thread = None
                    return
            if due:
                due = not self._look(runs)
            if self._closed.wait(LOOK_S):
                return
            looks += 1
            if (now := self._touched()) != touched or looks % _ANYWAY == 0:
                touched, due = now, True

    def _look(self, runs: dict[str, Stoppable]) -> bool:
        """Read the requests. False if the database could not be read and this has to be repeated."""
        try:
            for request in self.store.open(runs):
                self.store.seen(request.run)
                runs[request.run].stop(request)
        except StoreError:
            return False
        except UsageError:  # the runtime was closed
            self._closed.set()
        return True

    def _touched(self) -> int:
        try:
            return os.stat(self._wake).st_ctime_ns  # noqa: PTH116 - ten times a second
        except OSError:
            return 0
