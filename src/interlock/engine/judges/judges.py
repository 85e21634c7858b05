"""The judges of steps 2 to 5: may this agent do this, with these parameters, in this state, under these rules?

Each step is one method of `Judges`; `steps.py` calls them in order. Every error path here refuses. A decision that cannot depend
on the parameters, on state or on time is made once per agent and tool, and kept until the rules or the tools change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from interlock.capability import Capability
from interlock.engine.judges.code_rules import CodeRules, objection
from interlock.engine.judges.requests import POLICY_ACTION, build_request, proposal_facts, subject_of
from interlock.engine.tools.registry import Registered, Registry
from interlock.model.decision import Decision, Refusal, Request
from interlock.model.decode import STATE_PARAMETERS
from interlock.model.grant import OPERATOR, Principal
from interlock.model.hosts import Endpoint
from interlock.model.proposal import Action, Proposal
from interlock.model.schema import Schema
from interlock.model.tool import Tool
from interlock.policy import PolicyJudge, together
from interlock.state.store import Entry
from interlock.verify.conditions import check_assumptions, check_preconditions
from interlock.verify.graph import names_state, state_reads, state_writes


class StateView(Protocol):
    """The state as the judges see it: the proposal's buffer over the store."""

    def get(self, key: str) -> Entry | None:
        """The observed value."""
        ...

    def claimed(self, key: str) -> Entry | None:
        """The observed value, or a newer claim of this proposal."""
        ...

    def has(self, key: str) -> bool:
        """True if there is a value or a claim."""
        ...


class Call:
    """One call as the judges see it: the agent, the action, its parameters, and the state."""

    __slots__ = (
        "action",
        "discharged",
        "granted",
        "parameters",
        "partial",
        "principal",
        "proposal",
        "state",
        "tool",
        "uses_state",
    )

    def __init__(
        self,
        principal: Principal,
        proposal: Proposal,
        action: Action,
        tool: Registered | None,
        parameters: dict[str, Any],
        state: StateView,
        discharged: frozenset[str] = frozenset(),
        *,
        partial: bool = False,
    ) -> None:
        """`discharged` are the content hashes of the policies that an approval has answered for this very call.

        `partial` if `parameters` has only those that name paths and hosts: the tool's schema is then not checked.
        """
        self.principal = principal
        self.proposal = proposal
        self.action = action
        self.tool = tool
        self.parameters = parameters
        self.state = state
        self.discharged = discharged
        self.partial = partial
        self.uses_state = names_state(action)
        """True if the action names a state key at all."""
        self.granted = False
        """True once steps 2 and 3, except for the schema, are known to pass regardless of the parameters."""


class Judges:
    """The judges in force: the grants, and the policies. Replaced as a whole when the configuration is reloaded."""

    def __init__(
        self,
        grants: Capability,
        policies: PolicyJudge,
        now_us: Callable[[], int],
        groups: Mapping[str, tuple[str, ...]],
        digests: Mapping[str, str],
        *,
        revision: int = 0,
        issued: bool = False,
        private_hosts: tuple[str, ...] = (),
        tool_hosts: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """`groups` maps an agent to its groups, `digests` to a digest of its grants.

        `revision` is that of the issued grants from which these were built; `issued` is True if any of them can be revoked.
        `private_hosts` may have addresses that are not public; `tool_hosts` limits the hosts of a tool's processes.
        """
        self.private_hosts = private_hosts
        self._tool_hosts = tool_hosts or {}
        self.revision = revision
        self.issued = issued
        self.replaced = False
        """True once there are newer judges: every holder of these must ask for them."""
        self.grants = grants
        self.policies = policies
        self.now_us = now_us
        self._groups = groups
        self._digests = digests
        self.code_rules = CodeRules()
        """The program's rules; set by `JudgesInForce`."""
        self._settled: dict[tuple[str, str, str], Decision] = {}
        self._granted: set[tuple[str, str, str]] = set()
        """Agents and tools for which steps 2 and 3 (except for the schema) pass regardless of the parameters."""

    def may_ever(self, principal: Principal, tool: Tool, registry: Registry) -> bool:
        """False if steps 2 and 5 refuse every call of this tool by this agent, regardless of its parameters and of the state."""
        if not self.policies.may_allow(principal.agent, tool.name, groups=principal.groups):
            return False
        found = self.grants.candidates(principal.agent, tool, registry.marks(tool), {}, self.now_us())
        return not isinstance(found, Refusal)

    def principal(self, agent: str, session: str | None) -> Principal:
        """Who is acting."""
        return Principal(agent=agent, groups=self._groups.get(agent, ()), session=session)

    def grants_digest(self, agent: str) -> str:
        """The digest of the agent's grants in the key of a stored result."""
        return self._digests.get(agent, "")

    def settled(self, principal: Principal, tool: Registered) -> Decision | None:
        """The decision that holds for every call of a tool by an agent, if steps 2 and 5 cannot depend on the call.

        Only the schema then remains of steps 2 to 5 (for an action that names no state key). Known after the first call.
        """
        return self._settled.get((principal.agent, tool.name, tool.version))

    def uses(self, principal: Principal, tool: Registered, parameters: dict[str, Any]) -> Sequence[Sequence[str]]:
        """The grants with a use count that could cover a call, best choice first: the ids of each one and of its ancestors.

        Empty if the call uses up no count.
        """
        if self.grants.tool_is_static(principal.agent, tool.tool):
            return ()
        named = self.grants.normalize(tool.marks, parameters, tool.defaults)
        found = self.grants.candidates(principal.agent, tool.tool, tool.marks, named, self.now_us())
        if isinstance(found, Refusal) or not found[0].counted:
            return ()
        return [grant.counted for grant in found]

    # -- connections of running processes

    def hosts(self, agent: str, tool: Registered) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """Patterns of the hosts that a process of this tool may reach: every list of a grant must match."""
        found = self.grants.hosts(agent, tool.tool, self.now_us())
        bound = self._tool_hosts.get(tool.name)
        return found if bound is None else tuple((*chain, bound) for chain in found)

    def connection(self, call: Call, there: Endpoint) -> Refusal | None:
        """The policies' objection to a connection of a process; its host was already compared with the grant."""
        if not self.policies.guards_connections:
            return None
        asked = self.request(call, action="connect")
        asked.resource_type, asked.resource, asked.parameters, asked.discharged = "Host", str(there), {}, frozenset()
        objection = self.policies.connection(asked)
        if objection is None:
            return None
        if objection.decision == "hold":
            return Refusal("approval_required", "the rules say to ask, which is not possible in the middle of a call")
        return Refusal(objection.reason or "policy_denied", objection.detail)

    # -- steps 2 to 5

    def proposal_size(self, principal: Principal, proposal: Proposal) -> Refusal | None:
        """Step 2 for the proposal as a whole: `actions_max` of the grant, before anything else is judged."""
        return self.grants.proposal(principal.agent, len(proposal.actions))

    def capability(self, call: Call, now_us: int) -> Refusal | None:
        """Step 2: the tool, and every state key that the action names."""
        agent, tool, action = call.principal.agent, call.tool, call.action
        if tool is not None:
            call.granted = (agent, tool.name, tool.version) in self._granted
            if not call.granted and (refusal := self.grants.tool(agent, tool.tool, now_us)):
                return refusal
        if call.uses_state:
            for key in {*state_reads(action), *state_writes(action, None)}:
                if refusal := self.grants.state_key(agent, key, now_us):
                    return refusal
        return None

    def parameters(self, call: Call, now_us: int) -> Refusal | None:
        """Step 3: the schema, then paths and hosts among the parameters."""
        tool = call.tool
        if tool is None:
            return _check_state_parameters(call.action, call.parameters)
        refusal = None if call.partial else _check_schema(tool, call.parameters)
        if refusal is not None or call.granted:
            return refusal
        named = self.grants.normalize(tool.marks, call.parameters, tool.defaults)
        return self.grants.arguments(call.principal.agent, tool.tool, tool.marks, named, now_us)

    def state_reads(self, call: Call) -> Decision | None:
        """Step 5 before step 4: the result of a precondition reveals something about the state, so policies decide first.

        None if no policy objects to the state keys that the action reads.
        """
        if not call.uses_state or not self.policies.guards_reads or not (keys := read_keys(call.action)):
            return None
        request = self.request(call)
        reads = self.policies.reads(request, keys)
        return None if reads is None else together(self.policies.decide(request), reads)

    def preconditions(self, call: Call) -> Refusal | None:
        """Step 4: preconditions, assumptions and dependencies on state."""
        action, state = call.action, call.state
        if not call.uses_state:
            return None
        for key in action.state_dependencies:
            if not state.has(key):
                return Refusal("state_missing", f"the state has no key `{key}`", "$.state_dependencies")
        return check_preconditions(action.preconditions, state.claimed) or check_assumptions(
            action.assumptions, state.claimed
        )

    def policy(self, call: Call) -> Decision:
        """Step 5: the policies' decision about the call."""
        tool, principal = call.tool, call.principal
        if self.code_rules and principal.agent != OPERATOR:  # the person's undo does not depend on rules
            rules = self.code_rules.cover(POLICY_ACTION[call.action.type] if tool is None else tool.name)
            if rules:
                request = self.request(call)
                decision = self.policies.decide(request)
                return together(
                    decision, None if decision.decision == "deny" else objection(rules, request, call.state.get)
                )
        if tool is not None and not tool.marks:
            key = (principal.agent, tool.name, tool.version)
            if (settled := self._settled.get(key)) is not None:
                return settled
            if key not in self._granted and self.grants.tool_is_static(principal.agent, tool.tool):
                self._granted.add(key)
                settled = self.policies.constant(principal.agent, tool.name, tool.name, groups=principal.groups)
                if settled is not None and settled.decision == "allow":
                    self._settled[key] = settled
                    return settled
        return self.policies.decide(self.request(call))

    def request(self, call: Call, *, action: str | None = None) -> Request:
        """The request to the policies about a call. `action` replaces the call's own action (`compensate`)."""
        tool, policies = call.tool, self.policies
        named = call.parameters
        if tool is not None:
            named = self.grants.normalize(tool.marks, call.parameters, tool.defaults)
        subject = subject_of(call.action)
        return build_request(
            policies, call.principal, subject if action is None else subject._replace(action=action),
            parameters=call.parameters, normalized=named,
            state={key: found.value for key in policies.state_keys if (found := call.state.get(key)) is not None},
            proposal=proposal_facts(call.proposal), discharged=call.discharged,
        )  # fmt: skip


def read_keys(action: Action) -> tuple[str, ...]:
    """The state keys that an action reads besides its subject (the subject of a `state_read` is its own key)."""
    own = (action.parameters["key"],) if action.type == "assertion" else ()
    conditions = [condition.key for condition in action.preconditions]
    assumed = [assumption.key for assumption in action.assumptions]
    return (*own, *action.state_dependencies, *action.read_set, *conditions, *assumed)


def _check_schema(tool: Registered, parameters: dict[str, Any]) -> Refusal | None:
    schema = tool.schema
    if schema is None or schema.is_valid(parameters):
        return None
    problems = schema.errors(parameters)
    # All problems at once: with one problem at a time, a model needs a turn for each.
    text = "; ".join(f"{path}: {message}" for path, message in problems)
    return Refusal("invalid_parameters", text, f"$.parameters{problems[0][0]}")


def _check_state_parameters(action: Action, parameters: dict[str, Any]) -> Refusal | None:
    """Step 3 of a state action: an edit may not change its key, on which capability, policy and the plan's order depend."""
    if parameters.keys() == action.parameters.keys() and parameters["key"] == action.parameters["key"]:
        return None
    problems = state_schema(action).errors(parameters)
    return Refusal("invalid_parameters", f"{problems[0][0]}: {problems[0][1]}", "$.parameters") if problems else None


def state_schema(action: Action) -> Schema:
    """The schema for edits of a state action's parameters: its value can be edited, its key cannot."""
    names: dict[str, Any] = {name: {} for name in STATE_PARAMETERS[action.type]}
    names["key"] = {"const": action.parameters["key"]}
    return Schema.compile({"type": "object", "properties": names, "required": ["key"], "additionalProperties": False})
