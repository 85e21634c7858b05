"""`interlock install`. The command tree refers to this module by name, and passes the output functions in click's context."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import click

from interlock.surfaces.clients.installation import FileChange, Installation


class Speaks(Protocol):
    """What the command line passes in: how to print the answer."""

    def emit(self, document: Any, text: Callable[[], Iterable[str]] | None = None) -> None:
        """Print the answer: one document with `--json`, else lines."""


@click.command("install")
@click.argument("client", metavar="CLIENT")
@click.option("--agent", metavar="NAME", help="The agent that the client is. [default: the configuration's]")
@click.option("--dry-run", is_flag=True, help="Show the differences, and write nothing.")
@click.option("--remove", is_flag=True, help="Take it out again.")
@click.pass_obj
def install(out: Speaks, client: str, agent: str | None, dry_run: bool, remove: bool) -> None:
    """Let a coding agent work through Interlock in this project, with its own tools off.

    CLIENT is claude-code. Its files in the project are edited, and --remove gives back the bytes that they had.
    """
    installation = Installation(client, Path(), os.environ)
    changes = installation.plan_remove() if remove else installation.plan_install(agent)
    if not dry_run:
        installation.apply(changes, remove=remove)
    document = {
        "client": client,
        "written": not dry_run,
        "files": [{"path": str(c.path), "outcome": c.outcome, "diff": list(c.difference())} for c in changes],
    }
    out.emit(document, lambda: _text(changes, client, dry_run=dry_run, remove=remove))


def _text(changes: list[FileChange], client: str, *, dry_run: bool, remove: bool) -> Iterator[str]:
    for change in changes:
        yield f"{change.outcome}: {change.path}"
        yield from change.difference()
    if dry_run:
        yield "nothing was written (--dry-run)"
    elif not remove:
        yield f"{client} starts `interlock gateway` in this project from now on; its own file tools and shell are off."
        yield "It asks once whether to trust the project's servers. Held calls: `interlock approvals watch`."
