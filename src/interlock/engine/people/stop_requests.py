"""Looks for the requests of people to stop the runs of this process, and hands them to the runs.

On a thread, because the event loop of a run may be blocked by a tool, and a run may have nothing to do at the moment.
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
"""How often the wake file is looked at."""
_ANYWAY: Final = 10
"""After so many looks the table is read although the file was not touched: who asked may have died before that."""
WAKE_NAME: Final = "stop"
"""Of the wake file, beside that of the approvals."""


class Stoppable(Protocol):
    """What the listener knows of a run."""

    id: str

    def stop(self, request: StopRequest) -> None:
        """Stop what it does, from any thread."""
        ...


class StopListener:
    """Looks for requests to stop the open runs of one runtime, on a thread that lives while there are any."""

    def __init__(self, store: StopStore, wake: Path, runs: Iterable[Stoppable]) -> None:
        """`runs` are the open ones, at each moment; `wake` is the file that who asks touches."""
        self.store = store
        self._wake = wake
        self._runs = runs
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self) -> None:
        """There is an open run."""
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
        """False if the database could not be read, to be tried again."""
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
