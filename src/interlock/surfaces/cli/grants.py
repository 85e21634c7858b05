"""`interlock grants`: what agents may reach beyond the configuration, and answers that cover more than one call."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from interlock.engine.local.clock import SystemClock
from interlock.engine.people import grants as granting
from interlock.engine.people.identity import identify, open_desk
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.open_project import runtime
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.proof import proof, proving
from interlock.surfaces.cli.results import when
from interlock.surfaces.cli.token_files import (
    description,
    hand_over,
    read_grant_token,
    restricting,
    restriction_of,
    ttl_ms_of,
)


@click.group(cls=Group)
def grants() -> None:
    """Manage what agents may reach: grants from the configuration, issued grants, and standing answers."""


@grants.command("list")
@click.option("--agent", metavar="NAME", help="Only grants of this agent and its groups.")
@click.option("--all", "everything", is_flag=True, help="Include revoked grants.")
@click.pass_obj
def list_grants(out: Output, agent: str | None, everything: bool) -> None:
    """List grants and standing answers, oldest first."""
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        found = granting.listed(desk, agent=agent, revoked=everything)
    out.emit(
        {"grants": found.grants, "standing": found.standing},
        lambda: _table(out, found),
    )


@grants.command("show")
@click.argument("grant_id", metavar="GRANT")
@click.pass_obj
def show_grant(out: Output, grant_id: str) -> None:
    """Show a grant, or a standing answer, in full."""
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        found = granting.get(desk, grant_id)
    out.emit(found, lambda: _lines(msgspec.to_builtins(found)))


@grants.command("issue")
@click.argument("agent")
@click.option("--tool", "tools", multiple=True, metavar="GLOB", help="Tools, such as `fs.*` or `tag:read_only`.")
@click.option("--deny-tool", "deny_tools", multiple=True, metavar="GLOB", help="Exceptions from --tool.")
@click.option("--read", multiple=True, metavar="GLOB", help="Paths that may be read.")
@click.option("--write", multiple=True, metavar="GLOB", help="Paths that may be written.")
@click.option("--host", "hosts", multiple=True, metavar="NAME:PORT", help="Hosts that may be reached.")
@click.option("--state-key", "state_keys", multiple=True, metavar="GLOB", help="State keys.")
@click.option("--unscoped", multiple=True, metavar="GLOB", help="Tools allowed although they mark no paths or hosts.")
@click.option("--actions-max", type=click.IntRange(1, 1_000_000_000), help="Maximum number of actions in one proposal.")
@click.option("--uses", type=click.IntRange(1, 1_000_000_000), help="Maximum number of uses.")
@click.option("--ttl", metavar="DURATION", help="How long it is valid, such as `2h`.")
@click.option("--session", metavar="NAME", help="Only in this session.")
@click.option("--parent", metavar="GRANT", help="Make it a child of this grant, which it can never exceed.")
@proving
@click.pass_obj
def issue(
    out: Output, /, agent: str, token_file: Path | None, approver: str | None, ttl: str | None, **limits: Any
) -> None:
    """Issue a grant to AGENT, or to the agents of a group (`group:NAME`). It grants only what the options name."""
    ttl_ms = ttl_ms_of(ttl)
    with open_desk(Path(), os.environ) as desk:
        who = identify(desk, proof(token_file, approver, needed=bool(desk.approvers.all())))
        made = granting.issue(desk, granting.Wish(agent=agent, ttl_ms=ttl_ms, **limits), by=who.id)
    out.emit(made, lambda: [f"issued {clean(made.id)} to {clean(agent)}"])


@grants.command("token")
@click.argument("grant_id", metavar="GRANT")
@click.option("--agent", metavar="NAME", help="The member, if it is the grant of a group.")
@restricting
@proving
@click.pass_obj
def token(
    out: Output, /, grant_id: str, agent: str | None, file: Path | None, ttl: str | None, token_file: Path | None,
    approver: str | None, **limits: Any,
) -> None:  # fmt: skip
    """Issue a token for GRANT. Its holder can use the grant, or a part of it, from another machine too.

    It is a secret. The holder presents it with `interlock run --grant-token FILE`, and can narrow it with `interlock
    grants attenuate` before handing it on. `interlock grants revoke` revokes it by its id.
    """
    ttl_ms = ttl_ms_of(ttl)
    with runtime(out) as opened:
        desk = opened.approvals.desk
        who = identify(desk, proof(token_file, approver, needed=bool(desk.approvers.all())))
        options = {} if ttl_ms is None else {"ttl_ms": ttl_ms}
        made = opened.grants.issue_token(
            grant_id, agent=agent, restriction=restriction_of(limits), by=who.id, **options
        )
    hand_over(out, made.token, file)


@grants.command("attenuate")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@restricting
@click.pass_obj
def attenuate(out: Output, /, source: Path, file: Path | None, ttl: str | None, **limits: Any) -> None:
    """Create a narrower token from the one in FILE. Needs no project and no connection; FILE stays unchanged."""
    from interlock.engine.people.grant_tokens import attenuate_token  # noqa: PLC0415 - start-up: imports cryptography

    ttl_ms = ttl_ms_of(ttl)
    ends = None if ttl_ms is None else SystemClock().now_us() + ttl_ms * 1000
    narrower = attenuate_token(read_grant_token(source), restriction_of(limits, ends))
    hand_over(out, narrower, file)


@grants.command("inspect")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.pass_obj
def inspect(out: Output, source: Path) -> None:
    """Describe the token in FILE without its secret. Checks that it is complete, but not who issued it."""
    shown = description(read_grant_token(source))
    out.emit(shown, lambda: _token_lines(shown))


@grants.command("revoke")
@click.argument("grant_id", metavar="GRANT")
@proving
@click.pass_obj
def revoke(out: Output, grant_id: str, token_file: Path | None, approver: str | None) -> None:
    """Revoke a grant (with its children) or a standing answer, effective immediately."""
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        who = identify(desk, proof(token_file, approver, needed=bool(desk.approvers.all())))
        revoked = granting.revoke(desk, grant_id, by=who.id)
    already = [f"{clean(grant_id)} was revoked already"]
    out.emit({"revoked": revoked}, lambda: [f"revoked {clean(one)}" for one in revoked] or already)


def _token_lines(shown: dict[str, Any]) -> Iterable[str]:
    blocks = shown.pop("blocks")
    yield from _lines(shown)
    for block in blocks:
        yield f"block {clean(block['id'])}:"
        kept = {k: v for k, v in block.items() if k not in ("id", "agent", "parent", "source") and v not in (None, [])}
        yield from _lines(kept, "  ")


def _table(out: Output, found: granting.Listed) -> Iterable[str]:
    rows = [
        (
            *(g.grant.id, g.grant.agent, " ".join(g.grant.tools), when(g.grant.expires_at_us)),
            *(g.uses_left, g.grant.source, _state(g.revoked_at_us, g.grant.expires_at_us, g.uses_left, found.now_us)),
        )
        for g in found.grants
    ]
    rows += [
        (
            *(s.id, s.agent, s.tool, when(s.expires_at_us), s.uses_left, f"answer {s.hold}"),
            _state(s.revoked_at_us, s.expires_at_us, s.uses_left, found.now_us),
        )
        for s in found.standing
    ]
    return (
        out.table(("GRANT", "AGENT", "TOOLS", "EXPIRES", "USES LEFT", "FROM", "STATE"), rows) if rows else ["no grants"]
    )


def _state(revoked_at_us: int | None, expires_at_us: int | None, uses_left: int | None, now_us: int) -> str:
    if revoked_at_us is not None:
        return "revoked"
    if expires_at_us is not None and expires_at_us <= now_us:
        return "expired"
    return "used up" if uses_left == 0 else "in force"


def _lines(value: Any, indent: str = "") -> Iterable[str]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield f"{indent}{clean(key)}:"
            yield from _lines(item, indent + "  ")
        else:
            shown = (
                " ".join(map(str, item))
                if isinstance(item, list | tuple)
                else when(item)
                if key.endswith("_us") and item
                else item
            )
            yield f"{indent}{clean(key.removesuffix('_us'))}: {clean('-' if shown in (None, '') else str(shown))}"
