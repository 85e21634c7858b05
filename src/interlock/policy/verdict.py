"""Combines the policies that matched, and those that failed, into one decision."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from interlock.model.canonical import digest
from interlock.model.decision import Decision, Requirement
from interlock.policy.index import Residue
from interlock.policy.operators import Closure, Situation
from interlock.policy.policies import Policy
from interlock.policy.terms import EvaluationError, mistyped

_PROGRAM_CHARS: Final = 60
"""Maximum characters of a program's name in a decision."""
VARIABLES: Final = "isolation.env_allow"
"""The setting that permanently allows variables. Holds for environment variables name it in place of a policy id."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of evaluating policies: `hits` has a bit for each match, `errors` a message for each failure."""

    hits: int = 0
    errors: dict[int, str] = {}


def run(residues: Sequence[Residue], context: dict[str, Any], s: Situation) -> Outcome:
    """Evaluate each policy separately, so that a failing policy does not stop the others."""
    hits = 0
    errors = {}
    for at, residue in enumerate(residues):
        try:
            hits |= matching((residue.tests,), context, s) << at
        except EvaluationError as error:
            errors[at] = str(error)
    return Outcome(hits, errors)


def matching(policies: Sequence[tuple[Closure, ...]], context: dict[str, Any], s: Situation) -> int:
    """The bit set of the policies (given as their tests) that match. Raises: EvaluationError if one of them fails.

    This is the inner loop of every decision.
    """
    hits = 0
    bit = 1
    for tests in policies:
        for test in tests:
            value = test(context, s)
            if value is False:
                break
            if value is not True:
                raise mistyped("Bool", value)
        else:
            hits |= bit
        bit <<= 1
    return hits


def verdict(
    forbids: Sequence[Residue],
    permits: Sequence[Residue],
    of_forbids: Outcome,
    of_permits: Outcome,
    discharged: frozenset[str],
) -> Decision:
    """The decision. Only holds that an approval discharged are ignored, whether they matched or failed."""
    matched = [each.policy for each in _hits(forbids, of_forbids) if not is_discharged(each.policy, discharged)]
    failed = {
        forbids[at].policy.id: text
        for at, text in of_forbids.errors.items()
        if not is_discharged(forbids[at].policy, discharged)
    }
    allowed = [each.policy for each in _hits(permits, of_permits)]
    notes = tuple(f"{permits[at].policy.id}: {text}" for at, text in of_permits.errors.items())
    broken = tuple(f"{name}: {text}" for name, text in failed.items())
    final = [policy for policy in matched if policy.hold is None]
    if final:
        return _deny("policy_denied", _names(matched), f"forbidden by {_listed(final)}", (*broken, *notes))
    if failed:
        names = tuple(failed)
        return _deny(
            "policy_error", names, f"could not be evaluated, which denies: {'; '.join(broken)}", (*broken, *notes)
        )
    if not allowed:
        detail = "no policy permits it"
        if matched:
            detail = f"forbidden by {_listed(matched)}, and no policy permits it"
        return _deny("policy_denied", _names(matched), detail, notes)
    if matched:
        return held(matched, notes)
    return Decision(decision="allow", policies=_names(allowed), errors=notes)


def held(policies: Sequence[Policy], errors: tuple[str, ...]) -> Decision:
    """The decision if only these holds prevent an allow."""
    return Decision(
        decision="hold",
        policies=_names(policies),
        reason="held",
        detail=f"held by {_listed(policies)}",
        requirements=tuple(map(_requirement, policies)),
        errors=errors,
    )


def together(decision: Decision, reads: Decision | None) -> Decision:
    """The decision on an action combined with that on its reads (`PolicyJudge.reads`): the stricter one applies.

    If both are holds, their requirements are combined.
    """
    if reads is None or decision.decision == "deny":
        return decision
    if reads.decision == "deny" or decision.decision == "allow":
        return reads
    details = dict.fromkeys(each.detail for each in (decision, reads) if each.detail)
    return Decision(
        decision="hold",
        policies=tuple(sorted({*decision.policies, *reads.policies})),
        reason="held",
        detail="; ".join(details),
        requirements=tuple({each.content: each for each in (*decision.requirements, *reads.requirements)}.values()),
        errors=tuple(dict.fromkeys((*decision.errors, *reads.errors))),
    )


def asked_about_variables(names: Sequence[str], discharged: frozenset[str]) -> Decision | None:
    """The hold for a call that sets these environment variables; None if an approval discharged it."""
    content = digest("variables", list(names))
    if content in discharged:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    reason = f"it sets the variable `{names[0]}`{more}, which can make programs run other code"
    return Decision(
        decision="hold",
        policies=(VARIABLES,),
        reason="held",
        detail=f"held by `{VARIABLES}` ({reason})",
        requirements=(Requirement(policy=VARIABLES, content=content, reason=reason),),
    )


def strictest(answers: Sequence[Decision], programs: Sequence[str]) -> Decision:
    """Combine the decisions on each command of a call: all commands must be allowed.

    `answers` is not empty. `programs` are those of the commands, for people. The first denial applies; holds are combined.
    """
    denied = next((at for at, answer in enumerate(answers) if answer.decision == "deny"), None)
    if denied is not None:
        return _numbered(answers[denied], denied, len(answers), programs)
    asked = [
        _numbered(answer, at, len(answers), programs) for at, answer in enumerate(answers) if answer.decision == "hold"
    ]
    if asked:
        return functools.reduce(together, asked)
    return Decision(
        decision="allow",
        policies=tuple(sorted({name for answer in answers for name in answer.policies})),
        errors=tuple(dict.fromkeys(error for answer in answers for error in answer.errors)),
    )


def _numbered(answer: Decision, at: int, count: int, programs: Sequence[str]) -> Decision:
    program = programs[at][:_PROGRAM_CHARS] if at < len(programs) else ""
    which = f"command {at + 1} of {count}" + (f" (`{program}`)" if program else "")
    return msgspec.structs.replace(answer, detail=f"{which}: {answer.detail}")


def is_discharged(policy: Policy, discharged: frozenset[str]) -> bool:
    """True if this is a hold that a person has approved."""
    return policy.hold is not None and policy.content in discharged


def _hits(residues: Sequence[Residue], outcome: Outcome) -> list[Residue]:
    return [each for at, each in enumerate(residues) if outcome.hits >> at & 1]


def _names(policies: Sequence[Policy]) -> tuple[str, ...]:
    return tuple(sorted(policy.id for policy in policies))


def _listed(policies: Sequence[Policy]) -> str:
    each = sorted((policy.id, policy.reason) for policy in policies)
    return ", ".join(f"`{name}` ({reason})" if reason else f"`{name}`" for name, reason in each)


def _deny(reason: str, policies: tuple[str, ...], detail: str, errors: tuple[str, ...]) -> Decision:
    return Decision(decision="deny", reason=reason, policies=policies, detail=detail, errors=errors)


def _requirement(policy: Policy) -> Requirement:
    hold = policy.hold
    assert hold is not None
    return Requirement(
        policy=policy.id,
        content=policy.content,
        group=hold.group,
        quorum=hold.quorum,
        ttl_ms=hold.ttl_ms,
        reason=policy.reason,
    )
