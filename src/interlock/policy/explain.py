"""Explains a decision: each policy with its scope and its conditions, one by one, as the author wrote them.

The conditions are compiled from their own text, one at a time, so that an explanation does not depend on the optimisations of
decisions. Texts come from the policies; values of the request are never shown.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from interlock.model.decision import Decision
from interlock.policy import syntax
from interlock.policy.index import applicable, in_scope
from interlock.policy.operators import Situation
from interlock.policy.policies import Policy
from interlock.policy.reference import Reference, compile_policy
from interlock.policy.source import Clause, clauses
from interlock.policy.terms import EvaluationError, mistyped
from interlock.policy.verdict import is_discharged
from interlock.policy.world import ActionType

Result = Literal["true", "false", "error", "not reached"]


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of a policy, as the author wrote it, and whether it is true; not negated for an `unless`."""

    text: str
    line: int
    unless: bool
    result: Result
    error: str | None = None


class PolicyExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one policy."""

    id: str
    place: str
    effect: Literal["permit", "forbid"]
    result: Literal["matched", "no match", "error", "discharged", "out of scope", "not evaluated"]
    why: str
    """A one-line explanation."""
    conditions: tuple[Condition, ...] = ()
    asks: bool = False
    """True if a match asks a person instead of denying (`@hold`)."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The decision, and every policy in the order of the files."""

    decision: Decision
    policies: tuple[PolicyExplanation, ...]


def explain(
    decision: Decision,
    policies: tuple[Policy, ...],
    action: ActionType | None,
    s: Situation,
    context: dict[str, Any] | None,
    discharged: frozenset[str],
) -> Explanation:
    """Explain a decision. `context` is None if the request was refused before any policy was evaluated."""
    return Explanation(
        decision=decision,
        policies=tuple(_explain(policy, action, s, context, is_discharged(policy, discharged)) for policy in policies),
    )


def _explain(
    policy: Policy, action: ActionType | None, s: Situation, context: dict[str, Any] | None, discharged: bool
) -> PolicyExplanation:
    outside = _outside(policy, action, s)
    if outside:
        return _explanation(policy, "out of scope", f"the policy is for another {outside}")
    if discharged:
        return _explanation(policy, "discharged", "a person has approved the hold")
    if context is None:
        return _explanation(policy, "not evaluated", "the request was refused first")
    conditions = _conditions(policy, s, context)
    # A `when` fails if its text is false, an `unless` if it is true.
    last = next((each for each in conditions if each.result in {"error", "true" if each.unless else "false"}), None)
    if last is None:
        return _explanation(
            policy, "matched", "every condition is met" if conditions else "it has no conditions", conditions
        )
    word = "unless" if last.unless else "when"
    if last.result == "error":
        effect = "which denies" if policy.forbid else "so it is ignored"
        return _explanation(policy, "error", f"`{word} {{ {last.text} }}` failed ({last.error}), {effect}", conditions)
    return _explanation(policy, "no match", f"`{word} {{ {last.text} }}` is not met (line {last.line})", conditions)


def _explanation(policy: Policy, result: Any, why: str, conditions: tuple[Condition, ...] = ()) -> PolicyExplanation:
    return PolicyExplanation(
        id=policy.id,
        place=policy.statement.place,
        effect="forbid" if policy.forbid else "permit",
        result=result,
        why=why,
        conditions=conditions,
        asks=policy.hold is not None,
    )


def _outside(policy: Policy, action: ActionType | None, s: Situation) -> str | None:
    """The part of the scope that does not match."""
    if action is None or not applicable(policy.tree, (action,)):
        return "action"
    if not in_scope(policy.tree.principal, s.principal, s):
        return "principal"
    return None if in_scope(policy.tree.resource, s.resource, s) else "resource"


def _conditions(policy: Policy, s: Situation, context: dict[str, Any]) -> tuple[Condition, ...]:
    found: list[Condition] = []
    going = True
    for clause in clauses(policy.statement):
        result: Result = "not reached"
        error = None
        if going:
            result, error = _evaluate(clause, s, context)
            # an `unless` is met when its text is false
            going = result == ("false" if clause.negated else "true")
        found.append(Condition(text=clause.text, line=clause.line, unless=clause.negated, result=result, error=error))
    return tuple(found)


def _evaluate(clause: Clause, s: Situation, context: dict[str, Any]) -> tuple[Result, str | None]:
    text = f"permit(principal, action, resource) when {{ {clause.text} }};"
    ((tree,), _) = syntax.parse(text)
    try:
        for conjunct in compile_policy(tree, text, Reference(s.entities)):
            value = conjunct.test(context, s)
            if value is False:
                return "false", None
            if value is not True:
                raise mistyped("Bool", value)
    except EvaluationError as wrong:
        return "error", str(wrong)
    return "true", None
