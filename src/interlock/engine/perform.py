"""Steps 2 to 10 of the gate for one action, from the moment the scheduler lets it go to its row.

    2-5  judged (`gate`)
    6    asked, if held; after any wait 2 to 5 and 7 run again
    7    admitted: dedup, cache, budget, rate limit, resource guard
    8    intent on disk
    9    executed, with an enforced time-out
    10   outcome journaled, effects into the proposal's buffer

Every way out of here gives the action a row, except the caller's cancellation before an intent: then nothing happened, and
a resumed run starts the action as if for the first time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from interlock.engine import admission, asking
from interlock.engine.attempt import Failure, attempt
from interlock.engine.filling import filled
from interlock.engine.registry import Registered
from interlock.engine.scheduler import Outcome
from interlock.engine.turn import Turn, give_back, reject, skip, wait
from interlock.engine.watchdog import Slot
from interlock.model.decision import Decision, Refusal
from interlock.model.errors import ConflictError, ToolError
from interlock.model.events import ActionFailed, ActionRetrying, ActionValidated, PolicyDecided
from interlock.model.result import ActionResult
from interlock.verify.graph import references

if TYPE_CHECKING:
    from interlock.engine.execution import Execution

_RETRY_BASE_MS = 100
_RETRY_MAX_MS = 30_000


async def perform(x: Execution, slot: Slot, index: int) -> None:
    """Take one action through the gate; its row is in `x.rows` afterwards."""
    proposed = x.proposal.actions[index].parameters
    turn: Turn | None = None
    try:
        if index in x.graph.referring:
            proposed = filled(x, proposed)
        turn = Turn(x, slot, index, proposed)
        # 2 to 7; the usual case needs no coroutine of its own
        verdict = judge(turn)
        if (verdict is None and admission.is_free(turn)) or await _passes(turn, verdict):
            # 8 to 10
            number = x.attempts_before.get(index, 0) + 1
            failure = await attempt(turn, number)
            if failure is not None:
                await _after_failure(turn, failure, number)
    except asking.HeldError:
        return  # it has its row, and waits for a human
    except asyncio.CancelledError:
        if turn is not None:
            give_back(turn)
        if slot.stopped is None:
            raise
        slot.task.uncancel()  # no intent, no effect: `ending` gives it its row
    except ToolError as error:  # a reference into an output that is not there
        turn = Turn(x, slot, index, proposed)
        if x.dry_run:
            _look_ahead(turn)
        else:
            reject(turn, Refusal(error.code, error.message, error.path))
    except ConflictError as error:  # somebody else changed the state while this proposal looked at it
        reject(Turn(x, slot, index, proposed), Refusal(error.code, error.message))


async def _passes(turn: Turn, verdict: Refusal | Decision | None) -> bool:
    """Steps 6 and 7 after the verdict of 2 to 5, which is asked for anew after any wait. False if the action has its row."""
    while True:
        if isinstance(verdict, Decision):
            # 6
            verdict = await asking.ask(turn, verdict)
            if verdict is None:
                verdict = judge_again(turn)
                continue
        if verdict is not None:
            reject(turn, verdict)
            return False
        # 7
        waited = turn.waited_ns
        if await admission.admit(turn):
            return False
        if turn.waited_ns == waited:
            break
        if turn.failed is None:  # else it may have been the action itself that changed them
            await asking.forget_if_changed(turn)
        verdict = judge_again(turn)
    if turn.x.dry_run:
        _would_run(turn)
        return False
    turn.admitted = False  # what was reserved is being used
    return True


def judge(turn: Turn) -> Refusal | Decision | None:
    """Steps 2 to 5: a refusal, a decision to ask about, or None to go on."""
    x = turn.x
    if turn.tool is None and turn.action.type == "tool_call":
        return Refusal("unknown_tool", x.services.registry.missing(turn.action.tool), "$.tool")
    tool, gate = turn.tool, x.gate
    if gate.replaced or (gate.issued and not x.services.gate_is_current(gate)):
        gate = x.gate = x.services.gate_for(x.who.session)
        x.settled.clear()
    refusal: Refusal | None = None
    decision = x.settled.get(tool)
    if decision is None or turn.index in x.graph.stateful or not fits(tool, turn.parameters):
        turn.step, refusal, decision = gate.judge(
            x.who, x.proposal, turn.action, tool, turn.parameters, x.buffer, turn.discharged
        )
        if tool is not None and (settled := gate.settled(x.who, tool)) is not None:
            x.settled[tool] = settled
    recorder = x.recorder
    if recorder is not None and decision is not None:
        recorder.append(
            PolicyDecided(
                ts=x.clock.now_us(),
                mono=x.clock.mono_ns(),
                proposal=x.proposal.id,
                action=turn.action.id,
                step=5,
                decision=decision.decision,
                policies=decision.policies,
                errors=decision.errors,
            )
        )
    if refusal is not None:
        return refusal
    if decision is not None and decision.decision == "hold":
        return decision
    return None


def judge_again(turn: Turn) -> Refusal | Decision | None:
    """Steps 2 to 5 after a wait: under the rules as they are now."""
    turn.x.services.refresh()
    return judge(turn)


def fits(tool: Registered | None, parameters: dict[str, Any]) -> bool:
    """True if parameters fit the schema of a tool."""
    return tool is not None and (tool.schema is None or tool.schema.is_valid(parameters))


def _would_run(turn: Turn) -> None:
    """The end of a dry run's way: steps 1 to 7 are passed, and the buffer sees what the action would write."""
    x = turn.x
    if turn.action.type == "state_write":
        x.buffer.write(turn.parameters["key"], turn.parameters.get("value"), turn.action.id)
    for key, value in turn.action.expected_effects.items():
        x.buffer.claim(key, value)
    if x.recorder is not None:
        x.recorder.append(ActionValidated(**x.recorder.stamp(x, turn.index, 7)))
    skip(turn, "dry_run", "it would run", Outcome.DONE)


def _look_ahead(turn: Turn) -> None:
    """Dry run: the parameters come from an output that there is not. Only what does not depend on them can be said."""
    x = turn.x
    turn.step, refusal, _ = x.gate.judge(x.who, x.proposal, turn.action, turn.tool, turn.parameters, x.buffer)
    if turn.step == 2 and refusal is not None:
        reject(turn, refusal)
    else:
        names = ", ".join(sorted({f"`${name}.output`" for name, _ in references(turn.parameters)}))
        skip(turn, "dry_run", f"what the gate says depends on {names}, which a dry run does not have", Outcome.DONE)


async def _after_failure(turn: Turn, failure: Failure, number: int) -> None:
    """Steps 8 to 10 again, as often as `failure_behavior: retry` allows; else the row."""
    x, action = turn.x, turn.action
    retries = action.max_retries if action.failure_behavior == "retry" else 0
    while failure.status != "cancelled":
        again = failure.retryable and retries > 0 and not x.scheduler.halted
        record_failure(turn, failure, number, final=not again)
        if not again:
            return
        retries -= 1
        x.attempts_made += 1
        turn.failed = failure, number
        if await _back_off(turn, number):
            return
        number += 1
        outcome = await attempt(turn, number)
        if outcome is None:
            return
        failure = outcome


def record_failure(turn: Turn, failure: Failure, number: int, *, final: bool) -> None:
    """Step 10 for an attempt that did not succeed; the row is made only if it was the last one."""
    x, action, recorder = turn.x, turn.action, turn.x.recorder
    seq: int | None = None
    if recorder is not None and failure.event is None:
        ctx = failure.context
        seq = recorder.append(
            ActionFailed(
                attempt=number,
                reason=failure.reason,
                error=recorder.text(failure.message),
                duration_ms=failure.duration_ms,
                waited_ms=turn.waited_ns / 1e6,
                final=final,
                output=None if failure.output is None else recorder.keep(failure.output),
                cost=ctx.cost,
                posture=ctx.layers or {},
                telemetry=failure.journaled,
                not_undoable=tuple(map(recorder.text, ctx.not_undoable or ())),
                **recorder.stamp(x, turn.index, 10),
            )
        )
        recorder.writer.kick()
    elif failure.event is not None:
        seq = failure.event
    if not final:
        return
    row = ActionResult(
        action_id=action.id,
        status=failure.status,
        reason=failure.reason,
        output=failure.output,
        error=failure.message,
        attempts=number,
        duration_ms=failure.duration_ms,
        waited_ms=turn.waited_ns / 1e6,
        timestamp=x.clock.now_us(),
        seq=seq,
        posture=failure.context.layers,
        telemetry=failure.telemetry,
    )
    x.finished(turn.index, row, Outcome.FAILED if action.failure_behavior == "skip" else Outcome.ABORT)


async def _back_off(turn: Turn, number: int) -> bool:
    """Wait before the next attempt (exponential, full jitter), then judge again. True if the action got its row."""
    x = turn.x
    bound = min(_RETRY_MAX_MS, _RETRY_BASE_MS * 2 ** min(number - 1, 20))
    delay_ms = round(x.services.jitter() * bound)
    if x.recorder is not None:
        x.recorder.append(ActionRetrying(attempt=number + 1, delay_ms=delay_ms, **x.recorder.stamp(x, turn.index, 9)))
    try:
        await wait(turn, delay_ms / 1000)
        return not await _passes(turn, judge_again(turn))
    except asking.HeldError:
        return True
    except asyncio.CancelledError:
        give_back(turn)
        if turn.slot.stopped is None:
            raise
        turn.slot.task.uncancel()
        x.rows[turn.index] = ActionResult(
            action_id=turn.action.id,
            status="cancelled",
            reason=turn.slot.stopped,
            attempts=number,
            waited_ms=turn.waited_ns / 1e6,
            timestamp=x.clock.now_us(),
        )
        x.order_ended.append(turn.index)  # its earlier attempts may have left something
        return True
