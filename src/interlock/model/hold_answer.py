"""The answer of people to a question that a program or a tool asked."""

from __future__ import annotations

from typing import Literal

import msgspec

AskedKind = Literal["tool_call", "delegate", "schedule", "other"]
"""What is asked about: a call of a tool, handing work to another agent, doing something later or again, anything else."""


class HoldAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How a question ended. Whatever is not an approval is a refusal."""

    approval: str
    """The question's id."""
    status: Literal["approved", "denied", "expired", "cancelled"]
    reason: str = ""
    """What the person wrote; for the rest, why."""
    approver: str | None = None
    """Who decided."""

    @property
    def approved(self) -> bool:
        """True if everybody who had to agree did."""
        return self.status == "approved"

    def __bool__(self) -> bool:
        """As `approved`."""
        return self.approved
