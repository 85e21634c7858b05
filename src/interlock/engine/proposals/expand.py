"""A call that stands for a whole proposal: its actions are added to the proposal, and each goes through the gate."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.engine.proposals.decoding import decode
from interlock.engine.tools.registry import Registry
from interlock.model.errors import ProposalError
from interlock.model.limits import Limits
from interlock.model.proposal import Action, Proposal
from interlock.verify.references import References


def expand(proposal: Proposal, registry: Registry, limits: Limits) -> Proposal:
    """The proposal with the actions that its only call stands for; unchanged if that is no such call, or not possible.

    Raises: ProposalError if it is over a limit with them.
    """
    action = proposal.actions[0] if len(proposal.actions) == 1 else None
    tool = None if action is None or action.tool not in registry.by_name else registry.find(action.tool)
    if action is None or tool is None or tool.binding.expand is None or proposal.by_client:
        return proposal
    parameters = plain_parameters(action)
    found = None if parameters is None else tool.binding.expand(action.id, parameters)
    if found is None:
        return proposal
    document = msgspec.to_builtins(proposal) | {"order": found.order, "source": found.source}
    return decode(document | {"actions": [*document["actions"], *found.actions]}, limits)


def plain_parameters(action: Action) -> dict[str, Any] | None:
    """The parameters of an action without references, as its tool gets them; None if there is one."""
    try:
        found: dict[str, Any] = References((action.id,)).resolve(action.parameters, _refuse)
    except ProposalError:
        return None
    return found


def _refuse(name: str, _path: Any) -> Any:
    raise ProposalError(f"`{name}` is the only action", code="dependency_unknown")
