"""A past run for people, proposal by proposal, with later undos.

A run may be of any length: only one proposal and one output are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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

_MARKS: Final = frozenset({"proposal_received", "proposal_finished", "undo_done"})


class ShownProposal(NamedTuple):
    """A proposal of a run. `result` has the rows without their outputs; `lines` has each action's line, by id."""

    result: ProposalResult
    lines: Mapping[str, ActionLine]
    view: Callable[[e.Kept], Any]

    def row(self, row: ActionResult) -> ActionResult:
        """The row with its output: the original while it is kept, otherwise the redacted view."""
        kept = row.output
        return msgspec.structs.replace(row, output=self.view(kept)) if isinstance(kept, e.Kept) else row


class ShownProposals:
    """The proposals of a run: those that have ended, in that order, then the others.

    With `action` they have only the row of that action, and with `limit` only the first `limit` rows in total. Only these rows
    are then in memory (except for a proposal that has not ended), and nothing after the limit is read.
    """

    def __init__(
        self, directory: Path, run: RunRow, undos: Undos, *, action: str | None = None, limit: int | None = None
    ) -> None:
        """`undos` are those in force. Reads nothing until it is iterated."""
        self._directory = directory
        self._run = run
        self._undos = undos
        self._action = action
        self._left = limit
        self.total = 0
        """The number of actions in the run's proposals; known from the first proposal on."""

    def __iter__(self) -> Iterator[ShownProposal]:
        """Each proposal once, in order.

        Raises, after the readable part: IntegrityError if the journal is damaged or has kinds that this version does not know;
        UsageError `not_found` without a journal; StoreError.
        """
        ends = _Ends(self._directory)
        self.total = ends.actions
        replayed = ReplayedRun(self._directory, outputs=False, events=())
        described = RunLines(self._run, self._directory)
        wanted: dict[str | None, frozenset[str]] = {}
        damage = ends.damage
        try:
            for event in read(self._directory):
                if isinstance(event, e.ProposalReceived):
                    self._choose(wanted, event, replayed, ends)
                elif not _is_wanted(event, wanted):
                    continue
                lines = described.take(event)
                replayed.take(event)
                if isinstance(event, e.ProposalFinished) and event.proposal in replayed.proposals:
                    for mark in ends.marks[event.proposal]:
                        replayed.take(mark)
                    yield self._shown(replayed, event.proposal, lines, wanted.pop(event.proposal, None))
                    replayed.forget(event.proposal)
                    if self._left == 0:
                        break
            damage = damage if self._left == 0 else None
        except InterlockError as error:
            damage = error
        unfinished: dict[str, list[ActionLine]] = {}
        for line in described.rest():
            unfinished.setdefault(line.proposal_id, []).append(line)
        for proposal_id in () if self._left == 0 else replayed.proposals:
            yield self._shown(replayed, proposal_id, unfinished.get(proposal_id, ()), None)
        if damage is not None:
            raise damage

    def _choose(
        self, wanted: dict[str | None, frozenset[str]], received: e.ProposalReceived, replayed: ReplayedRun, ends: _Ends
    ) -> None:
        """Select the wanted rows of a proposal, unless all are: the result of a proposal that has not ended needs them all."""
        if received.proposal not in ends.marks:
            return
        if self._action is not None:
            wanted[received.proposal] = frozenset({self._action})
        elif self._left is not None and received.action_count > self._left:
            actions = replayed.actions(received)
            if actions is not None:
                wanted[received.proposal] = frozenset(action.id for action in actions[: self._left])

    def _shown(
        self, replayed: ReplayedRun, proposal_id: str, lines: Iterable[ActionLine], only: frozenset[str] | None
    ) -> ShownProposal:
        result = replayed.result(proposal_id, only)
        if self._left is not None:
            del result.results[self._left :]
            self._left -= len(result.results)
        return ShownProposal(result, {line.action_id: self._undos.mark(line) for line in lines}, replayed.view)


class _Ends:
    """The ended proposals of a run, and the marks of compensations that later undos wrote into its journal."""

    def __init__(self, directory: Path) -> None:
        self.marks: dict[str | None, list[e.UndoDone]] = {}
        self.actions = 0
        """The number of actions of all proposals."""
        self.damage: InterlockError | None = None
        try:
            for event in read(directory, wants=_MARKS.__contains__):
                if isinstance(event, e.ProposalReceived):
                    self.actions += event.action_count
                elif isinstance(event, e.ProposalFinished):
                    self.marks[event.proposal] = []
                elif isinstance(event, e.UndoDone) and event.proposal in self.marks:
                    self.marks[event.proposal].append(event)
        except InterlockError as error:
            self.damage = error


def _is_wanted(event: e.Event | e.Unknown, wanted: Mapping[str | None, frozenset[str]]) -> bool:
    if not wanted or isinstance(event, e.Unknown) or event.action is None:
        return True
    only = wanted.get(event.proposal)
    return only is None or event.action in only
