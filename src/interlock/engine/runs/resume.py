"""Takes a run up again whose process ended in the middle.

An intent without an outcome is an unknown outcome, never a failure. What settles it, by the tool: read-only and idempotent
tools run again; what has backups is put back exactly and runs again; a probe is asked; everything else waits for a human.
Finished actions never run again: their outcomes are replayed through the scheduler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from interlock.approvals import AccessError, Hold
from interlock.engine.completion.commit import conclude, fill, finish, reapply
from interlock.engine.completion.compensation import ask_tool
from interlock.engine.gate.admission import key_for
from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.gate.sequence import take_action
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.worker_pool import WorkerPool
from interlock.engine.record.replay import FoldedAction, FoldedProposal, FoldedRun
from interlock.engine.runs.dead_undos import clear_action
from interlock.engine.runs.recover import adopt_orphans
from interlock.engine.runs.run import Run
from interlock.engine.runs.unknown_outcomes import (
    Answer,
    answer_of,
    answered_by,
    ask_outcome,
    find_question,
    withdraw_question,
)
from interlock.engine.runs.write_lease import writing
from interlock.engine.scheduler import Outcome
from interlock.engine.services import Services
from interlock.journal import recover
from interlock.journal.index import require_not_behind
from interlock.model.errors import ConflictError, IntegrityError, ToolError, UsageError
from interlock.model.events import ActionFailed, ActionSucceeded, OutcomeSettled, StateChanged
from interlock.model.result import ActionResult, ProposalResult
from interlock.state.idempotency import Origin, Stored
from interlock.verify.graph import build_graph
from interlock.workspace import Origin as FileOrigin
from interlock.workspace import end_left_processes
from interlock.workspace.undo import plan_undo, restore


async def resume(
    services: Services, run_id: str, answers: Mapping[str, Answer] | None = None, *, by: str = ""
) -> list[ProposalResult]:
    """Finish what a run began. `answers` settle unknown outcomes by action id; `by` names the person who gave them.

    Once there are approvers, only they answer, with a proof: through the question (`unknown_outcomes`), not through `answers`.
    Returns the results of the proposals that were not finished. Raises: UsageError `not_found` or `run_finished`;
    IntegrityError if the journal is damaged or was truncated; StoreError `run_locked` if its process is alive.
    """
    if answers and services.desk is not None and services.desk.approvers.all():
        raise AccessError(
            "approvers are configured, so an unknown outcome is settled by the answer of one of them",
            hint=f"`interlock recover {run_id} --action ID --as ...`, or `interlock approvals edit`",
        )
    if services.state_dir is not None:
        adopt_orphans(services.index, services.state_dir / "runs", services.disk)
    directory = run_directory(services, run_id)
    row = services.index.get(run_id)
    report = recover(directory, services.disk, at=row.seq)
    require_not_behind(row, report.status)
    folded = FoldedRun(directory, open_only=True)
    folded.add_torn(report.intents)
    if folded.started is None:
        raise IntegrityError(f"run `{run_id}` has no beginning", code="journal_corrupt")
    if folded.finished is not None:
        raise UsageError(f"run `{run_id}` is finished: {folded.finished.status}", code="run_finished")
    run = Run.resume(
        services, run_id, agent=folded.started.agent, session=folded.started.session, at=report.status.head.seq
    )
    run.tally.join(folded.ended)
    try:
        if services.workspace is not None and run.files.backups is not None:
            end_left_processes(services.workspace, run.files.backups)
        results = [await _Resumption(run, folded, known, answers or {}, by).go() for known in folded.proposals.values()]
        if not run.tally.statuses:
            run.nothing_began()
    except BaseException:
        run.leave()
        raise
    finally:
        run.finish()
    return results


def abandon(services: Services, folded: FoldedRun) -> None:
    """End a run that is not over, and withdraw its questions: nobody goes on with what is being taken back.

    Raises: IntegrityError if the journal was truncated; StoreError `run_locked` if its process is alive.
    """
    assert folded.started is not None
    at = services.index.check_not_behind(folded.directory).head.seq
    run_id, started = folded.directory.name, folded.started
    run = Run.resume(services, run_id, agent=started.agent, session=started.session, at=at)
    try:
        if services.desk is not None:
            for hold in services.desk.store.of_run(run_id):
                services.desk.store.cancel(hold.id, "the run is taken back")
        for proposal in folded.proposals:
            run.count(folded.result(proposal))
        run.abandon()
    except BaseException:
        run.leave()  # it is not over, and can be resumed
        raise
    finally:
        run.finish()


def run_directory(services: Services, run_id: str) -> Path:
    """Where a run of this workspace lives. Raises UsageError `not_found`."""
    if services.state_dir is None:
        raise UsageError("this runtime keeps no journals", code="not_found")
    services.index.get(run_id)
    return services.state_dir / "runs" / run_id


class _Resumption:
    """One unfinished proposal on its way back."""

    def __init__(
        self, run: Run, folded: FoldedRun, known: FoldedProposal, answers: Mapping[str, Answer], by: str
    ) -> None:
        self._run = run
        self._folded = folded
        self._known = known
        self._answers = answers
        self._by = by
        self._unsettled_writes: dict[str, list[StateChanged]] = {}
        """State that actions wrote whose outcome is not known: it counts only if they are settled as succeeded."""
        proposal = folded.proposal(known)
        services = run.services
        self._x = ProposalRun(
            services,
            run.files,
            proposal,
            build_graph(proposal, services.registry.by_name),
            services.judges.current().principal(known.received.agent, proposal.session or run.session),
            dry_run=known.received.dry_run,
            allowance=run.allowance(proposal, dry_run=known.received.dry_run),
            token=known.received.grant_token,
        )
        self._pool = WorkerPool(self._x, take_action)

    async def go(self) -> ProposalResult:
        """Continue from where the journal ends."""
        x, known = self._x, self._known
        self._put_back()
        if known.committed is not None:
            reapply(x, known.committed)
            fill(x)
            return self._count(await finish(x, []))
        async with writing(self._pool):  # settling an outcome puts files back, as undo does
            return await self._go_on()

    async def _go_on(self) -> ProposalResult:
        x, known = self._x, self._known
        self._clear_temporaries()
        if known.rolled_back or any(outcome is Outcome.ABORT for _, outcome in self._outcomes()):
            return self._count(await self._take_back())
        if await self._settle():
            for index, row in enumerate(x.rows):
                if row is None:
                    action = x.proposal.actions[index]
                    x.rows[index] = ActionResult(action_id=action.id, status="skipped", reason="held")
            return self._count(await finish(x, []))
        if any(outcome is Outcome.ABORT for _, outcome in self._outcomes()):  # a human said so
            return self._count(await self._take_back())
        return await self._run.carry_on(self._pool, self._replay())

    async def _take_back(self) -> ProposalResult:
        """The proposal was stopped already: undo goes on where it was, and nothing is asked or started any more."""
        x = self._x
        self._replay()
        for index, action in enumerate(x.proposal.actions):
            folded = self._known.actions.get(action.id)
            if folded is not None and x.rows[index] is None and (folded.open or folded.interrupted):
                x.rows[index] = folded.stopped or ActionResult(
                    action_id=action.id, status="unknown_outcome", reason="interrupted", attempts=folded.attempts,
                    timestamp=x.clock.now_us(),
                )  # fmt: skip
                x.order_ended.append(index)
        x.stop("aborted")
        return await conclude(x)

    def _count(self, result: ProposalResult) -> ProposalResult:
        self._run.count(result)
        return result

    def _put_back(self) -> None:
        """Rows, buffer, attempts and spending, as they were when the process ended."""
        x, known = self._x, self._known
        for index, action in enumerate(x.proposal.actions):
            folded = known.actions.get(action.id)
            if folded is None:
                continue
            row = x.rows[index] = folded.row
            x.undone[index] = folded
            if row is not None and folded.undone and row.status != "failed":
                row.status, row.reason = "succeeded", None  # it will be said again, with what is left
            if row is not None and row.reason == "budget_exceeded":
                x.stop("budget_exceeded")
            x.attempts_before[index] = folded.attempts
            if folded.not_undoable:
                x.not_undoable[index] = list(folded.not_undoable)
            if folded.edited and folded.parameters is not None:
                x.edited[index] = self._folded.value(folded.parameters)
        for action_id, change in known.writes:
            folded = known.actions.get(action_id)
            if folded is not None and folded.row is None and (folded.open or folded.interrupted):
                self._unsettled_writes.setdefault(action_id, []).append(change)
            else:
                self._write_again(action_id, change)
        for index, folded in x.undone.items():
            self._remember(index, folded)
        attempts = sum(folded.attempts for folded in known.actions.values())
        calls = sum(folded.attempts for folded in known.actions.values() if folded.tool is not None)
        x.allowance.spent(attempts, calls, known.spent_ms, known.spent_cost)
        x.cost = known.spent_cost

    def _write_again(self, action_id: str, change: StateChanged) -> None:
        """Put a state write of the journal back into the buffer, and into its action's row."""
        x, value = self._x, self._folded.value(change.value)
        first = self._known.action(action_id).tool == UNDO_TOOL and all(w.key != change.key for w in x.buffer.writes)
        if first:
            x.buffer.expect(change.key, change.old_version)  # an undo looks at a key before it writes it
        if change.deleted:
            x.buffer.delete(change.key, action_id)
        else:
            x.buffer.write(change.key, value, action_id)
        if (row := x.rows[x.graph.index[action_id]]) is not None:
            row.state_changes[change.key] = value

    def _clear_temporaries(self) -> None:
        """Remove the temporary files of interrupted actions, whatever becomes of these: they may hold what is private."""
        for action_id, folded in self._known.actions.items():
            if folded.row is None and (folded.open or folded.interrupted):
                with contextlib.suppress(
                    ToolError, IntegrityError
                ):  # what stands in the way is met again, and said, later
                    clear_action(self._run.services, self._folded, self._x.proposal.id, action_id)

    def _remember(self, index: int, folded: FoldedAction) -> None:
        """A success of an idempotent call is stored with the commit, whichever process made it."""
        x = self._x
        action, tool, row = x.proposal.actions[index], x.tools[index], x.rows[index]
        if row is None or row.status != "succeeded" or row.deduplicated_from or folded.parameters is None:
            return
        if tool is not None and action.idempotent and tool.tool.idempotent:
            origin = Origin(self._run.id, x.proposal.id, action.id)
            key = key_for(x, tool, self._folded.value(folded.parameters))
            x.results.put(key, Stored(origin, row.output, row.state_changes))

    def _replay(self) -> list[tuple[int, Outcome]]:
        """The outcomes for the scheduler, and the actions in the order in which they ended."""
        replay = self._outcomes()
        self._x.order_ended.extend(index for index, _ in replay)
        return replay

    def _outcomes(self) -> list[tuple[int, Outcome]]:
        """The outcomes, in the order of the journal."""
        x = self._x
        replay = []
        for action_id, outcome in self._known.outcomes:
            index = x.graph.index[action_id]
            if outcome is None:
                goes_on = x.proposal.actions[index].failure_behavior == "skip"
                outcome = Outcome.FAILED if goes_on else Outcome.ABORT  # noqa: PLW2901 - the same outcome, now known
            replay.append((index, outcome))
        return replay

    # -- unknown outcomes

    async def _settle(self) -> bool:
        """Settle every unknown outcome. True if a human has to be asked first."""
        waiting = False
        for index, action in enumerate(self._x.proposal.actions):
            folded = self._known.actions.get(action.id)
            if folded is not None and folded.row is None and (folded.open or folded.interrupted):
                waiting = not await self._settle_one(index, folded) or waiting
        return waiting

    async def _settle_one(self, index: int, folded: FoldedAction) -> bool:
        """True if the action may go on (again, or with an outcome); False if a human must say."""
        x = self._x
        action, tool = x.proposal.actions[index], x.tools[index]
        answer = self._answers.get(action.id)
        if answer is None and (hold := self._answered(action.id)) is not None:
            return self._decide(index, cast("Answer", answer_of(hold)), answered_by(hold))
        if answer is None:
            if tool is None or tool.read_only:
                return self._decide(index, "again", "read_only")
            if tool.tool.idempotent:
                return self._decide(index, "again", "idempotent")
            if self._restored(index):
                return self._decide(index, "again", "reversible")
            happened = await self._probe(index, folded)
            if happened is not None:
                return self._decide(index, "succeeded" if happened else "again", "probe")
            return self._ask_person(index, folded)
        return self._decide(index, answer, self._by)

    def _answered(self, action_id: str) -> Hold | None:
        """The question about the action's outcome, if it has its answer."""
        desk = self._run.services.desk
        hold = None if desk is None else find_question(desk, self._folded, self._known, action_id)
        return None if hold is None or answer_of(hold) is None else hold

    def _ask_person(self, index: int, folded: FoldedAction) -> bool:
        """Take the answer to the question about the outcome, or hold the action until there is one."""
        x, desk = self._x, self._run.services.desk
        action = x.proposal.actions[index]
        hold = None if desk is None else ask_outcome(desk, self._folded, self._known, action.id)
        x.rows[index] = ActionResult(
            action_id=action.id,
            status="held",
            reason="unknown_outcome",
            error="the process ended between intent and outcome; say what became of it (`interlock recover`)",
            output=None if hold is None else {"approval": hold.id},
            attempts=folded.attempts,
            timestamp=x.clock.now_us(),
        )
        return False

    def _decide(self, index: int, decision: str, by: str) -> bool:
        """Journal how the outcome is taken, and make it so."""
        x, recorder = self._x, self._x.recorder
        assert recorder is not None
        action, desk = x.proposal.actions[index], x.services.desk
        if desk is not None:
            withdraw_question(desk, self._run.id, x.proposal.id, action.id)
        attempts = x.attempts_before.get(index, 1)
        recorder.append(OutcomeSettled(decision=decision, by=by, **x.stamp(index, 10)))
        if decision == "again":
            return True
        row = ActionResult(action_id=action.id, status="succeeded", attempts=attempts, timestamp=x.clock.now_us())
        if decision == "succeeded":
            row.seq = recorder.append(
                ActionSucceeded(
                    attempt=attempts,
                    duration_ms=0.0,
                    output=recorder.keep(None),
                    resolved_by=by,
                    **x.stamp(index, 10),
                )
            )
            self._known.outcomes.append((action.id, Outcome.DONE))
        else:
            row.status, row.reason = "failed", "unknown_outcome"
            row.error = f"settled as failed by {by}"
            row.seq = recorder.append(
                ActionFailed(
                    attempt=attempts,
                    reason="unknown_outcome",
                    error=row.error,
                    resolved_by=by,
                    **x.stamp(index, 10),
                )
            )
            self._known.outcomes.append((action.id, Outcome.ABORT if decision == "undo" else None))
        x.rows[index] = row
        if decision == "succeeded":
            for change in self._unsettled_writes.get(action.id, ()):
                self._write_again(action.id, change)
        return True

    def _restored(self, index: int) -> bool:
        """Put the files of an interrupted action back. True if that was possible: then it has done nothing any more.

        An undo is left as it is. It looks at every path before it touches one, what is back already needs nothing, and what
        it has restored may be what another undo, or a person, has wanted since.
        """
        x, run = self._x, self._run
        workspace, backups = x.services.workspace, run.files.backups
        tool = x.tools[index]
        if workspace is None or backups is None or tool is None or tool.tool.reversibility != "reversible":
            return False
        if tool.tool.name == UNDO_TOOL:
            return True
        assert run.files.directory is not None
        action = x.proposal.actions[index]
        entries = plan_undo(run.files.directory, proposal=x.proposal.id, action=action.id)
        try:
            restore(workspace, run.files.directory, entries, backups, FileOrigin(x.proposal.id, action.id, 0))
        except (ConflictError, IntegrityError, ToolError):
            return False  # a human has to look at it
        return True

    async def _probe(self, index: int, folded: FoldedAction) -> bool | None:
        """Ask the tool's probe whether the call happened; None if there is no probe, or no clear answer."""
        x = self._x
        tool = x.tools[index]
        if tool is None or tool.tool.probe is None or folded.parameters is None:
            return None
        answer = await ask_tool(x, index, tool.tool.probe, self._folded.value(folded.parameters))
        happened = answer.output.get("happened") if isinstance(answer.output, dict) else None
        return happened if isinstance(happened, bool) else None
