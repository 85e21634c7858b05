"""`interlock init` and `interlock trust`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from interlock.engine import project_files
from interlock.engine import trust as project
from interlock.model.errors import ConfigurationError, UsageError
from interlock.settings import project_file
from interlock.settings.schema import PLACE
from interlock.surfaces.cli.app import FAILED, Command
from interlock.surfaces.cli.confirm import confirm
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.proof import proof, proving

_COLORS = {"+": "green", "-": "red", "@": "cyan"}


@click.command(cls=Command)
@click.option("--agent", metavar="NAME", help="The agent of proposals that do not name one.  [default: agent]")
@click.option("--remove", is_flag=True, help="Remove what `init` created here, except files that were changed.")
@click.option(
    "--state",
    is_flag=True,
    help="With --remove: also delete the project's runs and backups. Then nothing can be undone.",
)
@click.option("--yes", "-y", is_flag=True, help="With --state: do not ask for confirmation.")
@proving
@click.pass_obj
def init(
    out: Output, agent: str | None, remove: bool, state: bool, yes: bool, token_file: Path | None, approver: str | None
) -> int:
    """Write a commented interlock.toml for this project, and trust it. With --remove: remove it again.

    Read-only tools may run; tools that change something need approval; tools whose effects are hard to undo are denied.

    --remove never removes a file that was changed; exit code 1 if it left one. Runs, state and backups stay in the
    state directory unless --state is given.
    """
    if remove:
        if agent is not None:
            raise UsageError("`--agent` cannot be combined with `--remove`")
        return _remove(out, proving_by=(token_file, approver), state=state, yes=yes)
    if state or yes:
        raise UsageError("`--state` and `--yes` require `--remove`")
    proved = proof(token_file, approver, needed=project_files.needs_proof(Path(), os.environ))
    outer = project_file.find(Path.cwd().parent)
    path = project_files.init(Path(), os.environ, agent=agent or "agent", proof=proved)
    if outer is not None:
        out.warn(f"this is now a project of its own: the rules, grants and record of {outer.path} no longer apply here")
    steps = ["interlock doctor", "interlock run PLAN"]
    schema = path.parent / PLACE
    beside = [f"wrote {clean(str(schema))}, with which editors complete and check it"] if schema.is_file() else []
    out.emit(
        {"written": str(path.resolve()), "trusted": True, "next": steps},
        lambda: [
            f"wrote {clean(str(path))}, and trusted it",
            *beside,
            "next:",
            "  interlock doctor      show what is wrong or open to attack here",
            "  interlock run PLAN    run a proposal",
        ],
    )
    return 0


def _remove(out: Output, proving_by: tuple[Path | None, str | None], *, state: bool, yes: bool) -> int:
    removal = project_files.Removal(Path(), os.environ)
    if state and not yes:
        confirm(f"Delete {removal.state} permanently, with every run and backup of this project?")
    done = removal.remove(proof(*proving_by, needed=removal.pin), state=state)
    here = Path.cwd()

    def lines() -> Iterable[str]:
        for path in done.removed:
            yield f"removed {_short(path, here)}"
        for path, why in done.left.items():
            yield f"left    {_short(path, here)}: {why}"
        if done.kept:
            how = "" if state else "; `interlock init --remove --state` removes them"
            about = "runs, state and backups of this project, which `interlock init` finds again"
            yield f"left    {clean(str(done.state))}: {about}{how}"
        else:
            yield f"removed {clean(str(done.state))}"

    document = {
        "removed": [str(path) for path in done.removed],
        "left": {str(path): why for path, why in done.left.items()},
        "state": str(done.state),
        "state_removed": not done.kept,
    }
    out.emit(document, lines)
    return FAILED if done.left else 0


def _short(path: Path, here: Path) -> str:
    return clean(str(path.relative_to(here) if path.is_relative_to(here) else path))


@click.command(cls=Command)
@click.option("--yes", "-y", is_flag=True, help="Trust it without asking for confirmation.")
@proving
@click.pass_obj
def trust(out: Output, yes: bool, token_file: Path | None, approver: str | None) -> int:
    """Show what changed in the configuration since it was trusted, and trust it.

    Covers interlock.toml and every other file that Interlock loads. Nothing runs until they are trusted.
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
    """Before a run at a terminal, show the differences and ask whether to trust them.

    Returns True if the configuration is trusted.
    """
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
