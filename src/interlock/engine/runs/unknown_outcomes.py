"""Questions about unknown outcomes of actions that started, have no outcome, and that only a person can settle.

Such an action is held like any other: its question is in the same store and the same lists, and is answered on every surface with
the same proof. Its one parameter is `outcome`: approving lets the action run again, an edit says `succeeded`,
`failed` or `undo`, and a denial counts it as failed. The question is for one attempt, so a later crash asks again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, cast

from interlock.approvals import Approver, Hold, HoldRequest, Outcome, merge_patch
from interlock.approvals.hold import Surface
from interlock.disk import Disk
from interlock.engine.people.approval_desk import Desk
from interlock.engine.record.replay import ReplayedAction, ReplayedProposal, ReplayedRun
from interlock.journal import recover
from interlock.model.errors import UsageError

Answer = Literal["again", "succeeded", "failed", "undo"]

KIND: Final = "unknown_outcome"
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"outcome": {"enum": ["again", "succeeded", "failed", "undo"]}},
    "required": ["outcome"],
    "additionalProperties": False,
}
_AGAIN: Final = {"outcome": "again"}
_WHY: Final = (
    "its process ended while it ran. Look at what it did, then approve to run it again, deny to record it as failed, or edit to"
    ' {"outcome": "succeeded"} (or "failed", "undo") to record that'
)


def is_unknown(action: ReplayedAction) -> bool:
    """True if the action has started and its outcome is not settled."""
    return action.row is None and (action.open or action.interrupted)


def find_question(desk: Desk, replayed: ReplayedRun, known: ReplayedProposal, action_id: str) -> Hold | None:
    """The question about the last attempt of an action, if it was asked and neither expired nor was withdrawn."""
    run, proposal = replayed.directory.name, known.received.proposal or ""
    hold = desk.store.for_action(run, proposal, action_id, kind=KIND)
    if hold is None or hold.asked_digest != _digest(desk, replayed, known, action_id):
        return None
    return None if hold.status in ("expired", "cancelled") else hold


def ask_outcome(desk: Desk, replayed: ReplayedRun, known: ReplayedProposal, action_id: str) -> Hold:
    """The question about the last attempt of an action; asked now if there is none. Raises: StoreError, UsageError."""
    found = find_question(desk, replayed, known, action_id)
    if found is not None:
        return found
    action, started = known.action(action_id), replayed.started
    what = f"`{action.tool}`" if action.tool else "the action"
    hold = desk.store.ask(
        HoldRequest(
            agent=known.received.agent,
            session=None if started is None else started.session,
            run=replayed.directory.name,
            proposal=known.received.proposal or "",
            action=action_id,
            tool=action.tool or "",
            kind=KIND,
            summary=f"the outcome of {what} in `{action_id}` is not known: run it again?",
            reason=_WHY,
            parameters=_AGAIN,
            schema=_SCHEMA,
            context={
                "attempt": action.attempts,
                "parameters": None if action.parameters is None else action.parameters.view,
            },
            digest=_digest(desk, replayed, known, action_id),
            ttl_ms=desk.ttl_ms,
            ttl_max_ms=desk.ttl_max_ms,
            started_by=desk.user,
            separation=desk.separation,
        )
    )
    desk.tell(hold, here=False)
    return hold


def answer_of(hold: Hold) -> Answer | None:
    """The answer of a question; None while it is open."""
    if hold.status == "denied":
        return "failed"
    if hold.status != "approved":
        return None
    value: Any = _AGAIN
    for patch in hold.edits:
        value = merge_patch(value, patch)
    return cast("Answer", value["outcome"])  # the schema allows nothing else


def answered_by(hold: Hold) -> str:
    """The person who answered."""
    return hold.votes[-1].approver if hold.votes else ""


def withdraw_question(desk: Desk, run: str, proposal: str, action_id: str) -> None:
    """Withdraw an open question about an outcome that was settled without it."""
    hold = desk.store.for_action(run, proposal, action_id, kind=KIND)
    if hold is not None and hold.status == "pending":
        desk.store.cancel(hold.id, "its outcome was settled")


def answer_outcome(
    desk: Desk, disk: Disk, directory: Path, action_id: str, answer: Answer, approver: Approver, surface: Surface
) -> Outcome:
    """Answer the question about an action's outcome, which is asked now if it was not before.

    Raises: UsageError `not_found` if the action has no unknown outcome; StoreError `run_locked` if the run's process is alive.
    """
    report = recover(directory, disk)
    replayed = ReplayedRun(directory, open_only=True)
    replayed.add_torn(report.intents)
    for known in replayed.proposals.values():
        if action_id in known.actions and is_unknown(known.actions[action_id]):
            hold = ask_outcome(desk, replayed, known, action_id)
            return desk.store.vote(hold.id, approver, surface, "edit", digest=hold.digest, patch={"outcome": answer})
    raise UsageError(
        f"run `{directory.name}` has no action `{action_id}` whose outcome is unknown",
        code="not_found",
        hint="`interlock recover` lists them",
    )


def _digest(desk: Desk, replayed: ReplayedRun, known: ReplayedProposal, action_id: str) -> str:
    attempt = known.action(action_id).attempts
    where = f"{replayed.directory.name}/{known.received.proposal}/{action_id}/{attempt}"
    return desk.call_digest(KIND, where, _AGAIN)
