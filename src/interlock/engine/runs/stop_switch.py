"""Stops a run at the request of a person, in the process that executes it.

Running actions are cancelled, and their effects so far remain: nothing is undone, because an undo would start further calls
(ADR 46).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from interlock.engine.proposals.worker_pool import WorkerPool
from interlock.engine.record.recorder import Recorder
from interlock.engine.services import Services
from interlock.executors.background import End, Program
from interlock.journal.stops import StopAnswer, StoppedAction, StopRequest
from interlock.model.errors import StoreError
from interlock.model.events import StopRequested
from interlock.model.result import ActionResult


class StopSwitch:
    """Stops the proposals of one run. `pull` may be called from any thread, everything else on the loop."""

    def __init__(self, services: Services, run_id: str) -> None:
        """No proposal runs yet, and no stop is requested."""
        self.request: StopRequest | None = None
        self._ends: list[tuple[Program, End]] = []
        self._ending = threading.Lock()
        self.on_pull: Callable[[], None] | None = None
        """Called after the first request, on its thread."""
        self.answer: StopAnswer | None = None
        """Set once no part of the run is running any more."""
        self._recorded = False
        self._services = services
        self._run_id = run_id
        self._lock = threading.Lock()
        self._pools: list[WorkerPool] = []
        self._rows: list[tuple[WorkerPool, Sequence[ActionResult | None]]] = []

    def pull(self, request: StopRequest) -> None:
        """Stop all current and later work. Only the first request counts."""
        with self._lock:
            if self.request is not None:
                return
            self.request = request
            pools = tuple(self._pools)
        for pool in pools:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nothing runs there any more
                pool.run.loop.call_soon_threadsafe(self._stop, pool)
        self._end_programs()
        self._answer_if_over()
        if self.on_pull is not None:
            self.on_pull()

    def stop_proposal(self, proposal_id: str, request: StopRequest) -> None:
        """Stop one proposal, if it is running and was not stopped; the others continue. Raises StoreError."""
        for pool in [pool for pool in self._pools if pool.run.proposal.id == proposal_id]:
            if pool.run.stop_reason == "stopped":
                continue
            pool.run.stopped_text = request.text
            if pool.run.recorder is not None:
                _record(pool.run.recorder, request, proposal_id)
            pool.stop("stopped")

    @contextlib.contextmanager
    def over(self, pool: WorkerPool) -> Iterator[None]:
        """Let the proposal be stopped, until `release` or the end of the block."""
        with self._lock:
            self._pools.append(pool)
            asked = self.request is not None
        if asked:
            self._stop(pool)
        try:
            yield
        finally:
            self.release(pool)
            self._answer_if_over()

    def release(self, pool: WorkerPool) -> None:
        """Exempt the end of a proposal (its commit or rollback) from being stopped."""
        with self._lock:
            if pool not in self._pools:
                return
            self._pools.remove(pool)
            if self.request is not None and pool.run.stop_reason == "stopped":
                self._rows.append((pool, pool.run.rows))

    def _stop(self, pool: WorkerPool) -> None:
        request = self.request
        if request is None or pool not in self._pools:
            return
        pool.run.stopped_text = request.text
        if pool.run.recorder is not None:
            self.record(pool.run.recorder, pool.run.proposal.id)
        pool.stop("stopped")

    def record(self, recorder: Recorder, proposal: str | None = None) -> None:
        """Record who stopped the run, and why, unless that was done. Raises StoreError."""
        request = self.request
        if request is not None and not self._recorded:
            self._recorded = True
            _record(recorder, request, proposal)

    def _answer_if_over(self) -> None:
        with self._lock:
            if self.request is None or self._pools:
                return
        self._end_programs()  # an action may have started one while it was being stopped
        with self._lock:
            self.answer = self._sum_up()
        stops = self._services.stops
        if stops is not None:
            with contextlib.suppress(StoreError):  # the requester sees the run end, or reports that there was no answer
                stops.store.done(self._run_id, self.answer)

    @property
    def ends(self) -> list[tuple[Program, End]]:
        """The background programs that were ended, for the record. Waits for those that are still ending."""
        with self._ending:
            return list(self._ends)

    def _end_programs(self) -> None:
        if self._services.programs is not None:
            with self._ending:
                self._ends += self._services.programs.stop_run(self._run_id)

    def _sum_up(self) -> StopAnswer:
        stopped: dict[tuple[str, str], StoppedAction] = {}
        not_begun = 0
        for pool, rows in self._rows:
            actions = pool.run.proposal.actions
            for action, row in zip(actions, rows, strict=True):
                if row is not None and row.reason == "stopped" and row.status != "skipped":
                    stopped[pool.run.proposal.id, action.id] = StoppedAction(action.id, action.tool, row.status)
                elif row is None or row.reason == "stopped":
                    not_begun += 1
        return StopAnswer(tuple(stopped.values()), not_begun, len(self._ends))


def _record(recorder: Recorder, request: StopRequest, proposal: str | None) -> None:
    reason = recorder.text(request.reason)
    recorder.record(StopRequested(by=request.by, surface=request.surface, reason=reason), proposal)
