"""One action in the gate: the only object that the steps modify, and the result that they return to the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from interlock.engine.judges.judges import Call, Judges
from interlock.engine.proposals.attempt import Failure
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.watchdog import Slot
from interlock.engine.record.recorder import Recorder
from interlock.engine.scheduler import Outcome
from interlock.engine.tools.registry import Registered
from interlock.model.events import Event
from interlock.model.grant import Principal
from interlock.model.proposal import Action
from interlock.model.result import ActionResult
from interlock.model.tool import Estimate


class Effect(NamedTuple):
    """The effect of a held call in a temporary layer, which an approval applies."""

    directory: Path
    digest: str
    """Digest of all differences and of the call's result; the approval is also bound to it."""


class Digested(NamedTuple):
    """A call's canonical parameters and its digest, and the values from which they were computed."""

    parameters: dict[str, Any]
    effect: Effect | None
    data: bytes
    digest: str


class Outside(NamedTuple):
    """The terms of a call outside the plan (a compensation, a probe, a call within a call), made within an action's turn."""

    principal: Principal
    judges: Sequence[Judges]
    """Those that allowed the call: each takes one use of a grant that counts its uses."""
    wait_max_ns: int
    """How long the call may wait for its rate limit."""
    limited: bool = True
    """False for an undo: a budget counts the call but does not refuse it."""


class ActionRun:
    """One action in the gate, and everything that is known about it so far."""

    # Fields that most actions never change are class attributes, to make an action cheap.
    step = 2
    """The current step of the gate, which a rejection names."""
    waited_ns = 0
    admitted = False
    """True once step 7 has reserved budget and a place in the tool's rate limit for the coming attempt."""
    reserved: Estimate | None = None
    """The tokens and money that step 7 has reserved for the attempt; None for a tool that uses none."""
    in_turn = False
    """True while the action may be writing in the workspace."""
    outside: Outside | None = None
    """The terms of a call outside the plan, which no executor of the caller runs; None for an action of the plan."""
    used = False
    """True once the action has counted as a use of its grant."""
    failed: Failure | None = None
    """The last attempt, once one has failed."""
    asked = False
    """True once a question about this action was answered: a further question is a new one."""
    discharged: frozenset[str] = frozenset()
    """Content hashes of the policies that an approval has discharged for this call."""
    shown: tuple[tuple[Any, str | None], ...] = ()
    """The paths in the approved question, with the digests of their content at that time."""
    effect: Effect | None = None
    """The effect in a temporary layer that the question shows, or has shown."""
    generation: int | None = None
    """Generation of the files that the action reads, if its result goes into the cache."""
    digested: Digested | None = None
    """The digest with which the last decision was recorded."""
    changed = False
    """True once one of the shown files differed from the approved one: only an answer to a new question then counts."""

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
        """Release the reservations of step 7, because the attempt is not made."""
        if self.admitted:
            self.admitted = False
            self.run.allowance.refund(tool_calls=0 if self.tool is None else 1, most=self.reserved)


class Ended(msgspec.Struct, eq=False):
    """The end of an action in the gate; the pool stores it."""

    row: ActionResult | None
    """None if nothing was done."""
    outcome: Outcome | None = None
    """The outcome for the scheduler; None if the action is held or was stopped."""
    undoable: bool = False
    """True puts an action without outcome into the order of undo."""
    stop: str | None = None
    """A reason for which nothing more may start."""
    raises: BaseException | None = None
    """Raised once the row is stored."""
