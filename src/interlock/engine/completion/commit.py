"""How a proposal ends: its state is committed, or everything is taken back; then the result.

The commit is one transaction. Inside it the versions that the proposal read are checked, the journal line that decides is
put on disk, and only then the rows are written: where the two disagree after a crash, the journal decides, and applying its
decision is idempotent by (run, seq).
"""

from __future__ import annotations

from typing import Final

import msgspec

from interlock.engine.completion.rollback import take_back
from interlock.engine.proposals.proposal_run import ProposalRun as Execution
from interlock.engine.record.tally import cost_of
from interlock.journal import scan
from interlock.model.decision import Refusal
from interlock.model.errors import IntegrityError
from interlock.model.events import ActionRejected, ActionSkipped, ProposalFinished, StateRolledBack, WorkspaceCommitted
from interlock.model.result import ActionResult, NotUndone, ProposalResult, RunStatus
from interlock.state.store import StateConflictError
from interlock.verify.graph import state_reads

_ABORTING: Final = frozenset({"aborted", "deadline_exceeded", "state_conflict"})


async def conclude(x: Execution) -> ProposalResult:
    """After the last action: commit or take back, and say what happened. Raises StoreError."""
    not_undone: list[NotUndone] = []
    if x.stop_reason not in _ABORTING and not x.dry_run and not held(x):
        try:
            commit(x)
        except StateConflictError as error:
            x.stop_reason = "state_conflict"
            _blame(x, error)
    if x.stop_reason in _ABORTING:
        withdraw(x)
    fill(x)
    if x.stop_reason in _ABORTING:
        if x.recorder is not None:
            x.recorder.append(StateRolledBack(**x.stamp(None, 10)))
        not_undone = await take_back(x)
    return await finish(x, not_undone)


async def reject_all(x: Execution, refusal: Refusal, index: int | None = None) -> ProposalResult:
    """The proposal as a whole is refused before anything ran; `index` names the action whose fault it is, if it is one's."""
    now = x.clock.now_us()
    for i, action in enumerate(x.proposal.actions):
        if index is None or i == index:
            row = ActionResult(
                action_id=action.id, status="rejected", reason=refusal.reason, error=refusal.detail, timestamp=now
            )
        else:
            detail = f"`{x.proposal.actions[index].id}` stopped the proposal: rejected, {refusal.reason}"
            row = ActionResult(action_id=action.id, status="skipped", reason="aborted", error=detail, timestamp=now)
        x.rows[i] = row
        if x.recorder is not None:
            stamp = x.stamp(i, 2 if index is None else 1)
            row.seq = x.recorder.append(
                ActionRejected(reason=refusal.reason, detail=x.recorder.text(refusal.detail), **stamp)
                if row.status == "rejected"
                else ActionSkipped(reason="aborted", detail=x.recorder.text(row.error or ""), **stamp)
            )
    x.stop_reason = "aborted"
    return await finish(x, [])


def held(x: Execution) -> bool:
    """True if some action waits for a human: then nothing is committed yet, and the run is to be resumed."""
    return any(row is not None and row.status == "held" for row in x.rows)


def withdraw(x: Execution) -> None:
    """Take back the questions of a proposal that has come to its end without their answers."""
    for index, row in enumerate(x.rows):
        if row is None or row.status != "held":
            continue
        hold = row.output.get("approval") if isinstance(row.output, dict) else None
        if hold is not None and x.services.desk is not None:
            x.services.desk.store.cancel(hold, "its proposal has ended")
        x.rows[index] = None


def commit(x: Execution) -> None:
    """Step 10 for the proposal. Raises: StateConflictError (nothing was applied), StoreError."""
    effects = any(tool is not None and not tool.read_only for tool in x.tools)
    if not x.buffer.dirty and not x.results.pending and not (effects and x.buffer.read):
        return
    services = x.services
    with services.db.transaction():
        services.store.check(x.buffer.read)
        seq, seal = 0, ""
        if x.recorder is not None:
            keys = tuple(sorted({write.key for write in x.buffer.writes}))
            seq = x.recorder.append(WorkspaceCommitted(keys=keys, **x.stamp(None, 10)))
            x.recorder.writer.flush()
            head = x.recorder.writer.head()
            seal = head.seal
            services.index.commit_point(head)
        x.buffer.commit(run=f"{x.run.id}/{x.proposal.id}" if x.recorder is None else x.run.id, seq=seq, seal=seal)
        x.results.commit()


def reapply(x: Execution, committed: WorkspaceCommitted) -> None:
    """The journal has decided that the proposal is committed, and the process died before (or after) the database heard it.

    Raises: IntegrityError, StoreError.
    """
    services, recorder = x.services, x.recorder
    assert recorder is not None
    recorder.writer.flush()
    assert x.run.directory is not None
    seal = scan(x.run.directory, at=committed.seq).seal_at
    if seal is None:  # a commit is flushed at once, so a batch ends with it
        raise IntegrityError(
            f"the journal of run `{x.run.id}` was not written by Interlock: no seal ends at the commit, event {committed.seq}",
            code="journal_corrupt",
        )
    with services.db.transaction():
        services.index.commit_point(recorder.writer.head())
        services.store.apply(x.buffer.writes, run=x.run.id, seq=committed.seq, seal=seal)
        x.results.commit()


async def finish(x: Execution, not_undone: list[NotUndone]) -> ProposalResult:
    """The result, and the event that says so; on disk before the caller sees it."""
    rows = [row for row in x.rows if row is not None]
    assert len(rows) == len(x.rows)
    cost = cost_of(x.proposal.actions, rows, cost=x.cost)
    status = status_of(x, rows)
    if x.recorder is not None:
        if status != "held":
            fields = msgspec.to_builtins(cost)
            left = [msgspec.structs.replace(one, detail=x.recorder.text(one.detail)) for one in not_undone]
            x.recorder.append(ProposalFinished(status=status, cost=fields, not_undone=tuple(left), **x.stamp(None, 10)))
        await x.recorder.writer.durable()
    return ProposalResult(
        run_id=x.run.id, proposal_id=x.proposal.id, status=status, results=rows, cost=cost, not_undone=not_undone
    )


def status_of(x: Execution, rows: list[ActionResult]) -> RunStatus:
    """The status of the proposal from its rows: `succeeded` only if every action did."""
    statuses = {row.status for row in rows}
    if "skipped" in statuses:
        statuses = {row.status for row in rows if row.reason != "reserved"}
    if x.dry_run:
        if "rejected" in statuses or "held" in statuses:
            return "rejected" if "rejected" in statuses else "held"
        return "failed" if x.stop_reason == "budget_exceeded" else "succeeded"
    if statuses <= {"succeeded"} and x.stop_reason is None:
        return "succeeded"
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


def fill(x: Execution) -> None:
    """Give a row to every action that never got so far."""
    waits = held(x) and x.stop_reason is None  # nothing is decided about these: a resumed run will start them
    reason = "held" if waits else x.stop_reason or "aborted"
    now = x.clock.now_us()
    for index, row in enumerate(x.rows):
        if row is not None:
            continue
        why = "reserved" if index in x.graph.reserved else reason
        new = x.rows[index] = ActionResult(
            action_id=x.proposal.actions[index].id,
            status="skipped",
            reason=why,
            error=x.why_stopped(why),
            timestamp=now,
        )
        if x.recorder is not None and why != "reserved" and not waits:
            detail = x.recorder.text(new.error or "")
            new.seq = x.recorder.append(ActionSkipped(reason=why, detail=detail, **x.stamp(index, 7)))


def _blame(x: Execution, error: StateConflictError) -> None:
    """Somebody else changed what the proposal had read: the actions that looked at those keys carry the reason.

    All of them do if none did itself (a policy looked at the key).
    """
    keys = set(error.keys)
    looked = [i for i in x.order_ended if not keys.isdisjoint(state_reads(x.proposal.actions[i]))]
    for index in looked or x.order_ended:
        row = x.rows[index]
        if row is not None:
            row.reason = "state_conflict"
            row.error = error.message
