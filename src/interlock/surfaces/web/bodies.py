"""What requests and answers look like: the structs that decode bodies, and that the OpenAPI document is generated from.

Times are integer microseconds since the epoch, durations integer milliseconds. Everything in an `Approval` may be shown to
an approver: secrets were taken out before it was stored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from interlock.engine.people.answers import Hold, Kind, Scope, Status
from interlock.model.decision import Requirement
from interlock.model.limits import INTEGER_MAX

DAY_MS = 86_400_000
PAGE_MAX = 500

Digest = Annotated[
    str,
    Meta(
        pattern="^(hmac-)?sha256:[0-9a-f]{64}$",
        description="`digest` of the question as it was shown. If the question has changed since, the answer is 409 `changed`.",
    ),
]
Reason = Annotated[str, Meta(max_length=2_000, description="Why; kept with the answer, and told to the agent.")]
Patch = Annotated[
    dict[str, Any],
    Meta(min_length=1, description="JSON merge patch (RFC 7396) to the parameters of the call."),
]


class ApproveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `approve`. A scope other than `once` mints a standing answer, and says how long and how often it holds."""

    digest: Digest
    reason: Reason = ""
    scope: Annotated[
        Scope, Meta(description="`once`: this call; `session`, `always`: calls of this tool that ask the same.")
    ] = "once"
    ttl_ms: Annotated[
        Annotated[int, Meta(ge=1, le=365 * DAY_MS)] | None, Meta(description="With `session` and `always`: how long.")
    ] = None
    uses: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None, Meta(description="With `session` and `always`: how often.")
    ] = None


class EditBody(ApproveBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `edit`: approve the call with other parameters. Earlier approvals do not count for them."""

    patch: Patch


class OriginalBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `original`: a request to see what the question hides. It is put on record before anything is shown."""

    digest: Digest


class DenyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `deny`. A denial counts whatever the question has become meanwhile, so the digest may be left out."""

    digest: Digest | None = None
    reason: Reason = ""


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of the list."""

    status: Annotated[
        Literal["pending", "approved", "denied", "expired", "cancelled", "all"], Meta(description="Which questions.")
    ] = "pending"
    after: Annotated[int, Meta(ge=0, le=INTEGER_MAX, description="Only questions with a higher `seq`.")] = 0
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="At most so many.")] = 100


class ApprovalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A question in the list: without parameters, context, files and votes, which can be large."""

    id: str
    seq: int
    run: str
    proposal: str
    action: str
    agent: str
    session: str | None
    kind: Kind
    tool: str
    summary: str
    reason: str
    status: Status
    digest: str
    requirements: tuple[Requirement, ...]
    created_at_us: int
    expires_at_us: int
    decided_at_us: int | None


class ApprovalPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the list, in order of creation."""

    approvals: tuple[ApprovalRow, ...]
    next_after: Annotated[int | None, Meta(description="`after` of the next part; null if this was the last.")]


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that counts: it decided, or more answers are needed (`recorded`)."""

    outcome: Literal["resolved", "recorded"]
    approval: Hold


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of the call with nothing hidden. Secrets stand in it in clear."""

    approval: Hold
    parameters: Any


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The server answers."""

    status: Literal["ok"] = "ok"


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong."""

    code: Annotated[str, Meta(description="Stable; `docs/reference/codes.md` explains each.")]
    message: str
    path: Annotated[str | UnsetType, Meta(description="The field at fault, such as `$.scope` or `?limit`.")] = UNSET
    hint: Annotated[str | UnsetType, Meta(description="What to do next.")] = UNSET


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every answer that is no success. A 409 carries the question as it is now: who decided, and what."""

    error: ErrorDetail
    approval: Hold | UnsetType = UNSET
