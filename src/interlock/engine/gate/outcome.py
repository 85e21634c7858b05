"""Step 10 for one action, and every other end of an action: journals the outcome, and buffers the state writes."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from interlock.engine.gate.admission import Admitted, Exhausted, Stored, remember
from interlock.engine.proposals.action_run import ActionRun, Ended
from interlock.engine.proposals.attempt import Failure, Output
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.record import rows
from interlock.engine.record.recorder import Recorder
from interlock.engine.scheduler import Outcome
from interlock.model.decision import Refusal
from interlock.model.events import (
    ActionCancelled,
    ActionDeduplicated,
    ActionFailed,
    ActionRejected,
    ActionSkipped,
    ActionSucceeded,
    ActionUnknown,
    ActionValidated,
    EffectDivergence,
    Kept,
)
from interlock.telemetry import Snapshot, report
from interlock.verify.conditions import equal
from interlock.verify.templates import fill

_DONE: Final = Outcome.DONE

# -- step 10


def settle(action: ActionRun, attempt: ActionContext, result: Output | Failure) -> Ended:
    """End the last attempt: journal the outcome, buffer the state writes of a success, and make the row."""
    if type(result) is not Output:
        assert isinstance(result, Failure)
        return _stop(action, attempt, result) if result.stopped else _fail(action, attempt, result)
    run, spec, tool = action.run, action.spec, action.tool
    telemetry = seq = None
    if run.recorder is not None or attempt.usage:
        telemetry, journaled = _telemetry(action, attempt, result.duration_ms)
        if run.recorder is not None:
            seq = _record_success(run.recorder, action, attempt, result, journaled)
    touches_state = tool is None or not tool.plain or spec.expected_effects
    changes = _write_effects(action, result.value) if touches_state else {}
    row = rows.succeeded(
        spec.id, result.value, run.clock.now_us(), seq, attempt.attempt, result.duration_ms, action.waited_ns / 1e6,
        changes, attempt.layers, telemetry, hosts=attempt.hosts,
    )  # fmt: skip
    if attempt.not_undoable:
        run.not_undoable[action.index] = attempt.not_undoable
    if attempt.cost or attempt.reserved is not None or not run.allowance.free:
        run.spend(result.duration_ms, attempt.use)
    if tool is not None and (spec.idempotent or tool.cache_ttl_ns):
        remember(action, row)
    return Ended(row, _DONE)


def _fail(action: ActionRun, attempt: ActionContext, result: Failure) -> Ended:
    seq, telemetry = record_failure(action, result, final=True)
    row = rows.failed(
        action.spec.id,
        result.reason,
        result.message,
        at_us=action.run.clock.now_us(),
        seq=seq,
        attempts=attempt.attempt,
        output=result.output,
        duration_ms=result.duration_ms,
        waited_ms=action.waited_ms,
        posture=attempt.layers,
        telemetry=telemetry,
        unknown=result.status == "unknown_outcome",
        hosts=attempt.hosts,
    )
    return Ended(row, _failure_outcome(action))


def record_failure(action: ActionRun, failure: Failure, *, final: bool) -> tuple[int | None, dict[str, Any] | None]:
    """Journal a failed attempt, and count its use. Returns the event's number and the row's telemetry."""
    run, attempt = action.run, failure.attempt
    telemetry, journaled = _telemetry(action, attempt, failure.duration_ms)
    if attempt.not_undoable:
        run.not_undoable[action.index] = attempt.not_undoable
    if failure.status == "unknown_outcome":
        seq = _record_unknown(action, failure)
    else:
        seq = action.record(
            10,
            lambda recorder: ActionFailed(
                attempt=attempt.attempt,
                reason=failure.reason,
                error=recorder.text(failure.message),
                duration_ms=failure.duration_ms,
                waited_ms=action.waited_ms,
                final=final,
                output=None if failure.output is None else _keep(recorder, action, failure.output),
                cost=attempt.cost,
                tokens=attempt.tokens,
                cost_unknown=attempt.cost_unknown,
                posture=attempt.layers or {},
                telemetry=journaled,
                not_undoable=tuple(map(recorder.text, attempt.not_undoable or ())),
                hosts=attempt.hosts or (),
            ),
        )
    run.kick()
    run.spend(failure.duration_ms, attempt.use)
    return seq, telemetry


def _record_unknown(action: ActionRun, failure: Failure) -> int | None:
    attempt = failure.attempt
    return action.record(
        10,
        lambda recorder: ActionUnknown(
            attempt=attempt.attempt,
            reason=failure.reason,
            detail=recorder.text(failure.message),
            cost=attempt.cost,
            tokens=attempt.tokens,
            cost_unknown=attempt.cost_unknown,
        ),
    )


def _record_success(
    recorder: Recorder, action: ActionRun, attempt: ActionContext, output: Output, telemetry: dict[str, Any] | None
) -> int:
    event = ActionSucceeded(
        attempt=attempt.attempt,
        duration_ms=output.duration_ms,
        output=_keep(recorder, action, output.value, output.data),
        waited_ms=action.waited_ns / 1e6,
        cost=attempt.cost,
        tokens=attempt.tokens,
        cost_unknown=attempt.cost_unknown,
        posture=attempt.layers or {},
        telemetry=telemetry,
        not_undoable=tuple(map(recorder.text, attempt.not_undoable)) if attempt.not_undoable else (),
        hosts=attempt.hosts or (),
    )
    seq = recorder.record(event, action.run.proposal.id, action.spec.id, 10)
    recorder.writer.kick(action.run.loop)
    return seq


def _keep(recorder: Recorder, action: ActionRun, output: Any, data: bytes | None = None) -> Kept:
    known, secrets = action.digested, () if action.tool is None else action.tool.secrets
    parameters = known.data if known is not None and known.parameters is action.parameters else None
    return recorder.keep_output(output, action.parameters, secrets, data, parameters)


def _stop(action: ActionRun, attempt: ActionContext, failure: Failure) -> Ended:
    """The engine or the caller stopped the action; `failure_behavior` does not matter, since the whole proposal stops."""
    run, unknown = action.run, failure.status == "unknown_outcome"
    error = failure.message or run.why_stopped(failure.reason)
    if unknown:
        seq = _record_unknown(action, failure)
    else:
        seq = action.record(
            10,
            lambda recorder: ActionCancelled(
                attempt=attempt.attempt,
                reason=failure.reason,
                detail=recorder.text(error or ""),
                duration_ms=failure.duration_ms,
                hosts=attempt.hosts or (),
                cost=attempt.cost,
                tokens=attempt.tokens,
                cost_unknown=attempt.cost_unknown,
            ),
        )
    run.kick()
    row = rows.stopped(
        action.spec.id,
        failure.reason,
        at_us=run.clock.now_us(),
        seq=seq,
        attempts=attempt.attempt,
        error=error,
        unknown=unknown,
        output=failure.output,
        duration_ms=failure.duration_ms,
        waited_ms=action.waited_ms,
        posture=attempt.layers,
        hosts=attempt.hosts,
    )
    if failure.started and attempt.not_undoable:
        run.not_undoable[action.index] = attempt.not_undoable
    run.spend(failure.duration_ms, attempt.use)
    return Ended(row, undoable=failure.started, raises=failure.raises)


def _write_effects(action: ActionRun, output: Any) -> dict[str, Any]:
    """The state writes of a success: a state_write's key, and the effects that the tool's definition declares."""
    run, spec, tool = action.run, action.spec, action.tool
    observed: dict[str, Any] = {}
    if spec.type == "state_write":
        observed[action.parameters["key"]] = action.parameters.get("value")
    elif tool is not None:
        for key, template in tool.tool.effects.items():
            observed[key] = fill(template, action.parameters, output)
    for key, value in observed.items():
        run.write_state(action.index, key, value)
    for key, claimed in spec.expected_effects.items():
        # Only conditions of this proposal see claims; claims never reach the store.
        if key not in observed:
            run.buffer.claim(key, claimed)
        elif equal(observed[key], claimed):
            continue
        action.record(10, partial(_diverged, key=key))
    return observed


def _diverged(_: Recorder, *, key: str) -> EffectDivergence:
    return EffectDivergence(key=key)


_BRIEF_MS: Final = 10
"""A shorter action has only one reading of the machine: a second one would cost too much of its time. The reading after a longer
action is at most this old, and so is from its end."""


def _telemetry(
    action: ActionRun, attempt: ActionContext, duration_ms: float
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The readings of the machine before and after, and the action's own use, in the row's form and in the event's form.

    None for state actions. An event refers to readings by number, because most actions share theirs with others.
    """
    own, before, run = attempt.usage, attempt.before, action.run
    if before is None or run.services.sampler is None or run.recorder is None:
        found = {"own": own} if own else None
        return found, found
    recorder, sampler = run.recorder, run.services.sampler
    # An action that may have changed something gets a reading after it, unless it was too short to affect one.
    if action.tool is None or action.tool.read_only:
        after = sampler.latest()
    else:
        after = before if duration_ms < _BRIEF_MS else sampler.fresh(_BRIEF_MS * 1_000_000)
    return _readings(recorder, before, after, own)


def _readings(
    recorder: Recorder, before: Snapshot, after: Snapshot, own: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    shown = report(before, after, own)
    seq = recorder.sampled(before)
    if after is before:
        numbers: dict[str, Any] = {"before": seq, "after": seq}
    else:
        numbers = {"before": seq, "after": recorder.sampled(after), "change": shown["change"]}
    if own:
        numbers["own"] = own
    return shown, numbers


# -- ends before step 8


def end_unadmitted(action: ActionRun, answer: Stored | Refusal | Exhausted | Admitted) -> Ended | None:
    """End the action as the answer of step 7 requires; None if the action continues."""
    if isinstance(answer, Admitted):
        return None
    if isinstance(answer, Stored):
        return _take_stored(action, answer)
    if isinstance(answer, Exhausted):
        return _exhaust(action, answer.detail)
    return reject(action, answer)


def _telemetry_of_refusal(action: ActionRun) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """A reading of the machine when the action was refused; nothing ran that could have changed it."""
    run = action.run
    reading = None if run.recorder is None or action.tool is None or run.dry_run else run.services.machine()
    if reading is None or run.recorder is None:
        return None, None
    return _readings(run.recorder, reading, reading, None)


def reject(action: ActionRun, refusal: Refusal) -> Ended:
    """End an action that steps 2 to 7 refused: its row is `rejected`, and `failure_behavior` decides about the other actions."""
    action.refund()
    telemetry, journaled = _telemetry_of_refusal(action)
    seq = action.record(
        action.step,
        lambda recorder: ActionRejected(
            reason=refusal.reason, detail=recorder.text(refusal.detail), telemetry=journaled
        ),
    )
    row = rows.rejected(
        action.spec.id,
        refusal.reason,
        refusal.detail,
        at_us=action.run.clock.now_us(),
        seq=seq,
        attempts=0 if action.failed is None else action.failed.attempt.attempt,
        waited_ms=action.waited_ms,
        telemetry=telemetry,
    )
    return Ended(row, _failure_outcome(action))


def skip(
    action: ActionRun,
    reason: str,
    detail: str = "",
    outcome: Outcome = Outcome.FAILED,
    stop: str | None = None,
    would: Any = None,
) -> Ended:
    """End an action that will not run, without a failure: a budget is used up, or this is a dry run (and it `would` do this)."""
    seq = action.record(
        7,
        lambda recorder: ActionSkipped(
            reason=reason,
            detail=recorder.text(detail),
            would=None if would is None else _keep(recorder, action, would),
        ),
    )
    row = rows.skipped(
        action.spec.id,
        reason,
        detail or None,
        at_us=action.run.clock.now_us(),
        seq=seq,
        waited_ms=action.waited_ms,
        output=would,
    )
    return Ended(row, outcome, stop=stop)


def hold(action: ActionRun, approval: str, summary: str) -> Ended:
    """End an action as held: it waits for a person, and no worker waits with it. The run can be resumed."""
    row = rows.held(
        action.spec.id,
        "held",
        f"waiting for approval `{approval}`: {summary}",
        at_us=action.run.clock.now_us(),
        approval=approval,
        waited_ms=action.waited_ms,
    )
    return Ended(row)


def cancel_retry(action: ActionRun, failure: Failure, reason: str) -> Ended:
    """End an action that the engine stopped while it waited for its next attempt. Its earlier attempts may have had effects."""
    row = rows.stopped(
        action.spec.id,
        reason,
        at_us=action.run.clock.now_us(),
        seq=None,
        attempts=failure.attempt.attempt,
        error=action.run.why_stopped(reason),
        waited_ms=action.waited_ms,
    )
    return Ended(row, undoable=True)


def dry_run(action: ActionRun, result: Output | Failure | None = None) -> Ended:
    """End a dry run: the action passed steps 1 to 7, and its state writes go into the buffer.

    `result` is the tool's description of its changes, if it supports dry runs.
    """
    run = action.run
    if action.spec.type == "state_write":
        run.buffer.write(action.parameters["key"], action.parameters.get("value"), action.spec.id)
    for key, value in action.spec.expected_effects.items():
        run.buffer.claim(key, value)
    action.record(7, lambda _: ActionValidated())
    if isinstance(result, Failure):
        # Not a failure of the proposal: an earlier action may make it possible.
        detail = f"it would run, and fail as things are now: {result.reason}: {result.message}"
        return skip(action, "dry_run", detail, Outcome.DONE, would=result.output)
    return skip(action, "dry_run", "it would run", Outcome.DONE, would=None if result is None else result.value)


def _take_stored(action: ActionRun, stored: Stored) -> Ended:
    """End an action with an earlier call's result: nothing runs, nothing is committed again, nothing is spent."""
    action.refund()
    seq = action.record(
        7,
        lambda recorder: ActionDeduplicated(
            source=stored.source,
            output=_keep(recorder, action, stored.output),
            state_changes=recorder.shown(stored.state_changes),
        ),
    )
    row = rows.succeeded(
        action.spec.id,
        stored.output,
        action.run.clock.now_us(),
        seq,
        waited_ms=action.waited_ms,
        changes=stored.state_changes,
        source=stored.source,
    )
    return Ended(row, Outcome.DONE)


def _exhaust(action: ActionRun, detail: str) -> Ended:
    """End an action because a budget is used up. If it was waiting for a retry, it has failed, and its row gives this reason."""
    failure = action.failed
    if failure is None:
        return skip(action, "budget_exceeded", detail, stop="budget_exceeded")
    error = f"{failure.message}; and {detail}"
    number = failure.attempt.attempt
    seq = action.record(
        7,
        lambda recorder: ActionFailed(
            attempt=number,
            reason="budget_exceeded",
            error=recorder.text(error),
        ),
    )
    row = rows.failed(
        action.spec.id,
        "budget_exceeded",
        error,
        at_us=action.run.clock.now_us(),
        seq=seq,
        attempts=number,
        output=failure.output,
        duration_ms=failure.duration_ms,
        waited_ms=action.waited_ms,
        posture=failure.attempt.layers,
    )
    return Ended(row, Outcome.FAILED, stop="budget_exceeded")


def _failure_outcome(action: ActionRun) -> Outcome:
    return Outcome.FAILED if action.spec.failure_behavior == "skip" else Outcome.ABORT
