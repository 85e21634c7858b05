"""Runs as `runs list`, `runs show` and `undo` present them: with what each action was about and what happened to it since."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from interlock.engine.inspect.history import History, RunRow
from interlock.lazy import lazy
from interlock.model.errors import InterlockError
from interlock.model.result import ActionResult
from interlock.surfaces.cli.looking import SHORT_ID, Choice, line_width
from interlock.surfaces.cli.output import LongObject, Output, aligned, clean
from interlock.surfaces.cli.results import layer_lines, proposal_lines, when

if TYPE_CHECKING:
    from interlock.surfaces.cli import touched_lines
else:
    touched_lines = lazy("interlock.surfaces.cli.touched_lines")

if TYPE_CHECKING:
    from interlock.engine.inspect.actions import ActionLine
    from interlock.engine.inspect.shown_run import ShownProposal, ShownRow
    from interlock.engine.inspect.touched import Touched

_COMMAND: Final = ("", "command")
"""The proposal and action that the records of a measured run name."""
_EXEC: Final = "exec"
"""The source of measured runs."""
_FIRST_WIDTH: Final = 24
"""Minimum columns for the first action of a run."""
_FIRST_CHARS: Final = 200
"""Maximum characters of it at a terminal, which cuts it to its width."""


class ListedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a list."""

    run: RunRow
    first: ActionLine | None = None
    """Its first action, or its first selected one."""
    undone_by: str | None = None
    """The run that undid it as a whole."""

    def as_dict(self) -> dict[str, Any]:
        """The run as one JSON object, its own fields first."""
        first = self.first
        return {
            **msgspec.to_builtins(self.run),
            "first_tool": None if first is None else first.tool,
            "first_about": None if first is None else first.about,
            "undone_by": self.undone_by,
        }


def described_runs(past: History, rows: list[RunRow], chosen: Choice) -> Iterator[ListedRun]:
    """Runs with their first selected action. Runs without a selected action are left out."""
    from interlock.engine.inspect.actions import first_action, run_lines  # noqa: PLC0415 - start-up
    from interlock.engine.inspect.undone import find_undos  # noqa: PLC0415 - start-up

    oldest = min((row.started_us for row in rows), default=0)
    undos = find_undos(past.place.runs, past.runs(since_us=oldest) if rows else [])
    for row in rows:
        directory = past.place.runs / row.run_id
        first = None
        try:
            if chosen.needs_actions:
                first = next((line for line in run_lines(directory, row) if chosen.wants(line)), None)
            else:
                first = first_action(directory, row)
        except InterlockError:
            pass  # the list shows what the index has; `runs check` reports problems of a journal
        if first is not None or not chosen.needs_actions:
            yield ListedRun(run=row, first=first, undone_by=undos.of_run(row.run_id))


def run_table(out: Output, rows: list[ListedRun]) -> Iterable[str]:
    """Runs, one per line."""
    if not rows:
        return ["no runs"]
    drawn = out.drawing() is not None
    head = ("RUN", "STARTED", "STATUS", "AGENT", "SESSION", "ACTIONS")
    cells = [
        (r.run_id[:SHORT_ID], when(r.started_us, short=drawn), _status(one), r.agent, r.session, _counted(r))
        for one in rows
        for r in (one.run,)
    ]
    if drawn:
        whole = (_first(one.first, _FIRST_CHARS) for one in rows)
        shown = ((*row, first) for row, first in zip(cells, whole, strict=True))
        return out.table((*head, "FIRST"), shown, cut_last=True)
    padded = [[*("" if cell is None else clean(cell) for cell in row), ""] for row in cells]
    lines = list(aligned((*head, ""), padded))
    widest = max(len(line) for line in lines) + 2
    room = max(_FIRST_WIDTH, line_width() - widest)
    firsts = ["FIRST", *(_first(one.first, room) for one in rows)]
    return [f"{line.ljust(widest)}{first}".rstrip() for line, first in zip(lines, firsts, strict=True)]


def _status(one: ListedRun) -> str:
    return f"{one.run.status}, undone" if one.undone_by else one.run.status


def _first(line: ActionLine | None, room: int) -> str:
    text = "" if line is None else clean(f"{line.tool} {line.about}".strip())
    return text if len(text) <= room else text[: room - 3] + "..."


def _counted(row: RunRow) -> str:
    """Succeeded actions out of all; empty until the first proposal has ended, because they are counted then."""
    return f"{row.succeeded}/{row.actions}" if row.actions or row.status not in ("running", "interrupted") else ""


def lines_of(past: History, run: RunRow) -> dict[tuple[str, str], ActionLine]:
    """The actions of a run, and whether they were undone. Unreadable ones are left out."""
    from interlock.engine.inspect.actions import run_lines  # noqa: PLC0415 - start-up
    from interlock.engine.inspect.undone import find_undos  # noqa: PLC0415 - start-up

    undos = find_undos(past.place.runs, past.runs(since_us=run.started_us))
    found: dict[tuple[str, str], ActionLine] = {}
    try:
        for line in run_lines(past.place.runs / run.run_id, run):
            found[line.proposal_id, line.action_id] = undos.mark(line)
    except InterlockError:
        pass  # the caller checks for problems separately
    return found


class ShownRun:
    """A run as `runs show` presents it while reading it: all of it, or the selected actions."""

    def __init__(self, past: History, run: RunRow, action: str | None, chosen: Choice, limit: int | None) -> None:
        """Nothing is read yet. At most `limit` rows are shown."""
        self._past = past
        self._run = run
        self._action = action
        self._chosen = chosen
        self._limit = limit
        self.left_out: str | None = None
        """What the limit left out, known once everything was shown."""
        self.problem: InterlockError | None = None
        """What prevented reading the journal, or the kernel layer, to the end."""
        self._count = 0
        self._touched: dict[tuple[str, str], Touched] = {}

    def proposals(self) -> Iterator[Chosen]:
        """The proposals with a selected action (without a selection: all). The rows of one are read before the next one."""
        filtered = self._action is not None or self._chosen.needs_actions
        try:
            self._touched = self._past.touched(self._run.run_id, self._action)
        except InterlockError as error:
            self.problem = error
        # If actions are selected by content, they must be read before they can be counted.
        within = None if self._chosen.needs_actions else self._limit
        found = self._past.proposals(self._run.run_id, action=self._action, limit=within)
        try:
            for one in found:
                rows = filter(self._wants, one.rows)
                first = tuple(islice(rows, 1))
                if first and self._count == self._limit:
                    self.left_out = "there are more"
                elif first or not filtered:
                    yield Chosen(one, self._within_limit(chain(first, rows)), self._touched)
                if self.left_out is not None:
                    break
        except InterlockError as error:
            self.problem = error
        if not filtered and self._count < found.total:
            self.left_out = f"the run has {found.total}"

    def _within_limit(self, rows: Iterator[ShownRow]) -> Iterator[ShownRow]:
        """The rows up to the limit. Damage is added as the problem, like damage between proposals."""
        try:
            for row in rows:
                if self._count == self._limit:
                    self.left_out = "there are more"
                    return
                self._count += 1
                yield row
        except InterlockError as error:
            self.problem = error

    def _wants(self, row: ShownRow) -> bool:
        return self._chosen.wants(row.line) if row.line is not None else not self._chosen.needs_actions

    def as_object(self, proposals: Iterator[Chosen]) -> LongObject:
        """The run as one JSON object, its own fields first."""
        command = self._command()
        shown = {} if command is None else {"command": command}
        return LongObject(
            msgspec.to_builtins(self._run) | shown, "proposals", (one.as_object() for one in proposals), self._tail
        )  # fmt: skip

    def _tail(self) -> dict[str, Any]:
        command = self._touched.get(_COMMAND)
        touched = {} if command is None else {"touched": msgspec.to_builtins(command)}
        cut = {} if self.left_out is None else {"truncated": True}
        return touched | cut | ({} if self.problem is None else {"problem": self.problem.as_dict()})

    def text(self, out: Output, proposals: Iterator[Chosen]) -> Iterator[str]:
        """The run as lines for people."""
        yield from self._head_lines(out)
        for one in proposals:
            yield from self._lines(out, one)
        command = self._touched.get(_COMMAND)
        if command is not None:
            yield from touched_lines.full_lists(out, command, self._past.place.root)
        yield from self.tail_lines(out)

    def _head_lines(self, out: Output) -> Iterator[str]:
        """The lines about the run itself."""
        row = self._run
        source = "" if row.source == "unknown" else f", from {clean(row.source)}"
        yield f"{out.paint(clean(row.run_id), 'bold')}  {row.status}, agent {clean(row.agent)}{source}"
        ended = f", ended {when(row.finished_us)}" if row.finished_us else ""
        session = f", session {clean(row.session)}" if row.session else ""
        yield f"started {when(row.started_us)}{ended}{session}"
        command = self._command()
        if command is not None:
            yield f"command {clean(command)}"

    def _command(self) -> str | None:
        """The command of a measured run, redacted; None for other runs, and if the journal cannot be read."""
        from interlock.engine.inspect.actions import first_action  # noqa: PLC0415 - start-up

        if self._run.source != _EXEC:
            return None
        try:
            first = first_action(self._past.place.runs / self._run.run_id, self._run)
        except InterlockError:  # `proposals` reports it
            return None
        return None if first is None else first.about

    def _lines(self, out: Output, chosen: Chosen) -> Iterator[str]:
        """The lines of a proposal."""
        one, rows = chosen.proposal, chosen.with_outputs()
        yield ""
        yield clean(one.result.proposal_id)
        if self._action is None:
            more = self._overview(out, one)
            yield from proposal_lines(out, one.result, rows=rows, running=one.running, more=more)
            yield from layer_lines(one.result)
            return
        whole = list(rows)  # at most the one action
        yield from proposal_lines(out, one.result, rows=whole, running=one.running, outputs=False)
        for row in whole:
            yield from _full(out, row.result, row.line)
            found = self._touched.get((one.result.proposal_id, row.result.action_id))
            if found is not None:
                yield from touched_lines.full_lists(out, found, self._past.place.root)

    def _overview(self, out: Output, one: ShownProposal) -> Callable[[str], Iterator[str]]:
        def lines(action: str) -> Iterator[str]:
            found = self._touched.get((one.result.proposal_id, action))
            if found is not None:
                yield from touched_lines.overview(out, found, self._past.place.root)

        return lines

    def tail_lines(self, out: Output) -> Iterator[str]:
        """The lines about problems."""
        if self.problem is not None:
            yield out.paint("damaged: ", "red") + clean(self.problem.message)


class Chosen(NamedTuple):
    """A proposal, with the rows that are shown. They can be read once."""

    proposal: ShownProposal
    rows: Iterator[ShownRow]
    touched: dict[tuple[str, str], Touched]

    def with_outputs(self) -> Iterator[ShownRow]:
        """The rows with their outputs."""
        from interlock.engine.inspect.shown_run import ShownRow  # noqa: PLC0415 - start-up

        return (ShownRow(self.proposal.with_output(row.result), row.line) for row in self.rows)

    def as_object(self) -> LongObject:
        """The proposal as one JSON object: each row with `tool`, `about`, `parameters`, `undone`, `undone_by`, `touched`."""
        head = msgspec.structs.asdict(self.proposal.result)
        del head["results"]
        return LongObject(head, "results", map(self._row, self.with_outputs()))

    def _row(self, row: ShownRow) -> dict[str, Any]:
        more = {name: getattr(row.line, name, None) for name in ("tool", "about", "parameters", "undone", "undone_by")}
        touched = self.touched.get((self.proposal.result.proposal_id, row.result.action_id))
        return {**msgspec.structs.asdict(row.result), **more, "touched": touched}


def _full(out: Output, row: ActionResult, line: ActionLine | None) -> Iterator[str]:
    """The parameters and the whole output; text is printed line by line."""
    if line is not None and line.parameters is not None:
        yield from _value(out, "parameters", line.parameters)
    if row.output is not None:
        yield from _value(out, "output", row.output)


def _value(out: Output, name: str, value: Any) -> Iterator[str]:
    fields = value if isinstance(value, dict) else {"": value}
    for key, one in fields.items():
        title = f"{name} {clean(str(key))}".strip()
        text = one if isinstance(one, str) else json.dumps(one, indent=2, ensure_ascii=False)
        if "\n" not in text:
            yield f"{out.paint(title + ':', 'bold')} {clean(text)}"
        else:
            yield out.paint(title + ":", "bold")
            yield from (f"  {line}" for line in clean(text, lines=True).removesuffix("\n").split("\n"))
