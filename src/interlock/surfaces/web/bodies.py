"""The shapes of requests and responses, for decoding bodies and for generating the OpenAPI document.

Times are integer microseconds since the epoch, durations integer milliseconds. An approver may see everything in an
`Approval`, because secrets were redacted before it was stored.
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
        description="`digest` of the hold as it was shown. If the hold has changed since, the response is 409 `changed`.",
    ),
]
Reason = Annotated[str, Meta(max_length=2_000, description="The reason; kept with the answer, and shown to the agent.")]
Patch = Annotated[
    dict[str, Any],
    Meta(min_length=1, description="JSON merge patch (RFC 7396) to the parameters of the call."),
]


class ApproveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `approve`. A scope other than `once` issues a standing answer, and needs its duration and number of uses."""

    digest: Digest
    reason: Reason = ""
    scope: Annotated[
        Scope, Meta(description="`once`: this call; `session`, `always`: later calls of this tool that ask the same.")
    ] = "once"
    ttl_ms: Annotated[
        Annotated[int, Meta(ge=1, le=365 * DAY_MS)] | None,
        Meta(description="With `session` and `always`: how long it is valid."),
    ] = None
    uses: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="With `session` and `always`: how many uses it allows."),
    ] = None


class EditBody(ApproveBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `edit`: approve the call with other parameters. Earlier approvals do not count for the changed call."""

    patch: Patch


class OriginalBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `original`: a request to see the values that the hold hides. It is recorded before anything is shown."""

    digest: Digest


class DenyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `deny`. A denial counts even if the hold has changed, so the digest is optional."""

    digest: Digest | None = None
    reason: Reason = ""


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of the list."""

    status: Annotated[
        Literal["pending", "approved", "denied", "expired", "cancelled", "all"],
        Meta(description="Only holds with this status."),
    ] = "pending"
    after: Annotated[int, Meta(ge=0, le=INTEGER_MAX, description="Only holds with a higher `seq`.")] = 0
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="Maximum number to show.")] = 100


class ApprovalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A hold in the list, without parameters, context, files and votes, which can be large."""

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
    """A page of the list, in order of creation."""

    approvals: tuple[ApprovalRow, ...]
    next_after: Annotated[int | None, Meta(description="`after` for the next page; null on the last page.")]


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that counts: it decided, or more approvals are needed (`recorded`)."""

    outcome: Literal["resolved", "recorded"]
    approval: Hold


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """The unredacted parameters of the call, secrets included."""

    approval: Hold
    parameters: Any


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The response of a running server."""

    status: Literal["ok"] = "ok"


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong."""

    code: Annotated[str, Meta(description="Stable; `docs/reference/codes.md` explains each.")]
    message: str
    path: Annotated[str | UnsetType, Meta(description="The field at fault, such as `$.scope` or `?limit`.")] = UNSET
    hint: Annotated[str | UnsetType, Meta(description="How to fix it.")] = UNSET


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every response that is not a success. A 409 has the current hold: who decided, and what."""

    error: ErrorDetail
    approval: Hold | UnsetType = UNSET
