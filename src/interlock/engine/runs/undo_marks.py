"""Marks of compensations in the journal of the undone run, written before and after each call.

So if an undo dies, the next one knows which calls were made and does not repeat them. A call that started but has no end has an
unknown outcome, and is not repeated silently.
"""

from __future__ import annotations

from pathlib import Path

from interlock.engine.completion.undo import STEP
from interlock.engine.record.recorder import Recorder
from interlock.engine.services import Services
from interlock.journal import recover
from interlock.model.events import Event, UndoDone, UndoIntent


class UndoMarks:
    """The journals into which one undo writes; they stay open, so that no other undo works on the same run meanwhile."""

    def __init__(self, services: Services, runs: Path) -> None:
        """`runs` is the directory of the runs."""
        self._services = services
        self._runs = runs
        self._recorders: dict[str, Recorder] = {}

    def begin(self, run_id: str, proposal: str, action: str, detail: str) -> None:
        """Mark the start of a compensation; on disk once this returns. Raises: StoreError, IntegrityError, UsageError."""
        self._record(run_id, proposal, action, UndoIntent(how="compensation", detail=detail))

    def end(self, run_id: str, proposal: str, action: str, status: str, problem: str | None = None) -> None:
        """Mark the end of a call: `compensated`, `not_undone`, or `redone` if the effect exists again. Raises as `begin`."""
        self._record(run_id, proposal, action, UndoDone(how="compensation", status=status, problem=problem))

    def close(self) -> None:
        """Close the journals. Raises StoreError."""
        while self._recorders:
            self._recorders.popitem()[1].writer.close()

    def _record(self, run_id: str, proposal: str, action: str, event: Event) -> None:
        recorder = self._recorders.get(run_id)
        if recorder is None:
            services, directory = self._services, self._runs / run_id
            recover(directory, services.disk)
            recorder = Recorder.reopen(directory, services.disk, services.clock, services.redactor)
            self._recorders[run_id] = recorder
        recorder.record(event, proposal, action, STEP)
        recorder.writer.flush()
