"""The policy judge: allow, deny or hold, and why.

Default deny; a matching forbid wins over any permit; an error in a forbid denies (`policy_error`), an error in a permit makes
it not match and is reported. If every matching forbid has `@hold`, and a permit matches, the decision is to hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from interlock.detect.environment import unknown_variables
from interlock.lazy import lazy
from interlock.model.decision import Decision, Request, Requirement
from interlock.policy.calls import Paths, command_programs, contexts
from interlock.policy.contexts import Context
from interlock.policy.index import Index, Residue
from interlock.policy.narrow import Match, narrowed, no_match, one_by_one
from interlock.policy.operators import Entity, Situation
from interlock.policy.policies import Policy, Problem
from interlock.policy.shapes import Fields
from interlock.policy.terms import EvaluationError, Uid
from interlock.policy.values import RefusedError
from interlock.policy.verdict import Outcome, asked_about_variables, held, run, strictest, together, verdict
from interlock.policy.world import ActionType, World, host_id, situation

if TYPE_CHECKING:
    from interlock.policy import explain as explaining
else:
    explaining = lazy("interlock.policy.explain")

BUCKETS_MAX: Final = 4096
OUTCOMES_MAX: Final = 256
NARROW_AFTER: Final = 4
NO_CONTEXT: Final = Context(Fields(), ())
_UNKNOWN: Final = "`{}` is not known to the policies in force"


class _Bucket(msgspec.Struct):
    """The residues of all policies for one principal, action and resource."""

    situation: Situation
    forbids: tuple[Residue, ...]
    permits: tuple[Residue, ...]
    context: Context
    match_forbids: Match = no_match
    match_permits: Match = no_match
    """Each returns the bit set of the matching policies among `forbids` or `permits`."""
    constant: Decision | None = None
    """The decision, if it is always the same (even with approvals)."""
    asked: int = 0
    """How many decisions were computed, up to `NARROW_AFTER`."""
    outcomes: dict[tuple[int, int], Decision] = {}
    """Cached decisions, by the bit sets of the forbids and permits that matched."""


class PolicyJudge:
    """A compiled policy set. Immutable except for its caches; safe to share between threads."""

    def __init__(
        self,
        *,
        world: World,
        actions: dict[str, ActionType],
        entities: dict[Uid, Entity],
        contexts: dict[str, Context],
        policies: Sequence[Policy],
        index: Index,
        paths: Paths,
        warnings: Sequence[Problem] = (),
    ) -> None:
        self.policies = tuple(policies)
        self.warnings = tuple(warnings)
        """Names in rules and policies that match nothing in this process."""
        self._by_id = {each.id: each for each in self.policies}
        self.world = world
        self._actions = actions
        self._entities = entities
        self._contexts = contexts
        self._index = index
        self._paths = paths
        self._buckets: dict[Any, _Bucket] = {}
        shapes = [context.shape.fields for context in contexts.values()]
        self.wants_flags: bool = any("flags" in fields for fields in shapes)
        """True if a policy uses `context.flags`; otherwise detectors need not run."""
        self.state_keys: frozenset[str] = frozenset(
            key for fields in shapes if "state" in fields for key in getattr(fields["state"].shape, "fields", ())
        )
        """The state keys whose observed values a request must include, if they exist."""
        self.permits_connections: bool = "connect" in index.permitted_by_name
        """True if a permit names `connect`. Then each connection needs a permit; otherwise the grant's hosts suffice."""
        self.guards_connections: bool = self.permits_connections or "connect" in index.forbidding
        """True if a policy is about connections; otherwise `connection` need not be called."""
        self.guards_reads: bool = "state_read" in index.forbidding
        """True if a forbid covers reading state; otherwise `reads` need not be called."""

    def decide(self, request: Request) -> Decision:
        """The decision on a request. Never raises because of a request's content."""
        answer = self._of_policies(request)
        return answer if answer.decision == "deny" else together(answer, self._of_variables(request))

    def _of_variables(self, request: Request) -> Decision | None:
        """The hold for environment variables that can make programs run other code than the call shows."""
        action = self._actions.get(request.action)
        given = None if action is None or action.environment is None else request.parameters.get(action.environment)
        unknown = unknown_variables(given, self.world.env_allow) if isinstance(given, dict) else ()
        return asked_about_variables(unknown, request.discharged) if unknown else None

    def _of_policies(self, request: Request) -> Decision:
        bucket = self._bucket(request)
        if bucket.constant is not None:
            return bucket.constant
        try:
            found = list(contexts(bucket.context, request, self._actions.get(request.action), self._paths))
        except RefusedError as refused:
            return Decision(decision="deny", reason="policy_error", detail=str(refused))
        if len(found) == 1:
            return _answer(bucket, found[0], request.discharged)
        programs = command_programs(request, self._actions.get(request.action))
        return strictest([_answer(bucket, each, request.discharged) for each in found], programs)

    def reads(self, request: Request, keys: Iterable[str]) -> Decision | None:
        """The objection to an action's reading of these state keys: a denial, a hold, or None.

        Applies to preconditions, assumptions, dependencies and assertions, because their outcome reveals something
        about a value. A matching forbid of `state_read` applies to them, as does one that cannot be evaluated. Apart
        from the action's own permit, no permit is needed.
        """
        if not self.guards_reads:
            return None
        found: dict[str, tuple[Requirement, list[str]]] = {}
        errors: dict[str, None] = {}
        for key in sorted(set(keys)):
            answer = self._look(request, key)
            if answer.decision == "deny":
                return msgspec.structs.replace(answer, detail=f"it reads state key `{key}`: {answer.detail}")
            errors.update(dict.fromkeys(answer.errors if answer.requirements else ()))
            for each in answer.requirements:
                found.setdefault(each.content, (each, []))[1].append(key)
        return _hold_for_reads(found, tuple(errors)) if found else None

    def connection(self, request: Request) -> Decision | None:
        """The objection to a connection (action `connect`, resource a `Host`): a denial, a hold, or None."""
        answer = self.decide(request)
        if answer.decision == "allow":
            return None
        unspoken = answer.reason == "policy_denied" and not answer.policies and not self.permits_connections
        return None if unspoken else answer

    def _look(self, request: Request, key: str) -> Decision:
        """The objection to reading one state key, ignoring a missing permit."""
        asked = msgspec.structs.replace(
            request, action="state_read", resource_type="StateKey", resource=key, parameters={"key": key}
        )
        answer = self.decide(asked)
        if answer.reason != "policy_denied":
            return answer
        against = [self._by_id[name] for name in answer.policies]
        if any(each.hold is None for each in against):
            return answer
        return held(against, answer.errors) if against else Decision(decision="allow")

    def constant(
        self,
        agent: str,
        action: str,
        resource: str,
        *,
        resource_type: Literal["Tool", "StateKey", "Host"] = "Tool",
        groups: tuple[str, ...] = (),
    ) -> Decision | None:
        """The decision, if it is the same for all parameters, state, session, flags and approvals; else None."""
        return self._bucket(
            Request(agent=agent, action=action, resource_type=resource_type, resource=resource, groups=groups)
        ).constant

    def may_allow(self, agent: str, tool: str, *, groups: tuple[str, ...] = ()) -> bool:
        """False if every call of the tool by the agent is denied, for all parameters, state, session and approvals."""
        bucket = self._bucket(Request(agent=agent, action=tool, resource_type="Tool", resource=tool, groups=groups))
        if bucket.constant is not None:
            return bucket.constant.decision != "deny"
        # A settled policy always matches (no tests left) or always fails, which permits nothing.
        denied = any(each.settled and (each.tests or each.policy.hold is None) for each in bucket.forbids)
        return not denied and any(not (each.settled and each.tests) for each in bucket.permits)

    def explain(self, request: Request) -> explaining.Explanation:
        """The decision, and each policy's result with its conditions."""
        bucket = self._bucket(request)
        context: dict[str, Any] | None = {}
        decision = self.decide(request)
        if bucket.constant is None:
            try:
                found = list(contexts(bucket.context, request, self._actions.get(request.action), self._paths))
            except RefusedError:
                context = None
            else:  # for several commands, explain the one that decides
                answers = (_answer(bucket, each, request.discharged).decision for each in found)
                decisive = (each for each, answer in zip(found, answers, strict=True) if answer == decision.decision)
                context = next(decisive, found[0])
        return explaining.explain(
            decision,
            self.policies,
            self._actions.get(request.action),
            bucket.situation,
            context,
            request.discharged,
        )

    def _bucket(self, request: Request) -> _Bucket:
        key = (request.agent, request.groups, request.action, request.resource_type, request.resource)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= BUCKETS_MAX:
                self._buckets.clear()
            bucket = self._buckets[key] = self._make(request)
        return bucket

    def _make(self, request: Request) -> _Bucket:
        s = situation(self.world, self._entities, request)
        action = self._actions.get(request.action)
        if action is None or action.resource_type != request.resource_type:
            detail = (
                _UNKNOWN.format(request.action)
                if action is None
                else f"`{request.action}` takes a {action.resource_type}, not a {request.resource_type}"
            )
            return _refused(s, detail)
        if request.resource_type == "Host" and (wrong := _unreadable(request.resource)):
            return _refused(s, wrong)
        left = self._index.residue(s)
        bucket = _Bucket(
            situation=s,
            forbids=tuple(each for each in left if each.policy.forbid),
            permits=tuple(each for each in left if not each.policy.forbid),
            context=self._contexts[request.action],
        )
        bucket.match_forbids = one_by_one(bucket.forbids)
        bucket.match_permits = one_by_one(bucket.permits)
        if all(each.settled for each in left):
            answer = _answer(bucket, {}, frozenset())
            if not any(each.policy.hold for each in bucket.forbids):
                bucket.constant = answer
            else:
                bucket.context = NO_CONTEXT
        return bucket


def _hold_for_reads(found: dict[str, tuple[Requirement, list[str]]], errors: tuple[str, ...]) -> Decision:
    """The hold for the keys that an action reads. It names one key per policy, and the number of others."""
    requirements = []
    for requirement, keys in found.values():
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        why = f"it reads state key `{keys[0]}`{more}" + (f": {requirement.reason}" if requirement.reason else "")
        requirements.append(msgspec.structs.replace(requirement, reason=why))
    return Decision(
        decision="hold",
        policies=tuple(sorted(each.policy for each in requirements)),
        reason="held",
        detail="; ".join(f"held by `{each.policy}` ({each.reason})" for each in requirements),
        requirements=tuple(requirements),
        errors=errors,
    )


def _refused(s: Situation, detail: str) -> _Bucket:
    return _Bucket(s, (), (), NO_CONTEXT, constant=Decision(decision="deny", reason="policy_error", detail=detail))


def _unreadable(host: str) -> str | None:
    try:
        host_id(host)
    except ValueError as error:
        return f"the host {error}"
    return None


def _answer(bucket: _Bucket, context: dict[str, Any], discharged: frozenset[str]) -> Decision:
    s = bucket.situation
    if bucket.asked < NARROW_AFTER:
        bucket.asked += 1
        if bucket.asked >= NARROW_AFTER:  # the preparation only pays for frequent requests
            bucket.match_forbids, bucket.match_permits = narrowed(bucket.forbids), narrowed(bucket.permits)
    if not discharged:
        try:
            hits = (bucket.match_forbids(context, s), bucket.match_permits(context, s))
        except EvaluationError:
            # a policy fails: evaluate each separately below
            pass
        else:
            known = bucket.outcomes.get(hits)
            if known is None:
                known = verdict(bucket.forbids, bucket.permits, Outcome(hits[0]), Outcome(hits[1]), discharged)
                if len(bucket.outcomes) < OUTCOMES_MAX:
                    bucket.outcomes[hits] = known
            return known
    forbids, permits = run(bucket.forbids, context, s), run(bucket.permits, context, s)
    return verdict(bucket.forbids, bucket.permits, forbids, permits, discharged)
