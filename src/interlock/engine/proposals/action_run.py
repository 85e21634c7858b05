"""One action on its way through the gate: the only object that its steps change, and what they hand back to the pool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from interlock.engine.judges.judges import Call
from interlock.engine.proposals.attempt import Failure
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.watchdog import Slot
from interlock.engine.record.recorder import Recorder
from interlock.engine.scheduler import Outcome
from interlock.engine.tools.registry import Registered
from interlock.model.events import Event
from interlock.model.proposal import Action
from interlock.model.result import ActionResult
from interlock.model.tool import Estimate


class Effect(NamedTuple):
    """What a held call did in a throw-away layer, which an approval makes so."""

    directory: Path
    digest: str
    """Of all that differs, and of what the call returned: part of what the approval is bound to."""


class Digested(NamedTuple):
    """A call's canonical parameters and its digest, and what they were worked out from."""

    parameters: dict[str, Any]
    effect: Effect | None
    data: bytes
    digest: str


class ActionRun:
    """One action's way through the gate: what is known about it so far."""

    # What most actions never change is a class attribute, so that an action costs only what is its own.
    step = 2
    """The gate's step that is being taken: what a rejection names."""
    waited_ns = 0
    admitted = False
    """True once step 7 has reserved budget and a place in the tool's rate limit for the coming attempt."""
    reserved: Estimate | None = None
    """What step 7 has reserved of tokens and money for the attempt; None for a tool that uses none."""
    in_turn = False
    """True while the action may be writing in the workspace."""
    in_plan = True
    """False for a compensation or a probe, which no executor of the caller runs."""
    used = False
    """True once the action has used up what its grant counts."""
    failed: Failure | None = None
    """The last attempt, once one has failed."""
    asked = False
    """True once a question about this action was answered: another one is a new question."""
    discharged: frozenset[str] = frozenset()
    """Content hashes of the policies that an approval has answered for this very call."""
    shown: tuple[tuple[Any, str | None], ...] = ()
    """The paths that the approved question was about, with the digests of what was there."""
    effect: Effect | None = None
    """What the question shows, or has shown, of a call that has run in a throw-away layer."""
    generation: int | None = None
    """Of the files that the action reads, where its result goes into the cache."""
    digested: Digested | None = None
    """The digest that the last decision was recorded with."""
    changed = False
    """True once one of those was no longer what was approved: then only an answer to a new question counts."""

    def __init__(self, run: ProposalRun, slot: Slot, index: int) -> None:
        """At the start of step 2, with references not yet filled in."""
        self.run = run
        self.slot = slot
        self.index = index
        self.spec: Action = run.proposal.actions[index]
        self.tool: Registered | None = run.tools[index]
        self.proposed = parameters = self.spec.parameters
        """The parameters as proposed, references filled in."""
        self.parameters = run.edited.get(index, parameters) if run.edited else parameters
        """The parameters as they will be used: an approver may have edited them."""

    def propose(self, parameters: dict[str, Any]) -> None:
        """Set the parameters as proposed, once references are filled in."""
        self.proposed = parameters
        self.parameters = self.run.edited.get(self.index, parameters)

    def call(self) -> Call:
        """The action as the judges see it."""
        run = self.run
        return Call(run.principal, run.proposal, self.spec, self.tool, self.parameters, run.buffer, self.discharged)

    @property
    def waited_ms(self) -> float:
        """Time spent waiting outside execution, in milliseconds."""
        return self.waited_ns / 1e6

    def record(self, step: int, build: Callable[[Recorder], Event]) -> int | None:
        """Record an event about this action; see `ProposalRun.record`."""
        recorder = self.run.recorder
        if recorder is None:
            return None
        return recorder.record(build(recorder), self.run.proposal.id, self.spec.id, step)

    def refund(self) -> None:
        """Give back what step 7 reserved: the attempt is not made."""
        if self.admitted:
            self.admitted = False
            self.run.allowance.refund(tool_calls=0 if self.tool is None else 1, most=self.reserved)


class Ended(msgspec.Struct, eq=False):
    """How an action's way ended; the pool writes it down."""

    row: ActionResult | None
    """None if nothing happened."""
    outcome: Outcome | None = None
    """What the scheduler is told; None if it is told nothing: the action is held, or it was stopped."""
    undoable: bool = False
    """True puts an action without outcome into the order of undo."""
    stop: str | None = None
    """A reason for which nothing more may start."""
    raises: BaseException | None = None
    """Passes through once the row is written."""
