"""Steps 2 to 5 for one call: an action, a compensation, or a write that a call entails. No other code orders these steps."""

from __future__ import annotations

from interlock.engine.judges.code_rules import objection
from interlock.engine.judges.judges import Call, Judges
from interlock.engine.judges.verdict import Ask, Judged, verdict_of
from interlock.model.decision import Decision, Refusal


def judge_call(judges: Judges, call: Call) -> Judged:
    """Take a call through steps 2 to 5, up to the first that refuses."""
    now_us = judges.now_us()
    # 2
    if refusal := judges.capability(call, now_us):
        return Judged(2, refusal)
    # 3
    if refusal := judges.parameters(call, now_us):
        return Judged(3, refusal)
    if decision := judges.state_reads(call):
        return Judged(5, verdict_of(decision), decision)
    # 4
    if refusal := judges.preconditions(call):
        return Judged(4, refusal)
    # 5
    decision = judges.policy(call)
    return Judged(5, verdict_of(decision), decision)


def refusal_within(judges: Judges, call: Call) -> Refusal | None:
    """The reason why a call may not be made as part of another one, where no question can be asked; None if it may.

    A grant that counts its uses does not cover such a call, because the use would not be counted.
    """
    verdict = judge_call(judges, call).verdict
    if isinstance(verdict, Refusal):
        return verdict
    if isinstance(verdict, Ask):
        return Refusal("approval_required", "the rules say to ask, which is not possible in the middle of a call")
    if call.tool is not None and judges.uses(call.principal, call.tool, call.parameters):
        return Refusal("capability_denied", f"the grant for `{call.tool.name}` counts its uses")
    return None


def objecting_decision(judges: Judges, call: Call, *, action: str | None = None) -> Decision | None:
    """The decision of the policies that denies or holds an effect that none of them has to permit; None if none objects.

    `action` replaces the call's own action (`compensate`), about which only policies are asked; otherwise rules in code are too.
    """
    assert call.tool is not None
    request = judges.request(call, action=action)
    decision = judges.policies.decide(request)
    # Denied only because nothing permits it: no policy objects. A policy that could not be evaluated is an objection.
    if (
        decision.decision == "deny"
        and decision.reason == "policy_denied"
        and not (decision.policies or decision.errors)
    ):
        decision = Decision(decision="allow")
    if decision.decision == "allow" and action is None and (rules := judges.code_rules.cover(call.tool.name)):
        decision = objection(rules, request, call.state.get) or decision
    return None if decision.decision == "allow" else decision


def objection_to(judges: Judges, call: Call) -> Refusal | None:
    """The objection of policies or rules in code to a side effect of a call, which none has to permit; None if none objects.

    Used for effects that the tool's grant allows by itself, such as a capsule's access to files.
    """
    decision = objecting_decision(judges, call)
    if decision is None:
        return None
    if decision.decision == "hold":
        return Refusal("approval_required", "the rules say to ask, which is not possible in the middle of a call")
    return Refusal(decision.reason or "policy_denied", decision.detail)
