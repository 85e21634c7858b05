"""The digest of a call: its decision and its intent record it, and an approval is bound to it."""

from __future__ import annotations

from interlock.approvals import canonical_digest, with_effect
from interlock.engine.proposals.action_run import ActionRun, Digested
from interlock.model.canonical import canonical


def call_digest(action: ActionRun) -> Digested:
    """The current canonical parameters of the call, and its digest, computed once. Raises: CanonicalError."""
    known = action.digested
    if known is None or known.parameters is not action.parameters or known.effect is not action.effect:
        data = canonical(action.parameters)
        known = action.digested = Digested(action.parameters, action.effect, data, digest_of(action, data))
    return known


def digest_of(action: ActionRun, parameters: bytes) -> str:
    """The digest to which an approval of this call is bound; `parameters` in canonical JSON."""
    name, version = call_of(action)
    if action.spec.invocation_mode != "one_shot":
        name += lifetime_of(action)
    return action.run.services.redactor.keyed(canonical_digest(name, version, parameters))


def call_of(action: ActionRun) -> tuple[str, str]:
    """The call in a hold: the tool's name and version, and the effect if it is shown."""
    name, version = tool_of(action)
    return name, version if action.effect is None else with_effect(version, action.effect.digest)


def tool_of(action: ActionRun) -> tuple[str, str]:
    """Name and version of the called tool; the type of an action that calls none."""
    tool = action.tool
    return (action.spec.type, "") if tool is None else (tool.name, tool.version)


def lifetime_of(action: ActionRun) -> str:
    """The text that a hold adds to the tool's name if the action starts a program that outlives it."""
    mode = action.spec.invocation_mode
    return "" if mode == "one_shot" else f" (as long as the {mode})"
