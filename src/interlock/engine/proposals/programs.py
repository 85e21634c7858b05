"""Background programs, which outlive their action: records them, and ends them with their proposal, run or session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import cast

from interlock.engine.proposals.kernel_records import event_of
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.proposals.traffic import record_connections
from interlock.engine.record.recorder import Recorder
from interlock.executors.background import End, Program
from interlock.executors.process import signal_name
from interlock.executors.recording import Summary
from interlock.journal.kernel_layer import KernelWriter
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
        if end.recorded is not None and ctx.run.recorder is not None:
            with contextlib.suppress(StoreError):  # the journal has failed: the run reports that itself
                _recorded(ctx.run.recorder, program, end.recorded)
        agent = ctx.agent if end.why == "stopped" else None
        ctx.run.record(9, ctx.index, lambda _: _event(program, end, agent))


def record_ends(recorder: Recorder | None, ends: Iterable[tuple[Program, End]]) -> None:
    """Record `process_ended` for programs that ended with their proposal, run or session, and their network connections."""
    for program, end in ends:
        if recorder is not None:
            record_connections(recorder, end.traffic.records, program.proposal, program.action)
            with contextlib.suppress(StoreError):  # the next flush fails in the same way and reports it
                if end.recorded is not None:
                    _recorded(recorder, program, end.recorded)
                if not program.reported:
                    recorder.record(_event(program, end), program.proposal)


def _recorded(recorder: Recorder, program: Program, summary: Summary) -> None:
    """`action_recorded`, for the action that started the program. Raises: StoreError."""
    lines = cast("KernelWriter", summary.lines)
    lines.sync()
    recorder.record(event_of(summary, program.handle), program.proposal, program.action, 9)


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
