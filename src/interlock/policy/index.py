"""Finds the policies that could match an action, principal and resource, and evaluates them as far as possible.

For a given principal, action and resource, the scope of a policy and every condition without the context are constant.
`Index.residue` evaluates them once. The judge caches the rest, a few closures over the context, for later requests with
the same three.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from interlock.policy import syntax
from interlock.policy.compile import Conjunct, uid
from interlock.policy.operators import Closure, Situation, is_in
from interlock.policy.policies import Policy
from interlock.policy.terms import EvaluationError, Uid, mistyped
from interlock.policy.world import ActionType

Scope = syntax.PrincipalOrResourceConstraint


class Compiled(msgspec.Struct, frozen=True):
    """A policy with its conditions compiled."""

    policy: Policy
    conjuncts: tuple[Conjunct, ...]


class Residue(msgspec.Struct, frozen=True):
    """What remains of a policy for one principal, action and resource. It matches if all `tests` are true."""

    policy: Policy
    tests: tuple[Closure, ...]
    conditions: tuple[syntax.Expr | None, ...] = ()
    """The source of each test; None if it is more than a single condition."""

    @property
    def settled(self) -> bool:
        """True if no remaining test uses the context."""
        return not self.tests or isinstance(self.tests[0], _Error)


class _Error:
    """A closure that always raises the same error."""

    def __init__(self, error: EvaluationError) -> None:
        self._text = str(error)

    def __call__(self, _c: dict[str, Any], _s: Situation) -> Any:
        raise EvaluationError(self._text)


class Index:
    """All policies, by action, then by the principal and resource in their scope (or None)."""

    def __init__(self, policies: Sequence[Compiled], actions: dict[str, ActionType]) -> None:
        self._tables: dict[str, dict[tuple[Uid | None, Uid | None], list[Compiled]]] = {name: {} for name in actions}
        self.forbidding: set[str] = set()
        """The actions that a forbid covers."""
        self.permitted_by_name: set[str] = set()
        """The actions that a permit names directly, not through a group or an open scope."""
        for compiled in policies:
            tree = compiled.policy.tree
            where = (_named(tree.principal), _named(tree.resource))
            for action in applicable(tree, actions.values()):
                self._tables[action.name].setdefault(where, []).append(compiled)
                if compiled.policy.forbid:
                    self.forbidding.add(action.name)
                elif _names(tree.action, action.name):
                    self.permitted_by_name.add(action.name)

    def candidates(self, s: Situation) -> list[Compiled]:
        """The policies whose scope matches."""
        table = self._tables.get(s.action.id, {})
        found: list[Compiled] = []
        for principal in (s.principal, None):
            for resource in (s.resource, None):
                found.extend(table.get((principal, resource), ()))
        return [
            compiled
            for compiled in found
            if in_scope(compiled.policy.tree.principal, s.principal, s)
            and in_scope(compiled.policy.tree.resource, s.resource, s)
        ]

    def residue(self, s: Situation) -> list[Residue]:
        """The policies that can still match, in order of their ids."""
        found = [left for compiled in self.candidates(s) if (left := reduce(compiled, s)) is not None]
        found.sort(key=lambda left: left.policy.id)
        return found


def applicable(tree: syntax.Template, actions: Iterable[ActionType]) -> list[ActionType]:
    """The actions in the scope of a policy, by their name, groups and resource type."""
    kinds = _resource_types(tree.resource)
    return [
        action for action in actions if (kinds is None or action.resource_type in kinds) and _acts(tree.action, action)
    ]


def _names(scope: syntax.ActionConstraint, name: str) -> bool:
    """True if the scope of a policy names this action."""
    match scope:
        case syntax.ActionEq(entity=entity):
            return entity.id == name
        case syntax.ActionIn(entities=entities):
            return any(entity.id == name for entity in entities)
        case _:
            return False


def _acts(scope: syntax.ActionConstraint, action: ActionType) -> bool:
    match scope:
        case syntax.ActionEq(entity=entity):
            return entity.id == action.name and str(entity.type) == "Action"
        case syntax.ActionIn(entities=entities):
            return any(
                str(entity.type) == "Action" and (entity.id == action.name or entity.id in action.groups)
                for entity in entities
            )
        case _:
            return True


def _resource_types(scope: Scope) -> frozenset[str] | None:
    match scope:
        case syntax.ScopeIs(entity_type=kind) | syntax.ScopeIsIn(entity_type=kind):
            return frozenset((str(kind),))
        case syntax.ScopeEq(entity=syntax.EntityUid(type=kind)):
            return frozenset((str(kind),))
        case syntax.ScopeIn(entity=syntax.EntityUid(type=kind)):
            return frozenset((str(kind), "Tool")) if str(kind) == "Server" else frozenset((str(kind),))
        case _:
            return None


def _named(scope: Scope) -> Uid | None:
    match scope:
        case syntax.ScopeEq(entity=syntax.EntityUid() as entity):
            return uid(entity)
        case _:
            return None


def in_scope(scope: Scope, who: Uid, s: Situation) -> bool:
    """True if this principal or resource is in the scope of a policy."""
    match scope:
        case syntax.ScopeEq(entity=syntax.EntityUid() as entity):
            return uid(entity) == who
        case syntax.ScopeIn(entity=syntax.EntityUid() as entity):
            return is_in(who, uid(entity), s)
        case syntax.ScopeIs(entity_type=kind):
            return who.type == str(kind)
        case syntax.ScopeIsIn(entity_type=kind, entity=syntax.EntityUid() as entity):
            return who.type == str(kind) and is_in(who, uid(entity), s)
        case _:
            return True


def reduce(compiled: Compiled, s: Situation) -> Residue | None:
    """Evaluate the conditions that do not use the context. None if the policy can neither match nor fail."""
    left: list[Conjunct] = []
    for conjunct in compiled.conjuncts:
        if conjunct.dynamic:
            left.append(conjunct)
            continue
        try:
            value = conjunct.test({}, s)
            if value is not True and value is not False:
                raise mistyped("Bool", value)
        except EvaluationError as error:
            left.append(Conjunct(_Error(error), dynamic=False))
            break
        if not value:
            if not left:
                return None
            # keep the earlier conditions, which may fail: an error in a forbid denies
            left.append(Conjunct(_never, dynamic=False))
            break
    return Residue(compiled.policy, tuple(each.test for each in left), tuple(each.expr for each in left))


def _never(_c: dict[str, Any], _s: Situation) -> bool:
    return False
