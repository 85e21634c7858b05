"""The answers of judges: allow, refuse with a code, or hold for a person."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Refusal(msgspec.Struct, frozen=True):
    """A refusal: a code of `interlock.model.codes.REASONS`, a sentence for people, and a place (`$.parameters.path`)."""

    reason: str
    detail: str
    path: str | None = None


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """An unmet `@hold` forbid: the group that must approve, the number of approvals, the time limit, and the reason."""

    policy: str
    """The policy's id for people (`@id`, or a short content hash)."""
    content: str
    """Content hash of the policy, which an approval discharges."""
    group: str | None = None
    quorum: int = 1
    ttl_ms: int | None = None
    reason: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of step 5."""

    decision: Literal["allow", "deny", "hold"]
    policies: tuple[str, ...] = ()
    """Ids of the determining policies."""
    reason: str | None = None
    """For a deny: `policy_denied` or `policy_error`; for a hold: `held`."""
    detail: str = ""
    requirements: tuple[Requirement, ...] = ()
    errors: tuple[str, ...] = ()
    """Evaluation errors of permits, which are ignored and reported. They contain no values."""


class Request(msgspec.Struct, kw_only=True):
    """A request to the policy judge, with everything that policies can see."""

    agent: str
    action: str
    """Tool name, or `state_read`, `state_write`, `assert`, `compensate`, `connect`."""
    resource_type: Literal["Tool", "StateKey", "Host"] = "Tool"
    resource: str = ""
    groups: tuple[str, ...] = ()
    session: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    state: dict[str, Any] = {}
    """Observed values of the state keys that policies mention (`PolicyJudge.state_keys`); absent keys are absent."""
    proposal: dict[str, Any] = {}
    """`id`, `source`, `action_count`."""
    flags: tuple[str, ...] = ()
    """Detectors that fired. Filled only if a policy mentions flags (`PolicyJudge.wants_flags`)."""
    discharged: frozenset[str] = frozenset()
    """Content hashes of `@hold` policies that an approval has discharged for exactly this action."""
