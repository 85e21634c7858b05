"""Background programs, which outlive their action: records them, and ends them with their proposal, run or session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.proposals.traffic import record_connections
from interlock.engine.record.recorder import Recorder
from interlock.executors.background import End, Program
from interlock.executors.process import signal_name
from interlock.model.errors import StoreError
from interlock.model.events import ProcessEnded, ProcessStarted
from interlock.model.tool import Context


class OnRecord:
    """Writes into the journal of the run whose action started a program, stopped it, or found that it had ended."""

    def started(self, program: Program, ctx: Context) -> None:
        """`process_started`."""
        assert isinstance(ctx, ActionContext)
        ctx.run.record(
            9,
            ctx.index,
            lambda _: ProcessStarted(
                handle=program.handle,
                agent=program.agent,
                until="run" if program.session is None else "session",
            ),
        )

    def ended(self, program: Program, end: End, ctx: Context) -> None:
        """`process_ended`, by an action."""
        assert isinstance(ctx, ActionContext)
        agent = ctx.agent if end.why == "stopped" else None
        ctx.run.record(9, ctx.index, lambda _: _event(program, end, agent))


def record_ends(recorder: Recorder | None, ends: Iterable[tuple[Program, End]]) -> None:
    """Record `process_ended` for programs that ended with their proposal, run or session, and their network connections."""
    for program, end in ends:
        if recorder is not None:
            record_connections(recorder, end.traffic.records, program.proposal, program.action)
            with contextlib.suppress(StoreError):  # the next flush fails in the same way and reports it
                if not program.reported:
                    recorder.record(_event(program, end), program.proposal)


def _event(program: Program, end: End, agent: str | None = None) -> ProcessEnded:
    report = None if end.outcome is None else end.outcome.report
    if report is None:
        return ProcessEnded(handle=program.handle, why=end.why, agent=agent)
    return ProcessEnded(
        handle=program.handle,
        why=end.why,
        agent=agent,
        exit_code=report["exit_code"],
        signal=signal_name(report["signal"]),
        strays_ended=report["strays_killed"],
        duration_ms=report["duration_ms"],
    )
