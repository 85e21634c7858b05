"""Builds every request to the policies: for a call in the gate, and for a hypothetical or past one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from interlock.detect.flags import flags
from interlock.model.decision import Request
from interlock.model.grant import Principal
from interlock.model.proposal import Action, Proposal
from interlock.policy import PolicyJudge

POLICY_ACTION: Final = {"state_read": "state_read", "state_write": "state_write", "assertion": "assert"}
"""The policies' names for the types of state action."""


class Subject(NamedTuple):
    """The subject of a request, in the terms of policies."""

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

    `normalized` are the parameters as grants see them (paths and hosts normalized, defaults filled in), `state` the existing
    values of `policies.state_keys`, `proposal` the result of `proposal_facts`.
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
    """The facts about the proposal that policies can use."""
    return {"id": proposal.id, "source": proposal.source, "action_count": len(proposal.actions)}
