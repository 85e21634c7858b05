"""People's answer to a question of a program or a tool."""

from __future__ import annotations

from typing import Literal, TypedDict

import msgspec

AskedKind = Literal["tool_call", "delegate", "schedule", "other"]
"""The subject: a tool call, handing work to another agent, doing something later or repeatedly, or anything else."""

ToolAskedKind = Literal["delegate", "schedule", "other"]
"""The subjects about which a tool can ask while it runs. Its own call was judged before."""


class AskOptions(TypedDict, total=False):
    """The options of a tool's question."""

    kind: ToolAskedKind
    """The subject; `other` by default."""
    group: str | None
    """The group of approvers that decides."""
    timeout_ms: int | None
    """Without an answer after this time the question is denied; by default `approvals.ttl` applies."""


class HoldAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question. Anything but an approval is a refusal."""

    approval: str
    """The id of the hold."""
    status: Literal["approved", "denied", "expired", "cancelled"]
    reason: str = ""
    """The person's comment; if nobody answered, the reason."""
    approver: str | None = None
    """The person who decided."""

    @property
    def approved(self) -> bool:
        """True if everyone whose approval was required has approved."""
        return self.status == "approved"

    def __bool__(self) -> bool:
        """The same as `approved`."""
        return self.approved
