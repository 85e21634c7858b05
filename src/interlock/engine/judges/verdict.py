"""The answers of the gate's steps: continue, ask a person, or refuse (`Refusal`)."""

from __future__ import annotations

from typing import Final, NamedTuple

from interlock.model.decision import Decision, Refusal


class Allow:
    """The action may continue to the next step."""

    __slots__ = ()


class Ask(NamedTuple):
    """A person has to approve the action first, as this decision of step 5 requires."""

    decision: Decision


class Held(NamedTuple):
    """The action waits for the answer to this approval, and no worker waits with it: the run can be resumed."""

    approval: str
    summary: str


ALLOW: Final = Allow()
Verdict = Allow | Ask | Refusal


class Judged(NamedTuple):
    """The answer of steps 2 to 5: which step gave it, the verdict, and the decision if step 5 was reached."""

    step: int
    verdict: Verdict
    decision: Decision | None = None


def verdict_of(decision: Decision) -> Verdict:
    """The verdict that follows from a decision of step 5."""
    if decision.decision == "allow":
        return ALLOW
    if decision.decision == "hold":
        return Ask(decision)
    return Refusal(decision.reason or "policy_denied", decision.detail)
