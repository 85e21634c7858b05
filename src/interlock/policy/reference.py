"""Evaluates policies that the compiler does not cover (currently those with `ip`) with the reference engine, `cedarpy`.

Policies are delegated one at a time, so that all others stay fast. The result is the same as a closure's: True, False
or an error.
"""

from __future__ import annotations

import contextlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from interlock.lazy import lazy
from interlock.policy import syntax
from interlock.policy.compile import Conjunct, NotCoveredError, conjuncts, mentions_context, walk
from interlock.policy.operators import Closure, Entity, Situation
from interlock.policy.terms import EvaluationError, Uid
from interlock.policy.uses import path_of
from interlock.policy.values import RefusedError, to_json

if TYPE_CHECKING:
    import cedarpy
else:
    cedarpy = lazy("cedarpy")


def compile_policy(tree: syntax.Template, text: str, reference: Reference) -> tuple[Conjunct, ...]:
    """Compile a policy's conditions, or delegate the whole policy to the reference engine."""
    if not any(_inspects_address(node) for clause in tree.clauses for node in walk(clause.expr)):
        with contextlib.suppress(NotCoveredError):
            return conjuncts(tree)
    dynamic = any(mentions_context(clause.expr) for clause in tree.clauses)
    return (Conjunct(reference.test(text), dynamic),)


def _inspects_address(node: syntax.Expr) -> bool:
    """True for the attribute `ip` of a host, an address stored as text."""
    return isinstance(node, syntax.GetAttr) and node.attr == "ip" and path_of(node) is None


class Reference:
    """Evaluates single policies with the entities that all requests share."""

    def __init__(self, entities: dict[Uid, Entity]) -> None:
        self._entities = entities

    @cached_property
    def _shared(self) -> cedarpy.Entities:
        return cedarpy.Entities.from_json_str(entities_json(self._entities))

    def test(self, policy: str) -> Closure:
        """A closure that tells whether this policy (Cedar text) matches. Raises: ValueError if the text cannot be parsed."""
        parsed = cedarpy.PolicySet.from_str(policy)

        def run(c: dict[str, Any], s: Situation) -> bool:
            try:
                context = to_json(c)
                known = self._shared.with_added_json_str(entities_json(s.local)) if s.local else self._shared
            except (RefusedError, ValueError):
                raise EvaluationError("the request cannot be expressed for the reference engine") from None
            answer = cedarpy.is_authorized({**request_json(s), "context": context}, parsed, known)
            if answer.diagnostics.errors or answer.decision is cedarpy.Decision.NoDecision:
                # the engine's message may contain values of the request, so it is dropped
                raise EvaluationError("the reference engine reports an evaluation error")
            return bool(answer.diagnostics.reasons)

        return run


def entities_json(entities: dict[Uid, Entity]) -> str:
    """Cedar's JSON for entities."""
    return json.dumps(
        [
            {
                "uid": uid_json(uid),
                "attrs": to_json(entity.attributes),
                "parents": [uid_json(parent) for parent in entity.ancestors],
                "tags": to_json(entity.tags),
            }
            for uid, entity in entities.items()
        ]
    )


def request_json(s: Situation) -> dict[str, Any]:
    """Cedar's JSON for principal, action and resource."""
    return {"principal": uid_json(s.principal), "action": uid_json(s.action), "resource": uid_json(s.resource)}


def uid_json(uid: Uid) -> dict[str, str]:
    """Cedar's JSON for an entity's uid."""
    return {"type": uid.type, "id": uid.id}
