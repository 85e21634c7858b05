"""A tool calls another tool as part of its own call, with its caller's rights and never with more.

The call goes through steps 2 to 5, reserves from the budget and the rate limit (7), is recorded before it has an effect
(8), runs within the time of the outer call (9), and its outcome is recorded (10). It works in the outer action's layer
and under its write lease, and its effects are undone with that action. It cannot be held for approval (6) in the middle
of a call, so calls that the rules hold are refused.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from interlock.engine.gate.admission import admit_outside, outside_plan
from interlock.engine.gate.execute import execute
from interlock.engine.judges.judges import Call
from interlock.engine.judges.steps import refusal_within
from interlock.engine.proposals.action_run import Outside
from interlock.engine.proposals.attempt import Failure, Output
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.tools.registry import Registered
from interlock.model.capsule_events import ToolCalled, ToolReturned
from interlock.model.errors import ToolError
from interlock.model.proposal import Action

_ALONE: Final = frozenset({"undo"})
"""Tools whose own writes are judged before they run, which needs a separate action."""
_numbers = itertools.count(1)


async def call_within(outer: ActionContext, name: str, parameters: dict[str, Any], left_ms: int) -> Any:
    """The output of a tool. Raises: ToolError, with the reason of the refusal or failure; StoreError."""
    run = outer.run
    run.services.refresh_if_due()
    tool = run.services.registry.find(name)
    if tool is None:
        raise ToolError(f"there is no tool `{name[:200]}`", code="unknown_tool", retryable=False)
    _require_possible(outer, tool)
    spec = Action(type="tool_call", id=outer.action_id, tool=name, parameters=parameters, timeout_ms=left_ms)
    judges = run.judges_in_force()
    principal = judges.principal(outer.agent, outer.session)
    refusal = refusal_within(judges, Call(principal, run.proposal, spec, tool, parameters, run.buffer))
    if refusal is not None:
        raise _refused(name, refusal.reason, refusal.detail)
    attempt = ActionContext(run, outer.index, outer.attempt, call=(tool, outer.agent))
    with outside_plan(run, outer.index, spec, tool, Outside(principal, (), left_ms * 1_000_000)) as action:
        if refusal := await admit_outside(action):
            raise _refused(name, refusal.reason, refusal.detail)
        number = await _write_intent(outer, tool, parameters)
        action.admitted = False  # the reservation is now in use
        try:
            result = await execute(action, attempt)
        finally:
            _take_over(outer, attempt, tool)
    _record(outer, number, tool, parameters, result)
    if isinstance(result, Output):
        return result.value
    if result.raises is not None:
        raise result.raises
    raise ToolError(
        f"`{name}`: {result.message or result.reason}",
        code=result.reason,
        retryable=result.retryable,
        unknown_outcome=result.status == "unknown_outcome",
    )


def _require_possible(outer: ActionContext, tool: Registered) -> None:
    """Raises: ToolError for a tool that cannot be called in the middle of a call."""
    run, own = outer.run, outer.tool
    why = None
    if tool.name in _ALONE or tool.estimates is not None:
        why = "it can only be called as a separate action"
    elif own is not None and own.read_only and not tool.read_only:
        why = "the capsule's tool is declared read-only"
    elif run.layer is not None and tool.touches_files and not tool.binding.in_layer:
        why = "it works on the files themselves, and this proposal works in a layer"
    if why is not None:
        raise _refused(tool.name, "not_available", why)


async def _write_intent(outer: ActionContext, tool: Registered, parameters: dict[str, Any]) -> int:
    """Step 8. Returns the number of the call, which its outcome has too. Raises: StoreError."""
    number, run = next(_numbers), outer.run
    recorder = run.recorder
    if recorder is None:
        return number
    kept = recorder.keep(parameters, tool.secrets)
    called = ToolCalled(call=number, tool=tool.name, version=tool.version, parameters=kept, read_only=tool.read_only)
    recorder.record(called, run.proposal.id, outer.action_id, 8)
    if not tool.read_only:
        await recorder.writer.durable(alone=False)
    return number


def _take_over(outer: ActionContext, inner: ActionContext, tool: Registered) -> None:
    """Count the effects of the inner call as the action's."""
    outer.posture(**(inner.layers or {}))
    for note in inner.not_undoable or ():
        outer.not_exactly_undoable(note)
    if not tool.read_only and tool.tool.reversibility != "reversible":
        outer.not_exactly_undoable(f"it called `{tool.name}`, whose effects are not undone with it")
    if inner.usage:
        outer.resources(inner.usage)
    outer.hosts = (*(outer.hosts or ()), *(inner.hosts or ())) or None
    outer.cost += inner.cost


def _record(
    outer: ActionContext, number: int, tool: Registered, parameters: dict[str, Any], result: Output | Failure
) -> None:
    recorder = outer.run.recorder
    if recorder is None:
        return
    if isinstance(result, Output):
        kept = recorder.keep_output(result.value, parameters, tool.secrets)
        event = ToolReturned(call=number, tool=tool.name, output=kept, duration_ms=result.duration_ms)
    else:
        detail = recorder.text(result.message)
        event = ToolReturned(
            call=number, tool=tool.name, reason=result.reason, detail=detail, duration_ms=result.duration_ms
        )
    recorder.record(event, outer.run.proposal.id, outer.action_id, 10)


def _refused(name: str, reason: str, detail: str) -> ToolError:
    return ToolError(f"`{name}` was refused: {reason}: {detail}", code=reason, retryable=False)
