"""One action's way through the gate: what is known about it, and the ways out before anything was executed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from interlock.engine.registry import Registered
from interlock.engine.scheduler import Outcome
from interlock.engine.watchdog import Slot
from interlock.model.decision import Refusal
from interlock.model.events import ActionRejected, ActionSkipped
from interlock.model.proposal import Action
from interlock.model.result import ActionResult

if TYPE_CHECKING:
    from interlock.engine.attempt import Failure
    from interlock.engine.execution import Execution


class Turn:
    """One action's way through the gate: what is known about it so far."""

    # What most actions never change is a class attribute, so that making a turn costs only what is its own.
    step = 2
    """The gate's step that is being taken: what a rejection names."""
    waited_ns = 0
    admitted = False
    """True once step 7 has reserved budget and a place in the tool's rate limit for the coming attempt."""
    used = False
    """True once the action has used up what its grant counts."""
    failed: tuple[Failure, int] | None = None
    """The last attempt, and its number, once one has failed."""
    asked = False
    """True once a question of this turn was answered: another one is a new question."""
    discharged: frozenset[str] = frozenset()
    """Content hashes of the policies that an approval has discharged for this very call."""
    shown: tuple[tuple[Any, str | None], ...] = ()
    """The paths that the approved question was about, with the digests of what was there."""

    def __init__(self, x: Execution, slot: Slot, index: int, proposed: dict[str, Any]) -> None:
        """At the start of step 2; `proposed` are the parameters with references resolved."""
        self.x = x
        self.slot = slot
        self.index = index
        self.action: Action = x.proposal.actions[index]
        self.tool: Registered | None = x.tools[index]
        self.proposed = proposed
        self.parameters = x.edited.get(index, proposed) if x.edited else proposed
        """As they will be used: an approver may have edited them."""


def give_back(turn: Turn) -> None:
    """The attempt that step 7 reserved a place for is not made."""
    if turn.admitted:
        turn.admitted = False
        turn.x.allowance.refund(tool_calls=0 if turn.tool is None else 1)


def reject(turn: Turn, refusal: Refusal) -> None:
    """Steps 2 to 7 said no: the row is `rejected`, and `failure_behavior` decides what that means for the rest."""
    x, action = turn.x, turn.action
    give_back(turn)
    row = ActionResult(
        action_id=action.id,
        status="rejected",
        reason=refusal.reason,
        error=refusal.detail,
        attempts=0 if turn.failed is None else turn.failed[1],
        waited_ms=turn.waited_ns / 1e6,
        timestamp=x.clock.now_us(),
    )
    if x.recorder is not None:
        stamp = x.recorder.stamp(x, turn.index, turn.step)
        row.seq = x.recorder.append(
            ActionRejected(reason=refusal.reason, detail=x.recorder.text(refusal.detail), **stamp)
        )
    x.finished(turn.index, row, Outcome.FAILED if action.failure_behavior == "skip" else Outcome.ABORT)


def skip(turn: Turn, reason: str, detail: str = "", outcome: Outcome = Outcome.FAILED) -> None:
    """The action will not run, and that is nobody's failure (budget, dry run)."""
    x = turn.x
    row = ActionResult(
        action_id=turn.action.id,
        status="skipped",
        reason=reason,
        error=detail or None,
        waited_ms=turn.waited_ns / 1e6,
        timestamp=x.clock.now_us(),
    )
    if x.recorder is not None:
        row.seq = x.recorder.append(ActionSkipped(reason=reason, detail=detail, **x.recorder.stamp(x, turn.index, 7)))
    x.finished(turn.index, row, outcome)


async def wait(turn: Turn, seconds: float) -> None:
    """Sleep outside execution time: counted as waited, ended by cancellation."""
    clock = turn.x.clock
    before = clock.mono_ns()
    try:
        await asyncio.sleep(seconds)
    finally:
        turn.waited_ns += clock.mono_ns() - before
