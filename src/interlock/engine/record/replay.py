"""Replays a run's journal to rebuild the engine's knowledge of the run, from the events of `gate/` and `completion/`.

The order of actions is not computed again here: the outcomes are passed to the scheduler's `step` in the journal's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec

from interlock.engine.record import rows
from interlock.engine.record.connections import add_hosts
from interlock.engine.record.rows import row_of
from interlock.engine.record.tally import Tally, cost_of
from interlock.engine.scheduler import Outcome
from interlock.journal import TornIntent, read
from interlock.journal.private import Originals
from interlock.journal.sealing import SAMPLES_KEPT
from interlock.model import events as e
from interlock.model import typed
from interlock.model.decode import proposal_from_builtins, proposal_from_original
from interlock.model.errors import IntegrityError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.proposal import Proposal
from interlock.model.result import ActionResult, Cost, LayerResult, NotUndone, ProposalResult, RunStatus
from interlock.model.values import with_floats

_ENDED_WELL: Final = frozenset({"succeeded", "rolled_back", "compensated", "not_undone"})
"""Statuses of actions that had succeeded, including those that were undone."""

_OF_RUNS: Final = frozenset({e.RunStarted, e.RunFinished, e.ProposalReceived, e.MachineSampled})
"""The events that a replay processes and that are not about a received proposal."""
_OF_PROPOSALS: Final = frozenset(
    {
        e.StateChanged, e.StateRolledBack, e.WorkspaceCommitted, e.LayerCommitted, e.LayerKept, e.LayerDiscarded,
        e.ProposalFinished,
    }
)  # fmt: skip
"""The events that a replay processes and that are about a proposal, not about one of its actions."""

_COSTING: Final = (e.ActionSucceeded, e.ActionFailed, e.ActionUnknown, e.ActionCancelled)
"""The events that end an attempt, and have its use."""


class ReplayedAction(msgspec.Struct, gc=False):
    """What the journal says about one action. A struct, because a run may have a hundred thousand."""

    attempts: int = 0
    open: bool = False
    """True while there is an intent without an outcome."""
    interrupted: bool = False
    """True if its last attempt was cancelled or has an unknown outcome, and so may have had an effect."""
    settled: str | None = None
    """The decision about an unknown outcome."""
    row: ActionResult | None = None
    parameters: e.Kept | None = None
    """Parameters of the last intent, or as an approver edited them."""
    edited: bool = False
    tool: str | None = None
    read_only: bool = False
    """True if its last intent changes nothing outside of state."""
    needs_person: bool = False
    """True if only a person can settle it, in case its outcome is unknown."""
    not_undoable: tuple[str, ...] = ()
    stopped: ActionResult | None = None
    """Its row if it is not settled."""
    undone: dict[str, str | None] = {}
    """Kinds of undo that are done, with their problems."""
    undo_open: str | None = None
    """Kind of undo that has started but not ended."""
    approval: str | None = None
    """The last question about it."""
    asked: bool = False
    """True while that question has no answer in the journal."""
    waits: list[str] = []
    """The causes of its waits."""
    reserved: tuple[int, float] = (0, 0.0)
    """Tokens and cost of its open attempt."""


class ReplayedProposal:
    """What the journal says about one proposal."""

    def __init__(self, run_id: str, received: e.ProposalReceived) -> None:
        """From the event of its receipt."""
        self.run_id = run_id
        self.received = received
        self.actions: dict[str, ReplayedAction] = {}
        self.outcomes: list[tuple[str, Outcome | None]] = []
        """In the order of the journal; None where `failure_behavior` decides (see `replay`)."""
        self.writes: list[tuple[str, e.StateChanged]] = []
        self.rolled_back = False
        self.committed: e.WorkspaceCommitted | None = None
        self.finished: e.ProposalFinished | None = None
        self.layer: LayerResult | None = None
        """The result of its layer."""
        self.spent_ms = 0.0
        self.cost = 0.0
        self.tokens = 0
        self.cost_unknown = 0

    def action(self, action_id: str | None) -> ReplayedAction:
        """The action of that id."""
        known = self.actions.get(action_id or "")
        if known is None:
            known = self.actions[action_id or ""] = ReplayedAction()
        return known

    def reserve(self, action: ReplayedAction, intent: e.ActionIntent) -> None:
        """Count the reservation of an attempt as spent, until its outcome has the actual use."""
        self.cost_unknown += action.reserved != (0, 0.0)
        action.reserved = intent.tokens, intent.cost
        self.tokens += intent.tokens
        self.cost += intent.cost

    def count(self, action: ReplayedAction, event: e.Event) -> None:
        """Count an attempt's use in place of its reservation. If its process died, the whole reservation is spent."""
        if not isinstance(event, _COSTING):
            return  # a stored result costs nothing
        tokens, cost = action.reserved
        action.reserved = 0, 0.0
        if isinstance(event, e.ActionUnknown) and tokens and not event.tokens:
            self.cost_unknown += 1
            return
        self.tokens += event.tokens - tokens
        self.cost += event.cost - cost
        self.cost_unknown += event.cost_unknown

    def forget_writes(self, action_id: str) -> None:
        """Drop the state writes of an attempt that does not count: it is made again, or another call replaces it."""
        self.writes = [(owner, change) for owner, change in self.writes if owner != action_id]

    def only_read(self) -> set[str]:
        """The actions that changed nothing, so that there is nothing to undo."""
        wrote = {action_id for action_id, _ in self.writes}
        return {name for name, known in self.actions.items() if known.read_only} - wrote


class NamedAction(msgspec.Struct, frozen=True, gc=False):
    """An action of a proposal in a short form, which needs little memory."""

    id: str
    type: str


class _Actions(msgspec.Struct):
    actions: list[NamedAction]


class ReplayedRun:
    """What the journal says about a run."""

    def __init__(
        self,
        directory: Path,
        *,
        open_only: bool = False,
        outputs: bool = True,
        events: Iterable[e.Event | e.Unknown] | None = None,
    ) -> None:
        """Read the journal, or its `events`. Raises: IntegrityError if it is damaged, or has kinds unknown to this version.

        With `open_only`, an ended proposal is counted and forgotten, because a run may have any number. Without `outputs`, rows
        have outputs in the journal's form (`Kept`), which `view` converts.
        """
        self.directory = directory
        self._open_only = open_only
        self.ended = Tally()
        """Counts of the forgotten proposals."""
        self.started: e.RunStarted | None = None
        self.finished: e.RunFinished | None = None
        self.proposals: dict[str, ReplayedProposal] = {}
        self.samples: dict[int, dict[str, Any]] = {}
        """The last readings of the machine by the number of their event: no event refers to an older one."""
        self._originals = Originals(directory)
        self._shown: Callable[[e.Kept], Any] = self.view if outputs else _as_kept
        for event in read(directory) if events is None else events:
            self.take(event)

    def value(self, kept: e.Kept) -> Any:
        """The original of a kept value. Raises: IntegrityError `original_missing` if it was deleted."""
        return with_floats(msgspec.json.decode(self._original(kept)) if kept.private else kept.view)

    def _original(self, kept: e.Kept) -> bytes:
        data = self._originals.get(kept.digest)
        if data is None:
            raise IntegrityError(
                f"an original of run `{self.directory.name}` is not there any more",
                code="original_missing",
                hint="originals are deleted after `[journal] keep`; a run cannot be resumed or undone after that",
            )
        return data

    def add_torn(self, intents: Iterable[TornIntent]) -> None:
        """Add intents that recovery found after the last seal: they were written but not sealed, so their outcome is unknown."""
        for intent in intents:
            if intent.proposal in self.proposals:
                action = self.proposals[intent.proposal].action(intent.action)
                if (
                    action.row is None and intent.attempt > action.attempts
                ):  # otherwise it was settled, and tried again since
                    action.attempts = intent.attempt
                    action.open = True

    def proposal(self, replayed: ReplayedProposal) -> Proposal:
        """The proposal itself, as it was received."""
        kept = replayed.received.document
        if kept.private:
            return proposal_from_original(self._original(kept), DEFAULT_LIMITS)
        return proposal_from_builtins(self.value(kept), DEFAULT_LIMITS)

    def forget(self, proposal_id: str) -> None:
        """Forget a proposal and what the journal says about it."""
        del self.proposals[proposal_id]

    def actions(self, received: e.ProposalReceived) -> Sequence[NamedAction] | None:
        """The actions of a proposal, in its order; None if the proposal was deleted (`[journal] keep`)."""
        kept = received.document
        if not kept.private:
            return typed.convert(kept.view, _Actions).actions
        data = self._originals.get(kept.digest)
        return None if data is None else typed.decode(data, _Actions).actions

    def result(self, proposal_id: str, only: Sequence[str] | None = None) -> ProposalResult:
        """The result as far as the journal has it, as `runs show` prints it. With `only`, it has the rows of these actions; the
        proposal must have ended.
        """
        replayed = self.proposals[proposal_id]
        actions = self.actions(replayed.received) if only is None else [NamedAction(name, "") for name in only]
        if actions is None:  # without the proposal: those that the journal mentions
            mentioned = replayed.actions.items()
            actions = [NamedAction(name, "tool_call" if known.tool else "assertion") for name, known in mentioned]
        found = [_shown_row(action.id, replayed.actions.get(action.id)) for action in actions]
        done = replayed.finished
        if done is None and self.finished is not None:
            _abandoned(found)
        waits = any(row.status == "held" for row in found)
        end = done or self.finished
        if replayed.layer is not None and replayed.layer.reason is not None:
            _mark_uncommitted(found, replayed, replayed.layer)
        if done is not None and replayed.rolled_back:
            _mark_rolled_back(found, done.not_undone, replayed.only_read())
        return ProposalResult(
            run_id=self.directory.name,
            proposal_id=proposal_id,
            status=cast("RunStatus", end.status) if end is not None else "held" if waits else "interrupted",
            results=found,
            cost=cost_of(actions, found, replayed) if done is None else typed.convert(done.cost, Cost, strict=False),
            not_undone=[] if done is None else [NotUndone(**msgspec.to_builtins(n)) for n in done.not_undone],
            workspace=replayed.layer,
        )

    def take(self, event: e.Event | e.Unknown) -> None:
        """Process the next event. Raises: IntegrityError `unknown_event`."""
        if type(event) not in _OF_RUNS and not isinstance(event, e.Unknown):
            known = self.proposals.get(event.proposal or "")
            if known is not None:  # otherwise a resumption, or a proposal that was not received, or is forgotten
                self._take_of(known, event)
            return
        match event:
            case e.Unknown():
                raise IntegrityError(
                    f"event {event.seq} of run `{self.directory.name}` is of a kind that this version does not know:"
                    f" `{event.kind}`",
                    code="unknown_event",
                    hint="use the Interlock that wrote it",
                )
            case e.RunStarted():
                self.started = event
            case e.RunFinished():
                self.finished = event
            case e.ProposalReceived():
                self.proposals[event.proposal or ""] = ReplayedProposal(self.directory.name, event)
            case e.MachineSampled():
                self.samples[event.seq] = event.sample
                if len(self.samples) > SAMPLES_KEPT + 1:  # an action's own second reading may have been written since
                    del self.samples[next(iter(self.samples))]

    def _take_of(self, replayed: ReplayedProposal, event: e.Event) -> None:
        if type(event) not in _OF_PROPOSALS:
            if event.action is not None:
                action = replayed.action(event.action)
                self._take_action(replayed, action, event)
                if action.waits and action.row is not None:
                    action.row.waited_for = tuple(action.waits)
            return
        match event:
            case e.StateChanged():
                replayed.writes.append((event.action or "", event))
            case e.StateRolledBack():
                replayed.rolled_back = True
            case e.WorkspaceCommitted():
                replayed.committed = event
            case e.LayerCommitted() | e.LayerKept() | e.LayerDiscarded():
                replayed.layer = _layer_after(replayed.layer, event)
            case e.ProposalFinished():
                replayed.finished = event
                if self._open_only:
                    self._forget(event)

    def _forget(self, finished: e.ProposalFinished) -> None:
        replayed = self.proposals.pop(finished.proposal or "")
        found = [_shown_row(name, action) for name, action in replayed.actions.items()]
        if replayed.rolled_back:
            _mark_rolled_back(found, finished.not_undone, replayed.only_read())
        # Actions that are reserved as compensations need not be mentioned in the journal.
        silent = replayed.received.action_count - len(found)
        found.extend(_shown_row("", None) for _ in range(silent))
        self.ended.add(cast("RunStatus", finished.status), found, len(finished.not_undone))

    def _take_action(self, replayed: ReplayedProposal, action: ReplayedAction, event: e.Event) -> None:
        action_id = event.action or ""
        match event:
            case e.ActionIntent():
                replayed.reserve(action, event)
                action.attempts = event.attempt
                action.open, action.interrupted, action.settled = True, False, None
                action.undone.clear()  # the effects of an interrupted attempt were undone before this one
                action.tool = event.tool
                action.read_only = event.read_only
                action.needs_person = not (event.read_only or event.idempotent or event.recoverable)
                action.parameters = event.parameters
            case e.ActionSucceeded() | e.ActionDeduplicated():
                action.open = action.interrupted = False
                if action.attempts and isinstance(event, e.ActionDeduplicated):
                    replayed.forget_writes(action_id)  # its writes do not count: another call has made them
                action.row = row_of(event, self._shown, self.samples)
                action.not_undoable = getattr(event, "not_undoable", ())
                replayed.outcomes.append((action_id, Outcome.DONE))
                replayed.spent_ms += getattr(event, "duration_ms", 0.0)
                replayed.count(action, event)
            case e.ActionFailed():
                action.open = False
                action.not_undoable = (*action.not_undoable, *event.not_undoable)
                replayed.spent_ms += event.duration_ms
                replayed.count(action, event)
                if event.final:
                    action.row = row_of(event, self._shown, self.samples)
                    kept_on = event.reason == "budget_exceeded"
                    replayed.outcomes.append((action_id, Outcome.FAILED if kept_on else None))
            case e.ActionRejected() | e.ActionSkipped():
                action.row = row_of(event, self._shown, self.samples)
                if action.row.status == "rejected":
                    replayed.outcomes.append((action_id, None))
                elif event.reason == "budget_exceeded":
                    replayed.outcomes.append((action_id, Outcome.FAILED))
            case e.OutcomeSettled():
                action.settled = event.decision
                if event.decision == "again":
                    action.open = action.interrupted = False
                    replayed.forget_writes(action_id)
            case e.ActionUnknown() | e.ActionCancelled():
                self._take_interruption(replayed, action, event)
            case _:
                self._take_rest(action, event)

    def _take_rest(self, action: ReplayedAction, event: e.Event) -> None:
        """The events that are not an action's outcome."""
        match event:
            case e.ActionConnection():
                if action.row is not None:  # of a background program; otherwise the outcome has it
                    action.row.hosts = add_hosts(action.row.hosts, (event,))
            case e.ActionHeld():
                action.approval, action.asked = event.approval, True
            case e.ActionWaiting():
                action.waits.append(event.what)
            case e.HoldResolved():
                action.asked = False
                if event.parameters is not None:
                    action.parameters, action.edited = event.parameters, True
            case e.UndoIntent() if event.of is None:
                action.undo_open = event.how
            case e.UndoDone() if event.of is None:
                _take_undo(action, event)
            case _:
                pass

    def _take_interruption(
        self, replayed: ReplayedProposal, action: ReplayedAction, event: e.ActionUnknown | e.ActionCancelled
    ) -> None:
        action.open = False
        replayed.count(action, event)
        row = row_of(event, self._shown, self.samples)
        if isinstance(event, e.ActionUnknown) and event.reason == "timeout":
            # Final for the proposal that saw it: the thread of a time-out is never waited for or run again.
            action.row = row
            replayed.outcomes.append((event.action or "", None))
        else:
            action.interrupted = True
            action.stopped = row

    def view(self, kept: e.Kept) -> Any:
        """The original if it exists, otherwise the redacted view: for display, and checked again before it is used."""
        try:
            return self.value(kept)
        except IntegrityError:
            return kept.view


def _layer_after(before: LayerResult | None, event: e.LayerCommitted | e.LayerKept | e.LayerDiscarded) -> LayerResult:
    """The result of a layer after an event."""
    match event:
        case e.LayerCommitted():
            status: Literal["committed", "kept"] = "kept" if event.blocked else "committed"
            return LayerResult(status=status, changes=event.changes, blocked=event.blocked)
        case e.LayerKept():
            part = event.why == "blocked" and before is not None  # the rest was committed
            return LayerResult(
                status="kept",
                changes=before.changes if part and before is not None else event.changes,
                blocked=event.blocked,
                reason=event.reason or ("workspace_conflict" if event.why == "conflict" else None),
                detail=event.detail or None,
                not_restored=event.not_restored,
            )
        case _:
            return LayerResult(status="discarded")


def _mark_uncommitted(rows: list[ActionResult], replayed: ReplayedProposal, layer: LayerResult) -> None:
    """Set the reason why the changes of actions that succeeded in the layer are not in the workspace."""
    for row in rows:
        known = replayed.actions.get(row.action_id)
        if row.status == "succeeded" and known is not None and known.tool is not None and not known.read_only:
            row.reason, row.error = layer.reason, layer.detail


def _take_undo(action: ReplayedAction, event: e.UndoDone) -> None:
    action.undo_open = None
    if event.status == "redone":  # the undo was undone
        action.undone.pop(event.how, None)
        if action.row is not None and action.row.status == "compensated":
            action.row.status = "succeeded"
        return
    action.undone[event.how] = event.problem
    row = action.row
    if row is None or row.status not in _ENDED_WELL:
        return
    if event.problem is not None:
        row.status = "not_undone"
        row.reason = "compensation_failed" if event.how == "compensation" else "undo_conflict"
    elif row.status == "succeeded":
        row.status = "compensated" if event.status == "compensated" else "rolled_back"


def _as_kept(kept: e.Kept) -> Any:
    return kept


def _shown_row(action_id: str, known: ReplayedAction | None) -> ActionResult:
    """The row of an action, or the one that it would have if its run did not continue."""
    if known is None:
        return rows.skipped(action_id, "interrupted")
    row = known.row or known.stopped
    if row is not None:
        return row
    if known.asked and not known.open:
        return rows.held(action_id, "held", f"waiting for approval `{known.approval}`", approval=known.approval or "")
    if known.open:
        return rows.stopped(action_id, "interrupted", at_us=0, seq=None, attempts=0, unknown=True)
    return rows.skipped(action_id, "interrupted")


def _abandoned(rows: list[ActionResult]) -> None:
    """Mark the actions that had not started when the run was undone: they never will."""
    for row in rows:
        if row.status == "held" or (row.status == "skipped" and row.reason == "interrupted"):
            row.status, row.reason, row.error, row.output = "skipped", "cancelled", None, None


def _mark_rolled_back(rows: list[ActionResult], left: Sequence[NotUndone], read: set[str]) -> None:
    """Mark the successes of an aborted proposal that changed something: `undo_done` names only files and compensations."""
    reasons: dict[str, str] = {}
    for one in left:
        reasons.setdefault(one.action_id, one.reason)
    for row in rows:
        if row.status in _ENDED_WELL and row.action_id in reasons:
            row.status, row.reason = "not_undone", reasons[row.action_id]
        elif row.status == "succeeded" and row.action_id not in read:
            row.status = "rolled_back"
