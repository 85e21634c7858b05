"""What bare `interlock undo` would undo, and the question whether to do so."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator

import click

from interlock.engine.inspect.actions import ActionLine
from interlock.engine.inspect.history import RunRow
from interlock.model.errors import IntegrityError, InterlockError, UsageError
from interlock.surfaces.cli.looking import action_line, line_width
from interlock.surfaces.cli.open_project import at_terminal, history
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.results import when
from interlock.surfaces.cli.run_views import lines_of

_HINT = "such as `interlock undo last`; `interlock runs list` shows them"
_MAY_HAVE_ACTED = frozenset({"succeeded", "failed", "not_undone", "unknown_outcome", "cancelled", "running"})
"""Statuses of actions that an undo looks at."""


def choose_run(out: Output, action: str | None) -> str:
    """The newest run, once it was shown and a person said yes. Raises: UsageError without a terminal, a run, or a yes."""
    if out.json or not at_terminal():
        raise UsageError("name the run to undo", hint=_HINT)
    with history() as past:
        run_id = past.find("last")
        row = past.run(run_id)
        shown = list(lines_of(past, row).values())
        try:
            deque(past.proposals(run_id), maxlen=0)
        except InterlockError as error:
            hint = f"`interlock undo {run_id}` tries it"
            raise IntegrityError(error.message, code=error.code, hint=hint) from error
        chosen = [line for line in shown if action in (None, line.action_id)]
        if not any(_can_act(line) for line in chosen):
            raise UsageError(
                f"the newest run, `{run_id}`, has nothing that could be undone",
                code="nothing_to_undo",
                hint="name an earlier one: `interlock runs list` shows them",
            )
        for text in _preview(out, row, chosen):
            out.write(sys.stderr, text)
        if not click.confirm("Undo this run?" if action is None else "Undo this action?", err=True):
            raise UsageError("nothing was undone", code="interrupted", hint=_HINT)
        if list(lines_of(past, past.run(run_id)).values()) != shown:
            raise UsageError(
                f"run `{run_id}` went on, or was undone, since it was shown",
                code="run_unfinished",
                hint="look again: `interlock undo`",
            )
    return run_id


def _can_act(line: ActionLine) -> bool:
    return line.changed and line.undone not in ("rolled_back", "compensated") and line.status in _MAY_HAVE_ACTED


def _preview(out: Output, row: RunRow, lines: list[ActionLine]) -> Iterator[str]:
    session = f", session {clean(row.session)}" if row.session else ""
    yield (
        f"{out.paint(clean(row.run_id), 'bold')}  {row.status}, agent {clean(row.agent)}{session}, "
        f"started {when(row.started_us)}"
    )
    acting = [line for line in lines if _can_act(line)]
    for line in acting:
        yield action_line(out, line, width=line_width(), run=False, date=False)
    rest = len(lines) - len(acting)
    if rest:
        yield f"{rest} more changed nothing, or {'are' if rest != 1 else 'is'} undone already"
    notes = [(line, note) for line in acting for note in line.not_undoable]
    for line, note in notes:
        yield out.paint("cannot be undone: ", "red") + brief(f"{line.action_id}: {note}", 120)
    if row.finished_us is None:
        yield "this run is not over: it ends with its undo"
