"""What a question is made of: the request, the hold, its votes, who may answer, and what answering leads to.

Everything in a `Hold` may be shown: parameters, context, summary and reasons went through the redactor before they were
stored. The raw parameters stay with whoever asked; the hold binds them by digest.
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

ANY_GROUP = "*"
"""In an approver's groups: a member of every group. For the local user while no approvers are configured."""


class FileShown(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the question shows, as it was then. If it has changed when the answer comes, the question is asked anew."""

    path: str
    digest: str | None
    """`sha256:...` of the place, the kind and the content; None if it could not be read."""
    there: bool = True
    """Whether there was anything at that place."""


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asks. `parameters` and `context` are raw: the store redacts them and keeps only the redacted form."""

    agent: str
    summary: str
    digest: str
    """`action_digest` of the call that waits."""
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
    """JSON Schema that the parameters must fit after an edit too; None if anything does."""
    context: Any = None
    requirements: tuple[Requirement, ...] = ()
    """None at all: one approver of any group."""
    files: tuple[FileShown, ...] = ()
    ttl_ms: int = 600_000
    """For requirements that have no time of their own. Of several requirements, the shortest time counts."""
    ttl_max_ms: int | None = None
    """An upper bound on all of them."""
    started_by: str | None = None
    separation: bool = False
    """Whoever started the run may not answer."""


class Approver(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers. Made by a surface, after it has checked token, PIN or terminal."""

    id: str
    display: str = ""
    groups: tuple[str, ...] = ()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of an answer that holds for more than this one call; shown before the approver agrees."""

    scope: Scope = "once"
    ttl_ms: int = 8 * 3_600_000
    uses: int = 100


ONCE = Standing()


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """One approver's answer. `digest` is what they had before them; only votes for the current digest count."""

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
    """A question as it stands. `status` takes the time into account: a pending row whose time is over reads `expired`."""

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
    """Merge patches (RFC 7396) to the raw parameters, in order. They are what the approver typed, not redacted."""
    consumed_by: str | None = None
    standing_id: str | None = None
    votes: tuple[Vote, ...] = ()

    @property
    def discharged(self) -> frozenset[str]:
        """Content hashes of the hold policies that this approval takes out; empty unless approved."""
        return frozenset(r.content for r in self.requirements) if self.status == "approved" else frozenset()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an attempt to answer (or cancel).

    `resolved`: this answer decided. `recorded`: it counts, more are needed. `already_resolved`: `hold.status` won before.
    `not_found`: no such id. The rest are refusals: `agent_may_not_approve`, `separation`, `not_in_group`, and `changed`
    (the question is no longer the one that was answered: show it again).
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
    """What an approval is bound to: the tool, its exact definition, and the raw parameters."""
    return canonical_digest(tool, tool_version, canonical(parameters))


def canonical_digest(tool: str, tool_version: str, parameters: bytes) -> str:
    """`action_digest` where the parameters' canonical JSON is there already."""
    return digest_bytes("approval", b'{"parameters":%b%b' % (parameters, _tail(tool, tool_version)))


@lru_cache(maxsize=4096)
def _tail(tool: str, tool_version: str) -> bytes:
    """What stands behind the parameters in the canonical JSON of a call."""
    return b"," + canonical({"tool": tool, "tool_version": tool_version})[1:]


def edited_digest(before: str, patch: dict[str, Any]) -> str:
    """The digest of a call after an approver's edit, which can be computed without the raw parameters."""
    return digest("approval_edit", {"before": before, "patch": patch})


def summary_line(name: str, parameters: dict[str, Any]) -> str:
    """One line that says what is asked for: the tool, and of the parameters as they are shown the one that says most."""
    said = main_parameter(parameters)
    return f"{name}: {said}" if said else name


def edited_summary(before: str, parameters: dict[str, Any]) -> str:
    """The line for a call after an approver's edit, so that who looks at the list sees what is approved now."""
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
