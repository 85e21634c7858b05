"""`interlock sessions`: groups of runs."""

from __future__ import annotations

import click

from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.looking import Choice
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output
from interlock.surfaces.cli.results import when
from interlock.surfaces.cli.run_views import described_runs, run_table


@click.group(cls=Group)
def sessions() -> None:
    """List and show sessions, which group runs."""


@sessions.command("list")
@click.pass_obj
def list_sessions(out: Output) -> None:
    """List sessions, most recently used first."""
    with history() as past:
        rows = past.sessions()
    out.emit(
        rows,
        lambda: (
            out.table(
                ("SESSION", "RUNS", "ACTIONS", "FIRST", "LAST"),
                ((r.session, r.runs, r.actions, when(r.started_us), when(r.last_us)) for r in rows),
            )
            if rows
            else ["no sessions"]
        ),
    )


@sessions.command("show")
@click.argument("name")
@click.pass_obj
def show_session(out: Output, name: str) -> None:
    """Show the runs of a session, newest first, including failed ones."""
    with history() as past:
        rows = list(described_runs(past, past.session(name), Choice()))
    out.emit({"session": name, "runs": [row.as_dict() for row in rows]}, lambda: run_table(out, rows))
