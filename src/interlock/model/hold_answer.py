"""The answer of people to a question that a program or a tool asked."""

from __future__ import annotations

from typing import Literal, TypedDict

import msgspec

AskedKind = Literal["tool_call", "delegate", "schedule", "other"]
"""What is asked about: a call of a tool, handing work to another agent, doing something later or again, anything else."""

ToolAskedKind = Literal["delegate", "schedule", "other"]
"""What a tool can ask about while it runs: its own call was judged before."""


class AskOptions(TypedDict, total=False):
    """The options of a tool's question."""

    kind: ToolAskedKind
    """What it is about; `other` if it is not said."""
    group: str | None
    """The group of approvers that decides."""
    timeout_ms: int | None
    """Without an answer for so long it is refused; else `approvals.ttl` holds."""


class HoldAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question. Everything except an approval is a refusal."""

    approval: str
    """The question's id."""
    status: Literal["approved", "denied", "expired", "cancelled"]
    reason: str = ""
    """What the person wrote; for the rest, why."""
    approver: str | None = None
    """Who decided."""

    @property
    def approved(self) -> bool:
        """True if everyone who had to agree did."""
        return self.status == "approved"

    def __bool__(self) -> bool:
        """As `approved`."""
        return self.approved
