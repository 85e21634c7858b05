"""What a report of a run is made of: its actions, its questions and answers, and the differences of files."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

import msgspec

from interlock.detect import Redactor
from interlock.engine.inspect.actions import ActionLine, run_lines
from interlock.engine.inspect.differences import Difference, read_differences
from interlock.engine.inspect.history import History, RunRow
from interlock.engine.inspect.undone import find_undos
from interlock.engine.local.machine import redaction_key
from interlock.journal import read
from interlock.model import events as e
from interlock.model.errors import InterlockError

ACTIONS_MAX: Final = 2_000
DIFFERENCES_MAX: Final = 500


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
    """Redacted, by the number of the event of the outcome; too large for the journal: absent."""
    questions: list[Question]
    differences: list[Difference]
    cut: bool
    """True if there is more than the report holds."""
    problem: str | None = None
    """What kept the record from being read to its end."""


def read_report(past: History, run_id: str) -> Report:
    """Everything about a run that a page can hold, redacted. Raises: UsageError `not_found`; StoreError."""
    row = past.run(run_id)
    directory = past.place.runs / run_id
    undos = find_undos(past.place.runs, past.runs(since_us=row.started_us))
    actions: list[ActionLine] = []
    outputs: dict[int, Any] = {}
    questions: dict[str, Question] = {}
    differences: list[Difference] = []
    problem = None
    try:
        actions.extend(undos.mark(line) for line in islice(run_lines(directory, row), ACTIONS_MAX + 1))
        shown = {line.seq for line in actions}
        for event in read(directory):
            match event:
                case e.ActionSucceeded() | e.ActionFailed() | e.ActionDeduplicated() if (
                    event.seq in shown and event.output
                ):
                    outputs[event.seq] = event.output.view
                case e.ActionHeld() if len(questions) < ACTIONS_MAX:
                    questions[event.approval] = Question(
                        action_id=event.action or "", proposal_id=event.proposal or "", asked_us=event.ts
                    )
                case e.HoldResolved() if event.approval in questions:
                    one = questions[event.approval]
                    one.answered_us, one.decision, one.approver = event.ts, event.decision, event.approver
                    one.edited = None if event.parameters is None else event.parameters.view
        others = sorted({past.place.runs / line.undone_by for line in actions if line.undone_by})
        redactor = Redactor(redaction_key(past.place.state, past.disk))
        differences.extend(read_differences(directory, past.place.root, others, redactor, DIFFERENCES_MAX + 1))
        past.index.check_not_behind(directory)  # damage of the last batch looks like a process that died
    except InterlockError as error:
        problem = error.message
    return Report(
        run=row, actions=actions[:ACTIONS_MAX], outputs=outputs, questions=list(questions.values()),
        differences=differences[:DIFFERENCES_MAX], problem=problem,
        cut=len(actions) > ACTIONS_MAX or len(differences) > DIFFERENCES_MAX,
    )  # fmt: skip
