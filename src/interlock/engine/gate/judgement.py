"""Steps 2 to 5: capability, parameters, preconditions, policy. Repeated after every wait, under the current rules."""

from __future__ import annotations

from interlock.engine.gate.call_digest import call_digest
from interlock.engine.gate.entailed import UNDO_TOOL, judge_entailed
from interlock.engine.judges.steps import judge_call
from interlock.engine.judges.verdict import ALLOW, Judged, Verdict
from interlock.engine.proposals.action_run import ActionRun
from interlock.model.decision import Refusal
from interlock.model.events import PolicyDecided


def judge(action: ActionRun) -> Verdict:
    """Take an action through steps 2 to 5, with the judges in force, and record the event with the policies' decision."""
    run, tool = action.run, action.tool
    if tool is None and action.spec.type == "tool_call":
        return Refusal("unknown_tool", run.services.registry.missing(action.spec.tool), "$.tool")
    if run.services.reload is not None:  # saves a call if there is no file
        run.services.refresh_if_due()
    judges = run.judges
    if judges.replaced or judges.issued:
        judges = run.judges_in_force()
    decision = run.settled.get(tool)
    verdict: Verdict = ALLOW
    if (
        decision is None
        or tool is None
        or action.index in run.graph.stateful
        or not (tool.schema is None or tool.schema.is_valid(action.parameters))
    ):
        judged = judge_call(judges, action.call())
        action.step, verdict, decision = judged
        if tool is not None and (settled := judges.settled(run.principal, tool)) is not None:
            run.settled[tool] = settled
    if tool is not None and tool.name == UNDO_TOOL:
        judged = Judged(action.step, verdict, decision)
        action.step, verdict, decision = judge_entailed(run, action.index, action.call(), judged)
    if decision is not None and run.recorder is not None:
        decided = PolicyDecided(
            decision=decision.decision,
            tool=None if tool is None else tool.name,
            policies=decision.policies,
            digest=call_digest(action).digest,
            errors=decision.errors,
        )
        run.recorder.record(decided, run.proposal.id, action.spec.id, 5)
    return verdict


def judge_again(action: ActionRun) -> Verdict:
    """Repeat steps 2 to 5 after a wait: the configuration may have been edited meanwhile."""
    action.run.services.refresh()
    return judge(action)
