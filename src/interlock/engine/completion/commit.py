"""Ends a proposal: commits its state or rolls everything back, then makes the result.

The commit is one transaction. It checks the versions that the proposal read, puts the deciding journal line on disk, and only
then writes the database rows. If the two disagree after a crash, the journal decides; applying its decision is idempotent by
(run, seq).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.record import rows
from interlock.engine.record.recorder import Recorder
from interlock.engine.record.tally import cost_of
from interlock.engine.services import EndedProposal, Services
from interlock.journal import scan
from interlock.lazy import lazy
from interlock.model.decision import Refusal
from interlock.model.errors import IntegrityError
from interlock.model.events import (
    ActionRejected,
    ActionSkipped,
    Kept,
    ProposalFinished,
    StateRolledBack,
    WorkspaceCommitted,
)
from interlock.model.result import ActionResult, NotUndone, ProposalResult, RunStatus
from interlock.state.buffer import Buffer
from interlock.state.store import StateConflictError
from interlock.verify.graph import state_reads

if TYPE_CHECKING:
    from interlock.engine.completion import layers, rollback
else:
    layers = lazy("interlock.engine.completion.layers")
    rollback = lazy("interlock.engine.completion.rollback")

_ABORTING: Final = frozenset({"aborted", "deadline_exceeded", "state_conflict"})


async def conclude(run: ProposalRun) -> ProposalResult:
    """After the last action: commit or roll back, and return the result. Raises: StoreError."""
    not_undone: list[NotUndone] = []
    waits = is_held(run) and run.stop_reason != "stopped"
    if run.stop_reason not in _ABORTING and not run.dry_run and not waits:
        try:
            if run.layer is not None:  # files first: an error in them also stops the commit of the state
                run.buffer.check()
                await layers.commit_files(run)
            if run.layer_problem is None:
                commit(run)
        except StateConflictError as error:
            run.stop_reason = "state_conflict"
            _mark_conflict(run, error)
    if run.stop_reason in _ABORTING or run.stop_reason == "stopped":
        cancel_questions(run)
    fill_missing(run)
    if run.stop_reason in _ABORTING:
        run.record(10, None, lambda recorder: StateRolledBack(state=_rolled_back(run, recorder)))
        layers.leave_committed_layer(run)
        if run.turn is not None and any(row is not None and row.attempts for row in run.rows):
            await run.turn.take_for_undo()
        not_undone = await rollback.roll_back(run)
        layers.discard(run)
    return await finish(run, not_undone)


def _rolled_back(run: ProposalRun, recorder: Recorder) -> Kept | None:
    """The state that is rolled back: the dropped values, and the stored ones that remain."""
    found: dict[str, dict[str, Any]] = {}
    for write in run.buffer.writes:
        holds = run.services.store.get(write.key)
        known = found[write.key] = {} if holds is None else {"value": holds.value, "version": holds.version}
        if write.text is not None:
            known["dropped"] = msgspec.json.decode(write.text)
    return recorder.keep(found) if found else None


async def reject_all(run: ProposalRun, refusal: Refusal, index: int | None = None) -> ProposalResult:
    """Refuse the whole proposal before anything runs; `index` is the action at fault, if there is one."""
    at_us, step = run.clock.now_us(), 2 if index is None else 1
    for i, action in enumerate(run.proposal.actions):
        if index is None or i == index:
            seq = run.record(
                step,
                i,
                lambda recorder: ActionRejected(
                    reason=refusal.reason,
                    detail=recorder.text(refusal.detail),
                ),
            )
            row = rows.rejected(action.id, refusal.reason, refusal.detail, at_us=at_us, seq=seq)
        else:
            detail = f"`{run.proposal.actions[index].id}` stopped the proposal: rejected, {refusal.reason}"
            row = _skip(run, i, "aborted", detail, step)
        run.rows[i] = row
    run.stop_reason = "aborted"
    return await finish(run, [])


def _skip(run: ProposalRun, index: int, reason: str, detail: str | None, step: int = 7) -> ActionResult:
    """Make the row and the event of an action that never started."""
    seq = run.record(
        step,
        index,
        lambda recorder: ActionSkipped(reason=reason, detail=recorder.text(detail or "")),
    )
    row = rows.skipped(run.proposal.actions[index].id, reason, detail, at_us=run.clock.now_us(), seq=seq)
    row.waited_for = tuple(run.waits.get(index, ()))  # it may have been waiting when the proposal was stopped
    return row


def is_held(run: ProposalRun) -> bool:
    """True if an action waits for a person: nothing is committed yet, and the run has to be resumed."""
    return "held" in {row.status for row in run.rows if row is not None}


def cancel_questions(run: ProposalRun) -> None:
    """Cancel the open questions of a proposal that is ending."""
    for index, row in enumerate(run.rows):
        if row is None or row.status != "held":
            continue
        hold = row.output.get("approval") if isinstance(row.output, dict) else None
        if hold is not None:
            run.services.desk.store.cancel(hold, "its proposal has ended")
        run.rows[index] = None


def commit(run: ProposalRun) -> None:
    """Step 10 for the proposal. Raises: StateConflictError (nothing was applied), StoreError."""
    if not run.buffer.dirty and not run.results.pending:
        effects = run.buffer.read and any(tool is not None and not tool.read_only for tool in run.tools)
        if not effects:
            return
    owner = run.files.id if run.recorder is not None else f"{run.files.id}/{run.proposal.id}"
    with committing(run.services, run.recorder, run.buffer, owner, proposal=run.proposal.id):
        run.results.commit()


@contextlib.contextmanager
def committing(
    services: Services,
    recorder: Recorder | None,
    buffer: Buffer,
    owner: str,
    *,
    proposal: str | None = None,
    seal: str = "",
    before: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Commit a buffer in one transaction, of which the block is the last part. No other code commits state.

    `before` may write journal lines ahead of the deciding one. `seal` is used if nothing is recorded. Raises:
    StateConflictError (nothing was applied), StoreError.
    """
    with services.db.transaction():
        buffer.check()
        seq = 0
        if before is not None:
            before()
        if recorder is not None:
            keys = tuple(sorted({write.key for write in buffer.writes}))
            seq = recorder.record(WorkspaceCommitted(keys=keys), proposal, step=10)
            recorder.writer.flush()
            head = recorder.writer.head()
            seal = head.seal
            services.index.commit_point(head)
        buffer.apply(run=owner, seq=seq, seal=seal)  # checked above: the transaction lets nobody write in between
        yield


def reapply(run: ProposalRun, committed: WorkspaceCommitted) -> None:
    """Apply a commit that the journal has decided, after the process died before (or after) the database was written.

    Raises: IntegrityError, StoreError.
    """
    services, recorder = run.services, run.recorder
    assert recorder is not None
    recorder.writer.flush()
    assert run.files.directory is not None
    seal = scan(run.files.directory, at=committed.seq).seal_at
    if seal is None:  # a commit is flushed at once, so a batch ends with it
        raise IntegrityError(
            f"the journal of run `{run.files.id}` was not written by Interlock: "
            f"no seal ends at the commit, event {committed.seq}",
            code="journal_corrupt",
        )
    with services.db.transaction():
        services.index.commit_point(recorder.writer.head())
        services.store.apply(run.buffer.writes, run=run.files.id, seq=committed.seq, seal=seal)
        run.results.commit()


async def finish(run: ProposalRun, not_undone: list[NotUndone]) -> ProposalResult:
    """Make the result and its event, which is on disk before the caller sees it, here or at the end of the run."""
    found = [row for row in run.rows if row is not None]
    assert len(found) == len(run.rows)
    cost = cost_of(run.proposal.actions, found, run)
    status = status_of(run, found)
    if status != "held":
        run.record(
            10,
            None,
            lambda recorder: ProposalFinished(
                status=status,
                cost=msgspec.to_builtins(cost),
                not_undone=tuple(msgspec.structs.replace(one, detail=recorder.text(one.detail)) for one in not_undone),
            ),
        )
    if run.recorder is not None and not run.only:
        await run.recorder.writer.durable()
    result = ProposalResult(
        run_id=run.files.id, proposal_id=run.proposal.id, status=status, results=found, cost=cost, not_undone=not_undone,
        workspace=run.layer_result,
    )  # fmt: skip
    for tell in run.services.hooks.ended:
        rolled_back = run.stop_reason in _ABORTING
        tell(
            EndedProposal(
                run.files.id, run.principal.agent, run.proposal, run.edited, result, rolled_back, run.dry_run,
                run.principal.session,
            )
        )  # fmt: skip
    return result


def status_of(run: ProposalRun, found: list[ActionResult]) -> RunStatus:
    """The status of the proposal from its rows: `succeeded` only if every action did."""
    statuses = {row.status for row in found}
    if "skipped" in statuses:
        statuses = {row.status for row in found if row.reason != "reserved"}
    if run.dry_run:
        if "rejected" in statuses or "held" in statuses:
            return "rejected" if "rejected" in statuses else "held"
        return "failed" if run.stop_reason == "budget_exceeded" else "succeeded"
    if statuses <= {"succeeded"} and run.stop_reason in (None, "stopped"):
        return "succeeded"
    if run.stop_reason == "stopped":
        return "cancelled"
    if "held" in statuses:
        return "held"
    if "rejected" in statuses and not statuses & {
        "succeeded",
        "failed",
        "rolled_back",
        "compensated",
        "not_undone",
        "unknown_outcome",
    }:
        return "rejected"
    return "failed"


def fill_missing(run: ProposalRun) -> None:
    """Add a row for every action that has none."""
    missing = [index for index, row in enumerate(run.rows) if row is None]
    if not missing:
        return
    waits = is_held(run) and run.stop_reason is None  # undecided: a resumed run will start them
    reason = "held" if waits else run.stop_reason or "aborted"
    for index in missing:
        why = "reserved" if index in run.graph.reserved else reason
        detail = run.why_stopped(why)
        if waits or why == "reserved":
            name = run.proposal.actions[index].id
            run.rows[index] = rows.skipped(name, why, detail, at_us=run.clock.now_us())
        else:
            run.rows[index] = _skip(run, index, why, detail)


def _mark_conflict(run: ProposalRun, error: StateConflictError) -> None:
    """Mark the actions that read a state key which others have changed.

    If no action read it (a policy did), all of them are marked.
    """
    keys = set(error.keys)
    readers = [i for i in run.order_ended if not keys.isdisjoint(state_reads(run.proposal.actions[i]))]
    for index in readers or run.order_ended:
        row = run.rows[index]
        if row is not None:
            row.reason = "state_conflict"
            row.error = error.message
