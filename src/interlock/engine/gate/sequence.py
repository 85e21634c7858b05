"""The order of the gate's ten steps for one action, from its release by the scheduler to its row.

Every exit gives the action a row, except a cancellation before the intent: then nothing was done, and a resumed run starts
the action from the beginning. (Step 1, for the proposal as a whole, is in `verify`.)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from interlock.engine.gate import outcome
from interlock.engine.gate.admission import ADMITTED, admit, needs_nothing, wait
from interlock.engine.gate.execute import execute, write_intent
from interlock.engine.gate.judgement import judge, judge_again
from interlock.engine.gate.retry import next_delay
from interlock.engine.gate.shown_files import forget_if_changed, pin_again
from interlock.engine.gate.tool_questions import AskingContext
from interlock.engine.judges.steps import judge_call
from interlock.engine.judges.verdict import ALLOW, Ask, Held, Verdict
from interlock.engine.proposals.action_run import ActionRun, Ended
from interlock.engine.proposals.attempt import Failure, Output
from interlock.engine.proposals.references import fill_references
from interlock.engine.proposals.waiting import tell_waiting
from interlock.engine.scheduler import Outcome
from interlock.lazy import lazy
from interlock.model.decision import Refusal
from interlock.model.errors import ConflictError, ToolError
from interlock.model.events import ActionRetrying

if TYPE_CHECKING:
    from interlock.engine.gate import approval
else:
    approval = lazy("interlock.engine.gate.approval")


async def take_action(action: ActionRun) -> Ended:
    """Take one action through the gate. Raises CancelledError for the caller's cancellation before the intent; StoreError."""
    run = action.run
    try:
        if action.index in run.graph.referring:
            action.propose(fill_references(run, action.spec.parameters))
        verdict = judge(action)  # 2, 3, 4, 5
        # 6 and 7; the usual case needs no extra coroutine
        if (verdict is not ALLOW or not needs_nothing(action)) and (ended := await _pass(action, verdict)):
            return ended
        number = run.attempts_before.get(action.index, 0) + 1
        retries = 0
        while True:
            attempt = AskingContext(run, action.index, number, action=action)
            stopped = await write_intent(action, attempt) if run.recorder is not None else None  # 8
            result = stopped or await execute(action, attempt)  # 9
            if type(result) is Output or (delay_ms := next_delay(action, result, retries)) is None:
                return outcome.settle(action, attempt, result)  # 10
            outcome.record_failure(action, result, final=False)
            if ended := await _wait_for_retry(action, result, delay_ms):
                return ended
            number, retries = number + 1, retries + 1
    except asyncio.CancelledError:
        action.refund()
        if action.slot.stopped is None:
            raise  # requested by the caller
        return _cancelled(action, action.slot.stopped)
    except ToolError as error:  # a reference to an output that does not exist
        action.step = 2
        refusal = Refusal(error.code, error.message, error.path)
        return _look_ahead(action) if run.dry_run else outcome.reject(action, refusal)
    except ConflictError as error:  # the state was changed from outside while this proposal read it
        action.step = 2
        return outcome.reject(action, Refusal(error.code, error.message))
    finally:
        if action.in_turn and run.turn is not None:
            run.turn.leave(action)


async def _pass(action: ActionRun, verdict: Verdict) -> Ended | None:
    """Take the action through steps 6 and 7, and through 2 to 5 again after any wait. None if the action may be attempted."""
    while True:
        if isinstance(verdict, Ask):
            answer = await approval.ask(action, verdict.decision)  # 6
            if isinstance(answer, Held):
                return outcome.hold(action, answer.approval, answer.summary)
            verdict = answer if isinstance(answer, Refusal) else judge_again(action)
            continue
        if isinstance(verdict, Refusal):
            return outcome.reject(action, verdict)
        waited_ns = action.waited_ns
        admitted = await admit(action)  # 7
        if admitted is not ADMITTED:
            return outcome.end_unadmitted(action, admitted)
        if action.waited_ns == waited_ns:
            break
        await forget_if_changed(action)
        verdict = judge_again(action)
    if action.run.dry_run:
        return await _preview(action)
    action.admitted = False  # the reservation is now in use
    return None


async def _wait_for_retry(action: ActionRun, failure: Failure, delay_ms: int) -> Ended | None:
    """Wait before the next attempt, then take steps 2 to 7 again. None if it may be made."""
    action.failed = failure
    number = failure.attempt.attempt + 1
    action.record(9, lambda _: ActionRetrying(attempt=number, delay_ms=delay_ms))
    tell_waiting(action.run, action.index, "retry", f"its attempt number {number}", delay_ms)
    await pin_again(action)  # the attempt itself may have changed the shown files; any later change was made by others
    await wait(action, delay_ms / 1000)
    await forget_if_changed(action)
    return await _pass(action, judge_again(action))


def _cancelled(action: ActionRun, reason: str) -> Ended:
    """End an action that the engine stopped while it waited, before the intent of an attempt."""
    action.slot.acknowledge()
    # Without an earlier attempt nothing ran; the commit step adds the row.
    return Ended(None) if action.failed is None else outcome.cancel_retry(action, action.failed, reason)


async def _preview(action: ActionRun) -> Ended:
    """Dry run of an action that would run. A tool that supports it describes its changes. Raises errors that end the run."""
    run, tool = action.run, action.tool
    if tool is None or not tool.tool.supports_dry_run or run.executor is not None:
        return outcome.dry_run(action)
    result = await execute(action, AskingContext(run, action.index, 1, action=action))
    if isinstance(result, Failure) and result.stopped:
        if result.raises is not None:
            raise result.raises
        return outcome.skip(action, "dry_run", "it would run", Outcome.DONE)
    return outcome.dry_run(action, result)


def _look_ahead(action: ActionRun) -> Ended:
    """Dry run of an action whose parameters need an output that does not exist: only checks that do not need it are made."""
    run = action.run
    action.step, verdict, _ = judge_call(run.judges, action.call())
    if action.step == 2 and isinstance(verdict, Refusal):
        return outcome.reject(action, verdict)
    names = ", ".join(sorted({f"`${name}.output`" for name, _ in run.graph.references.of(action.parameters)}))
    detail = f"what the gate says depends on {names}, which a dry run does not have"
    return outcome.skip(action, "dry_run", detail, Outcome.DONE)
