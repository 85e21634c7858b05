"""Steps 8 and 9: writes the intent, then runs the tool within its time-out.

The intent of an action that can have an effect is on disk before the effect. The intent of any other action (read-only tools,
state, assertions: their writes stay in the proposal's buffer) only has to precede the outcome, and costs no wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

from interlock.engine.gate.call_digest import call_digest
from interlock.engine.gate.effects import commit_effect
from interlock.engine.gate.output import check_output, copy_parameters, failure_of, is_unknown
from interlock.engine.proposals.action_run import ActionRun
from interlock.engine.proposals.attempt import Failure, Output
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.proposals.watchdog import NEVER
from interlock.engine.tools.registry import Registered
from interlock.engine.tools.tool_errors import read_tool_error
from interlock.model.errors import StoreError, ToolError
from interlock.model.events import ActionIntent
from interlock.model.exceptions import describe, describe_exit, exit_code
from interlock.model.tool import Function
from interlock.model.units import as_duration
from interlock.telemetry import Meter
from interlock.verify.conditions import equal

STATE_NS = 30 * 1_000_000_000
"""Time-out of actions that only touch the proposal's buffer."""
CLIENT_NS = 24 * 60 * 60 * 1_000_000_000
"""After this time, the outcome of a call that a client executes is unknown."""


async def write_intent(action: ActionRun, attempt: ActionContext) -> Failure | None:
    """Step 8: write the intent. Returns a failure if the action was stopped meanwhile.

    Raises: StoreError.
    """
    run, tool = action.run, action.tool
    recorder = run.recorder
    if recorder is None:
        return None
    known = call_digest(action)
    intent = ActionIntent(
        attempt=attempt.attempt,
        tool=tool.name if tool is not None else None,
        version=tool.version if tool is not None else None,
        digest=known.digest,
        parameters=recorder.keep(action.parameters, tool.secrets if tool is not None else (), known.data),
        posture=_decided_walls(action),
        read_only=tool is None or tool.read_only,
        idempotent=tool is not None and run.client is None and tool.tool.idempotent,
        recoverable=tool is not None
        and run.client is None
        and (tool.tool.reversibility == "reversible" or tool.tool.probe is not None),
        tokens=0 if action.reserved is None else action.reserved.tokens,
        cost=0.0 if action.reserved is None else action.reserved.cost or 0.0,
    )
    recorder.record(intent, run.proposal.id, action.spec.id, 8)
    if tool is None:
        return None
    if tool.read_only and run.client is None:  # what a client reads is on disk before it may: nothing here ends with it
        attempt.before = run.services.machine()
        return None
    attempt.before = run.services.fresh_machine()
    try:
        await recorder.writer.durable(alone=action.slot.pool.alone)
    except asyncio.CancelledError:
        # The intent is written, but nothing was done: the outcome has to say so.
        slot = action.slot
        failure = _stopped(action, attempt, started=False)
        attempt.reserved = action.reserved
        attempt.report_usage(0, 0.0)
        attempt.count_use()
        slot.acknowledge()
        return failure
    return None


def _decided_walls(action: ActionRun) -> dict[str, str]:
    """The posture that the processes of the call will have; empty if it starts none, or none can start."""
    run, tool = action.run, action.tool
    if tool is None or tool.binding.walls is None or action.effect is not None or run.client is not None:
        return {}
    if run.executor is not None and action.outside is None:
        return {}
    try:
        walls = tool.binding.walls()
    except ToolError:  # the call itself reports this
        return {}
    if not tool.touches_files:
        return walls
    if run.layer is not None:
        return {**walls, "layer": f"active({run.layer.posture})"}
    return walls if run.layer_absent is None else {**walls, "layer": f"absent({run.layer_absent})"}


async def execute(action: ActionRun, attempt: ActionContext) -> Output | Failure:
    """Step 9: run the tool (or the state action), with an enforced time-out.

    Raises: StoreError; GeneratorExit if the coroutine is closed. Any other exception of the tool is its failure.
    """
    run, tool, clock, slot = action.run, action.tool, action.run.clock, action.slot
    writes = tool is not None and not tool.read_only
    if writes:
        run.services.cache.files_changed()  # also before the call: this process may end during it
    started = clock.mono_ns()
    attempt.reserved = action.reserved
    deadline = attempt.deadline_ns = slot.deadline = started + _timeout_ns(action)
    if deadline < slot.watchdog.at:
        slot.watchdog.wake(deadline)
    if run.layer is not None and tool is not None and tool.touches_files:
        attempt.posture(layer=f"active({run.layer.posture})")
    result: Output | Failure | None = None
    value = None
    try:
        if tool is None:
            value = _act_on_state(action)
        elif tool.mode == "async" and action.effect is None and (run.executor is None or action.outside is not None):
            value = await cast("Awaitable[Any]", tool.function(copy_parameters(action.parameters), attempt))
        else:
            value = await _call(action, tool, attempt)
    except StoreError:
        raise  # an error of the engine, not of the tool: the run cannot continue
    except BaseException as error:  # noqa: BLE001 - classified there; what is not the tool's error is raised again
        result = _failure(action, attempt, error)
    if run.layer_absent is not None and tool is not None and tool.touches_files:
        attempt.posture(
            layer=f"absent({run.layer_absent})"
        )  # last: the process runner knows only that there is no layer
    slot.ended_ns = clock.mono_ns()
    slot.deadline = NEVER
    attempt.count_use()
    late = slot.expired > 0 or slot.ended_ns > attempt.deadline_ns
    if slot.expired or slot.stopped is not None:
        slot.acknowledge()
    if writes:
        run.services.cache.files_changed()
    if result is None:
        result = _too_late(action, attempt, value) if late else check_output(action, attempt, value)
    result.duration_ms = (slot.ended_ns - started - attempt.paused_ns) / 1e6
    return result


def _timeout_ns(action: ActionRun) -> int:
    """An attempt ends at the tool's time-out, or the action's if that is shorter. An agent cannot extend it."""
    if action.run.client is not None:  # the client has its own limits, and reports when the call has ended
        return CLIENT_NS
    timeout_ns, own_ms = STATE_NS if action.tool is None else action.tool.timeout_ns, action.spec.timeout_ms
    return timeout_ns if own_ms is None else min(timeout_ns, own_ms * 1_000_000)


async def _call(action: ActionRun, tool: Registered, attempt: ActionContext) -> Any:
    """Make a call that is not simply awaited.

    These are an approved effect, the caller's executor, and a plain function on the loop or on a thread.
    """
    if action.effect is not None:
        return await commit_effect(action, attempt)
    run, parameters = action.run, copy_parameters(action.parameters)
    if run.executor is not None and action.outside is None:
        return await run.executor.execute(tool.name, parameters, attempt)
    if tool.mode == "inline":
        return tool.function(parameters, attempt)
    try:
        measured = run.services.sampler is not None
        call = _metered if measured else tool.function
        arguments = (tool.function, parameters, attempt) if measured else (parameters, attempt)
        return await run.services.threads.run(run.loop, call, *arguments)
    except asyncio.CancelledError:
        attempt.cancelled = True
        attempt.withdraw()
        raise


def _metered(function: Function, parameters: dict[str, Any], attempt: ActionContext) -> Any:
    """Make a call on a thread, and measure the thread's own use."""
    meter = Meter("thread")
    try:
        return function(parameters, attempt)
    finally:
        attempt.resources(meter.usage())


def _act_on_state(action: ActionRun) -> Any:
    """Carry out one of the three kinds of state action, which touch only the proposal's buffer."""
    parameters, buffer = action.parameters, action.run.buffer
    key = parameters["key"]
    if action.spec.type == "state_write":
        return f"written: {key}"  # the write itself belongs to the outcome (step 10)
    found = buffer.get(key)
    value = None if found is None else found.value
    if action.spec.type == "state_read":
        return value
    expected = parameters.get("expected")
    if not equal(value, expected):
        raise ToolError(
            f"assertion failed: state `{key}` is not what was expected",
            code="assertion_failed",
            retryable=False,
            output={"asserted": key, "value": value, "expected": expected},
        )
    return {"asserted": key, "value": value}


def _failure(action: ActionRun, attempt: ActionContext, error: BaseException) -> Failure:
    """The failure that an exception of step 9 means: a time-out, a stop, or the tool's own. Re-raises errors that end the run."""
    slot = action.slot
    limit = action.run.services.bounds.limits.output_bytes
    partial = read_tool_error(error, limit).output if isinstance(error, ToolError) else None
    if isinstance(error, SystemExit):
        return Failure(attempt, "tool_error", describe_exit(error), output={"exit_code": exit_code(error)})
    if isinstance(error, KeyboardInterrupt):
        return _stopped(action, attempt, reason="interrupted", raises=error)
    if slot.expired and not isinstance(error, GeneratorExit):
        return _timed_out(action, attempt, partial, error)
    stopped = slot.stopped is not None or slot.task.cancelling() > slot.before + slot.expired
    if isinstance(error, asyncio.CancelledError) and not stopped:
        return Failure(attempt, "tool_error", "CancelledError: something that the tool waited for was cancelled")
    if stopped and isinstance(error, asyncio.CancelledError | ToolError):  # a process reports its output so far
        return _stopped(action, attempt, output=partial, error=error)
    if isinstance(error, ToolError):
        return failure_of(action, attempt, error)
    if isinstance(error, GeneratorExit):
        raise error  # the coroutine is being closed: it cannot continue
    return Failure(attempt, "tool_error", describe(error))  # includes a panic in Rust code, which is not an `Exception`


def _timed_out(action: ActionRun, attempt: ActionContext, output: Any, error: BaseException) -> Failure:
    """The failure after a time-out. A thread cannot be stopped, so its effect is unknown; a process or a coroutine has ended,
    unless its `error` says that its effect may remain.
    """
    attempt.cancelled = True
    message = f"stopped after its time-out of {_timeout_text(action)}"
    if why := _why_it_runs_on(action, error):
        detail = f"{message}; {why}"
        return Failure(attempt, "timeout", detail, retryable=False, output=output, status="unknown_outcome")
    return Failure(attempt, "timeout", message, output=output)


def _too_late(action: ActionRun, attempt: ActionContext, value: Any) -> Failure:
    """The failure of a call that ended too late. There is no retry, because it would repeat the effect."""
    attempt.cancelled = True
    given = value if isinstance(value, ToolError) else ToolError("", output=value)
    output = read_tool_error(given, action.run.services.bounds.limits.output_bytes).output
    message = f"it ended after its time-out of {_timeout_text(action)}"
    return Failure(attempt, "timeout", message, retryable=False, output=output)


def _timeout_text(action: ActionRun) -> str:
    return as_duration(_timeout_ns(action) // 1_000_000)


def _stopped(
    action: ActionRun,
    attempt: ActionContext,
    *,
    started: bool = True,
    output: Any = None,
    reason: str | None = None,
    raises: BaseException | None = None,
    error: BaseException | None = None,
) -> Failure:
    """The failure of an action that the engine stopped; it ended with `error`. A cancellation by the caller is re-raised."""
    by_us = action.slot.stopped
    if raises is None and by_us is None:
        raises = asyncio.CancelledError()
    remains = _why_it_runs_on(action, error) if started else ""
    why = action.run.why_stopped(by_us)
    return Failure(
        attempt,
        reason or by_us or "cancelled",
        "; ".join(filter(None, (why, remains))) if remains else "",
        retryable=False,
        output=output,
        status="unknown_outcome" if remains else "cancelled",
        stopped=True,
        started=started,
        raises=raises,
    )


def _why_it_runs_on(action: ActionRun, error: BaseException | None) -> str:
    """Why the call can still have an effect although it was stopped; empty if it cannot."""
    client = action.run.client
    if action.tool is None or action.tool.read_only:
        return ""
    if client is not None:
        return f"`{client.client}` carries it out, and said nothing of its end" if client.released else ""
    if error is not None and is_unknown(action, error):
        return str(error)
    return "its thread cannot be stopped" if action.tool.mode == "thread" else ""
