"""Step 6: ask a human, and wait for the answer without holding anything up.

The question is in the database before anybody is told of it. It survives this process: a resumed run finds the same question
again by run, proposal and action. An approval is for exactly one digest of tool, version and parameters, used once by this
action. After it the gate judges again, with the approved policies taken out; if a file that the question showed has changed
meanwhile, the question is asked anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.approvals import FileShown, Hold, HoldRequest, canonical_digest, merge_patch, summary_line
from interlock.engine.judges.judges import state_schema
from interlock.engine.proposals.action_run import ActionRun as Turn
from interlock.engine.proposals.proposal_run import ProposalRun as Execution
from interlock.engine.proposals.waiting import tell_waiting
from interlock.model.canonical import canonical
from interlock.model.decision import Decision, Refusal
from interlock.model.errors import ToolError
from interlock.model.events import ActionHeld, HoldResolved
from interlock.verify.paths import values_at

if TYPE_CHECKING:
    from interlock.engine.people.approval_desk import Desk
    from interlock.workspace import Workspace

_REFUSALS = {"denied": "approval_denied", "expired": "approval_expired", "cancelled": "approval_cancelled"}


class HeldError(Exception):
    """The action waits for a person and no worker waits with it: the run can be resumed."""

    def __init__(self, hold: Hold) -> None:
        """The question that it waits for."""
        super().__init__(hold.id)
        self.hold = hold


async def ask(turn: Turn, decision: Decision) -> Refusal | None:
    """Ask, wait, and apply the answer. Returns a refusal, or None to judge again. Raises HeldError."""
    turn.step = 6
    x = turn.x
    desk = x.services.desk
    if desk is None or x.dry_run:
        names = ", ".join(f"`{requirement.policy}`" for requirement in decision.requirements)
        what = "a run would ask" if x.dry_run else "the rules say to ask first, and nobody can be asked here"
        return Refusal("approval_required", f"{what} ({names})")
    name, version = _call_of(turn)
    contents = [requirement.content for requirement in decision.requirements]
    if desk.store.standing.use(x.who.agent, x.who.session, name, version, contents) is not None:
        turn.discharged |= frozenset(contents)
        return None
    hold = _existing(turn) or await _new(turn, decision)
    if hold.status == "pending":
        hold = await _answer(turn, hold)
    return await _apply(turn, hold)


def _call_of(turn: Turn) -> tuple[str, str]:
    tool = turn.tool
    return (turn.action.type, "") if tool is None else (tool.name, tool.version)


def _where(turn: Turn) -> tuple[str, str, str]:
    return turn.x.run.id, turn.x.proposal.id, turn.action.id


def digest_of(turn: Turn, parameters: bytes) -> str:
    """What an approval of this call is bound to; `parameters` in canonical JSON."""
    name, version = _call_of(turn)
    return turn.x.services.redactor.keyed(canonical_digest(name + _lifetime(turn), version, parameters))


def _lifetime(turn: Turn) -> str:
    """What the question has beside the tool's name, if what the action starts is to outlive it."""
    mode = turn.action.invocation_mode
    return "" if mode == "one_shot" else f" (as long as the {mode})"


def _existing(turn: Turn) -> Hold | None:
    """The question of an earlier process, if it was about this very call and is not used up.

    A denial and an expiry stand: nobody gets another answer by ending the process. What was withdrawn is asked anew.
    """
    desk = turn.x.services.desk
    assert desk is not None
    hold = desk.store.for_action(*_where(turn))
    # As proposed, or as an approver has edited it before: then it was asked about again.
    if hold is None or hold.asked_digest not in (_digest(turn, turn.proposed), _digest(turn, turn.parameters)):
        return None
    if hold.status == "approved":
        return hold if hold.consumed_by in (None, "/".join(_where(turn))) and not turn.asked else None
    return None if hold.status == "cancelled" else hold


def _digest(turn: Turn, parameters: dict[str, Any]) -> str:
    return digest_of(turn, canonical(parameters))


async def _new(turn: Turn, decision: Decision) -> Hold:
    x, services = turn.x, turn.x.services
    desk = services.desk
    assert desk is not None
    name, version = _call_of(turn)
    run, proposal, action = _where(turn)
    files = await _files(turn)
    redact = desk.questions.redact  # a reason may name a state key
    parameters = _without_secrets(turn, desk)
    needs = tuple(msgspec.structs.replace(r, reason=redact(r.reason)) for r in decision.requirements)
    reasons = [r.reason for r in needs if r.reason] + _changed_since(desk.store.for_action(*_where(turn)), files)
    hold = desk.store.ask(
        HoldRequest(
            agent=x.who.agent,
            session=x.who.session,
            run=run,
            proposal=proposal,
            action=action,
            tool=name,
            tool_version=version,
            kind="tool_call",
            summary=summary_line(name + _lifetime(turn), parameters),
            reason="; ".join(reasons),
            parameters=parameters,
            schema=_schema(turn),
            context={"source": x.proposal.source, "compensation": _compensation(turn)},
            digest=digest_of(turn, canonical(turn.parameters)),
            requirements=needs,
            files=files,
            ttl_ms=desk.ttl_ms,
            ttl_max_ms=desk.ttl_max_ms,
            started_by=desk.user,
            separation=desk.separation,
        )
    )
    if x.recorder is not None:
        # The database has only what may be shown: the original is where an approver can ask for it.
        kept = x.recorder.keep(turn.parameters, () if turn.tool is None else turn.tool.secrets)
        x.recorder.append(
            ActionHeld(approval=hold.id, parameters=kept, **x.recorder.stamp(x.proposal.id, turn.action.id, 6))
        )
        x.recorder.writer.flush()
    return hold


def _changed_since(last: Hold | None, files: tuple[FileShown, ...]) -> list[str]:
    """Why an approved call is asked about again: the files that are not what the last question showed."""
    if last is None or last.status != "approved":
        return []
    shown = {file.path: file.digest for file in last.files}
    changed = [file.path for file in files if shown.get(file.path, file.digest) != file.digest]
    return [f"`{path}` has changed since it was approved" for path in changed]


def _without_secrets(turn: Turn, desk: Desk) -> dict[str, Any]:
    """The parameters as the question shows them, without what the tool's schema marks as secret: the store knows no marks."""
    shown: dict[str, Any] = desk.questions.redact(turn.parameters, () if turn.tool is None else turn.tool.secrets)
    return shown


def _schema(turn: Turn) -> dict[str, Any] | None:
    """What edited parameters must fit."""
    if turn.tool is None:
        return state_schema(turn.action).definition
    return None if turn.tool.schema is None else turn.tool.schema.definition


def _compensation(turn: Turn) -> Any:
    given = turn.action.compensation
    if given is not None:
        return getattr(given, "tool", None) or getattr(given, "action_id", None)
    template = turn.tool.tool.compensation if turn.tool is not None else None
    return template.tool if template is not None else None


def _paths(turn: Turn, parameters: dict[str, Any]) -> list[Any]:
    """The paths among the parameters, in the order of the tool's marks, and those that the call writes besides (undo)."""
    tool = turn.tool
    if turn.x.services.workspace is None or tool is None:
        return []
    pointers = [tuple(pointer.split("/")[1:]) for pointer, mark in tool.marks if mark.startswith("path.")]
    entailed = sorted(write.where for write in turn.x.entailed.get(turn.index, ()) if write.tool is not None)
    return [
        *(value for steps in pointers for value in values_at(parameters, steps)),
        *(msgspec.json.decode(where) for where in entailed),
    ]


async def _files(turn: Turn) -> tuple[FileShown, ...]:
    """The files among the parameters, as they are now. A name can be a secret like any other text."""
    desk, paths = turn.x.services.desk, _paths(turn, turn.parameters)
    assert desk is not None
    redact = desk.questions.redact
    return tuple(
        FileShown(path=redact(_shown(path)), digest=digest, there=there)
        for path, (digest, there) in zip(paths, await _look_at(turn.x, paths), strict=True)
    )


def _shown(path: Any) -> str:
    """A path parameter as the question shows it; a text that only looks like the other form is told apart by `./`."""
    if isinstance(path, str):
        return f"./{path}" if path.startswith('{"b64":') else path
    return msgspec.json.encode(path).decode()


async def _look_at(x: Execution, paths: Sequence[Any]) -> list[tuple[str | None, bool]]:
    """What each path names now; on a thread, because a large file takes a while to read."""
    workspace = x.services.workspace
    if workspace is None or not paths:
        return []
    found: list[tuple[str | None, bool]] = await x.services.threads.run(
        x.loop, lambda: [_look(workspace, path) for path in paths]
    )
    keyed = x.services.redactor.keyed  # a file can be small and secret, and its digest stands in the question
    return [(None if digest is None else keyed(digest), there) for digest, there in found]


def _look(workspace: Workspace, path: Any) -> tuple[str | None, bool]:
    """The digest of what a path names now, and whether there is anything."""
    try:
        place = workspace.locate(path)
        seen = workspace.examine(place)
    except ToolError:
        return None, True  # it cannot be read: then it is not shown, and the tool will say why
    node = seen.node
    # The place belongs to it: a link on the way that leads elsewhere now is a change of what was shown.
    text = b"%b\0%b" % (b"/".join(place), f"{node.kind}:{node.sha256}:{node.mode}".encode())
    return "sha256:" + hashlib.sha256(text).hexdigest(), node.kind != "absent"


async def _answer(turn: Turn, hold: Hold) -> Hold:
    """Wait for the answer, or leave the question open if nobody waits here."""
    x = turn.x
    desk = x.services.desk
    assert desk is not None
    desk.tell(hold)
    if not desk.waits:
        raise HeldError(hold)
    left_ms = max(0, hold.expires_at_us - desk.store.time.now_us()) / 1000
    tell_waiting(x, turn.index, "approval", f"an answer to `{hold.id}`", left_ms, step=6)
    x.allowance.release()
    before = x.clock.mono_ns()
    try:
        return await turn.slot.pool.wait_outside(desk.waiter(x.loop).wait_answered(hold.id))
    finally:
        turn.waited_ns += x.clock.mono_ns() - before


async def _apply(turn: Turn, hold: Hold) -> Refusal | None:
    """What an answered question means for the call."""
    x = turn.x
    desk = x.services.desk
    assert desk is not None
    turn.asked = True
    shown = _paths(turn, turn.proposed if hold.asked_digest == _digest(turn, turn.proposed) else turn.parameters)
    last = hold.votes[-1] if hold.votes else None
    approver = last.approver if last is not None else None
    recorder = x.recorder
    if hold.status != "approved":
        if recorder is not None:
            recorder.append(
                HoldResolved(
                    approval=hold.id,
                    decision=hold.status,
                    approver=approver,
                    **recorder.stamp(x.proposal.id, turn.action.id, 6),
                )
            )
        who = f" by `{approver}`" if approver and hold.status == "denied" else ""
        why = f": {hold.decision_reason}" if hold.decision_reason and hold.status == "denied" else ""
        said = {"expired": "got no answer in time", "cancelled": "was withdrawn"}.get(
            hold.status, f"was denied{who}{why}"
        )
        return Refusal(_REFUSALS[hold.status], f"approval `{hold.id}` {said}")
    if hold.edits and hold.asked_digest == _digest(turn, turn.parameters):  # else the journal has the edit already
        for patch in hold.edits:
            turn.parameters = merge_patch(turn.parameters, patch)
        x.edited[turn.index] = turn.parameters
    if recorder is not None:
        kept = recorder.keep(turn.parameters) if hold.edits else None
        stamp = recorder.stamp(x.proposal.id, turn.action.id, 6)
        recorder.append(
            HoldResolved(approval=hold.id, decision="approved", approver=approver, parameters=kept, **stamp)
        )
        if hold.edits:
            recorder.writer.flush()  # the database never has what was edited: after a crash only the journal tells it
    if not desk.store.consume(hold.id, hold.digest, "/".join(_where(turn))):
        return Refusal("approval_denied", f"approval `{hold.id}` was used by another call")
    if len(shown) == len(hold.files):
        turn.shown = tuple(zip(shown, (file.digest for file in hold.files), strict=True))
        turn.discharged |= hold.discharged
        await forget_if_changed(turn)
    return None


async def forget_if_changed(turn: Turn) -> None:
    """Take the approval back if what was shown is not what is there: judged again without it, so asked again."""
    there = await _look_at(turn.x, [path for path, _ in turn.shown])
    if any(seen != digest for (seen, _), (_, digest) in zip(there, turn.shown, strict=True)):
        turn.discharged, turn.shown = frozenset(), ()
