"""The reference for decisions: `cedarpy.is_authorized`, plus the one rule that Interlock adds, written a second time.

An error in a forbid denies. If only forbids with `@hold` match, and a permit would, the answer is hold.
"""

from __future__ import annotations

import json
import re
from typing import Any

import cedarpy

from interlock.policy.operators import Situation
from interlock.policy.reference import entities_json, request_json
from interlock.policy.values import to_json

Answer = tuple[str, str | None, tuple[str, ...], tuple[str, ...]]
"""Decision, reason, determining policies, policies that failed: the last two sorted."""


def oracle(policies: list[str], s: Situation, context: dict[str, Any]) -> Answer:
    """The right answer. Each policy must carry `@id`."""
    entities = entities_json({**s.entities, **s.local})
    return oracle_json(policies, request_json(s), json.dumps(to_json(context)), entities)


def oracle_json(policies: list[str], request: dict[str, Any], context: str, entities: str) -> Answer:
    """The right answer, from Cedar's own JSON."""
    texts = {_id(text): text for text in policies}
    reasons, errors, decision = _ask(policies, request, context, entities)
    forbids = {name for name, text in texts.items() if re.search(r"^forbid|\sforbid\(", text)}
    holds = {name for name in forbids if "@hold" in texts[name]}
    failed = tuple(sorted(errors))
    if decision == "Deny" and reasons - holds:
        return ("deny", "policy_denied", tuple(sorted(reasons)), failed)
    if errors & forbids:
        return ("deny", "policy_error", tuple(sorted(errors & forbids)), failed)
    if decision == "Deny" and reasons:
        rest = [text for name, text in texts.items() if name not in forbids]
        if _ask(rest, request, context, entities)[2] == "Allow":
            return ("hold", "held", tuple(sorted(reasons)), failed)
        return ("deny", "policy_denied", tuple(sorted(reasons)), failed)
    if decision == "Allow":
        return ("allow", None, tuple(sorted(reasons)), failed)
    return ("deny", "policy_denied", (), failed)


def _ask(policies: list[str], request: dict[str, Any], context: str, entities: str) -> tuple[set[str], set[str], str]:
    result = cedarpy.is_authorized({**request, "context": context}, "\n".join(policies), entities)
    if result.decision is cedarpy.Decision.NoDecision:
        raise AssertionError(f"the reference has no answer: {result.diagnostics.errors}")
    names = [_id(text) for text in policies]
    number = lambda text: names[int(re.search(r"policy(\d+)", text)[1])]
    reasons = {number(text) for text in result.diagnostics.reasons}
    errors = {number(re.search(r"`(policy\d+)`", text)[1]) for text in result.diagnostics.errors}
    return reasons, errors, result.decision.name


def _id(text: str) -> str:
    return re.search(r'@id\("([^"]*)"\)', text)[1]
