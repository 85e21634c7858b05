"""Reports every wait, its cause and its longest time, in the journal and to the listeners of the runtime."""

from __future__ import annotations

from typing import NamedTuple

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.model.events import ActionWaiting
from interlock.model.waiting import Waiting


class Behind(NamedTuple):
    """The current writer in the workspace: see `Waiting`."""

    holder: str | None = None
    doing: str | None = None
    since_us: int | None = None


def tell_waiting(
    run: ProposalRun,
    index: int | None,
    cause: str,
    what: str,
    wait_max_ms: float,
    *,
    step: int = 7,
    reading: dict[str, float] | None = None,
    behind: Behind | None = None,
) -> None:
    """Report that the action at `index` (or the proposal) waits from now on."""
    if cause != "retry":  # a retry has a separate event
        run.record(
            step,
            index,
            lambda recorder: ActionWaiting(
                cause=cause,
                what=recorder.text(what),
                wait_max_ms=wait_max_ms,
                reading=reading or {},
            ),
        )
        run.kick()
        if index is not None:
            run.waits.setdefault(index, []).append(what)
    if run.services.hooks.waits:
        action_id = None if index is None else run.proposal.actions[index].id
        holder, doing, since_us = behind or Behind()
        waiting = Waiting(
            run_id=run.files.id, action_id=action_id, cause=cause, what=what, wait_max_ms=wait_max_ms, holder=holder,
            doing=doing, since_us=since_us,
        )  # fmt: skip
        for listener in tuple(run.services.hooks.waits):
            listener(waiting)
