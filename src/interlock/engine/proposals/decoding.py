"""Step 1, decoding: reads a proposal in any form that the library accepts. All callers use this decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from interlock.detect.redact import find_secrets, may_hold_secret
from interlock.model.decode import decode_proposal, proposal_from_builtins
from interlock.model.errors import ProposalError
from interlock.model.limits import Limits
from interlock.model.proposal import Action, Proposal
from interlock.verify.graph import names_state

_NAMES: Final = ("id", "source", "agent", "session")
ProposalLike = Proposal | Mapping[str, Any] | bytes | str


def decode(proposal: ProposalLike, limits: Limits) -> Proposal:
    """The decoded proposal; a `Proposal` that was made by hand is checked like any other. Raises ProposalError."""
    if isinstance(proposal, str):
        proposal = proposal.encode("utf-8", "surrogatepass")  # the decoder then reports the mistake
    found = (
        _decoded(proposal, limits) if isinstance(proposal, bytes) else proposal_from_builtins(proposal, limits=limits)
    )
    _refuse_secret_names(found)
    return found


def _decoded(data: bytes, limits: Limits) -> Proposal:
    try:
        return decode_proposal(data, limits=limits)
    except ProposalError as error:
        if error.hint is not None or data.lstrip()[:1] in (b"{", b"[", b""):
            raise
        hint = (
            "pass the proposal itself, as a dictionary or JSON, not the name of a file; `interlock run` also reads YAML"
        )
        raise ProposalError(error.message, code=error.code, path=error.path, hint=hint) from None


def _refuse_secret_names(proposal: Proposal) -> None:
    """Refuse names that are secrets: names cannot be redacted, because everything in the record refers to them."""
    names = [getattr(proposal, field) or "" for field in _NAMES]
    for action in proposal.actions:
        names.append(action.id)
        if names_state(action):
            names.extend(_keys(action))
    if not may_hold_secret("\n".join(names).encode("utf-8", "surrogatepass")):
        return
    where = dict.fromkeys(filter(find_secrets, names))
    for field in _NAMES:
        if getattr(proposal, field) in where:
            raise _secret(f"$.{field}")
    for index, action in enumerate(proposal.actions):
        if action.id in where:
            raise _secret(f"$.actions[{index}].id")
        if any(key in where for key in _keys(action)):
            raise _secret(f"$.actions[{index}]")


def _keys(action: Action) -> Iterator[str]:
    """The state keys in an action."""
    if action.type != "tool_call":
        yield action.parameters["key"]
    for keys in (action.state_dependencies, action.read_set, action.write_set, action.expected_effects):
        yield from keys
    yield from (condition.key for condition in action.preconditions)
    yield from (assumption.key for assumption in action.assumptions)


def _secret(path: str) -> ProposalError:
    return ProposalError(
        "a name here is, or contains, a secret; names are recorded as they are",
        code="secret_in_name",
        path=path,
        hint="choose another name or key, and pass the secret as a parameter",
    )
