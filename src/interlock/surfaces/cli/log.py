"""`interlock log`: the actions of all runs, one line each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from interlock.model.errors import InterlockError
from interlock.surfaces.cli.app import Command
from interlock.surfaces.cli.looking import action_line, choice, choosing, line_width
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output

if TYPE_CHECKING:
    from interlock.engine.inspect.actions import ActionLine, RunLines
    from interlock.engine.inspect.history import History, RunRow
    from interlock.journal import Tail

_POLL_SECONDS: Final = 0.5
"""Poll interval of `--follow`: a writer in another process sends no notification."""


@click.command(cls=Command)
@choosing
@click.option("--session", metavar="NAME", help="Only runs of this session.")
@click.option("--follow", "-f", is_flag=True, help="Continue, and show each action when it ends, until Ctrl-C.")
@click.pass_obj
def log(
    out: Output,
    since: str | None,
    agent: str | None,
    tool: str | None,
    grep: str | None,
    session: str | None,
    follow: bool,
) -> int:
    """Show the actions of all runs, one line each, oldest first, and whether they were undone.

    With --json: one list, or with --follow one document per line. Exit code: 4 if a journal is damaged.
    """
    chosen = choice(since, agent, tool, grep)
    width = line_width()
    problems: list[InterlockError] = []
    wanted = 0
    with history() as past:
        # not filtered by agent, because an action has its own
        rows = past.runs(session=session, since_us=chosen.since_us)
        over = [row for row in rows if not follow or row.finished_us is not None]
        lines = past_lines(past, over[::-1], problems)
        if follow:
            lines = _and_new(past, lines, rows, session, problems)

        def chosen_lines() -> Iterator[ActionLine]:
            nonlocal wanted
            for line in lines:
                if chosen.wants(line):
                    wanted += 1
                    yield line

        try:
            out.emit_list(
                chosen_lines(),
                lambda line: action_line(out, line, width=width),
                lines=follow,
            )
        except KeyboardInterrupt:
            if not follow:
                raise
    if not (wanted or out.json or follow):
        out.note("no actions")
    for problem in problems:
        out.warn(problem.message)
    return problems[0].exit_code if problems else 0


def past_lines(past: History, rows: list[RunRow], problems: list[InterlockError]) -> Iterator[ActionLine]:
    """The actions of runs (oldest first) by time, and whether they were undone. Damage is added to `problems`."""
    from interlock.engine.inspect.actions import merge_by_time, run_lines  # noqa: PLC0415 - start-up
    from interlock.engine.inspect.undone import find_undos  # noqa: PLC0415 - start-up

    undos = find_undos(past.place.runs, past.runs(since_us=rows[0].started_us) if rows else [])

    def of(row: RunRow) -> Iterator[ActionLine]:
        try:
            for line in run_lines(past.place.runs / row.run_id, row):
                yield undos.mark(line)
        except InterlockError as error:
            if error.code != "not_found":  # a run with `durability = "off"` has no journal, so it has nothing to show
                problems.append(error)

    return merge_by_time((row, of(row)) for row in rows)


def _and_new(
    past: History,
    lines: Iterator[ActionLine],
    rows: list[RunRow],
    session: str | None,
    problems: list[InterlockError],
) -> Iterator[ActionLine]:
    """The existing lines, and then new ones without an end: whenever an action ends, waits, or is undone with its proposal."""
    yield from lines
    over = {row.run_id for row in rows if row.finished_us is not None}
    followed: dict[str, _Followed] = {}
    newest_us = 0
    while True:
        for row in reversed(rows):
            newest_us = max(newest_us, row.started_us)
            if row.run_id in followed:
                followed[row.run_id].over = row.finished_us is not None
            elif row.run_id not in over:
                followed[row.run_id] = _Followed(past, row)
        for run_id, run in list(followed.items()):
            try:
                yield from run.read_new()
            except InterlockError as error:
                if error.code == "not_found" and not run.over:  # its first event is about to be written
                    continue
                run.over = True
                problems.append(error)
            if run.over:  # the index was read before the journal, so the run's end is in it
                del followed[run_id]
                over.add(run_id)
        time.sleep(_POLL_SECONDS)
        rows = past.runs(session=session, since_us=newest_us)
        over.intersection_update(row.run_id for row in rows)


class _Followed:
    """A run whose journal is still growing."""

    def __init__(self, past: History, row: RunRow) -> None:
        from interlock.engine.inspect.actions import RunLines  # noqa: PLC0415 - start-up
        from interlock.journal import Tail  # noqa: PLC0415 - start-up

        self.over = row.finished_us is not None
        directory = past.place.runs / row.run_id
        self._tail: Tail = Tail(directory)
        self._lines: RunLines = RunLines(row, directory, live=True)

    def read_new(self) -> Iterator[ActionLine]:
        """The new lines since the previous call. Raises as `Tail.read_new`."""
        for event in self._tail.read_new():
            yield from self._lines.take(event)
