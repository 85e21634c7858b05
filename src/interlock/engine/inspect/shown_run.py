"""A past run for people, proposal by proposal, with later undos.

A run may be of any length: of a proposal that has ended, few rows are in memory at a time, and one output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from interlock.engine.inspect.actions import ActionLine, Plan, RunLines
from interlock.engine.inspect.long_proposals import LongProposal, Window, read_rest, read_run
from interlock.engine.inspect.undone import Undos
from interlock.engine.record.replay import ReplayedRun
from interlock.journal.index import RunRow
from interlock.journal.private import Originals
from interlock.model import events as e
from interlock.model.errors import InterlockError
from interlock.model.result import ActionResult, ProposalResult

_MARKS: Final = frozenset({"proposal_received", "proposal_finished", "undo_done"})


class ShownRow(NamedTuple):
    """An action of a proposal: its row without the output, and its line, if the journal mentions it."""

    result: ActionResult
    line: ActionLine | None


class ShownProposal(NamedTuple):
    """A proposal of a run. Its rows are in `rows`, which can be read once, and not in `result`."""

    result: ProposalResult
    rows: Iterator[ShownRow]
    running: bool
    """True if one of its actions runs."""
    view: Callable[[e.Kept], Any]

    def with_output(self, row: ActionResult) -> ActionResult:
        """The row with its output: the original while it is kept, otherwise the redacted view."""
        kept = row.output
        return msgspec.structs.replace(row, output=self.view(kept)) if isinstance(kept, e.Kept) else row


class ShownProposals:
    """The proposals of a run: those that have ended, in that order, then the others.

    With `action` they have only the row of that action, and with `limit` only the first `limit` rows in total; nothing after
    the limit is read.
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
        damage = ends.damage
        try:
            for event in read_rest(self._directory, [*ends.long.values()]):
                if isinstance(event, e.ProposalReceived) and event.proposal in ends.long:
                    continue
                lines = described.take(event)
                replayed.take(event)
                if not isinstance(event, e.ProposalFinished):
                    continue
                if event.proposal in ends.long:
                    yield self._shown_long(ends.long[event.proposal], ends.marks[event.proposal])
                elif event.proposal in replayed.proposals:
                    for mark in ends.marks.get(event.proposal, ()):
                        replayed.take(mark)
                    yield self._shown(replayed, event.proposal, lines)
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
            yield self._shown(replayed, proposal_id, unfinished.get(proposal_id, ()))
        if damage is not None:
            raise damage

    def _shown(self, replayed: ReplayedRun, proposal_id: str, lines: Iterable[ActionLine]) -> ShownProposal:
        result = replayed.result(proposal_id)
        described = {line.action_id: self._undos.mark(line) for line in lines}
        running = any(line.status == "running" for line in described.values())
        chosen = frozenset(self._choose([row.action_id for row in result.results]))
        rows = [ShownRow(row, described.get(row.action_id)) for row in result.results if row.action_id in chosen]
        result.results = []
        return ShownProposal(result, iter(rows), running, replayed.view)

    def _shown_long(self, proposal: LongProposal, marks: list[e.UndoDone]) -> ShownProposal:
        empty = ReplayedRun(self._directory, outputs=False, events=())
        actions = empty.actions(proposal.received)
        ids = proposal.mentioned if actions is None else [action.id for action in actions]
        chosen = self._choose(ids)
        plan = Plan(proposal.received.document, Originals(self._directory))
        parts = (self._part(proposal.received, plan, window, marks) for window in proposal.windows(chosen))
        result, first = next(parts)
        rows = chain(first, chain.from_iterable(rows for _, rows in parts))
        return ShownProposal(result, rows, running=False, view=empty.view)

    def _part(
        self, received: e.ProposalReceived, plan: Plan, window: Window, marks: list[e.UndoDone]
    ) -> tuple[ProposalResult, Iterator[ShownRow]]:
        """A proposal with some of its rows."""
        replayed = ReplayedRun(self._directory, outputs=False, events=(received,))
        described = RunLines(self._run, self._directory)
        described.begin(received, plan)
        lines: list[ActionLine] = []
        for event in chain(window.events, marks):
            replayed.take(event)
            lines.extend(described.take(event))
        result = replayed.result(received.proposal or "", window.actions)
        rows, result.results = result.results, []
        found = {line.action_id: self._undos.mark(line) for line in lines}
        return result, (ShownRow(row, found.get(row.action_id)) for row in rows)

    def _choose(self, ids: Iterable[str]) -> list[str]:
        """The ids of the rows that are shown, among those of a proposal in its order."""
        chosen = [one for one in ids if self._action in (None, one)]
        if self._left is not None:
            del chosen[self._left :]
            self._left -= len(chosen)
        return chosen


class _Ends:
    """The ended proposals of a run, and the marks of compensations that later undos wrote into its journal."""

    def __init__(self, directory: Path) -> None:
        self.marks: dict[str | None, list[e.UndoDone]] = {}
        self.long: dict[str | None, LongProposal] = {}
        """The long ones. The result of a proposal that has not ended needs all of its rows, so it is not among them."""
        self.actions = 0
        """The number of actions of all proposals."""
        self.damage: InterlockError | None = None
        going: dict[str | None, LongProposal] = {}
        try:
            for event in read_run(directory, _MARKS):
                if isinstance(event, LongProposal):
                    going[event.proposal] = event
                    self.actions += event.received.action_count
                elif isinstance(event, e.ProposalReceived):
                    self.actions += event.action_count
                elif isinstance(event, e.ProposalFinished):
                    self.marks[event.proposal] = []
                    if event.proposal in going:
                        self.long[event.proposal] = going[event.proposal]
                elif isinstance(event, e.UndoDone) and event.proposal in self.marks:
                    self.marks[event.proposal].append(event)
        except InterlockError as error:
            self.damage = error
