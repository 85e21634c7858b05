"""Step 1, decoding: reads a proposal in any form that the library accepts. All callers use this decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interlock.model.decode import decode_proposal, proposal_from_builtins
from interlock.model.limits import Limits
from interlock.model.proposal import Proposal

ProposalLike = Proposal | Mapping[str, Any] | bytes | str


def decode(proposal: ProposalLike, limits: Limits) -> Proposal:
    """The decoded proposal; a `Proposal` that was made by hand is checked like any other. Raises ProposalError."""
    if isinstance(proposal, str):
        proposal = proposal.encode("utf-8", "surrogatepass")  # the decoder then reports the mistake
    if isinstance(proposal, bytes):
        return decode_proposal(proposal, limits=limits)
    return proposal_from_builtins(proposal, limits=limits)
