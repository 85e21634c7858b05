"""Settles unknown outcomes (intents of an earlier process without an outcome) before a run continues.

It depends on the tool: read-only and idempotent tools run again; file changes are restored exactly and the action runs again; a
probe is called; every other action waits for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from interlock.approvals import Hold
from interlock.engine.completion.compensation import call_tool
from interlock.engine.completion.undo import restore_files
from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.record import rows
from interlock.engine.record.replay import ReplayedAction, ReplayedProposal, ReplayedRun
from interlock.engine.runs.unknown_outcomes import (
    Answer,
    answer_of,
    answered_by,
    ask_outcome,
    find_question,
    withdraw_question,
)
from interlock.engine.scheduler import Outcome
from interlock.model.errors import InterlockError
from interlock.model.events import ActionFailed, ActionSucceeded, OutcomeSettled
from interlock.workspace.undo import plan_undo


class Settlement:
    """The unknown outcomes of one proposal."""

    def __init__(
        self, run: ProposalRun, replayed: ReplayedRun, known: ReplayedProposal, answers: Mapping[str, Answer], by: str
    ) -> None:
        """`answers` are given by a person, by action id; `by` names the person."""
        self._run = run
        self._replayed = replayed
        self._known = known
        self._answers = answers
        self._by = by
        self.succeeded: list[str] = []
        """Actions that were settled as succeeded."""

    async def settle_all(self) -> bool:
        """Settle every unknown outcome. True if a person has to answer first."""
        waiting = False
        for index, action in enumerate(self._run.proposal.actions):
            replayed = self._known.actions.get(action.id)
            if replayed is not None and replayed.row is None and (replayed.open or replayed.interrupted):
                waiting = not await self._settle_one(index, replayed) or waiting
        return waiting

    async def _settle_one(self, index: int, replayed: ReplayedAction) -> bool:
        """True if the action may continue (again, or with an outcome); False if a person must decide."""
        run = self._run
        action, tool = run.proposal.actions[index], run.tools[index]
        answer = self._answers.get(action.id)
        if answer is None and (hold := self._answered(action.id)) is not None:
            return self._decide(index, cast("Answer", answer_of(hold)), answered_by(hold))
        if answer is None:
            if run.proposal.by_client:  # Interlock cannot repeat a call of a client's own tool
                if tool is None or tool.read_only:
                    return self._decide(index, "failed", "read_only")
                return self._ask_person(index, replayed)
            if tool is None or tool.read_only:
                return self._decide(index, "again", "read_only")
            if tool.tool.idempotent:
                return self._decide(index, "again", "idempotent")
            if self._restored(index):
                return self._decide(index, "again", "reversible")
            happened = await self._probe(index, replayed)
            if happened is not None:
                return self._decide(index, "succeeded" if happened else "again", "probe")
            return self._ask_person(index, replayed)
        return self._decide(index, answer, self._by)

    def _answered(self, action_id: str) -> Hold | None:
        """The question about the action's outcome, if it has been answered."""
        desk = self._run.services.desk
        hold = find_question(desk, self._replayed, self._known, action_id)
        return None if hold is None or answer_of(hold) is None else hold

    def _ask_person(self, index: int, replayed: ReplayedAction) -> bool:
        """Apply the answer to the question about the outcome, or hold the action until there is one."""
        run, desk = self._run, self._run.services.desk
        action = run.proposal.actions[index]
        hold = ask_outcome(desk, self._replayed, self._known, action.id)
        run.rows[index] = rows.held(
            action.id,
            "unknown_outcome",
            "the process ended between intent and outcome; settle the outcome (`interlock recover`)",
            at_us=run.clock.now_us(),
            approval=hold.id,
            attempts=replayed.attempts,
        )
        return False

    def _decide(self, index: int, decision: str, by: str) -> bool:
        """Journal the decision about the outcome, and apply it."""
        run, desk = self._run, self._run.services.desk
        action = run.proposal.actions[index]
        withdraw_question(desk, run.files.id, run.proposal.id, action.id)
        if run.proposal.by_client and decision == "again":
            decision = "failed"  # its client makes the call again, as a new one
        run.record(10, index, lambda _: OutcomeSettled(decision=decision, by=by))
        if decision == "succeeded":
            self._succeed(index, by)
        elif decision != "again":
            self._fail(index, by, Outcome.ABORT if decision == "undo" else None)
        return True

    def _succeed(self, index: int, by: str) -> None:
        run, name = self._run, self._run.proposal.actions[index].id
        attempts = run.attempts_before.get(index, 1)
        seq = run.record(
            10,
            index,
            lambda recorder: ActionSucceeded(
                attempt=attempts,
                duration_ms=0.0,
                output=recorder.keep(None),
                resolved_by=by,
            ),
        )
        self._known.outcomes.append((name, Outcome.DONE))
        run.rows[index] = rows.succeeded(name, None, run.clock.now_us(), seq, attempts)
        self.succeeded.append(name)

    def _fail(self, index: int, by: str, outcome: Outcome | None) -> None:
        run, name = self._run, self._run.proposal.actions[index].id
        attempts, error = run.attempts_before.get(index, 1), f"settled as failed by {by}"
        seq = run.record(
            10,
            index,
            lambda _: ActionFailed(
                attempt=attempts,
                reason="unknown_outcome",
                error=error,
                resolved_by=by,
            ),
        )
        self._known.outcomes.append((name, outcome))
        run.rows[index] = rows.failed(
            name, "unknown_outcome", error, at_us=run.clock.now_us(), seq=seq, attempts=attempts
        )

    def _restored(self, index: int) -> bool:
        """Restore the files of an interrupted action. True if that was possible, so that no effect of the action remains.

        Files of an undo are not restored: it compares every path before it changes one, a path that it has restored needs
        nothing more, and another undo or a person may rely on the restored content.
        """
        run, files = self._run, self._run.files
        tool = run.tools[index]
        directory = files.undo_directory
        if run.workspace is None or files.backups is None or directory is None:
            return False
        if tool is None or tool.tool.reversibility != "reversible":
            return False
        if tool.tool.name == UNDO_TOOL:
            return True
        action = run.proposal.actions[index]
        entries = plan_undo(directory, proposal=run.proposal.id, action=action.id)
        restored = restore_files(run, index, directory, entries)
        return not isinstance(restored, InterlockError)  # otherwise a person has to decide

    async def _probe(self, index: int, replayed: ReplayedAction) -> bool | None:
        """Call the tool's probe to find out whether the call happened; None if there is no probe, or no clear answer."""
        run = self._run
        tool = run.tools[index]
        if tool is None or tool.tool.probe is None or replayed.parameters is None:
            return None
        answer = await call_tool(run, index, tool.tool.probe, self._replayed.value(replayed.parameters))
        happened = answer.output.get("happened") if isinstance(answer.output, dict) else None
        return happened if isinstance(happened, bool) else None
