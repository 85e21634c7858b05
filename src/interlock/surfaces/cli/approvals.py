"""`interlock approvals`: show and answer held calls from a terminal other than the run's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from interlock.engine.people.answers import Answering, Approver, AuditRecord, Choice, Hold, Outcome, Standing
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.identity import Proof, identify, open_desk, require, watch_holds
from interlock.model.errors import ProposalError, UsageError
from interlock.model.units import duration_ms
from interlock.surfaces.cli.answer_words import how_it_continues, standing_terms
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.holds import hold_lines
from interlock.surfaces.cli.ids import HOLD
from interlock.surfaces.cli.open_project import at_terminal
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.proof import proof, proving
from interlock.surfaces.cli.results import when

_SHORT_ID = 13
"""Characters of a hold's id that suffice to identify it."""
_STATUSES = ("pending", "approved", "denied", "expired", "cancelled", "all")


@click.group(cls=Group)
def approvals() -> None:
    """Show and answer held calls."""


@approvals.command("list")
@click.option(
    "--status", type=click.Choice(_STATUSES), default="pending", show_default=True, help="Only holds with this status."
)
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1_000, show_default=True, help="Maximum number to show."
)
@click.pass_obj
def list_approvals(out: Output, status: str, limit: int) -> None:
    """List holds, oldest first."""
    with open_desk(Path(), os.environ, trusted=False) as desk:
        found = Answering(desk, "cli").holds(None if status == "all" else status, limit=limit + 1)  # type: ignore[arg-type]
    out.emit(found[:limit], lambda: _table(out, found[:limit]))
    if len(found) > limit:
        out.note(f"these are the first {limit}; there are more, which `--limit` shows")


@approvals.command("show")
@click.argument("hold_id", metavar="APPROVAL", type=HOLD)
@click.option(
    "--original",
    is_flag=True,
    help="Also show hidden values. Needs the same proof as an answer, and is recorded.",
)
@proving
@click.pass_obj
def show_approval(out: Output, hold_id: str, original: bool, token_file: Path | None, approver: str | None) -> None:
    """Show a hold in full, with the answers so far."""
    if original:
        _show_original(out, hold_id, token_file, approver)
        return
    with open_desk(Path(), os.environ, trusted=False) as desk:
        hold = _hold(desk, hold_id)
    out.emit(hold, lambda: hold_lines(out, hold, full=True))


@approvals.command("approve")
@click.argument("hold_id", metavar="APPROVAL", type=HOLD)
@click.option("--reason", default="", help="The reason; kept with the answer.")
@click.option("--digest", help="The digest that `show` prints; required after the hold was edited.")
@click.option(
    "--scope",
    type=click.Choice(["once", "session", "always"]),
    default="once",
    show_default=True,
    help="Approve this call only, or all such calls of this agent in this session, or in any session.",
)
@click.option("--ttl", default="8h", show_default=True, help="How long a wider scope is valid.")
@click.option(
    "--uses",
    type=click.IntRange(1, 1_000_000_000),
    default=100,
    show_default=True,
    help="How many calls a wider scope allows.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation of a wider scope.")
@proving
@click.pass_obj
def approve(
    out: Output,
    hold_id: str,
    reason: str,
    digest: str | None,
    scope: Any,
    ttl: str,
    uses: int,
    yes: bool,
    token_file: Path | None,
    approver: str | None,
) -> None:
    """Approve a call exactly as it was shown."""
    try:
        standing = Standing(scope=scope, ttl_ms=duration_ms(ttl), uses=uses)
    except ValueError as error:
        raise UsageError(f"`--ttl`: {error}") from None
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        if scope != "once":
            _confirm_standing(out, desk, hold_id, standing, yes=yes)
        outcome = _answer(
            desk, hold_id, "approve", token_file, approver, reason=reason, digest=digest, standing=standing
        )
    _note_outcome(out, outcome)


@approvals.command("deny")
@click.argument("hold_id", metavar="APPROVAL", type=HOLD)
@click.option("--reason", default="", help="The reason; shown to the agent.")
@proving
@click.pass_obj
def deny(out: Output, hold_id: str, reason: str, token_file: Path | None, approver: str | None) -> None:
    """Deny a call. One denial denies it, even if others have approved."""
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        outcome = _answer(desk, hold_id, "deny", token_file, approver, reason=reason)
    _note_outcome(out, outcome)


@approvals.command("edit")
@click.argument("hold_id", metavar="APPROVAL", type=HOLD)
@click.argument("patch")
@click.option("--reason", default="", help="The reason; kept with the answer.")
@click.option("--digest", help="The digest that `show` prints; required after the hold was edited.")
@proving
@click.pass_obj
def edit(
    out: Output,
    hold_id: str,
    patch: str,
    reason: str,
    digest: str | None,
    token_file: Path | None,
    approver: str | None,
) -> None:
    """Change a call's parameters and approve the changed call. PATCH is a JSON merge patch, such as '{"path": "b.txt"}'."""
    from interlock.model.decode import decode_value  # noqa: PLC0415 - start-up

    try:
        value = decode_value(patch.encode("utf-8", "surrogateescape"))
    except ProposalError as error:
        raise UsageError(f"PATCH cannot be read: {error.message}", path=error.path) from None
    if not isinstance(value, dict):
        raise UsageError("PATCH must be an object", hint="""such as '{"path": "b.txt"}'""")
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        outcome = _answer(desk, hold_id, "edit", token_file, approver, reason=reason, digest=digest, patch=value)
    _note_outcome(out, outcome)


@approvals.command("watch")
@click.option("--count", type=click.IntRange(1), help="Stop after this many holds.")
@proving
@click.pass_obj
def watch(out: Output, count: int | None, token_file: Path | None, approver: str | None) -> None:
    """Show holds as they arrive, until Ctrl-C. At a terminal, answer them with the same keys as in a run.

    With --json: one list at the end (requires --count).
    """
    if out.json and count is None:
        raise UsageError(
            "`--json` needs the number of holds to wait for",
            hint="such as `--count 1`",
        )
    from interlock.surfaces.cli import watching  # noqa: PLC0415 - start-up

    if at_terminal() and sys.stdout.isatty() and not out.json:
        watching.answer_questions(out, count, lambda needed: proof(token_file, approver, needed=needed))
    else:
        watching.show_questions(out, count)


@approvals.command("audit")
@click.argument("subject", metavar="[ID]", required=False)
@click.option("--after", type=click.IntRange(0), default=0, help="Only records after this number.")
@click.option("--follow", "-f", is_flag=True, help="Continue, and show each record as it is written, until Ctrl-C.")
@click.pass_obj
def audit(out: Output, subject: str | None, after: int, follow: bool) -> None:
    """Show the audit in order: holds, answers, edits, views of hidden values, grants and revocations; with ID only of that one.

    ID is a hold, a grant, a standing answer, or an approver. With --json: one list, or with --follow one document per
    line.
    """
    with open_desk(Path(), os.environ, trusted=False) as desk:
        if subject is not None and not desk.store.audit.records(subject, limit=1):
            raise UsageError(
                f"the audit has no record about `{clean(subject)}`",
                code="not_found",
                hint="`interlock approvals audit` shows everything, with the ids",
            )
        records = _records(desk, subject, after, follow=follow)
        try:
            out.emit_list(records, _audit_line, lines=follow)
        except KeyboardInterrupt:
            if not follow:
                raise


def _records(desk: Desk, subject: str | None, after: int, *, follow: bool) -> Iterator[AuditRecord]:
    """The records; with `follow` also new ones, without an end."""
    from interlock.surfaces.cli.watching import wait_for_change  # noqa: PLC0415 - start-up

    changes = watch_holds(desk) if follow else None
    try:
        while True:
            fresh = desk.store.audit.records(subject, after=after)
            yield from fresh
            if fresh:
                after = fresh[-1].seq
            elif follow:
                wait_for_change(changes)
            else:
                return
    finally:
        if changes is not None:
            os.close(changes)


def _audit_line(record: AuditRecord) -> str:
    who = clean(f"{record.who} ({record.surface})" if record.surface else record.who or "-")
    detail = brief(record.detail, 200) if record.detail else ""
    return f"{record.seq:>5} {when(record.at_us)}  {record.event:20} {clean(record.subject)}  {who}  {detail}".rstrip()


def _hold(desk: Desk, hold_id: str) -> Hold:
    hold = Answering(desk, "cli").hold(hold_id)
    if hold is None:
        require(Outcome(code="not_found"), hold_id)
        raise AssertionError
    return hold


def _answer(
    desk: Desk,
    hold_id: str,
    choice: Choice,
    token_file: Path | None,
    name: str | None,
    *,
    reason: str,
    digest: str | None = None,
    patch: dict[str, Any] | None = None,
    standing: Standing | None = None,
) -> Outcome:
    """Answer as the approver that the caller proves to be. Without a digest the answer applies to the first version of
    the hold, so that an edit by another approver is never approved unseen.
    """
    hold = _hold(desk, hold_id)
    who = _who(desk, token_file, name)
    outcome = Answering(desk, "cli").answer(
        hold_id, who, choice, digest=digest or hold.asked_digest, reason=reason, patch=patch, standing=standing
    )
    return require(outcome, hold_id)


def _show_original(out: Output, hold_id: str, token_file: Path | None, name: str | None) -> None:
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        hold = _hold(desk, hold_id)
        who = _who(desk, token_file, name)
        outcome, parameters = Answering(desk, "cli").original(hold_id, who, digest=hold.digest)
        require(outcome, hold_id)
    shown = msgspec.structs.replace(hold, parameters=parameters)
    out.emit({"approval": hold, "parameters": parameters}, lambda: hold_lines(out, shown, full=True))


def _who(desk: Desk, token_file: Path | None, name: str | None) -> Approver:
    given: Proof = proof(token_file, name, needed=bool(desk.approvers.all()))
    return identify(desk, given)


def _confirm_standing(out: Output, desk: Desk, hold_id: str, terms: Standing, *, yes: bool) -> None:
    """Show the terms of a wider scope and ask for confirmation. Raises: UsageError if there is no terminal."""
    hold = _hold(desk, hold_id)
    out.note(standing_terms(hold, terms))
    if not yes and (not sys.stdin.isatty() or not click.confirm("Approve on these terms?", err=True)):
        raise UsageError("the wider scope was not confirmed", hint="`--yes` confirms it without asking")


def _note_outcome(out: Output, outcome: Outcome) -> None:
    hold = outcome.hold
    assert hold is not None
    document = {"code": outcome.code, "approval": hold}
    word = hold.status if outcome.code == "resolved" else "counted; more approvals are needed"
    out.emit(document, lambda: [f"{clean(hold.id)}: {word}"])
    if outcome.code == "resolved" and not out.json and (note := how_it_continues(hold.run)):
        out.note(note)


def _table(out: Output, found: list[Hold]) -> Iterable[str]:
    if not found:
        return ["no holds"]
    drawn = out.drawing() is not None  # a terminal may be narrow: its reader types a prefix, and knows the year
    return out.table(
        ("APPROVAL", "ASKED", "UNTIL", "STATUS", "AGENT", "WHAT"),
        (
            (
                *(
                    h.id[:_SHORT_ID] if drawn else h.id,
                    when(h.created_at_us, short=drawn),
                    when(h.expires_at_us, short=drawn),
                    h.status,
                    h.agent,
                ),
                brief(h.summary, 200 if drawn else 60),
            )
            for h in found
        ),
        cut_last=True,
    )
