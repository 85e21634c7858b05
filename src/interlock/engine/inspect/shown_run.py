"""A run as people look back at it, proposal by proposal, with what was undone since.

A run may be of any length: in memory is one proposal at a time, as the journal has it, and one output at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from interlock.engine.inspect.actions import ActionLine, RunLines
from interlock.engine.inspect.undone import Undos
from interlock.engine.record.replay import ReplayedRun
from interlock.journal import read
from interlock.journal.index import RunRow
from interlock.model import events as e
from interlock.model.errors import InterlockError
from interlock.model.result import ActionResult, ProposalResult

_MARKS: Final = frozenset({"proposal_finished", "undo_done"})


class ShownProposal(NamedTuple):
    """A proposal of a run. `result` has the rows without their outputs; `lines` say what each action, by id, was about."""

    result: ProposalResult
    lines: Mapping[str, ActionLine]
    view: Callable[[e.Kept], Any]

    def row(self, row: ActionResult) -> ActionResult:
        """The row with its output: the original while it is kept, else the redacted view."""
        kept = row.output
        return msgspec.structs.replace(row, output=self.view(kept)) if isinstance(kept, e.Kept) else row


def shown_proposals(directory: Path, run: RunRow, undos: Undos) -> Iterator[ShownProposal]:
    """The proposals of a run: those that have ended, in that order, then the others. `undos` are those in force.

    Raises, after what could be read: IntegrityError if the journal is damaged or holds kinds that this version does not know;
    UsageError `not_found` without a journal; StoreError.
    """
    marks = _late_marks(directory)
    replayed = ReplayedRun(directory, outputs=False, events=())
    described = RunLines(run, directory)
    damage: InterlockError | None = None
    try:
        for event in read(directory):
            lines = described.take(event)
            replayed.take(event)
            if isinstance(event, e.ProposalFinished) and event.proposal in replayed.proposals:
                for mark in marks.get(event.proposal, ()):
                    replayed.take(mark)
                yield _shown(replayed, event.proposal, {line.action_id: undos.mark(line) for line in lines})
                replayed.forget(event.proposal)
    except InterlockError as error:
        damage = error
    unfinished: dict[str, dict[str, ActionLine]] = {}
    for line in described.rest():
        unfinished.setdefault(line.proposal_id, {})[line.action_id] = undos.mark(line)
    for proposal_id in replayed.proposals:
        yield _shown(replayed, proposal_id, unfinished.get(proposal_id, {}))
    if damage is not None:
        raise damage


def _shown(replayed: ReplayedRun, proposal_id: str, lines: Mapping[str, ActionLine]) -> ShownProposal:
    return ShownProposal(replayed.result(proposal_id), lines, replayed.view)


def _late_marks(directory: Path) -> dict[str, list[e.UndoDone]]:
    """What later undos wrote into the journal after the proposal in question had ended (marks of compensations)."""
    ended: set[str | None] = set()
    found: dict[str, list[e.UndoDone]] = {}
    try:
        for event in read(directory, kinds=_MARKS):
            if isinstance(event, e.ProposalFinished):
                ended.add(event.proposal)
            elif isinstance(event, e.UndoDone) and event.proposal in ended:
                found.setdefault(event.proposal or "", []).append(event)
    except InterlockError:
        pass  # reading all of it reports the damage
    return found
