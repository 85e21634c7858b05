"""Shows what `interlock undo` without a run would undo, and asks for confirmation."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from typing import Final

import click

from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.inspect.actions import ActionLine, run_lines
from interlock.engine.inspect.history import History, RunRow
from interlock.engine.inspect.undone import Undos, find_undos
from interlock.model.errors import IntegrityError, InterlockError, UsageError
from interlock.surfaces.cli.looking import action_line, line_width
from interlock.surfaces.cli.open_project import at_terminal, history
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.results import when
from interlock.surfaces.cli.run_views import lines_of
from interlock.workspace.names import show
from interlock.workspace.undo import plan_by_action

_HINT = "such as `interlock undo last`; `interlock runs list` shows them"
_FILES_SHOWN: Final = 10
_MAY_HAVE_ACTED = frozenset({"succeeded", "failed", "not_undone", "unknown_outcome", "cancelled", "running"})
"""Statuses of actions that undo considers."""


def choose_run(out: Output, action: str | None) -> str | None:
    """The newest run that is neither an undo nor undone, after it was shown and a person agreed; None if they declined.

    Raises: UsageError without a terminal, or if there is no such run.
    """
    if out.json or not at_terminal():
        raise UsageError("name the run to undo", hint=_HINT)
    with history() as past:
        newest = past.run(past.find("last"))
        row, shown = _find_undoable(past, action)
        run_id = row.run_id
        try:
            deque(past.proposals(run_id), maxlen=0)
        except InterlockError as error:
            raise _with_hint(error, run_id) from error
        chosen = [line for line in shown if action in (None, line.action_id)]
        if newest.source == UNDO_TOOL:
            out.note(f"the newest run is an undo; `interlock undo {clean(newest.run_id)}` redoes what it undid")
        elif newest.run_id != run_id:
            out.note(f"newer runs, such as {clean(newest.run_id)}, have nothing that can be undone")
        for text in _preview(out, row, chosen, _files_of(past, run_id)):
            out.write(sys.stderr, text)
        if not click.confirm("Undo this run?" if action is None else "Undo this action?", err=True):
            out.note("nothing was undone")
            return None
        if list(lines_of(past, past.run(run_id)).values()) != shown:
            raise UsageError(
                f"run `{run_id}` continued, or was undone, since it was shown",
                code="run_unfinished",
                hint="run `interlock undo` again",
            )
    return run_id


def _find_undoable(past: History, action: str | None) -> tuple[RunRow, list[ActionLine]]:
    """The run to offer, with all of its actions: the newest one with an action that can still be undone.

    Raises: UsageError `nothing_to_undo`; IntegrityError if the journal of a newer run is damaged.
    """
    rows = [row for row in past.runs() if row.source != UNDO_TOOL]
    undos = Undos(())
    for number, row in enumerate(rows):
        if number < 2:  # nearly always the newest is the one, and only its own undos need to be found
            undos = find_undos(past.place.runs, past.runs(since_us=None if number else row.started_us))
        found = [] if action is None and undos.tried(row.run_id) else _marked_lines(past, row, undos)
        if any(_can_act(line) for line in found if action in (None, line.action_id)):
            return row, found
    raise UsageError(
        "no run has anything that can be undone, or everything is undone already",
        code="nothing_to_undo",
        hint="to redo a run, name its undo: `interlock runs list` shows them",
    )


def _marked_lines(past: History, row: RunRow, undos: Undos) -> list[ActionLine]:
    """The actions of a run, and whether they were undone. Raises: IntegrityError, StoreError."""
    try:
        found = [undos.mark(line) for line in run_lines(past.place.runs / row.run_id, row)]
    except UsageError as error:
        if error.code != "not_found":  # a run with `durability = "off"` has no journal, so nothing of it can be undone
            raise
        return []
    except IntegrityError as error:
        raise _with_hint(error, row.run_id) from error
    return list({(line.proposal_id, line.action_id): line for line in found}.values())


def _with_hint(error: InterlockError, run_id: str) -> IntegrityError:
    return IntegrityError(error.message, code=error.code, hint=f"`interlock undo {run_id}` tries anyway")


def _files_of(past: History, run_id: str) -> dict[tuple[str, str], list[str]]:
    """The files that each action changed, by proposal and id; empty if they cannot be read, which the undo itself reports."""
    try:
        by_action = plan_by_action(past.directory(run_id))
    except InterlockError:
        return {}
    return {key: list(dict.fromkeys(show(entry.rel) for entry in found)) for key, found in by_action.items()}


def _can_act(line: ActionLine) -> bool:
    return line.changed and line.undone not in ("rolled_back", "compensated") and line.status in _MAY_HAVE_ACTED


def _preview(
    out: Output, row: RunRow, lines: list[ActionLine], files: dict[tuple[str, str], list[str]]
) -> Iterator[str]:
    session = f", session {clean(row.session)}" if row.session else ""
    yield (
        f"{out.paint(clean(row.run_id), 'bold')}  {row.status}, agent {clean(row.agent)}{session}, "
        f"started {when(row.started_us)}"
    )
    acting = [line for line in lines if _can_act(line)]
    for line in acting:
        yield action_line(out, line, width=line_width(), run=False, date=False)
        if changed := files.get((line.proposal_id, line.action_id)):
            more = f" and {len(changed) - _FILES_SHOWN} more" if len(changed) > _FILES_SHOWN else ""
            yield f"  files: {clean(', '.join(changed[:_FILES_SHOWN]))}{more}"
    rest = len(lines) - len(acting)
    if rest:
        yield f"{rest} more changed nothing, or {'are' if rest != 1 else 'is'} undone already"
    notes = [(line, note) for line in acting for note in line.not_undoable]
    for line, note in notes:
        yield out.paint("cannot be undone: ", "red") + brief(f"{line.action_id}: {note}", 120)
    if row.finished_us is None:
        yield "this run has not ended: undoing it also ends it"
