"""The reference engine, `cedarpy`, for the policies that our compiler does not cover (today: those with `ip`).

One policy at a time, so that everything else stays fast. The answer is the same as a closure's: True, False or an error.
"""

from __future__ import annotations

import json
from typing import Any

import cedarpy

from interlock.policy.operators import Closure, Entity, Situation
from interlock.policy.terms import EvaluationError, Uid
from interlock.policy.values import RefusedError, to_json


class Reference:
    """Evaluates single policies among the entities that all requests share."""

    def __init__(self, entities: dict[Uid, Entity]) -> None:
        self._shared = cedarpy.Entities.from_json_str(entities_json(entities))

    def test(self, policy: str) -> Closure:
        """A closure that says whether this policy (its text) matches. Raises: ValueError if it cannot be parsed."""
        parsed = cedarpy.PolicySet.from_str(policy)

        def run(c: dict[str, Any], s: Situation) -> bool:
            try:
                context = to_json(c)
                known = self._shared.with_added_json_str(entities_json(s.local)) if s.local else self._shared
            except (RefusedError, ValueError):
                raise EvaluationError("the request cannot be put to the reference engine") from None
            answer = cedarpy.is_authorized({**request_json(s), "context": context}, parsed, known)
            if answer.diagnostics.errors or answer.decision is cedarpy.Decision.NoDecision:
                # the engine's own text may hold values, so it is not passed on
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
    """Cedar's JSON for who, what and on what."""
    return {"principal": uid_json(s.principal), "action": uid_json(s.action), "resource": uid_json(s.resource)}


def uid_json(uid: Uid) -> dict[str, str]:
    """Cedar's JSON for an entity's uid."""
    return {"type": uid.type, "id": uid.id}
