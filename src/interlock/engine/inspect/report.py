"""Collects the contents of a report of runs: actions, questions and answers, and diffs of files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from interlock.detect import Redactor
from interlock.engine.inspect.actions import ActionLine, run_lines
from interlock.engine.inspect.differences import Difference, read_differences
from interlock.engine.inspect.history import History, RunRow
from interlock.engine.inspect.undone import Undos, find_undos
from interlock.engine.local.machine import redaction_key
from interlock.journal import read
from interlock.model import events as e
from interlock.model.errors import InterlockError

ACTIONS_MAX: Final = 2_000
DIFFERENCES_MAX: Final = 500
RUNS_MAX: Final = 500


class Question(msgspec.Struct, kw_only=True):
    """A question about an action, and its answer."""

    action_id: str
    proposal_id: str
    asked_us: int
    answered_us: int | None = None
    decision: str | None = None
    approver: str | None = None
    edited: Any = None
    """The parameters as an approver edited them, redacted."""


class Report(msgspec.Struct, kw_only=True):
    """One run."""

    run: RunRow
    actions: list[ActionLine]
    outputs: dict[int, Any]
    """The redacted outputs, by the event number of the outcome; without those that were too large for the journal."""
    questions: list[Question]
    differences: list[Difference]
    cut: bool
    """True if the report does not contain everything."""
    problem: str | None = None
    """The error that prevented the record from being read to its end."""
    undone_by: str | None = None
    """The run that undid the whole run."""


def runs_with_actions(past: History, rows: Iterable[RunRow], wants: Callable[[ActionLine], bool]) -> Iterator[RunRow]:
    """The runs that have a wanted action, and those whose record cannot be read far enough to know."""
    for row in rows:
        try:
            if any(wants(line) for line in run_lines(past.place.runs / row.run_id, row)):
                yield row
        except InterlockError as error:
            if error.code != "not_found":  # a run with `durability = "off"` has no journal
                yield row


def read_reports(past: History, rows: list[RunRow], wants: Callable[[ActionLine], bool]) -> Iterator[Report]:
    """Reports of runs with their wanted actions, redacted and within the limits of a page; one at a time.

    The page's limits apply to all of its runs together: a run beyond them has no actions, and `cut` is set.
    Raises: StoreError.
    """
    oldest = min((row.started_us for row in rows), default=0)
    undos = find_undos(past.place.runs, past.runs(since_us=oldest) if rows else [])
    redactor = Redactor(redaction_key(past.place.state, past.disk))
    actions_left, differences_left = ACTIONS_MAX, DIFFERENCES_MAX
    for row in rows:
        reading = _Reading(past, row, undos, wants)
        found = reading.read(redactor, actions_left, differences_left)
        actions_left -= len(found.actions)
        differences_left -= len(found.differences)
        yield found


class _Reading:
    """Reads one run into a report."""

    def __init__(self, past: History, row: RunRow, undos: Undos, wants: Callable[[ActionLine], bool]) -> None:
        self._past = past
        self._row = row
        self._undos = undos
        self._wants = wants
        self._directory = past.place.runs / row.run_id
        self._all = True  # every action of the run is wanted
        self._outputs: dict[int, Any] = {}
        self._questions: dict[str, Question] = {}
        self._problem: str | None = None

    def read(self, redactor: Redactor, actions_max: int, differences_max: int) -> Report:
        """The report, with at most `actions_max` actions and `differences_max` differences."""
        actions: list[ActionLine] = []
        differences: list[Difference] = []
        with self._up_to_damage():
            actions.extend(islice(self._lines(), actions_max + 1))
        with self._up_to_damage():
            self._read_events(actions[:actions_max])
        with self._up_to_damage():
            others = sorted({self._past.place.runs / line.undone_by for line in actions if line.undone_by})
            only = None if self._all else {(line.proposal_id, line.action_id) for line in actions}
            root = self._past.place.root
            differences.extend(
                read_differences(self._directory, root, others, redactor, differences_max + 1, only=only)
            )
        with self._up_to_damage():  # damage in the last batch looks like a process that died
            self._past.index.check_not_behind(self._directory)
        return Report(
            run=self._row, actions=actions[:actions_max], outputs=self._outputs,
            questions=list(self._questions.values()), differences=differences[:differences_max], problem=self._problem,
            cut=len(actions) > actions_max or len(differences) > differences_max,
            undone_by=self._undos.of_run(self._row.run_id),
        )  # fmt: skip

    @contextlib.contextmanager
    def _up_to_damage(self) -> Iterator[None]:
        """Continue with the next part if one cannot be read to its end; the page names the first problem."""
        try:
            yield
        except InterlockError as error:
            self._problem = self._problem or error.message

    def _lines(self) -> Iterator[ActionLine]:
        for line in run_lines(self._directory, self._row):
            if self._wants(line):
                yield self._undos.mark(line)
            else:
                self._all = False

    def _read_events(self, actions: list[ActionLine]) -> None:
        """The outputs of these actions, and the questions about them."""
        outcomes = {line.seq for line in actions}
        shown = {(line.proposal_id, line.action_id) for line in actions}
        for event in read(self._directory) if actions else ():
            match event:
                case e.ActionSucceeded() | e.ActionFailed() | e.ActionDeduplicated() if (
                    event.seq in outcomes and event.output
                ):
                    self._outputs[event.seq] = event.output.view
                case e.ActionHeld() if (event.proposal, event.action) in shown:
                    self._questions[event.approval] = Question(
                        action_id=event.action or "", proposal_id=event.proposal or "", asked_us=event.ts
                    )
                case e.HoldResolved() if event.approval in self._questions:
                    one = self._questions[event.approval]
                    one.answered_us, one.decision, one.approver = event.ts, event.decision, event.approver
                    one.edited = None if event.parameters is None else event.parameters.view
