"""Connects the kernel recorders with the run: stores an action's records, and journals their summary."""

from __future__ import annotations

import contextlib
import os
from typing import cast

from interlock.engine.proposals.tool_context import ActionContext
from interlock.executors.recording import Lines, ProcessRecording, Summary
from interlock.journal.kernel_layer import KernelWriter
from interlock.model.errors import StoreError
from interlock.model.events import ActionRecorded
from interlock.model.tool import Context


def kernel_recording() -> ProcessRecording:
    """The recorders of a runtime, which write into the layers of its runs."""
    return ProcessRecording(open_lines, record_summary)


def open_lines(ctx: Context) -> Lines | None:
    """The lines of a new recorder of an action; None where the run keeps nothing."""
    assert isinstance(ctx, ActionContext)
    layer = ctx.run.files.kernel
    if layer is None:
        return None
    return layer.writer("rec_" + os.urandom(8).hex(), ctx.proposal_id, ctx.action_id, ctx.attempt)


def record_summary(ctx: Context, summary: Summary) -> None:
    """Journal a summary of a recorder's lines, with their digest."""
    assert isinstance(ctx, ActionContext)
    event = event_of(summary)
    layer = ctx.run.files.kernel
    if layer is not None:
        layer.sync()
    if ctx.run.recorder is not None:
        with contextlib.suppress(StoreError):  # the journal has failed: the run reports that itself
            ctx.run.recorder.record(event, ctx.proposal_id, ctx.action_id, 9)


def event_of(summary: Summary, handle: str | None = None) -> ActionRecorded:
    """The journal event for a recorder that has ended. `handle` names the background program that it recorded."""
    lines = cast("KernelWriter", summary.lines)
    return ActionRecorded(
        recorder=lines.recorder,
        calls=lines.calls,
        dropped=lines.dropped,
        refused=summary.refused,
        lost=summary.lost,
        lines=lines.lines,
        digest=lines.digest,
        handle=handle,
    )
