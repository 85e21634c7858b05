"""`interlock approvers`: who may approve, and how they prove their identity."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from interlock.engine.people.identity import identify, open_desk
from interlock.model.errors import UsageError
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.proof import proof, proving
from interlock.surfaces.cli.results import when


@click.group(cls=Group)
def approvers() -> None:
    """Manage who may approve. Without approvers, any process of your user may."""


@approvers.command("list")
@click.pass_obj
def list_approvers(out: Output) -> None:
    """List approvers with their groups (including those from the configuration)."""
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        rows = desk.approvers.all()
    out.emit(
        rows,
        lambda: (
            out.table(
                ("NAME", "GROUPS", "PIN", "SINCE"),
                ((r.name, " ".join(r.groups), "yes" if r.has_pin else "no", when(r.created_at_us)) for r in rows),
            )
            if rows
            else ["no approvers: the user of this machine may approve from any shell"]
        ),
    )


@approvers.command("add")
@click.argument("name")
@click.option(
    "--group", "groups", multiple=True, metavar="GROUP", help="A group that the approver belongs to; may be repeated."
)
@click.option("--display", default="", help="The name to display.")
@click.option("--pin", is_flag=True, help="Ask for a new PIN, for approvals at a terminal.")
@proving
@click.pass_obj
def add(
    out: Output,
    name: str,
    groups: tuple[str, ...],
    display: str,
    pin: bool,
    token_file: Path | None,
    approver: str | None,
) -> None:
    """Add an approver. Prints their token, only this once.

    Once there are approvers, adding or removing one requires the token or PIN of an existing one.
    """
    with open_desk(Path(), os.environ) as desk:
        identify(desk, proof(token_file, approver, needed=bool(desk.approvers.all())))
        chosen = _new_pin() if pin else None
        token = desk.approvers.add(name, display=display, groups=groups, pin=chosen)
    out.emit(
        {"name": name, "groups": groups, "pin": pin, "token": token},
        lambda: [f"added {clean(name)}; their token, shown only this once:", token],
    )


@approvers.command("remove")
@click.argument("name")
@proving
@click.pass_obj
def remove(out: Output, name: str, token_file: Path | None, approver: str | None) -> None:
    """Remove an approver. Their token and PIN stop working at once."""
    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        identify(desk, proof(token_file, approver, needed=bool(desk.approvers.all())))
        if not desk.approvers.remove(name):
            raise UsageError(
                f"there is no approver `{clean(name)}`", code="not_found", hint="`interlock approvers list`"
            )
    out.emit({"removed": name}, lambda: [f"removed {clean(name)}"])


def _new_pin() -> str:
    """A PIN typed twice at a terminal, or read from standard input (one line)."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    import getpass  # noqa: PLC0415 - start-up: only where a PIN is required

    first = getpass.getpass("new PIN: ")
    if getpass.getpass("again: ") != first:
        raise UsageError("the two PINs differ")
    return first
