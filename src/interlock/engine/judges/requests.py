"""The one way to put a question to the policies: about a call in the gate, and about one that is only imagined or long past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from interlock.detect.flags import flags
from interlock.model.decision import Request
from interlock.model.grant import Principal
from interlock.model.proposal import Action, Proposal
from interlock.policy import PolicyJudge

POLICY_ACTION: Final = {"state_read": "state_read", "state_write": "state_write", "assertion": "assert"}
"""What policies call the types of action that are about state."""


class Subject(NamedTuple):
    """What a request is about, in the words of policies."""

    action: str
    resource_type: Literal["Tool", "StateKey", "Host"]
    resource: str


def subject_of(action: Action) -> Subject:
    """The subject of an action: its tool, or its state key."""
    if action.type == "tool_call":
        name = action.tool or ""
        return Subject(name, "Tool", name)
    return Subject(POLICY_ACTION[action.type], "StateKey", action.parameters["key"])


def build_request(
    policies: PolicyJudge,
    principal: Principal,
    subject: Subject,
    *,
    parameters: dict[str, Any],
    normalized: dict[str, Any],
    state: Mapping[str, Any],
    proposal: dict[str, Any],
    discharged: frozenset[str] = frozenset(),
) -> Request:
    """The request about a call with these `parameters`.

    `normalized` are the parameters as grants see them (one spelling for a path or host, defaults filled in), `state` the values
    of `policies.state_keys` that exist, `proposal` what `proposal_facts` gives.
    """
    return Request(
        agent=principal.agent,
        groups=principal.groups,
        action=subject.action,
        resource_type=subject.resource_type,
        resource=subject.resource,
        session={"name": principal.session} if principal.session else {},
        parameters=normalized,
        state=dict(state),
        proposal=proposal,
        flags=flags(parameters) if policies.wants_flags else (),
        discharged=discharged,
    )


def proposal_facts(proposal: Proposal) -> dict[str, Any]:
    """What policies may know of the proposal."""
    return {"id": proposal.id, "source": proposal.source, "action_count": len(proposal.actions)}
