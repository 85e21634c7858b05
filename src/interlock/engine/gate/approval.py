"""Step 6: asks a person, and waits for the answer while other actions continue.

The question is in the database before anyone is notified. It survives this process: a resumed run finds the same question by
run, proposal and action. An approval covers exactly one digest of tool, version and parameters, and this action uses it once.
Afterwards the gate judges again without the approved policies; if a file that the question showed has changed meanwhile, the
question is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from interlock.approvals import (
    Hold,
    HoldRequest,
    merge_patch,
    summary_line,
    without_effect,
)
from interlock.engine.gate.admission import waiting
from interlock.engine.gate.call_digest import call_of, digest_of, lifetime_of, tool_of
from interlock.engine.gate.effects import drop_effect, find_effect, is_outdated
from interlock.engine.gate.run_preview import preview_effect
from interlock.engine.gate.shown_files import changed_since, forget_if_changed, look_at_files, paths_of
from interlock.engine.judges.judges import state_schema
from interlock.engine.judges.verdict import ALLOW, Allow, Held
from interlock.engine.people.approval_desk import Desk
from interlock.engine.proposals.action_run import ActionRun
from interlock.engine.proposals.waiting import tell_waiting
from interlock.engine.record.recorder import LARGE_BYTES
from interlock.model.canonical import canonical
from interlock.model.decision import Decision, Refusal
from interlock.model.events import ActionHeld, HoldResolved

_OUTDATED = "what it would change is not what was approved: it was run again"
_REFUSALS = {"denied": "approval_denied", "expired": "approval_expired", "cancelled": "approval_cancelled"}


async def ask(action: ActionRun, decision: Decision) -> Allow | Held | Refusal:
    """Ask, wait, and apply the answer. After an `Allow` the action is judged again, without the approved policies."""
    action.step = 6
    run = action.run
    desk = run.services.desk
    if run.dry_run or desk.cannot_ask:
        names = ", ".join(f"`{requirement.policy}`" for requirement in decision.requirements)
        what = "a run would ask" if run.dry_run else f"the rules say to ask first, and {desk.cannot_ask}"
        return Refusal("approval_required", f"{what} ({names})")
    await find_effect(action)
    hold = _existing(action)
    # The action's own answer takes precedence: this call uses it up, and it may contain an edit.
    if (hold is None or hold.status == "pending") and _is_covered(action, desk, decision, hold):
        await drop_effect(action)  # no person has approved the effect: the call runs on the current files
        return ALLOW
    hold = hold or await _new(action, decision)
    if hold.status == "pending":
        desk.tell(hold)
        if not desk.waits:
            return Held(hold.id, hold.summary)
        hold = await _wait_answered(action, desk, hold)
    return await _apply(action, desk, hold)


def _is_covered(action: ActionRun, desk: Desk, decision: Decision, hold: Hold | None) -> bool:
    """Use a standing answer, if there is one, unless the question is asked because an approved file has changed.

    `hold` is the action's own open question, if there is one; it is then withdrawn.
    """
    if action.changed or (hold is not None and _is_asked_again(action, desk)):
        return False
    run, (name, version) = action.run, tool_of(action)
    contents = [requirement.content for requirement in decision.requirements]
    if desk.store.standing.use(run.principal.agent, run.principal.session, name, version, contents) is None:
        return False
    action.discharged |= frozenset(contents)
    if hold is not None:
        desk.store.cancel(hold.id, "a wider answer covers the call")
    return True


def _is_asked_again(action: ActionRun, desk: Desk) -> bool:
    """True if an approval before the open question was not used, because a file had changed since."""
    where = _where(action)
    return any(
        (hold.run, hold.proposal, hold.action) == where and hold.status == "approved"
        for hold in desk.store.of_run(where[0])
    )


def _where(action: ActionRun) -> tuple[str, str, str]:
    return action.run.files.id, action.run.proposal.id, action.spec.id


def _existing(action: ActionRun) -> Hold | None:
    """The question that an earlier process asked about exactly this call, if it is not used up.

    A denial or an expiry remains valid: ending the process must not lead to another answer. A withdrawn question is asked again.
    """
    desk = action.run.services.desk
    hold = desk.store.for_action(*_where(action))
    # As proposed, or as an approver edited it in an earlier question.
    if hold is None or hold.asked_digest not in (_digest(action, action.proposed), _digest(action, action.parameters)):
        return None
    if hold.status == "approved":
        return hold if hold.consumed_by in (None, "/".join(_where(action))) and not action.asked else None
    return None if hold.status == "cancelled" else hold


def _digest(action: ActionRun, parameters: dict[str, Any]) -> str:
    return digest_of(action, canonical(parameters))


async def _new(action: ActionRun, decision: Decision) -> Hold:
    run, services = action.run, action.run.services
    desk = services.desk
    before = desk.store.for_action(*_where(action))
    effect = await preview_effect(action)
    name, version = call_of(action)
    run_id, proposal_id, action_id = _where(action)
    files, changes = await look_at_files(action)
    redact = desk.questions.redact  # a reason may name a state key
    data = canonical(action.parameters)
    parameters = await _without_secrets(action, desk, len(data))
    needs = tuple(msgspec.structs.replace(r, reason=redact(r.reason)) for r in decision.requirements)
    reasons = [r.reason for r in needs if r.reason] + changed_since(before, files)
    if effect is not None:
        changes += effect.changes
        reasons += [_OUTDATED] * _was_about_another(before, version) + [effect.reason]
    hold = desk.store.ask(
        HoldRequest(
            agent=run.principal.agent,
            session=run.principal.session,
            run=run_id,
            proposal=proposal_id,
            action=action_id,
            tool=name,
            tool_version=version,
            kind="tool_call",
            summary=summary_line(name + lifetime_of(action), parameters),
            reason="; ".join(reasons),
            parameters=parameters,
            schema=_schema(action),
            context={"source": run.proposal.source, "compensation": _compensation(action)}
            | _steps(action, redact)
            | ({} if run.token is None else {"grant": run.token}),
            digest=digest_of(action, data),
            requirements=needs,
            files=files,
            changes=changes,
            ttl_ms=desk.ttl_ms,
            ttl_max_ms=desk.ttl_max_ms,
            started_by=desk.user,
            separation=desk.separation,
        )
    )
    # The database has only the redacted form; an approver can ask for the original, which the journal keeps.
    secrets = () if action.tool is None else action.tool.secrets
    action.record(
        6,
        lambda recorder: ActionHeld(
            approval=hold.id,
            parameters=recorder.keep(action.parameters, secrets),
        ),
    )
    run.flush()
    return hold


async def _without_secrets(action: ActionRun, desk: Desk, size: int) -> dict[str, Any]:
    """The parameters as the question shows them, without those that the tool's schema marks as secret; the store has no schema.

    `size` is their length as JSON: if they are large, other actions continue meanwhile.
    """
    secrets = () if action.tool is None else action.tool.secrets
    redact = desk.questions.redact
    shown: dict[str, Any]
    if size > LARGE_BYTES:
        shown = await action.run.services.threads.run(action.run.loop, redact, action.parameters, secrets)
    else:
        shown = redact(action.parameters, secrets)
    return shown


def _schema(action: ActionRun) -> dict[str, Any] | None:
    """The schema that edited parameters must match."""
    if action.tool is None:
        return state_schema(action.spec).definition
    return None if action.tool.schema is None else action.tool.schema.definition


def _compensation(action: ActionRun) -> Any:
    given = action.spec.compensation
    if given is not None:
        return getattr(given, "tool", None) or getattr(given, "action_id", None)
    template = action.tool.tool.compensation if action.tool is not None else None
    return template.tool if template is not None else None


def _steps(action: ActionRun, redact: Callable[[Any], Any]) -> dict[str, Any]:
    """The actions that the call represents (`Binding.expand`): each is judged by itself, and shown with the call."""
    if action.tool is None or action.tool.binding.expand is None:
        return {}
    rest = [one for one in action.run.proposal.actions if one is not action.spec]
    return {"steps": [{"id": a.id, "tool": a.tool or a.type, "parameters": redact(a.parameters)} for a in rest]}


def _was_about_another(before: Hold | None, version: str) -> bool:
    """True if the approval was for an effect that the call no longer has."""
    approved = before is not None and before.status == "approved" and without_effect(before.tool_version)
    return bool(approved) and before is not None and before.tool_version not in (approved, version)


async def _wait_answered(action: ActionRun, desk: Desk, hold: Hold) -> Hold:
    """Wait for the answer, while other actions of the proposal continue."""
    run = action.run
    left_ms = max(0, hold.expires_at_us - desk.store.time.now_us()) / 1000
    tell_waiting(run, action.index, "approval", f"an answer to `{hold.id}`", left_ms, step=6)
    run.allowance.release()
    with waiting(action):
        return await action.slot.pool.wait_outside(desk.waiter(run.loop).wait_answered(hold.id))


async def _apply(action: ActionRun, desk: Desk, hold: Hold) -> Allow | Refusal:
    """Apply the answer of a question to the call."""
    run = action.run
    action.asked = True
    shown = paths_of(
        action, action.proposed if hold.asked_digest == _digest(action, action.proposed) else action.parameters
    )
    last = hold.votes[-1] if hold.votes else None
    approver = last.approver if last is not None else None
    if hold.status != "approved":
        await drop_effect(action)
        action.record(
            6,
            lambda _: HoldResolved(approval=hold.id, decision=hold.status, approver=approver),
        )
        who = f" by `{approver}`" if approver and hold.status == "denied" else ""
        why = f": {hold.decision_reason}" if hold.decision_reason and hold.status == "denied" else ""
        outcome = {"expired": "got no answer in time", "cancelled": "was withdrawn"}.get(
            hold.status, f"was denied{who}{why}"
        )
        return Refusal(_REFUSALS[hold.status], f"approval `{hold.id}` {outcome}")
    if hold.edits and hold.asked_digest == _digest(
        action, action.parameters
    ):  # otherwise the journal already has the edit
        for patch in hold.edits:
            action.parameters = merge_patch(action.parameters, patch)
        run.edited[action.index] = action.parameters
    action.record(
        6,
        lambda recorder: HoldResolved(
            approval=hold.id,
            decision="approved",
            approver=approver,
            parameters=recorder.keep(action.parameters) if hold.edits else None,
        ),
    )
    if hold.edits:
        run.flush()  # the edit is never in the database: after a crash only the journal has it
    if not desk.store.consume(hold.id, hold.digest, "/".join(_where(action))):
        return Refusal("approval_denied", f"approval `{hold.id}` was used by another call")
    if hold.edits:  # with other parameters the call has another effect: only the parameters were approved
        await drop_effect(action)
    elif await is_outdated(action):
        await drop_effect(action)
        action.changed = True
        return ALLOW  # and asked again
    if len(shown) == len(hold.files):
        action.shown = tuple(zip(shown, (file.digest for file in hold.files), strict=True))
        action.discharged |= hold.discharged
        await forget_if_changed(action)
    return ALLOW
