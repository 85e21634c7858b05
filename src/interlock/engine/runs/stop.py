"""Asks runs to stop, whichever processes execute them, and reports the result. Implements `interlock stop`.

Needs only the state directory, no configuration and no tools. `abandon` in `resume`, which needs more, ends runs without a
process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from interlock.approvals import WakeFile
from interlock.disk import Database, Disk
from interlock.engine.people.stop_requests import WAKE_NAME
from interlock.journal import RunIndex
from interlock.journal.holder import Holder
from interlock.journal.stops import StopAnswer, StoppedAction, StopRequest, StopStore
from interlock.model.clock import Clock
from interlock.model.errors import UsageError

_OPEN = ("running", "held", "interrupted")
WAIT_S = 10.0
_POLL_S = 0.03
_EXIT_S = 1.0
"""How long to wait for the end of a run that is idle; a run with further proposals continues."""
_KILLED_S = 5.0

Outcome = Literal["stopped", "ended", "no_process", "no_answer", "killed"]


class StopReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one run.

    `stopped`: no part of it runs any more. `ended`: it had already ended. `no_process`: it had no process, and has now been
    ended. `no_answer`: its process did not stop it in time. `killed`: that process was ended by force.
    """

    run_id: str
    outcome: Outcome
    detail: str
    pid: int | None = None
    actions: tuple[StoppedAction, ...] = ()
    """Actions that were stopped while they ran. `unknown_outcome`: it could not be stopped, and may still have an effect."""
    not_begun: int = 0
    programs: int = 0
    """Background programs that were ended."""

    @property
    def ok(self) -> bool:
        """True if no part of the run can still be running."""
        return self.outcome != "no_answer" and all(one.status != "unknown_outcome" for one in self.actions)


class Stopper:
    """Stops runs of one workspace, as one person."""

    def __init__(self, db: Database, home: Path, disk: Disk, clock: Clock, *, by: str, surface: str) -> None:
        """`home` is the workspace's directory in the state directory. Raises StoreError."""
        self._index = RunIndex(db)
        self._store = StopStore(db, clock)
        self._wake = WakeFile(home / "wake", WAKE_NAME)
        self._runs = home / "runs"
        self._disk = disk
        self._by = by
        self._surface = surface

    def active(self) -> list[str]:
        """The runs that execute an action or wait for an answer, newest first.

        A run whose process died is idle until a person resumes it.
        """
        running = [row.run_id for row in self._index.list_runs(status="running")]
        held = [row.run_id for row in self._index.list_runs(status="held")]
        return [one for one in running if Holder.of(self._runs / one, self._disk) is not None] + held

    def ask(self, run_id: str, reason: str) -> StopRequest:
        """Store the request, which is permanent. Raises: UsageError `not_found`, `run_finished`; StoreError."""
        row = self._index.get(run_id)
        if row.status not in _OPEN:
            raise UsageError(
                f"run `{run_id}` is finished: {row.status}",
                code="run_finished",
                hint=f"`interlock undo {run_id}` undoes what it did",
            )
        return self._store.request(run_id, by=self._by, surface=self._surface, reason=reason)

    async def stop(
        self, run_ids: Sequence[str], reason: str = "", *, wait_s: float = WAIT_S, kill: bool = False
    ) -> list[StopReport]:
        """Stop runs, all at once, and wait for the answers of their processes.

        With `kill`, a process that does not answer is killed. A run without a process is reported as `no_process`; the caller
        has to end it. Raises: as `ask`, before any run is asked to stop; StoreError.
        """
        for run_id in run_ids:
            self.ask(run_id, reason)
        self._wake.ring()
        until = time.monotonic() + wait_s
        return list(await asyncio.gather(*(self._follow(run_id, until, kill=kill) for run_id in run_ids)))

    async def _follow(self, run_id: str, until: float, *, kill: bool) -> StopReport:
        directory = self._runs / run_id
        first = Holder.of(directory, self._disk)
        leave = until
        while True:
            holder, request = Holder.of(directory, self._disk), self._store.get(run_id)
            answer = None if request is None else request.answer
            if holder is None:
                return self._without_process(run_id, answer, first)
            now = time.monotonic()
            if answer is not None:
                leave = min(leave, now + _EXIT_S)
                if now >= leave:
                    return report_stopped(run_id, answer, holder)
            elif now >= until:
                return await self._not_answered(run_id, request, holder, kill=kill)
            await asyncio.sleep(_POLL_S)

    def _without_process(self, run_id: str, answer: StopAnswer | None, first: Holder | None) -> StopReport:
        """The report for a run without a process: it has stopped, had already ended, or its process died."""
        status = self._index.get(run_id).status
        if answer is not None and status not in _OPEN:
            return report_stopped(run_id, answer, first)
        if status not in _OPEN:
            return StopReport(run_id=run_id, outcome="ended", detail=f"it had ended before: {status}")
        return StopReport(
            run_id=run_id, outcome="no_process", detail="no process carried it; it is not resumed any more"
        )

    async def _not_answered(
        self, run_id: str, request: StopRequest | None, holder: Holder, *, kill: bool
    ) -> StopReport:
        who = "its process" if holder.pid is None else f"process {holder.pid}"
        if kill and await asyncio.to_thread(holder.kill, _KILLED_S):
            return StopReport(run_id=run_id, outcome="killed", detail=f"{who} was killed", pid=holder.pid)
        if request is None or request.seen_us is None:
            why = f"{who} does not answer; `--kill` ends it"
        else:
            why = f"{who} knows, but something that it runs does not stop yet; `--kill` ends it"
        return StopReport(run_id=run_id, outcome="no_answer", detail=why, pid=holder.pid)


def report_stopped(run_id: str, answer: StopAnswer, holder: Holder | None) -> StopReport:
    """The answer of the run's process."""
    return StopReport(
        run_id=run_id,
        outcome="stopped",
        detail=_describe(answer),
        pid=None if holder is None else holder.pid,
        actions=answer.actions,
        not_begun=answer.not_begun,
        programs=answer.programs,
    )


def _describe(answer: StopAnswer) -> str:
    parts = [
        f"`{one.action}`" + (f" ({one.tool})" if one.tool else "")
        + (" could not be stopped, and may still have an effect" if one.status == "unknown_outcome" else " was cancelled")
        for one in answer.actions
    ]  # fmt: skip
    for number, what in ((answer.not_begun, "action"), (answer.programs, "background program")):
        if number:
            many = "" if number == 1 else "s"
            parts.append(f"{number} {what}{many} " + ("had not begun" if what == "action" else "ended"))
    return ", ".join(parts) or "nothing of it was running"
