"""Examines a proposal before it runs: is it well formed, what would the state be, and what would the gate answer?

Nothing here runs a tool, asks a person, spends a budget or writes to a journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from interlock.engine.judges.judges import Call
from interlock.engine.judges.steps import judge_call
from interlock.engine.judges.verdict import Ask
from interlock.engine.proposals.decoding import ProposalLike, decode
from interlock.engine.proposals.expand import expand
from interlock.engine.services import Services
from interlock.engine.tools.registry import Registered
from interlock.model.decision import Decision, Refusal
from interlock.model.errors import ToolError
from interlock.model.grant import Principal
from interlock.model.proposal import Action, Proposal
from interlock.policy import Explanation
from interlock.state.buffer import Buffer
from interlock.state.idempotency import call_key
from interlock.verify.checks import Issue, Report
from interlock.verify.checks import verify as check
from interlock.verify.graph import build_graph
from interlock.verify.simulate import Dropped, Simulation
from interlock.verify.simulate import simulate as play

__all__ = ["ActionExplanation", "Dropped", "Issue", "Report", "Simulation", "explain", "simulate", "verify"]

Answer = Literal["allow", "ask", "reject", "unknown"]
"""`unknown`: the parameters contain an earlier output, so only the run itself can decide."""


class ActionExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's answer for one action, given the state after its predecessors as far as it can be known."""

    action_id: str
    tool: str
    """The tool, or the type of a state action."""
    answer: Answer
    step: int
    """The step of the gate that decides: 1 to 7; 7 for an action that may run."""
    reason: str | None = None
    """A code of `REASONS`."""
    detail: str = ""
    asks: list[dict[str, Any]] = []
    """For `ask`: the requirements, each with policy, group, quorum and reason."""
    policies: list[str] = []
    """Ids of the policies that decided."""
    notes: list[str] = []
    """Other facts: a stored result, a machine that is too busy, a rate limit."""
    policy: Explanation | None = None
    """Every policy that applies to this call, with its result."""


def verify(services: Services, proposal: ProposalLike) -> Report:
    """Report every problem of a proposal, given the current state. Raises: ProposalError if it cannot be decoded."""
    decoded = _decoded(services, proposal)
    return check(decoded, services.registry.by_name, state=_state(services), limits=services.bounds.limits)


def simulate(services: Services, proposal: ProposalLike) -> Simulation:
    """Compute the state after a proposal. Raises: ProposalError if the proposal has no graph."""
    decoded = _decoded(services, proposal)
    return play(decoded, services.registry.by_name, _state(services))


def explain(services: Services, proposal: ProposalLike) -> list[ActionExplanation]:
    """The answer of steps 1 to 7 for each action, in declared order. Raises: ProposalError if it has no graph."""
    return _Explaining(services, _decoded(services, proposal)).all()


def _decoded(services: Services, proposal: ProposalLike) -> Proposal:
    """The proposal. Raises: UsageError while the configured tool modules are not loaded."""
    services.require_tools()
    decoded = decode(proposal, services.bounds.limits)
    services.adopt_tools(decoded)
    return expand(decoded, services.registry, services.bounds.limits)


def _state(services: Services) -> Mapping[str, tuple[Any, int]]:
    return services.store.snapshot()


class _Explaining:
    def __init__(self, services: Services, proposal: Proposal) -> None:
        self._services = services
        self._proposal = proposal
        self._graph = build_graph(proposal, services.registry.by_name)
        self._references = self._graph.references
        self._judges = services.judges.current(proposal.session)
        self._who: Principal = self._judges.principal(proposal.agent or services.agent, proposal.session)
        self._buffer = Buffer(services.store, proposal.id)

    def all(self) -> list[ActionExplanation]:
        refused = self._judges.proposal_size(self._who, self._proposal)
        if refused is not None:
            return [_refused(action, 2, refused, None) for action in self._proposal.actions]
        found: dict[int, ActionExplanation] = {}
        for index in self._graph.order:
            action = self._proposal.actions[index]
            found[index] = self._one(action)
            self._assume_success(action)
        return [found[index] for index in range(len(found))]

    def _one(self, action: Action) -> ActionExplanation:
        tool = self._services.registry.find(action.tool)
        if action.type == "tool_call" and tool is None:
            return _refused(action, 1, Refusal("unknown_tool", self._services.registry.missing(action.tool)), None)
        if self._references.any_in(action.parameters):
            refusal = None if tool is None else self._judges.grants.tool(self._who.agent, tool.tool, self._now())
            if refusal is not None:
                return _refused(action, 2, refusal, None)
            detail = "an earlier output goes into its parameters: steps 3 to 7 are answered when it runs"
            return _made(action, "unknown", 3, detail=detail)
        parameters = self._references.resolve(action.parameters, _never)
        call = Call(self._who, self._proposal, action, tool, parameters, self._buffer)
        step, verdict, decision = judge_call(self._judges, call)
        policy = self._policy(call)
        if isinstance(verdict, Refusal):
            return _refused(action, step, verdict, decision, policy)
        assert decision is not None
        if isinstance(verdict, Ask):
            asks = [
                {"policy": r.policy, "group": r.group, "quorum": r.quorum, "reason": r.reason}
                for r in decision.requirements
            ]
            return _made(
                action, "ask", 6, reason="held", detail="a person has to approve it", asks=asks,
                policies=list(decision.policies), policy=policy, notes=self._notes(action, tool, parameters),
            )  # fmt: skip
        return _made(
            action, "allow", 7, policies=list(decision.policies), policy=policy,
            notes=self._notes(action, tool, parameters),
        )  # fmt: skip

    def _policy(self, call: Call) -> Explanation:
        """The policies that apply to this action; the others would only hide them."""
        explained = self._judges.policies.explain(self._judges.request(call))
        about = tuple(policy for policy in explained.policies if policy.result != "out of scope")
        return msgspec.structs.replace(explained, policies=about)

    def _notes(self, action: Action, tool: Registered | None, parameters: dict[str, Any]) -> list[str]:
        """Notes on step 7, as far as its answer is known in advance."""
        if tool is None:
            return []
        services, notes = self._services, []
        if action.idempotent and tool.tool.idempotent:
            key = call_key(
                workspace=services.workspace_id, agent=self._who.agent, grant=services.grant_of(self._who.agent),
                tool=tool.name, tool_version=tool.version, parameters=parameters,
            )  # fmt: skip
            stored = services.idempotency.get(key)
            if stored is not None:
                notes.append(f"its result is stored: it would be taken from `{stored.origin}`")
        limit = tool.tool.rate_limit
        if limit is not None:
            notes.append(f"at most {limit.calls} calls in {limit.per_ms} ms")
        if not tool.read_only and services.guard is not None and (reading := services.guard.check()) is not None:
            notes.append(f"it would wait for the machine: {reading.describe()}")
        return notes

    def _assume_success(self, action: Action) -> None:
        """Assume that the action succeeds: later actions see its writes and claims."""
        value = action.parameters.get("value")
        if action.type == "state_write" and not self._references.any_in(value):
            self._buffer.write(action.parameters["key"], self._references.resolve(value, _never), action.id)
        for key, value in action.expected_effects.items():
            self._buffer.claim(key, value)

    def _now(self) -> int:
        return self._services.clock.now_us()


def _refused(
    action: Action, step: int, refusal: Refusal, decision: Decision | None, policy: Explanation | None = None
) -> ActionExplanation:
    return _made(
        action, "reject", step, reason=refusal.reason, detail=refusal.detail,
        policies=[] if decision is None else list(decision.policies), policy=policy,
    )  # fmt: skip


def _made(action: Action, answer: Answer, step: int, **more: Any) -> ActionExplanation:
    return ActionExplanation(action_id=action.id, tool=action.tool or action.type, answer=answer, step=step, **more)


def _never(action_id: str, _path: tuple[str | int, ...]) -> Any:
    raise ToolError(f"`{action_id}` has no output yet", code="reference_failed")
