"""The digest of a call, computed once for its decision and its intent."""

from __future__ import annotations

from interlock.engine.gate.approval import digest_of
from interlock.engine.proposals.action_run import ActionRun, Digested
from interlock.model.canonical import canonical


def call_digest(action: ActionRun) -> Digested:
    """The current canonical parameters of the call, and its digest. Raises: CanonicalError."""
    known = action.digested
    if known is None or known.parameters is not action.parameters or known.effect is not action.effect:
        data = canonical(action.parameters)
        known = action.digested = Digested(action.parameters, action.effect, data, digest_of(action, data))
    return known
