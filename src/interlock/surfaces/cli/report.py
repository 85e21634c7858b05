"""`interlock runs report`: one run, or a selection of runs, as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.disk import write_new
from interlock.model.errors import IntegrityError, UsageError
from interlock.surfaces.cli.app import Command
from interlock.surfaces.cli.ids import RUN
from interlock.surfaces.cli.looking import Choice, choice, choosing
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output, clean

if TYPE_CHECKING:
    from interlock.engine.inspect.history import History
    from interlock.engine.inspect.report import Report


@click.command(cls=Command)
@click.argument("run_id", metavar="[RUN]", type=RUN, required=False)
@click.option("--session", metavar="NAME", help="Only runs of this session.")
@choosing
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write.  [default: RUN.html or runs.html]",
)
@click.pass_obj
def report(
    out: Output,
    run_id: str | None,
    output: Path | None,
    session: str | None,
    since: str | None,
    agent: str | None,
    tool: str | None,
    grep: str | None,
) -> int:
    """Write one HTML page about a run: time line, actions, approvals, differences of files. The page loads nothing.

    Without RUN, and with --since, --session, --agent, --tool or --grep: one page about all runs with such actions,
    oldest first.

    Values are redacted. An existing file is never overwritten. Exit code: 4 if a record is damaged; the page also says
    so.
    """
    chosen = choice(since, agent, tool, grep)
    if (run_id is None) == (chosen == Choice() and session is None):
        raise UsageError(
            "give either a run or options that select runs: `--since`, `--session`, `--agent`, `--tool` or `--grep`",
            hint="such as `interlock runs report last` or `interlock runs report --since 12h`",
        )
    target = Path(f"{run_id or 'runs'}.html") if output is None else output
    with history() as past:
        pages = _Pages(past, chosen)
        pieces = pages.of_runs(session) if run_id is None else pages.of_run(run_id)
        write_new(target, (piece.encode(errors="backslashreplace") for piece in pieces))
    document: dict[str, Any] = {"run_id": run_id} if run_id is not None else {"runs": pages.runs}
    out.emit({**document, "file": str(target)}, lambda: [f"wrote {clean(str(target))}{pages.counted}"])
    for problem in pages.problems:
        out.warn(problem)
    return IntegrityError.exit_code if pages.problems else 0


class _Pages:
    """Generates a page, and collects its notes and problems."""

    def __init__(self, past: History, chosen: Choice) -> None:
        self._past = past
        self._chosen = chosen
        self.problems: list[str] = []
        self.runs: list[str] = []
        self.counted = ""

    def of_run(self, run_id: str) -> Iterator[str]:
        """The page about one run. Raises: UsageError `not_found`; StoreError."""
        from interlock.engine.inspect.report import read_reports  # noqa: PLC0415 - start-up
        from interlock.surfaces.cli.report_html import page  # noqa: PLC0415 - start-up

        (found,) = self._noted(read_reports(self._past, [self._past.run(run_id)], self._chosen.wants))
        return page(found)

    def of_runs(self, session: str | None) -> Iterator[str]:
        """The page about all runs with a selected action."""
        from interlock.engine.inspect.report import RUNS_MAX, read_reports, runs_with_actions  # noqa: PLC0415 - start-up
        from interlock.surfaces.cli.report_html import page_of_runs  # noqa: PLC0415 - start-up

        wants = self._chosen.wants
        # not filtered by agent, because an action has its own
        rows = self._past.runs(session=session, since_us=self._chosen.since_us)
        found = list(runs_with_actions(self._past, reversed(rows), wants))
        shown = found[-RUNS_MAX:]
        self.runs = [row.run_id for row in shown]
        self.counted = ": 1 run" if len(shown) == 1 else f": {len(shown)} runs"
        reports = self._noted(read_reports(self._past, shown, wants))
        return page_of_runs(self._chosen.title(session), shown, reports, len(found) - len(shown))

    def _noted(self, reports: Iterator[Report]) -> Iterator[Report]:
        for one in reports:
            if one.problem is not None:
                self.problems.append(one.problem)
            yield one
