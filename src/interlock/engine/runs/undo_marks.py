"""What an undo compensates is written into the journal of the run that it is undone for, before and after each call.

So an undo that dies leaves no doubt about what it compensated: the next one does not do it twice, and a call that was begun
and has no end is not known, and is not repeated in silence.
"""

from __future__ import annotations

from pathlib import Path

from interlock.engine.completion.undo import STEP
from interlock.engine.services import Services
from interlock.journal import JournalWriter, recover
from interlock.model.events import UndoDone, UndoIntent


class UndoMarks:
    """The journals that one undo writes into; held open, so that no other undo works on the same run meanwhile."""

    def __init__(self, services: Services, runs: Path) -> None:
        """`runs` is the directory of the runs."""
        self._services = services
        self._runs = runs
        self._writers: dict[str, JournalWriter] = {}

    def begin(self, run_id: str, proposal: str, action: str, detail: str) -> None:
        """A compensation is about to run; on disk once this returns. Raises: StoreError, IntegrityError, UsageError."""
        clock = self._services.clock
        writer = self._writer(run_id)
        writer.append(
            UndoIntent(
                how="compensation", detail=detail, proposal=proposal, action=action, ts=clock.now_us(),
                mono=clock.mono_ns(), step=STEP,
            )
        )  # fmt: skip
        writer.flush()

    def end(self, run_id: str, proposal: str, action: str, status: str, problem: str | None = None) -> None:
        """It is over: `compensated`, `not_undone`, or `redone` for what was made good again. Raises as `begin`."""
        clock = self._services.clock
        writer = self._writer(run_id)
        writer.append(
            UndoDone(
                how="compensation", status=status, problem=problem, proposal=proposal, action=action, ts=clock.now_us(),
                mono=clock.mono_ns(), step=STEP,
            )
        )  # fmt: skip
        writer.flush()

    def close(self) -> None:
        """Let go of the journals. Raises StoreError."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, run_id: str) -> JournalWriter:
        if run_id not in self._writers:
            services, directory = self._services, self._runs / run_id
            recover(directory, services.disk)
            self._writers[run_id] = JournalWriter.open(
                directory, run_id=run_id, disk=services.disk, clock=services.clock, create=False
            )
        return self._writers[run_id]
