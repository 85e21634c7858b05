"""Step 1: checks, before any action starts, that the proposal as a whole is well formed and can run at all."""

from __future__ import annotations

from typing import NamedTuple

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.tools.registry import Registry
from interlock.model.decision import Refusal
from interlock.model.proposal import Proposal
from interlock.verify.calls import mode_problem
from interlock.verify.graph import Graph, build_graph


class Unrunnable(NamedTuple):
    """Why no action of a proposal may start; `action` is the index of the action at fault, if there is one."""

    refusal: Refusal
    action: int | None


def verify_proposal(proposal: Proposal, registry: Registry) -> Graph:
    """The graph of the proposal's actions. Raises: ProposalError if the proposal is malformed."""
    return build_graph(proposal, registry.by_name)


def find_unrunnable(run: ProposalRun) -> Unrunnable | None:
    """Check `actions_max` of the grant, and that every action that has to run can run. None if the proposal may start.

    An action of an unknown tool can only be rejected; if that would stop the proposal, it stops before any effect.
    """
    refusal = run.judges.proposal_size(run.principal, run.proposal)
    if refusal is not None:
        return Unrunnable(refusal, None)
    for index, action in enumerate(run.proposal.actions):
        if run.tools[index] is None and action.type == "tool_call" and action.failure_behavior != "skip":
            detail = run.services.registry.missing(action.tool)
            return Unrunnable(Refusal("unknown_tool", detail, f"$.actions[{index}].tool"), index)
        if action.invocation_mode != "one_shot":
            tool = run.tools[index]
            problem = mode_problem(action, None if tool is None else tool.tool)
            if problem is not None:
                where = f"$.actions[{index}].invocation_mode"
                return Unrunnable(Refusal("unsupported_invocation_mode", problem, where), index)
    return None
