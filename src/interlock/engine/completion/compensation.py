"""Calls a tool outside the plan: a compensation, or a probe. The call goes through the gate, except for step 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from interlock.engine.gate.admission import admit_outside, outside_plan
from interlock.engine.gate.entailed import judge_entailed
from interlock.engine.gate.execute import execute
from interlock.engine.judges.judges import Call, Judges
from interlock.engine.judges.steps import judge_call, objecting_decision
from interlock.engine.judges.verdict import Ask
from interlock.engine.proposals.action_run import Outside
from interlock.engine.proposals.attempt import Failure, Output
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.tools.registry import Registered
from interlock.model.decision import Decision, Refusal, Requirement
from interlock.model.grant import Principal
from interlock.model.proposal import Action
from interlock.model.units import as_duration

COMPENSATING: Final = -1
"""The attempt number under which a compensation changes files."""
_LAST_LINES: Final = 3
_LAST_CHARS_MAX: Final = 500


class Answer:
    """The answer of a call: an output, or a problem."""

    __slots__ = ("code", "output", "problem")

    def __init__(self, output: Any = None, problem: str | None = None, code: str | None = None) -> None:
        """Either `output` or `problem` is set; `code` is the code of the tool's own error."""
        self.output = output
        self.problem = problem
        self.code = code

    @property
    def reason(self) -> str:
        """The reason why a compensation did not undo its action: a code for `not_undone`."""
        return self.code if self.code == "undo_conflict" else "compensation_failed"


async def call_tool(
    run: ProposalRun,
    index: int,
    name: str,
    parameters: dict[str, Any],
    as_agent: str | None = None,
    as_token: str | None = None,
    approved: Sequence[Requirement] = (),
) -> Answer:
    """Call a tool for the action at `index`, as the proposal's agent or as another one, under its grant token if it had one.

    `approved` are requirements met by a person who was shown this call: they also satisfy a hold that requires no more.

    Raises: StoreError, CancelledError and other errors that end the run; any other error is the answer's problem.
    """
    tool = run.services.registry.find(name)
    if tool is None:
        return Answer(problem=f"there is no tool `{name}`")
    run.services.refresh_if_due()
    spec = Action(type="tool_call", id=run.proposal.actions[index].id, tool=name, parameters=parameters)
    principal = run.principal
    if as_agent is not None:
        principal = run.services.judges.current().principal(as_agent, principal.session)
    call = Call(principal, run.proposal, spec, tool, parameters, run.buffer)
    judges = _judges_for(run, as_agent, as_token)
    for one in judges:
        verdict = judge_entailed(run, index, call, judge_call(one, call)).verdict
        if isinstance(verdict, Refusal):
            return Answer(problem=f"`{name}` was refused: {verdict.reason}: {verdict.detail}")
        if isinstance(verdict, Ask) and not _is_met(verdict.decision, approved):
            return Answer(problem=f"`{name}` needs an approval of its own")
    if problem := _forbidden(run, call, tool, approved):
        return Answer(problem=problem)
    return await _execute(run, index, spec, tool, principal, judges)


def _judges_for(run: ProposalRun, as_agent: str | None, as_token: str | None) -> list[Judges]:
    """The judges that must all allow the call.

    If a proposal was made under a grant token, its compensations stay within that token, whichever agent runs the undo. An
    undo under a token does not gain the grants of the agent that acted.
    """
    if as_agent is None:
        return [run.services.judges.current(None if run.token is None else run.principal.session, run.token)]
    judges = [run.services.judges.current(None, as_token)]
    return judges if run.token is None else [*judges, run.judges_in_force()]


async def _execute(
    run: ProposalRun, index: int, spec: Action, tool: Registered, principal: Principal, judges: Sequence[Judges]
) -> Answer:
    """Take the call through steps 7 and 9. A budget counts it but does not stop it: undo must work when one is used up."""
    attempt = ActionContext(run, index, COMPENSATING, call=(tool, principal.agent))
    with outside_plan(run, index, spec, tool, Outside(principal, judges, tool.timeout_ns, limited=False)) as action:
        if refusal := await admit_outside(action):
            return Answer(problem=f"`{tool.name}` was refused: {refusal.reason}: {refusal.detail}")
        action.admitted = False  # the reservation is now in use
        result = await execute(action, attempt)
    run.allowance.settle(0.0, attempt.use)
    if isinstance(result, Output):
        return Answer(output=result.value)
    if result.raises is not None:
        attempt.cancelled = True
        raise result.raises
    if result.reason == "timeout":
        limit = as_duration(tool.timeout_ns // 1_000_000)
        return Answer(problem=f"`{tool.name}` ran longer than its time-out of {limit}")
    return Answer(problem=f"`{tool.name}` failed: {_describe(result)}", code=result.reason)


def _describe(failure: Failure) -> str:
    """The failure's message, with the last lines of the tool's process, which usually name the cause."""
    output = failure.output if isinstance(failure.output, dict) else {}
    text = output.get("stderr")
    if not isinstance(text, str) or output.get("stderr_encoding", "utf-8") != "utf-8":
        return failure.message
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    last = " / ".join(lines)[-_LAST_CHARS_MAX:]
    return f"{failure.message}: {last}" if last else failure.message


def _is_met(decision: Decision, approved: Sequence[Requirement]) -> bool:
    """True if every required approval was given, by the required group (or by anyone, if none is required) and quorum."""
    return bool(decision.requirements) and all(
        any(need.group in (None, given.group) and need.quorum <= given.quorum for given in approved)
        for need in decision.requirements
    )


def _forbidden(run: ProposalRun, call: Call, tool: Registered, approved: Sequence[Requirement]) -> str | None:
    """The objection of a policy about `Action::"compensate"` to the call, unless an approval meets it."""
    decision = objecting_decision(run.services.judges.current(), call, action="compensate")
    if decision is None or _is_met(decision, approved):
        return None
    return f"`{tool.name}` was refused as a compensation: {decision.detail or 'it needs an approval of its own'}"
