"""Steps 8 to 10 for one attempt: intent, execution, outcome.

The intent of an action that can have an effect is on disk before the effect. The intent of one that cannot (read-only
tools, state, assertions: their writes live in the proposal's buffer) is only in order before the outcome, and costs no wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

from interlock.engine import admission, asking
from interlock.engine.context import ActionContext
from interlock.engine.failures import said
from interlock.engine.scheduler import Outcome
from interlock.engine.turn import Turn
from interlock.engine.watchdog import NEVER, Slot
from interlock.model.canonical import CanonicalError, canonical
from interlock.model.errors import StoreError, ToolError
from interlock.model.events import (
    ActionCancelled,
    ActionIntent,
    ActionSucceeded,
    ActionUnknown,
    EffectDivergence,
)
from interlock.model.exceptions import describe, describe_exit, exit_code
from interlock.model.result import ActionResult, Status
from interlock.model.tool import Function
from interlock.telemetry import Meter, Snapshot, report
from interlock.verify.conditions import equal
from interlock.verify.templates import fill

STATE_NS = 30 * 1_000_000_000
"""Time-out of what only touches the proposal's buffer."""
_ATOMS = frozenset((str, int, bool, float, type(None)))


class Failure:
    """Why an attempt did not succeed. `event` is the journal's sequence number if the outcome is written already."""

    __slots__ = (
        "context", "duration_ms", "event", "journaled", "message", "output", "reason", "retryable", "status", "telemetry",
    )  # fmt: skip

    def __init__(
        self, reason: str, message: str, *, retryable: bool = True, output: Any = None, status: Status = "failed"
    ) -> None:
        """A failure with a code of `REASONS` and a sentence."""
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.output = output
        self.status = status
        self.event: int | None = None
        self.duration_ms = 0.0
        self.telemetry: dict[str, Any] | None = None
        self.journaled: dict[str, Any] | None = None
        """The telemetry as an event has it."""
        self.context: ActionContext = cast("ActionContext", None)


async def attempt(turn: Turn, number: int) -> Failure | None:
    """One attempt. Returns None if it succeeded (the row is made), else what went wrong; see `Failure.status`."""
    x, tool, clock, slot = turn.x, turn.tool, turn.x.clock, turn.slot
    ctx = ActionContext(x, turn.index, number, 0)
    before = None
    # 8
    if x.recorder is not None:
        try:
            intent(turn, number)
            if tool is not None and not tool.read_only:
                before = x.services.machine()
                await x.recorder.writer.durable(alone=x.alone)
        except asyncio.CancelledError:
            # The intent stands, and nothing was done: say so, then leave as everyone does who is stopped.
            return _stopped(turn, ctx, number, 0.0, started=False)
    # 9
    started = clock.mono_ns()
    _set_deadline(turn, ctx, started)
    output = failure = None
    try:
        if tool is None:
            output = _on_state(turn)
        elif tool.mode == "async" and x.executor is None:
            output = await cast("Awaitable[Any]", tool.function(_own(turn.parameters), ctx))
        else:
            output = await _call(turn, ctx)
    except StoreError:
        raise  # ours, not the tool's: the run cannot go on
    except BaseException as error:  # noqa: BLE001 - sorted out there, and raised again if it is nobody's here
        failure = _caught(turn, ctx, number, error, started)
    slot.ended_ns = clock.mono_ns()
    slot.deadline = NEVER
    # 10
    duration_ms = (slot.ended_ns - started) / 1e6
    output, failure = _check_output(turn, output, failure)
    if slot.expired or slot.stopped is not None:
        _forget_cancelling(slot, taken_back=failure is not None and failure.status == "cancelled")
    if failure is None:
        _succeed(turn, ctx, number, output, duration_ms, before)
    elif failure.status != "cancelled":
        _complete(turn, ctx, number, failure, duration_ms, before)
    return failure


def _forget_cancelling(slot: Slot, *, taken_back: bool) -> None:
    """Take back what we asked of the task, which may be the caller's, whether the tool let it through or not."""
    for _ in range(slot.expired):
        slot.task.uncancel()
    slot.expired = 0
    if slot.stopped is not None and not taken_back:
        slot.task.uncancel()


def _own(parameters: dict[str, Any]) -> dict[str, Any]:
    """A copy for the tool: what it does to it is not seen by the next attempt, a compensation, or who it came from."""
    return {k: v if v.__class__ in _ATOMS else _copy(v) for k, v in parameters.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return _own(value)
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _set_deadline(turn: Turn, ctx: ActionContext, now: int) -> None:
    """Until when the attempt may run: the tool's time-out, or the action's if that is shorter. No agent gives itself more."""
    timeout_ms, watchdog = turn.action.timeout_ms, turn.x.watchdog
    deadline = now + (STATE_NS if turn.tool is None else turn.tool.timeout_ns)
    if timeout_ms is not None:
        deadline = min(deadline, now + timeout_ms * 1_000_000)
    ctx.deadline_ns = turn.slot.deadline = deadline
    if deadline < watchdog.at:
        watchdog.wake(deadline, now)


def _caught(turn: Turn, ctx: ActionContext, number: int, error: BaseException, started: int) -> Failure:
    """Step 9 ended with an exception: whose was it? Raises what has to pass through."""
    slot = turn.slot
    duration_ms = (turn.x.clock.mono_ns() - started) / 1e6
    partial = said(error, turn.x.services.limits.output_bytes).output if isinstance(error, ToolError) else None
    if isinstance(error, SystemExit):
        return Failure("tool_error", describe_exit(error), output={"exit_code": exit_code(error)})
    if isinstance(error, KeyboardInterrupt):
        _stopped(turn, ctx, number, duration_ms, started=True, reason="interrupted")
        raise error
    if slot.expired and isinstance(error, asyncio.CancelledError | ToolError):
        return _timed_out(turn, ctx, partial)
    asked = slot.stopped is not None or slot.task.cancelling() > slot.before + slot.expired
    if isinstance(error, asyncio.CancelledError) and not asked:
        return Failure("tool_error", "CancelledError: something that the tool waited for was cancelled")
    if asked and isinstance(error, asyncio.CancelledError | ToolError):  # a process tells what it had said until then
        return _stopped(turn, ctx, number, duration_ms, started=True, output=partial)
    if isinstance(error, ToolError):
        return _from_tool_error(turn, error)
    if isinstance(error, GeneratorExit):
        raise error  # the coroutine is being closed: nobody is there to go on
    return Failure("tool_error", describe(error))  # a panic of a Rust library is no `Exception`


def _complete(turn: Turn, ctx: ActionContext, number: int, failure: Failure, duration_ms: float, before: Any) -> None:
    """Step 10 of a failure, as far as every attempt has it."""
    x, recorder = turn.x, turn.x.recorder
    failure.duration_ms = duration_ms
    failure.context = ctx
    failure.telemetry, failure.journaled = _telemetry(turn, ctx, before)
    if failure.status == "unknown_outcome" and recorder is not None:
        stamp = recorder.stamp(x, turn.index, 10)
        failure.event = recorder.append(
            ActionUnknown(attempt=number, reason=failure.reason, detail=failure.message, **stamp)
        )
    if ctx.not_undoable:
        x.not_undoable[turn.index] = ctx.not_undoable
    x.spend(duration_ms, ctx.cost)


def intent(turn: Turn, number: int) -> None:
    """Step 8: the event that says what is about to be done. Not yet on disk when this returns."""
    x, tool, recorder = turn.x, turn.tool, turn.x.recorder
    assert recorder is not None
    data = canonical(turn.parameters)
    recorder.append(
        ActionIntent(
            ts=x.clock.now_us(),
            mono=x.clock.mono_ns(),
            proposal=x.proposal.id,
            action=turn.action.id,
            step=8,
            attempt=number,
            tool=tool.name if tool is not None else None,
            version=tool.version if tool is not None else None,
            digest=asking.digest_of(turn, data),
            parameters=recorder.keep(turn.parameters, tool.secrets if tool is not None else (), data),
            read_only=tool is None or tool.read_only,
            idempotent=tool is not None and tool.tool.idempotent,
        )
    )


async def _call(turn: Turn, ctx: ActionContext) -> Any:
    """Step 9 for what is not simply awaited: an executor of the caller's, a function on the loop or on a thread."""
    x, tool, parameters = turn.x, turn.tool, _own(turn.parameters)
    assert tool is not None
    if x.executor is not None:
        return await x.executor.execute(tool.name, parameters, ctx)
    if tool.mode == "inline":
        return tool.function(parameters, ctx)
    try:
        call = tool.function if x.services.sampler is None else _metered
        arguments = (parameters, ctx) if x.services.sampler is None else (tool.function, parameters, ctx)
        return await x.services.threads.run(x.loop, call, *arguments)
    except asyncio.CancelledError:
        ctx.cancelled = True
        raise


def _metered(function: Function, parameters: dict[str, Any], ctx: ActionContext) -> Any:
    """A call on a thread, with what the thread itself used."""
    meter = Meter("thread")
    try:
        return function(parameters, ctx)
    finally:
        ctx.resources(meter.usage())


def _on_state(turn: Turn) -> Any:
    """The three kinds of action that touch nothing but the proposal's buffer."""
    parameters, buffer = turn.parameters, turn.x.buffer
    key = parameters["key"]
    match turn.action.type:
        case "state_write":
            return f"written: {key}"  # the write itself belongs to the outcome: see `_effects`
        case "state_read":
            found = buffer.get(key)
            return None if found is None else found.value
        case _:
            found = buffer.get(key)
            value = None if found is None else found.value
            expected = parameters.get("expected")
            if not equal(value, expected):
                raise ToolError(
                    f"assertion failed: state `{key}` is not what was expected",
                    code="assertion_failed",
                    retryable=False,
                    output={"asserted": key, "value": value, "expected": expected},
                )
            return {"asserted": key, "value": value}


def _check_output(turn: Turn, output: Any, failure: Failure | None) -> tuple[Any, Failure | None]:
    """Step 10, before anything is believed: is it JSON, not too large, and what `returns` promises?

    Returns a copy of the output: what the tool does with its own afterwards is seen by nobody.
    """
    if failure is not None:
        return None, failure
    limit = turn.x.services.limits.output_bytes
    if isinstance(output, ToolError):
        return None, _from_tool_error(turn, output)
    size = 0
    if output is not None and not (output.__class__ is str and output.isascii() and len(output) <= limit):
        try:
            output = _copy(output)
            size = len(canonical(output))
        except CanonicalError as error:
            return None, _invalid(f"the tool returned a value that is not JSON: {error.message}")
        except RecursionError:
            return None, _invalid("the tool returned a value that is nested too deep, or contains itself")
        except Exception as error:  # noqa: BLE001 - of a class of the tool's own, or of a value that its thread goes on changing
            return None, _invalid(f"the tool returned a value that cannot be read: {describe(error)}")
    if size > limit:
        return None, _invalid(f"the tool returned more than {limit} bytes")
    returns = turn.tool.returns if turn.tool is not None else None
    if returns is not None and not returns.is_valid(output):
        path, message = returns.errors(output)[0]
        return None, _invalid(f"the output does not fit the tool's `returns`: {path}: {message}")
    return output, None


def _invalid(message: str) -> Failure:
    return Failure("invalid_output", message, retryable=False)


def _succeed(turn: Turn, ctx: ActionContext, number: int, output: Any, duration_ms: float, before: Any) -> None:
    """Step 10 of a success: outcome into the journal, effects into the buffer, the row."""
    x, action, tool, recorder = turn.x, turn.action, turn.tool, turn.x.recorder
    telemetry, journaled = _telemetry(turn, ctx, before)
    seq: int | None = None
    if recorder is not None:
        seq = recorder.append(
            ActionSucceeded(
                ts=x.clock.now_us(),
                mono=x.clock.mono_ns(),
                proposal=x.proposal.id,
                action=action.id,
                step=10,
                attempt=number,
                duration_ms=duration_ms,
                output=recorder.keep(output),
                waited_ms=turn.waited_ns / 1e6,
                cost=ctx.cost,
                posture=ctx.layers or {},
                telemetry=journaled,
                not_undoable=tuple(map(recorder.text, ctx.not_undoable or ())),
            )
        )
        recorder.writer.kick()
    touches_state = tool is None or not tool.plain or action.expected_effects
    changes = _effects(turn, output) if touches_state else {}
    row = ActionResult(  # by position: this is the one row that is made for every action
        action.id, "succeeded", None, output, None, changes, number, duration_ms, turn.waited_ns / 1e6, x.clock.now_us(), seq,
        None, ctx.layers, telemetry,
    )  # fmt: skip
    if ctx.not_undoable:
        x.not_undoable[turn.index] = ctx.not_undoable
    if ctx.cost or not x.allowance.free:
        x.spend(duration_ms, ctx.cost)
    if tool is not None and action.idempotent and tool.tool.idempotent:
        admission.remember(turn, row)
    if tool is not None and tool.cache_ttl_ns:
        admission.cache(turn, output)
    x.finished(turn.index, row, Outcome.DONE)


def _effects(turn: Turn, output: Any) -> dict[str, Any]:
    """What a success wrote: a state_write's key, and the effects that the tool's operator vouches for."""
    x, action, tool = turn.x, turn.action, turn.tool
    observed: dict[str, Any] = {}
    if action.type == "state_write":
        observed[turn.parameters["key"]] = turn.parameters.get("value")
    elif tool is not None:
        for key, template in tool.tool.effects.items():
            observed[key] = fill(template, turn.parameters, output)
    recorder = x.recorder
    for key, value in observed.items():
        x.write_state(turn.index, key, value)
    for key, claimed in action.expected_effects.items():
        # Claims are seen by conditions of this proposal only; they never reach the store.
        if key not in observed:
            x.buffer.claim(key, claimed)
        if recorder is not None and not (key in observed and equal(observed[key], claimed)):
            recorder.append(EffectDivergence(key=key, **recorder.stamp(x, turn.index, 10)))
    return observed


def _from_tool_error(turn: Turn, error: ToolError) -> Failure:
    code, message, output = said(error, turn.x.services.limits.output_bytes)
    return Failure(code, message, retryable=bool(error.retryable), output=output)


def _timed_out(turn: Turn, ctx: ActionContext, output: Any) -> Failure:
    """A thread goes on by itself, so nobody knows what it will have done; a process or a coroutine is gone."""
    ctx.cancelled = True
    message = "stopped after its time-out"
    if turn.tool is not None and turn.tool.mode == "thread" and not turn.tool.read_only:
        detail = f"{message}; its thread cannot be stopped"
        return Failure("timeout", detail, retryable=False, output=output, status="unknown_outcome")
    return Failure("timeout", message, output=output)


def _stopped(
    turn: Turn,
    ctx: ActionContext,
    number: int,
    duration_ms: float,
    *,
    started: bool,
    output: Any = None,
    reason: str | None = None,
) -> Failure:
    """The action was stopped by the engine or by the caller: journal it, make its row, and let the worker leave.

    Raises: CancelledError if it was the caller, whose cancellation has to pass.
    """
    x, slot, recorder = turn.x, turn.slot, turn.x.recorder
    why = reason or slot.stopped or "cancelled"
    lost = started and turn.tool is not None and turn.tool.mode == "thread" and not turn.tool.read_only
    seq: int | None = None
    if recorder is not None:
        stamp = recorder.stamp(x, turn.index, 10)
        if lost:
            seq = recorder.append(
                ActionUnknown(attempt=number, reason=why, detail="its thread cannot be stopped", **stamp)
            )
        else:
            seq = recorder.append(ActionCancelled(attempt=number, reason=why, duration_ms=duration_ms, **stamp))
        recorder.writer.kick()
    x.rows[turn.index] = ActionResult(
        action_id=turn.action.id,
        status="unknown_outcome" if lost else "cancelled",
        reason=why,
        output=output,
        attempts=number,
        duration_ms=duration_ms,
        waited_ms=turn.waited_ns / 1e6,
        timestamp=x.clock.now_us(),
        seq=seq,
        posture=ctx.layers,
    )
    if started:
        x.order_ended.append(turn.index)
        if ctx.not_undoable:
            x.not_undoable[turn.index] = ctx.not_undoable
    x.spend(duration_ms, ctx.cost)
    if reason is None and slot.stopped is None:
        raise asyncio.CancelledError
    slot.task.uncancel()
    return Failure(why, "", status="cancelled")


def _telemetry(
    turn: Turn, ctx: ActionContext, before: Snapshot | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Readings of the machine before and after, and the action's own use: as the row has them, and as the event has them.

    None for what does not touch the world. An event names the readings by number: most actions share theirs with others.
    """
    own, recorder = ctx.usage, turn.x.recorder
    sampler = turn.x.services.sampler
    if before is None or sampler is None or recorder is None:
        found = {"own": own} if own else None
        return found, found
    after = sampler.latest()
    shown = report(before, after, own)
    numbers: dict[str, Any] = {"before": recorder.sampled(before), "after": recorder.sampled(after)}
    if after is not before:
        numbers["change"] = shown["change"]
    if own:
        numbers["own"] = own
    return shown, numbers
