"""The part of an undo that makes an action's compensating calls, with marks in the journal of the undone run."""

from __future__ import annotations

from typing import Any

from interlock.engine.completion.undo import (
    IN_USE,
    Compensation,
    approved_with,
    compensate,
    compensation_by_definition,
    find_compensation,
    source,
)
from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.record.replay import ReplayedAction, ReplayedProposal, ReplayedRun
from interlock.engine.runs.undo_marks import UndoMarks
from interlock.engine.runs.undo_state import Leave
from interlock.model.decision import Requirement
from interlock.model.errors import IntegrityError, InterlockError, StoreError, ToolError, UsageError
from interlock.model.events import Kept
from interlock.model.proposal import Action
from interlock.model.result import ActionResult
from interlock.verify.graph import needs
from interlock.verify.references import References


class CompensationUndo:
    """The compensations of one undo, for all of its actions, newest first."""

    def __init__(self, run: ProposalRun, index: int, marks: UndoMarks, leave: Leave, *, force: bool) -> None:
        """`run` and `index` are the undo's own; with `force` a call is repeated although an earlier undo died in it."""
        self.made: list[dict[str, Any]] = []
        """The compensations that were made: run, proposal, action, and the call."""
        self._run = run
        self._index = index
        self._marks = marks
        self._leave = leave
        self._force = force
        self._actions: dict[str, dict[str, Action]] = {}
        self._references: dict[str, References] = {}
        self._in_use: set[tuple[str, str]] = set()
        """Proposal and id of actions on which an action depends whose compensation has failed: they are not compensated."""
        self._others: dict[str, ReplayedRun] = {}

    def learn(self, proposal_id: str, actions: dict[str, Action]) -> None:
        """Set the actions of a proposal by id, before the first of them is compensated."""
        self._actions[proposal_id] = actions
        self._references[proposal_id] = References(actions)

    async def compensate(
        self, replayed: ReplayedRun, known: ReplayedProposal, action: Action, done: ReplayedAction
    ) -> bool | None:
        """True or False for success if it was tried; None if there is no compensation."""
        calls = self._compensations(replayed, known, action, done)
        proposal = known.received.proposal or ""
        if calls and (proposal, action.id) in self._in_use:
            self._keep_in_use(proposal, action)
            self._leave(action.id, "compensation_failed", IN_USE)
            return False
        if calls and done.undo_open == "compensation" and not self._force and not self._may_repeat(calls):
            detail = "an earlier undo died while compensating it: check its effect; `--force` compensates it again"
            self._leave(action.id, "unknown_outcome", detail)
            return False
        for call in calls:
            problem, reason = await self._compensate_by(known, action, call)
            if problem is not None:
                self._keep_in_use(proposal, action)
                self._leave(action.id, reason, problem)
                return False
        return True if calls else None

    async def _compensate_by(
        self, known: ReplayedProposal, action: Action, call: Compensation
    ) -> tuple[str | None, str]:
        """Make one call, with its intent and its end in both journals. Returns the problem (or None), and the reason."""
        run, marks = self._run, self._marks
        run_id, proposal = known.run_id, known.received.proposal or ""
        try:
            marks.begin(run_id, proposal, action.id, f"`{call.tool}` for `{action.id}`")
        except (StoreError, IntegrityError, UsageError) as error:
            return f"not compensated, because its run's journal cannot be written: {error.message}", error.code
        approved: tuple[Requirement, ...] = ()
        if call.by_definition:
            approved = approved_with(self._run.services, *(call.redoes or (run_id, proposal, action.id)), call.tool)
        answer = await compensate(run, self._index, call, approved, source(run_id, proposal, action.id))
        problem = answer.problem
        if problem is None:
            self.made.append(
                {
                    "run": run_id,
                    "proposal": known.received.proposal,
                    "action": action.id,
                    "agent": call.agent,
                    "grant": call.token,
                    "tool": call.tool,
                    "parameters": call.parameters,
                    "output": answer.output,
                }
            )
        text = problem if problem is None or run.recorder is None else run.recorder.text(problem)
        try:
            if problem is None and call.redoes is not None:
                # The effects of the actions which that undo had compensated exist again, and may be undone again.
                marks.end(*call.redoes, "redone")
            marks.end(run_id, proposal, action.id, "compensated" if problem is None else "not_undone", text)
        except (StoreError, IntegrityError, UsageError) as error:
            return f"compensated, but its run's journal cannot be written: {error.message}", error.code
        return problem, answer.reason

    def _may_repeat(self, calls: list[Compensation]) -> bool:
        tools = [self._run.services.registry.find(call.tool) for call in calls]
        return all(tool is not None and (tool.read_only or tool.tool.idempotent) for tool in tools)

    def _keep_in_use(self, proposal: str, action: Action) -> None:
        """Exclude the dependencies of this action from compensation, because the action itself could not be compensated."""
        self._in_use.update((proposal, name) for name in needs(action, self._references[proposal]))

    def _compensations(
        self, replayed: ReplayedRun, known: ReplayedProposal, action: Action, done: ReplayedAction
    ) -> list[Compensation]:
        """The calls that undo a succeeded action, newest first."""
        if done.row is None or done.row.status not in ("succeeded", "failed", "not_undone"):
            return []
        registry = self._run.services.registry
        if action.tool != UNDO_TOOL:
            tool = registry.find(action.tool)
            if done.row.status == "failed" or (
                action.compensation is None and (tool is None or tool.tool.compensation is None)
            ):
                return []
        output = _output(replayed, done.row)
        if action.tool == UNDO_TOOL and isinstance(output, dict):
            # An undo is undone by undoing the compensations it made.
            return [
                call._replace(
                    agent=one["agent"],
                    token=one.get("grant"),
                    redoes=(one["run"], one["proposal"], one["action"]),
                )
                for one in reversed(output.get("compensated", []))
                if self._is_compensated(one)
                and (call := compensation_by_definition(registry, one["tool"], one["parameters"], one["output"]))
            ]
        proposal_id = known.received.proposal or ""
        names, outputs = self._references[proposal_id], _Outputs(replayed, known)
        call = find_compensation(
            action,
            replayed.value(done.parameters) if done.parameters is not None else action.parameters,
            output,
            others=self._actions[proposal_id],
            registry=registry,
            fill_references=lambda parameters: names.resolve(parameters, outputs),
        )
        by = known.received
        return [] if call is None else [call._replace(agent=by.agent, token=by.grant_token)]

    def _is_compensated(self, made: dict[str, Any]) -> bool:
        """False if a compensation that an undo made was itself undone since. An unreadable record counts as not undone."""
        run_id = made["run"]
        try:
            if run_id not in self._others:
                assert self._run.services.state_dir is not None
                self._others[run_id] = ReplayedRun(self._run.services.state_dir / "runs" / run_id)
            row = self._others[run_id].proposals[made["proposal"]].actions[made["action"]].row
        except (InterlockError, KeyError):
            return True
        return row is None or row.status != "succeeded"


def _output(replayed: ReplayedRun, row: ActionResult) -> Any:
    return replayed.view(row.output) if isinstance(row.output, Kept) else row.output


class _Outputs:
    """References in an agent's compensation, looked up in the journal."""

    def __init__(self, replayed: ReplayedRun, known: ReplayedProposal) -> None:
        self._replayed = replayed
        self._known = known

    def __call__(self, action_id: str, path: tuple[str | int, ...]) -> Any:
        row = self._known.actions[action_id].row if action_id in self._known.actions else None
        value = _output(self._replayed, row) if row is not None else None
        try:
            for step in path:
                value = value[step]  # type: ignore[index]
        except (LookupError, TypeError):
            raise ToolError(f"the output of `{action_id}` does not have that", code="reference_failed") from None
        return value
