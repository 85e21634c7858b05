"""Decides who may answer a hold, and when it has enough answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from interlock.approvals.hold import ANY_GROUP, Approver, Hold, Scope, Standing, Vote
from interlock.model.decision import Requirement

_ANYBODY = Requirement(policy="", content="")
_WIDTH: dict[Scope, int] = {"once": 0, "session": 1, "always": 2}


def refusal(hold: Hold, approver: Approver) -> Literal["agent_may_not_approve", "separation", "not_in_group"] | None:
    """Returns why this approver may not answer this hold; None if they may."""
    if approver.id.casefold() == hold.agent.casefold():
        return "agent_may_not_approve"
    if hold.separation and approver.id == hold.started_by:
        return "separation"
    if not any(_belongs(r, approver.groups) for r in hold.requirements or (_ANYBODY,)):
        return "not_in_group"
    return None


def satisfied(hold: Hold, votes: Sequence[Vote]) -> bool:
    """Returns True if every requirement has its quorum of distinct approvers, each of its own group, for the current digest."""
    agreeing = [v for v in votes if v.decision != "deny" and v.digest == hold.digest]
    return all(
        len({v.approver for v in agreeing if _belongs(r, v.groups)}) >= max(1, r.quorum)
        for r in hold.requirements or (_ANYBODY,)
    )


def agreed_standing(hold: Hold, votes: Sequence[Vote]) -> Standing:
    """Returns the narrowest of the terms that the approvers agreed to."""
    terms = [v.standing for v in votes if v.decision != "deny" and v.digest == hold.digest]
    return Standing(
        scope=min((t.scope for t in terms), key=_WIDTH.__getitem__, default="once"),
        ttl_ms=min((t.ttl_ms for t in terms if t.scope != "once"), default=0),
        uses=min((t.uses for t in terms if t.scope != "once"), default=0),
    )


def _belongs(requirement: Requirement, groups: Sequence[str]) -> bool:
    return requirement.group is None or requirement.group in groups or ANY_GROUP in groups
