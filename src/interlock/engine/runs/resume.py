"""Resumes a run whose process ended before the run did.

An intent without an outcome is an unknown outcome, never a failure. It is settled by kind of tool: read-only and idempotent
tools run again; file changes are restored exactly and the action runs again; a probe is called; every other action waits for a
person. Finished actions never run again: their outcomes are replayed through the scheduler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from interlock.approvals import AccessError
from interlock.engine.completion.commit import conclude, fill_missing, finish, reapply
from interlock.engine.completion.layers import working_layer
from interlock.engine.gate.admission import key_for
from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.gate.sequence import take_action
from interlock.engine.proposals.budget import Use
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.worker_pool import WorkerPool
from interlock.engine.record import rows
from interlock.engine.record.replay import ReplayedAction, ReplayedProposal, ReplayedRun
from interlock.engine.runs.dead_undos import clear_action
from interlock.engine.runs.recover import adopt_orphans
from interlock.engine.runs.run import Run
from interlock.engine.runs.settlement import Settlement
from interlock.engine.runs.unknown_outcomes import Answer, is_unknown
from interlock.engine.runs.write_lease import writing
from interlock.engine.scheduler import Outcome
from interlock.engine.services import Services
from interlock.journal import recover
from interlock.journal.index import require_not_behind
from interlock.journal.stops import StopRequest
from interlock.model.errors import IntegrityError, ToolError, UsageError
from interlock.model.events import StateChanged
from interlock.model.result import ProposalResult
from interlock.model.tool import ClientExecutor
from interlock.state.idempotency import Origin, Stored
from interlock.verify.graph import build_graph
from interlock.workspace import end_left_processes
from interlock.workspace.undo import discard_temporaries, plan_undo


async def resume(
    services: Services,
    run_id: str,
    answers: Mapping[str, Answer] | None = None,
    *,
    by: str = "",
    client: ClientExecutor | None = None,
    reported: bool = False,
) -> list[ProposalResult]:
    """Finish a run. `answers` settle unknown outcomes by action id; `by` names the person who gave them.

    The calls of a coding agent's own tools continue only with their `client`; without it, UsageError `client_call`.

    `reported` means that the `answers` are the client's report of the outcomes of its own calls.

    Once approvers are registered, only they answer, with a proof: through the question (`unknown_outcomes`), not `answers`.
    Returns the results of the proposals that were not finished. Raises: UsageError `not_found` or `run_finished`;
    IntegrityError if the journal is damaged or was truncated; StoreError `run_locked` if its process is alive.
    """
    if answers and not reported:
        _require_no_approvers(services, run_id)
    if services.state_dir is not None:
        adopt_orphans(services.index, services.state_dir / "runs", services.disk)
    directory = run_directory(services, run_id)
    row = services.index.get(run_id)
    report = recover(directory, services.disk, at=row.seq)
    require_not_behind(row, report.status)
    replayed = ReplayedRun(directory, open_only=True)
    replayed.add_torn(report.intents)
    if replayed.started is None:
        raise IntegrityError(f"run `{run_id}` has no beginning", code="journal_corrupt")
    if replayed.finished is not None:
        raise UsageError(f"run `{run_id}` is finished: {replayed.finished.status}", code="run_finished")
    request = None if services.stops is None else services.stops.store.get(run_id)
    if request is not None:  # its process ended before it had stopped
        abandon(services, replayed, stop=request)
        ended = ReplayedRun(directory)
        return [ended.result(proposal) for proposal in ended.proposals]
    if client is None:
        _require_no_client(replayed, answers or {})
    run = Run.resume(
        services, run_id, agent=replayed.started.agent, session=replayed.started.session, at=report.status.head.seq
    )
    run.tally.join(replayed.ended)
    try:
        if run.files.backups is not None:
            end_left_processes(run.files.backups)
        results = [
            await _Resumption(run, replayed, known, answers or {}, by, client).go()
            for known in replayed.proposals.values()
        ]
        if not run.tally.statuses:
            run.nothing_began()
    except BaseException:
        run.leave()
        raise
    finally:
        run.finish()
    return results


def abandon(services: Services, replayed: ReplayedRun, *, stop: StopRequest | None = None) -> None:
    """End an unfinished run and withdraw its questions: a run that is being undone, or was stopped, is not resumed.

    Raises: IntegrityError if the journal was truncated; StoreError `run_locked` if its process is alive.
    """
    assert replayed.started is not None
    at = services.index.check_not_behind(replayed.directory).head.seq
    run_id, started = replayed.directory.name, replayed.started
    run = Run.resume(services, run_id, agent=started.agent, session=started.session, at=at)
    try:
        if stop is not None:
            run.stop(stop)
            if run.files.backups is not None:
                end_left_processes(run.files.backups)
        why = "the run is undone" if stop is None else stop.text
        for hold in services.desk.store.of_run(run_id):
            services.desk.store.cancel(hold.id, why)
        for proposal in replayed.proposals:
            run.count(replayed.result(proposal))
        run.abandon()
    except BaseException:
        run.leave()  # it has not ended, and can be resumed
        raise
    finally:
        run.finish()


def _require_no_approvers(services: Services, run_id: str) -> None:
    if services.desk.approvers.all():
        raise AccessError(
            "approvers are configured, so an unknown outcome is settled by the answer of one of them",
            hint=f"`interlock recover {run_id} --action ID --as ...`, or `interlock approvals edit`",
        )


def _require_no_client(replayed: ReplayedRun, answers: Mapping[str, Answer]) -> None:
    """Raises: UsageError `client_call` if a call would continue that only the client can carry out, with its own tools."""
    for known in replayed.proposals.values():
        if not replayed.proposal(known).by_client:
            continue
        settled = {name for name, action in known.actions.items() if is_unknown(action)}
        if not settled or any(answers.get(name) == "again" for name in settled):
            raise UsageError(
                "the coding agent that asked for this call carries it out itself: it continues when the agent makes it again",
                code="client_call",
                hint="tell the agent to call its tool again with the same arguments",
            )


def unknown_actions(services: Services, run_id: str) -> list[str]:
    """The actions of a run with an unknown outcome. Raises: UsageError `not_found`; StoreError `run_locked`."""
    directory = run_directory(services, run_id)
    report = recover(directory, services.disk)
    replayed = ReplayedRun(directory, open_only=True)
    replayed.add_torn(report.intents)
    return [
        name for known in replayed.proposals.values() for name, action in known.actions.items() if is_unknown(action)
    ]


def run_directory(services: Services, run_id: str) -> Path:
    """The directory of a run of this workspace. Raises UsageError `not_found`."""
    if services.state_dir is None:
        raise UsageError("this runtime keeps no journals", code="not_found")
    services.index.get(run_id)
    return services.state_dir / "runs" / run_id


class _Resumption:
    """One unfinished proposal that is being resumed."""

    def __init__(
        self,
        owner: Run,
        replayed: ReplayedRun,
        known: ReplayedProposal,
        answers: Mapping[str, Answer],
        by: str,
        client: ClientExecutor | None,
    ) -> None:
        self._owner = owner
        self._replayed = replayed
        self._known = known
        self._unsettled_writes: dict[str, list[StateChanged]] = {}
        """State writes of actions with an unknown outcome: they count only if the actions are settled as succeeded."""
        proposal = replayed.proposal(known)
        services, session, token = owner.services, proposal.session or owner.session, known.received.grant_token
        judges = services.judges.current(session, token)
        self._run = ProposalRun(
            services,
            owner.files,
            proposal,
            build_graph(proposal, services.registry.by_name),
            judges.principal(known.received.agent, session),
            judges,
            dry_run=known.received.dry_run,
            client=client,
            allowance=owner.allowance(proposal, dry_run=known.received.dry_run),
            token=token,
        )
        self._pool = WorkerPool(self._run, take_action)
        self._settlement = Settlement(self._run, replayed, known, answers, by)

    async def go(self) -> ProposalResult:
        """Continue from where the journal ends."""
        run, known = self._run, self._known
        self._restore()
        if known.committed is not None:
            reapply(run, known.committed)
            fill_missing(run)
            return self._count(await finish(run, []))
        async with working_layer(run), writing(self._pool, settle=True):  # settling restores files, as undo does
            if run.files.layer is not None and run.files.backups is not None:
                end_left_processes(run.files.backups)
            return await self._continue()

    async def _continue(self) -> ProposalResult:
        run, known = self._run, self._known
        self._clear_temporaries()
        if known.rolled_back or any(outcome is Outcome.ABORT for _, outcome in self._outcomes()):
            return self._count(await self._roll_back())
        if await self._settlement.settle_all():
            for index, row in enumerate(run.rows):
                if row is None:
                    action = run.proposal.actions[index]
                    run.rows[index] = rows.skipped(action.id, "held")
            return self._count(await finish(run, []))
        for action_id in self._settlement.succeeded:
            for change in self._unsettled_writes.get(action_id, ()):
                self._write_again(action_id, change)
        if any(outcome is Outcome.ABORT for _, outcome in self._outcomes()):  # by a person's decision
            return self._count(await self._roll_back())
        return await self._owner.carry_on(self._pool, self._replay())

    async def _roll_back(self) -> ProposalResult:
        """Continue the rollback of a proposal that was already stopped; no question is asked and no action starts."""
        run = self._run
        self._replay()
        for index, action in enumerate(run.proposal.actions):
            replayed = self._known.actions.get(action.id)
            if replayed is not None and run.rows[index] is None and (replayed.open or replayed.interrupted):
                run.rows[index] = replayed.stopped or rows.stopped(
                    action.id,
                    "interrupted",
                    at_us=run.clock.now_us(),
                    seq=None,
                    attempts=replayed.attempts,
                    unknown=True,
                )
                run.order_ended.append(index)
        run.stop("aborted")
        return await conclude(run)

    def _count(self, result: ProposalResult) -> ProposalResult:
        self._owner.count(result)
        return result

    def _restore(self) -> None:
        """Restore rows, buffer, attempts and use to the state at the end of the process."""
        run, known = self._run, self._known
        for index, action in enumerate(run.proposal.actions):
            replayed = known.actions.get(action.id)
            if replayed is None:
                continue
            row = run.rows[index] = replayed.row
            run.undone[index] = replayed
            if replayed.waits:
                run.waits[index] = list(replayed.waits)
            if row is not None and replayed.undone and row.status != "failed":
                row.status, row.reason = "succeeded", None  # rollback sets it again, with the remaining effects
            if row is not None and row.reason == "budget_exceeded":
                run.stop("budget_exceeded")
            run.attempts_before[index] = replayed.attempts
            if replayed.not_undoable:
                run.not_undoable[index] = list(replayed.not_undoable)
            if replayed.edited and replayed.parameters is not None:
                run.edited[index] = self._replayed.value(replayed.parameters)
        for action_id, change in known.writes:
            replayed = known.actions.get(action_id)
            if replayed is not None and replayed.row is None and (replayed.open or replayed.interrupted):
                self._unsettled_writes.setdefault(action_id, []).append(change)
            else:
                self._write_again(action_id, change)
        for index, replayed in run.undone.items():
            self._remember(index, replayed)
        attempts = sum(replayed.attempts for replayed in known.actions.values())
        calls = sum(replayed.attempts for replayed in known.actions.values() if replayed.tool is not None)
        run.allowance.spent(attempts, calls, known.spent_ms, Use(known.cost, known.tokens))
        run.cost, run.tokens, run.cost_unknown = known.cost, known.tokens, known.cost_unknown

    def _write_again(self, action_id: str, change: StateChanged) -> None:
        """Restore a state write of the journal into the buffer, and into its action's row."""
        run, value = self._run, self._replayed.value(change.value)
        first = self._known.action(action_id).tool == UNDO_TOOL and all(w.key != change.key for w in run.buffer.writes)
        if first:
            run.buffer.expect(change.key, change.old_version)  # an undo reads a key before it writes it
        if change.deleted:
            run.buffer.delete(change.key, action_id)
        else:
            run.buffer.write(change.key, value, action_id)
        if (row := run.rows[run.graph.index[action_id]]) is not None:
            row.state_changes[change.key] = value

    def _clear_temporaries(self) -> None:
        """Remove the temporary files of interrupted actions in any case, because they may contain private data."""
        for action_id, replayed in self._known.actions.items():
            if replayed.row is None and (replayed.open or replayed.interrupted):
                # An error here occurs again, and is reported, when the files are restored.
                run = self._run
                with contextlib.suppress(ToolError, IntegrityError):
                    if run.workspace is not None and run.files.layer is not None:
                        entries = plan_undo(run.files.layer, proposal=run.proposal.id, action=action_id)
                        discard_temporaries(run.workspace, run.files.layer, entries)
                    else:
                        clear_action(self._owner.services, self._replayed, run.proposal.id, action_id)

    def _remember(self, index: int, replayed: ReplayedAction) -> None:
        """Store the success of an idempotent call with the commit, whichever process made it."""
        run = self._run
        action, tool, row = run.proposal.actions[index], run.tools[index], run.rows[index]
        if row is None or row.status != "succeeded" or row.deduplicated_from or replayed.parameters is None:
            return
        if tool is not None and action.idempotent and tool.tool.idempotent:
            origin = Origin(self._owner.id, run.proposal.id, action.id)
            key = key_for(run, tool, self._replayed.value(replayed.parameters))
            run.results.put(key, Stored(origin, row.output, row.state_changes))

    def _replay(self) -> list[tuple[int, Outcome]]:
        """The outcomes for the scheduler, and the actions in the order in which they ended."""
        replay = self._outcomes()
        self._run.order_ended.extend(index for index, _ in replay)
        return replay

    def _outcomes(self) -> list[tuple[int, Outcome]]:
        """The outcomes, in the order of the journal."""
        run = self._run
        replay = []
        for action_id, outcome in self._known.outcomes:
            index = run.graph.index[action_id]
            if outcome is None:
                goes_on = run.proposal.actions[index].failure_behavior == "skip"
                outcome = Outcome.FAILED if goes_on else Outcome.ABORT  # noqa: PLW2901 - the same outcome, now known
            replay.append((index, outcome))
        return replay
