"""Steps 2 to 5 of the gate: may this agent do this, with these parameters, in this state, under these rules?

The steps are numbered as in the journal and in the documentation. Every error path here refuses. What cannot depend on the
parameters, on state or on time is decided once per agent and tool and remembered until the rules or the tools change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from interlock.capability import Capability
from interlock.detect import flags
from interlock.engine.registry import Registered
from interlock.model.decision import Decision, Refusal, Request
from interlock.model.decode import STATE_PARAMETERS
from interlock.model.grant import Principal
from interlock.model.proposal import Action, Proposal
from interlock.model.schema import Schema
from interlock.policy import PolicyJudge, together
from interlock.state.store import Entry
from interlock.verify.conditions import check_assumptions, check_preconditions
from interlock.verify.graph import state_reads, state_writes

POLICY_ACTION = {"state_read": "state_read", "state_write": "state_write", "assertion": "assert"}


class StateView(Protocol):
    """What the gate sees of state: the proposal's buffer over the store."""

    def get(self, key: str) -> Entry | None:
        """The observed value."""
        ...

    def claimed(self, key: str) -> Entry | None:
        """The observed value, or a newer claim of this proposal."""
        ...

    def has(self, key: str) -> bool:
        """True if there is one of the two."""
        ...


class Gate:
    """The judges in force. Replaced as a whole when configuration or policy is reloaded."""

    def __init__(
        self,
        capability: Capability,
        policy: PolicyJudge,
        now_us: Callable[[], int],
        groups: Mapping[str, tuple[str, ...]],
        grants: Mapping[str, str],
        *,
        revision: int = 0,
        issued: bool = False,
    ) -> None:
        """`groups` maps an agent to the groups it is in, `grants` to a digest over its grants.

        `revision` is that of the issued grants it was built from, `issued` whether there were any that can be revoked.
        """
        self.revision = revision
        self.issued = issued
        self.replaced = False
        """True once there is a newer gate: whoever holds this one should ask for that."""
        self.capability = capability
        self.policy = policy
        self._now_us = now_us
        self._groups = groups
        self._grants = grants
        self._settled: dict[tuple[str, str, str], Decision] = {}
        self._granted: set[tuple[str, str, str]] = set()
        """Of whom and what steps 2 and 3 are known to pass at any time, whatever the parameters (but for the schema)."""

    def settled(self, who: Principal, tool: Registered) -> Decision | None:
        """The decision that holds for every call of a tool by an agent, if steps 2 and 5 cannot depend on the call.

        Then only the schema is left of steps 2 to 5 (for an action that names no state key). Known after the first call.
        """
        return self._settled.get((who.agent, tool.name, tool.version))

    def principal(self, agent: str, session: str | None) -> Principal:
        """Who is acting."""
        return Principal(agent=agent, groups=self._groups.get(agent, ()), session=session)

    def grants_digest(self, agent: str) -> str:
        """What stands for the agent's grants in the key of a stored result."""
        return self._grants.get(agent, "")

    def counted(self, who: Principal, tool: Registered, parameters: dict[str, Any]) -> Sequence[Sequence[str]]:
        """Which grants a call would use up, best choice first: ids of each grant with a use count, and of its ancestors.

        Empty if the call uses nothing up.
        """
        if self.capability.tool_is_static(who.agent, tool.tool):
            return ()
        named = self.capability.spelled(tool.marks, parameters, tool.defaults)
        found = self.capability.candidates(who.agent, tool.tool, tool.marks, named, self._now_us())
        if isinstance(found, Refusal) or not found[0].counted:
            return ()
        return [grant.counted for grant in found]

    def proposal(self, who: Principal, proposal: Proposal) -> Refusal | None:
        """Step 2 for the proposal as a whole: `actions_max` of the grant, before anything else is looked at."""
        return self.capability.proposal(who.agent, len(proposal.actions))

    def judge(
        self,
        who: Principal,
        proposal: Proposal,
        action: Action,
        tool: Registered | None,
        parameters: dict[str, Any],
        state: StateView,
        discharged: frozenset[str] = frozenset(),
    ) -> tuple[int, Refusal | None, Decision | None]:
        """Steps 2 to 5. Returns (number of the step that answered, refusal, decision of step 5).

        A refusal says no; a decision that is `hold` has to be asked about (step 6); otherwise the action may go on.
        """
        now = self._now_us()
        # Of most tools it is known for good that 2 and 3 pass, but for the schema; and most calls name no state key.
        known = tool is not None and (who.agent, tool.name, tool.version) in self._granted
        plain = _plain_state(action)
        # 2. capability: the tool, and every state key the action names
        if tool is not None and not known and (refusal := self.capability.tool(who.agent, tool.tool, now)):
            return 2, refusal, None
        if not plain and (refusal := self._keys(who, action, now)):
            return 2, refusal, None
        # 3. parameters: the schema, then paths and hosts among the arguments
        if refusal := self._parameters(who, action, tool, parameters, now, known=known):
            return 3, refusal, None
        if not plain and self.policy.guards_reads and (keys := looks_at(action)):
            asked = self.request(who, proposal, action, tool, parameters, state, discharged)
            reads = self.policy.reads(asked, keys)
            if reads is not None:
                # what step 4 answers says something about the state: until the policies let it look, it does not
                decision = together(self.policy.decide(asked), reads)
                return 5, _denied(decision), decision
        # 4. preconditions on state
        if not plain and (refusal := _check_state(action, state)):
            return 4, refusal, None
        # 5. policy
        decision = self._decide(who, proposal, action, tool, parameters, state, discharged)
        return 5, _denied(decision), decision

    def _keys(self, who: Principal, action: Action, now: int) -> Refusal | None:
        for key in {*state_reads(action), *state_writes(action, None)}:
            if refusal := self.capability.state_key(who.agent, key, now):
                return refusal
        return None

    def _parameters(
        self,
        who: Principal,
        action: Action,
        tool: Registered | None,
        parameters: dict[str, Any],
        now: int,
        *,
        known: bool,
    ) -> Refusal | None:
        if tool is None:
            return _check_state_parameters(action, parameters)
        refusal = _check_schema(tool, parameters)
        if refusal is not None or known:
            return refusal
        named = self.capability.spelled(tool.marks, parameters, tool.defaults)
        return self.capability.arguments(who.agent, tool.tool, tool.marks, named, now)

    def _decide(
        self,
        who: Principal,
        proposal: Proposal,
        action: Action,
        tool: Registered | None,
        parameters: dict[str, Any],
        state: StateView,
        discharged: frozenset[str],
    ) -> Decision:
        policy = self.policy
        if tool is not None and not tool.marks:
            key = (who.agent, tool.name, tool.version)
            if (settled := self._settled.get(key)) is not None:
                return settled
            if key not in self._granted and self.capability.tool_is_static(who.agent, tool.tool):
                self._granted.add(key)
                settled = policy.constant(who.agent, tool.name, tool.name, groups=who.groups)
                if settled is not None and settled.decision == "allow":
                    self._settled[key] = settled
                    return settled
        return policy.decide(self.request(who, proposal, action, tool, parameters, state, discharged))

    def request(
        self,
        who: Principal,
        proposal: Proposal,
        action: Action,
        tool: Registered | None,
        parameters: dict[str, Any],
        state: StateView,
        discharged: frozenset[str] = frozenset(),
    ) -> Request:
        """What the policy judge is asked about an action: everything that it may look at."""
        policy, named = self.policy, parameters
        if tool is not None:
            name = resource = tool.name
            named = self.capability.spelled(tool.marks, parameters, tool.defaults)
        else:
            name, resource = POLICY_ACTION[action.type], action.parameters["key"]
        seen = {key: found.value for key in policy.state_keys if (found := state.get(key)) is not None}
        return Request(
            agent=who.agent,
            groups=who.groups,
            action=name,
            resource_type="Tool" if tool is not None else "StateKey",
            resource=resource,
            session={"name": who.session} if who.session else {},
            parameters=named,
            state=seen,
            proposal={"id": proposal.id, "source": proposal.source, "action_count": len(proposal.actions)},
            flags=flags(parameters) if policy.wants_flags else (),
            discharged=discharged,
        )


def _denied(decision: Decision) -> Refusal | None:
    return Refusal(decision.reason or "policy_denied", decision.detail) if decision.decision == "deny" else None


def looks_at(action: Action) -> tuple[str, ...]:
    """The state keys that an action looks at besides what it is asked about (as a `state_read` is about its own key)."""
    own = (action.parameters["key"],) if action.type == "assertion" else ()
    conditions = [condition.key for condition in action.preconditions]
    assumed = [assumption.key for assumption in action.assumptions]
    return (*own, *action.state_dependencies, *action.read_set, *conditions, *assumed)


def _plain_state(action: Action) -> bool:
    """True if the action names no state key at all."""
    return action.type == "tool_call" and not (
        action.state_dependencies
        or action.expected_effects
        or action.read_set
        or action.write_set
        or action.preconditions
        or action.assumptions
    )


def _check_schema(tool: Registered, parameters: dict[str, Any]) -> Refusal | None:
    schema = tool.schema
    if schema is None or schema.is_valid(parameters):
        return None
    problems = schema.errors(parameters)
    path, message = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Refusal("invalid_parameters", f"{path}: {message}{more}", f"$.parameters{path}")


def _check_state_parameters(action: Action, parameters: dict[str, Any]) -> Refusal | None:
    """Step 3 of a state action: an edit may not change its key, which capability, policy and the plan's order looked at."""
    if parameters.keys() == action.parameters.keys() and parameters["key"] == action.parameters["key"]:
        return None
    problems = state_schema(action).errors(parameters)
    return Refusal("invalid_parameters", f"{problems[0][0]}: {problems[0][1]}", "$.parameters") if problems else None


def state_schema(action: Action) -> Schema:
    """What the parameters of a proposed state action may become: its value can be edited, its key cannot."""
    names: dict[str, Any] = {name: {} for name in STATE_PARAMETERS[action.type]}
    names["key"] = {"const": action.parameters["key"]}
    return Schema.compile({"type": "object", "properties": names, "required": ["key"], "additionalProperties": False})


def _check_state(action: Action, state: StateView) -> Refusal | None:
    for key in action.state_dependencies:
        if not state.has(key):
            return Refusal("state_missing", f"the state has no key `{key}`", "$.state_dependencies")
    return check_preconditions(action.preconditions, state.claimed) or check_assumptions(
        action.assumptions, state.claimed
    )
