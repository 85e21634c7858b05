"""`interlock init` and `interlock trust`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from interlock.engine import trust as project
from interlock.model.errors import ConfigurationError, UsageError
from interlock.settings.schema import PLACE
from interlock.surfaces.cli.app import Command
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.proof import proof, proving

_COLORS = {"+": "green", "-": "red", "@": "cyan"}


@click.command(cls=Command)
@click.option("--agent", default="agent", show_default=True, help="The agent's name for proposals that give none.")
@click.pass_obj
def init(out: Output, agent: str) -> None:
    """Write a commented interlock.toml for this project, and trust it.

    Read-only tools may run; what changes something asks first; what is hard to undo is denied.
    """
    path = project.init(Path(), os.environ, agent=agent)
    steps = ["interlock doctor", "interlock run PLAN"]
    schema = path.parent / PLACE
    beside = [f"wrote {clean(str(schema))}, by which editors complete and check it"] if schema.is_file() else []
    out.emit(
        {"written": str(path.resolve()), "trusted": True, "next": steps},
        lambda: [
            f"wrote {clean(str(path))}, and trusted it",
            *beside,
            "next:",
            "  interlock doctor      what is wrong or open to attack here",
            "  interlock run PLAN    carry out a proposal",
        ],
    )


@click.command(cls=Command)
@click.option("--yes", "-y", is_flag=True, help="Trust it without asking.")
@proving
@click.pass_obj
def trust(out: Output, yes: bool, token_file: Path | None, approver: str | None) -> int:
    """Show what changed in the configuration since it was trusted, and trust it.

    Covers interlock.toml and everything else that Interlock loads. Until it is trusted, nothing runs.
    """
    reviewed = project.review(Path(), os.environ)
    document = {
        "root": str(reviewed.root),
        "changes": [{"name": c.name, "status": c.status, "diff": c.diff} for c in reviewed.changes],
    }
    if not reviewed.changes:
        out.emit({**document, "trusted": True}, lambda: ["nothing changed since it was trusted"])
        return 0
    if not (out.json or (out.quiet and yes)):
        show(out, reviewed)
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(
                "there is no terminal to confirm at",
                path=str(reviewed.root),
                hint="read the differences, then run `interlock trust --yes`",
            )
        if not click.confirm("Trust this?", err=True):
            raise ConfigurationError("not trusted", code="untrusted_configuration", path=str(reviewed.root))
    project.trust(reviewed, os.environ, proof(token_file, approver, needed=reviewed.pin))
    out.emit({**document, "trusted": True}, lambda: [f"trusted: {clean(str(reviewed.root))}"])
    return 0


def ask_to_trust(out: Output) -> bool:
    """At a terminal, before a run: show the difference and ask. True if it is trusted now."""
    reviewed = project.review(Path(), os.environ)
    out.write(sys.stderr, "The current configuration is not trusted. The differences:")
    show(out, reviewed)
    if not click.confirm("Trust this?", err=True):
        return False
    project.trust(reviewed, os.environ, proof(None, None, needed=reviewed.pin))
    return True


def show(out: Output, reviewed: project.Review) -> None:
    """Print the differences to standard error."""
    for change in reviewed.changes:
        out.write(sys.stderr, f"{clean(change.name)} ({change.status})")
        for line in change.diff.split("\n"):
            out.write(sys.stderr, out.paint(clean(line, lines=True), _COLORS.get(line[:1], "dim"), sys.stderr))
