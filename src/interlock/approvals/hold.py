"""The data of holds: the request, the hold, its votes, who may answer, and the outcome of an answer.

Everything in a `Hold` may be shown: parameters, context, summary and reasons went through the redactor before they were
stored. The raw parameters stay with the asking run; the hold is bound to them by digest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import msgspec

from interlock.model.canonical import canonical, digest, digest_bytes
from interlock.model.decision import Requirement
from interlock.model.summary import main_parameter

Kind = Literal["tool_call", "unknown_outcome", "delegate", "schedule", "other"]
Status = Literal["pending", "approved", "denied", "expired", "cancelled"]
Surface = Literal["tty", "cli", "rest", "web", "mcp", "chat", "python"]
Choice = Literal["approve", "deny", "edit"]
Scope = Literal["once", "session", "always"]

_EFFECT = " effect "
ANY_GROUP = "*"
"""Pseudo-group of a member of every group: the local user while no approvers are configured."""


class FileShown(msgspec.Struct, frozen=True, kw_only=True):
    """A file shown with a hold, as it was then. If it has changed by the time of the answer, the call is held again."""

    path: str
    digest: str | None
    """`sha256:...` of the place, the kind and the content; None if it could not be read."""
    there: bool = True
    """True if something existed at the path."""


class ChangeShown(msgspec.Struct, frozen=True, kw_only=True):
    """The change that the call would make to a file, redacted, based on the file at the time of asking (see `FileShown`)."""

    path: str
    lines: tuple[str, ...] = ()
    """A unified diff without its header: each line begins with a space, `-`, `+`, `@@` or a backslash."""
    added: int = 0
    """Number of lines."""
    removed: int = 0
    before: bool = True
    """False if there is no file yet."""
    after: bool = True
    """False if the call would remove the file."""
    note: str = ""
    """Why there is no diff, or not all of it; empty if `lines` is complete."""
    permissions: str = ""
    """The change of the file's permissions: `permissions 644 become 755`."""


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request for a hold. `parameters` and `context` are raw: the store redacts them and keeps only the redacted form."""

    agent: str
    summary: str
    digest: str
    """`action_digest` of the waiting call."""
    run: str = ""
    proposal: str = ""
    action: str = ""
    session: str | None = None
    kind: Kind = "tool_call"
    tool: str = ""
    tool_version: str = ""
    reason: str = ""
    parameters: Any = None
    schema: dict[str, Any] | None = None
    """JSON Schema that edited parameters must match; None for no check."""
    context: Any = None
    requirements: tuple[Requirement, ...] = ()
    """Empty: one approver of any group."""
    files: tuple[FileShown, ...] = ()
    changes: tuple[ChangeShown, ...] = ()
    ttl_ms: int = 600_000
    """For requirements without their own time limit. Of several requirements, the shortest limit applies."""
    ttl_max_ms: int | None = None
    """An upper bound on all time limits."""
    started_by: str | None = None
    separation: bool = False
    """The user who started the run may not answer."""


class Approver(msgspec.Struct, frozen=True, kw_only=True):
    """A person who answers. Made by a surface after checking token, PIN or terminal."""

    id: str
    display: str = ""
    groups: tuple[str, ...] = ()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of an answer for more than this one call; shown before the approver agrees."""

    scope: Scope = "once"
    ttl_ms: int = 8 * 3_600_000
    uses: int = 100


ONCE = Standing()


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """One approver's answer. `digest` identifies what they were shown; only votes for the current digest count."""

    approver: str
    display: str
    groups: tuple[str, ...]
    surface: Surface
    decision: Choice
    digest: str
    at_us: int
    reason: str = ""
    standing: Standing = ONCE


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A held call, as stored. `status` takes the time into account: a pending row past its time limit reads `expired`."""

    id: str
    seq: int
    """Order of creation."""
    run: str
    proposal: str
    action: str
    agent: str
    session: str | None
    kind: Kind
    tool: str
    tool_version: str
    summary: str
    reason: str
    parameters: Any
    context: Any
    asked_digest: str
    digest: str
    """The digest that votes and consumption must name: `asked_digest` unless an approver edited the parameters."""
    requirements: tuple[Requirement, ...]
    files: tuple[FileShown, ...]
    started_by: str | None
    separation: bool
    created_at_us: int
    expires_at_us: int
    status: Status
    decided_at_us: int | None = None
    decision_reason: str = ""
    edits: tuple[dict[str, Any], ...] = ()
    """Merge patches (RFC 7396) to the raw parameters, in order. They are unredacted approver input."""
    consumed_by: str | None = None
    standing_id: str | None = None
    votes: tuple[Vote, ...] = ()
    changes: tuple[ChangeShown, ...] = ()
    """The changes that the call would make to text files; empty once an approver has edited the parameters."""

    @property
    def discharged(self) -> frozenset[str]:
        """Content hashes of the hold policies that this approval discharges; empty unless approved."""
        return frozenset(r.content for r in self.requirements) if self.status == "approved" else frozenset()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an attempt to answer (or cancel).

    `resolved`: this answer decided. `recorded`: it counts, more are needed. `already_resolved`: `hold.status` came first.
    `not_found`: no such id. The rest are refusals: `agent_may_not_approve`, `separation`, `not_in_group`, and `changed`
    (the hold has changed since it was shown: show it again).
    """

    code: Literal[
        "resolved",
        "recorded",
        "already_resolved",
        "not_found",
        "agent_may_not_approve",
        "separation",
        "not_in_group",
        "changed",
    ]
    hold: Hold | None = None


def action_digest(tool: str, tool_version: str, parameters: Any) -> str:
    """Returns the digest to which an approval is bound, of the tool, its exact definition, and the raw parameters."""
    return canonical_digest(tool, tool_version, canonical(parameters))


def with_effect(tool_version: str, effect: str) -> str:
    """Returns the version of a tool for a hold on the effect of a call in a temporary layer. `effect` is its digest."""
    return f"{tool_version}{_EFFECT}{effect}"


def without_effect(tool_version: str) -> str:
    """Returns the version of the tool itself."""
    return tool_version.partition(_EFFECT)[0]


def canonical_digest(tool: str, tool_version: str, parameters: bytes) -> str:
    """`action_digest` from the parameters' canonical JSON."""
    return digest_bytes("approval", b'{"parameters":%b%b' % (parameters, _tail(tool, tool_version)))


@lru_cache(maxsize=4096)
def _tail(tool: str, tool_version: str) -> bytes:
    """Returns the part of a call's canonical JSON after the parameters."""
    return b"," + canonical({"tool": tool, "tool_version": tool_version})[1:]


def edited_digest(before: str, patch: dict[str, Any]) -> str:
    """Returns the digest of a call after an approver's edit, which can be computed without the raw parameters."""
    return digest("approval_edit", {"before": before, "patch": patch})


def summary_line(name: str, parameters: dict[str, Any]) -> str:
    """One line that describes the call: the tool, and the main one of its shown parameters."""
    detail = main_parameter(parameters)
    return f"{name}: {detail}" if detail else name


def edited_summary(before: str, parameters: dict[str, Any]) -> str:
    """Returns the line for a call after an approver's edit, so that the list shows the call that is approved now."""
    return summary_line(before.partition(": ")[0], parameters)


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396): objects are merged, null removes, anything else replaces. Does not change its input."""
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out
