"""Stops runs from code (`Runtime.stop`), and ends runs that have no process any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from interlock.engine.local.machine import user_name
from interlock.engine.runs.resume import resume
from interlock.engine.runs.stop import Stopper, StopReport, report_stopped
from interlock.engine.services import Services
from interlock.journal.stops import StopRequest
from interlock.model.errors import StoreError, UsageError

_POLL_S = 0.01


async def stop_runs(
    services: Services, run_id: str | None, *, reason: str, by: str | None, wait_ms: int, kill: bool
) -> list[StopReport]:
    """Stop a run, or with None all active runs. Raises: UsageError `not_found`, `run_finished`; StoreError."""
    by = by or user_name()
    if services.state_dir is None:
        return await _stop_in_memory(services, run_id, reason, by, wait_ms)
    stopper = Stopper(services.db, services.state_dir, services.disk, services.clock, by=by, surface="python")
    wanted = stopper.active() if run_id is None else [run_id]
    reports = await stopper.stop(wanted, reason, wait_s=wait_ms / 1000, kill=kill)
    return await end_left_runs(services, reports)


async def end_left_runs(services: Services, reports: Sequence[StopReport]) -> list[StopReport]:
    """End those of the runs that have no process. Raises: StoreError, IntegrityError."""
    ended = []
    for report in reports:
        if report.outcome in ("no_process", "killed"):
            try:
                await resume(services, report.run_id)  # this ends a run that was stopped
            except StoreError as error:
                if error.code != "run_locked":
                    raise
                detail = "another process has just taken it up, and stops it"
                report = msgspec.structs.replace(report, detail=detail)  # noqa: PLW2901 - the same run, looked at again
        ended.append(report)
    return ended


async def _stop_in_memory(
    services: Services, run_id: str | None, reason: str, by: str, wait_ms: int
) -> list[StopReport]:
    """Stop in-memory runs, which are all in this process."""
    runs = {run.id: run for run in tuple(services.hooks.runs)}
    if run_id is not None and run_id not in runs:
        raise UsageError(f"there is no run `{run_id}` that is under way", code="not_found")
    chosen = list(runs.values()) if run_id is None else [runs[run_id]]
    for run in chosen:
        run.stop(StopRequest(run=run.id, by=by, surface="python", reason=reason, at_us=services.clock.now_us()))
    until = time.monotonic() + wait_ms / 1000
    while any(run.stop_answer is None for run in chosen) and time.monotonic() < until:  # noqa: ASYNC110 - other loops
        await asyncio.sleep(_POLL_S)
    reports = []
    for run in chosen:
        answer = run.stop_answer
        if answer is None:
            detail = "something that it runs does not stop yet"
            reports.append(StopReport(run_id=run.id, outcome="no_answer", detail=detail))
        else:
            reports.append(report_stopped(run.id, answer, None))
    return reports
