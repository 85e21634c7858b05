"""A run's row in the index, and the signed head of its journal, which other processes see during the run and afterwards."""

from __future__ import annotations

import contextlib
from typing import Final

from interlock.engine.record.run_files import RunFiles
from interlock.engine.record.tally import Tally
from interlock.engine.services import Services
from interlock.journal import Head, RunRow, sign_head
from interlock.model.errors import StoreError
from interlock.model.events import RunFinished

SIGN_EVERY: Final = 10_000
"""The number of events after which the head of a running run is signed again."""


class IndexedRun:
    """One run's row in the index and its signed head."""

    __slots__ = ("_services", "_signed_to")

    def __init__(self, services: Services) -> None:
        """Nothing is written yet."""
        self._services = services
        self._signed_to = 0

    def enter(self, files: RunFiles, *, agent: str, session: str | None, source: str) -> None:
        """Enter a new run. Raises: UsageError `run_exists`, StoreError."""
        services = self._services
        row = RunRow(
            run_id=files.id,
            workspace=services.workspace_id,
            session=session,
            agent=agent,
            source=source,
            started_us=services.clock.now_us(),
        )
        services.index.add(row)

    def sign_head_if_due(self, files: RunFiles) -> None:
        """Sign the head of a long run between two proposals: its process may die before the end."""
        if files.recorder is None or files.directory is None or self._services.signer is None:
            return
        head = files.recorder.writer.head()
        if head.seq - self._signed_to >= SIGN_EVERY:
            self._signed_to = head.seq
            with contextlib.suppress(StoreError):  # the next flush, or the end of the run, reports the error
                self._sign_head(files, head)

    def end(self, files: RunFiles, tally: Tally) -> None:
        """Write the last event, the signed head, and the final row. Raises StoreError."""
        services, recorder, status = self._services, files.recorder, tally.status
        assert recorder is not None
        if status not in ("held", "interrupted"):
            recorder.record(RunFinished(status=status))
        recorder.writer.flush()
        head = recorder.writer.head()
        self._sign_head(files, head)
        with services.db.transaction(lasting=False):  # the journal and its head on disk have the same information
            services.index.update(files.id, status=status, finished_us=services.clock.now_us(), **tally.counts)
            services.index.commit_point(head)

    def _sign_head(self, files: RunFiles, head: Head) -> None:
        if self._services.signer is not None and files.directory is not None:
            sign_head(files.directory, head, self._services.signer, self._services.disk, locked=True)
