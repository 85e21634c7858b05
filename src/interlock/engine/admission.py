"""Step 7: is there a result already, is there budget, is it the tool's turn, is the machine fit?

Everything here that waits is outside execution time, is journaled with its cause, and makes the gate judge again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.engine.registry import Registered
from interlock.engine.scheduler import Outcome
from interlock.engine.turn import Turn, give_back, reject, skip, wait
from interlock.engine.watchdog import NEVER
from interlock.model.decision import Refusal
from interlock.model.events import ActionDeduplicated, ActionFailed, ActionWaiting
from interlock.model.result import ActionResult
from interlock.state.idempotency import Origin, Stored, call_key

if TYPE_CHECKING:
    from interlock.engine.execution import Execution


def is_free(turn: Turn) -> bool:
    """True if step 7 has nothing to look up, to count or to wait for: the usual case, decided without a coroutine."""
    x, tool = turn.x, turn.tool
    if x.dry_run or x.gate.issued or not x.allowance.free:
        return False
    if tool is None:
        return True
    if not tool.plain or (turn.action.idempotent and tool.tool.idempotent):
        return False
    guard = x.services.guard
    return tool.read_only or guard is None or guard.check() is None


async def admit(turn: Turn) -> bool:
    """Step 7. True if the action has its row now (a stored result, a budget reached, a rejection)."""
    x, tool = turn.x, turn.tool
    if tool is not None and not tool.plain and tool.cache_ttl_ns and _from_cache(turn):
        return True
    if tool is not None and turn.action.idempotent and tool.tool.idempotent and _from_store(turn):
        return True
    if turn.admitted:
        return False
    if not x.allowance.reserve(tool_calls=0 if tool is None else 1):
        _out_of_budget(turn)
        return True
    turn.admitted = True
    if tool is None or x.dry_run:
        return False
    if x.gate.issued and not turn.used and _used_up(turn):
        return True
    if tool.bucket is not None and await _rate_limit(turn):
        return True
    return not tool.read_only and x.services.guard is not None and await _guard(turn)


def _out_of_budget(turn: Turn) -> None:
    """A budget is reached: nothing more starts. An action that wanted to try again has failed, and says why it may not."""
    x = turn.x
    x.drain("budget_exceeded")
    if turn.failed is None:
        skip(turn, "budget_exceeded", x.allowance.exhausted)
        return
    failure, number = turn.failed
    row = ActionResult(
        action_id=turn.action.id,
        status="failed",
        reason="budget_exceeded",
        output=failure.output,
        error=f"{failure.message}; and {x.allowance.exhausted}",
        attempts=number,
        duration_ms=failure.duration_ms,
        waited_ms=turn.waited_ns / 1e6,
        timestamp=x.clock.now_us(),
        posture=failure.context.layers,
    )
    if x.recorder is not None:
        error = x.recorder.text(row.error or "")
        stamp = x.recorder.stamp(x, turn.index, 7)
        row.seq = x.recorder.append(ActionFailed(attempt=number, reason="budget_exceeded", error=error, **stamp))
    x.finished(turn.index, row, Outcome.FAILED)


def _used_up(turn: Turn) -> bool:
    """Take one use of a grant with a use count, once for the action. True if there is none left."""
    x, tool, desk = turn.x, turn.tool, turn.x.services.desk
    assert tool is not None
    choices = x.gate.counted(x.who, tool, turn.parameters)
    turn.used = True
    if not choices or desk is None or any(desk.issued.use(ids) for ids in choices if ids):
        return False
    turn.step = 7
    reject(turn, Refusal("grant_used_up", f"the grants that allow `{tool.name}` have no uses left"))
    return True


async def _rate_limit(turn: Turn) -> bool:
    """Wait for the tool's next token, if that is within the proposal's deadline. True if it is not."""
    x, tool = turn.x, turn.tool
    assert tool is not None
    assert tool.bucket is not None
    now = x.clock.mono_ns()
    wait_max = None if x.deadline_ns == NEVER else max(0, x.deadline_ns - now)
    wait_ns = tool.bucket.acquire(now, wait_max)
    if wait_ns is None:
        turn.step = 7
        reject(turn, Refusal("rate_limited", f"the rate limit of `{tool.name}` leaves no place before the deadline"))
        return True
    if wait_ns:
        if x.recorder is not None:
            reading = {"wait_ms": wait_ns / 1e6}
            x.recorder.append(ActionWaiting(cause="rate_limit", reading=reading, **x.recorder.stamp(x, turn.index, 7)))
        await wait(turn, wait_ns / 1e9)
    return False


async def _guard(turn: Turn) -> bool:
    """Wait until the machine is fit, as long as the guard waits. True if it did not become so."""
    x = turn.x
    guard = x.services.guard
    assert guard is not None
    reading = guard.check()
    if reading is None:
        return False
    if x.recorder is not None:
        stamp = x.recorder.stamp(x, turn.index, 7)
        x.recorder.append(ActionWaiting(cause="resource_guard", reading=reading.as_dict(), **stamp))
    before = x.clock.mono_ns()
    try:
        reading = await guard.wait(x.services.guard_wait_ms)
    finally:
        turn.waited_ns += x.clock.mono_ns() - before
    if reading is None:
        return False
    turn.step = 7
    reject(turn, Refusal("resource_guard", reading.describe()))
    return True


def key_of(turn: Turn) -> str:
    """What makes two calls the same call."""
    assert turn.tool is not None
    return key_for(turn.x, turn.tool, turn.parameters)


def key_for(x: Execution, tool: Registered, parameters: dict[str, Any]) -> str:
    """The same, for a call that is not under way."""
    return call_key(
        workspace=x.services.workspace_id,
        agent=x.who.agent,
        grant=x.services.grant_of(x.who.agent),
        tool=tool.name,
        tool_version=tool.version,
        parameters=parameters,
    )


def remember(turn: Turn, row: ActionResult) -> None:
    """A success of an idempotent call: the next identical one takes its result."""
    x = turn.x
    origin = Origin(x.run.id, x.proposal.id, turn.action.id)
    x.results.put(key_of(turn), Stored(origin, row.output, row.state_changes))


def cache(turn: Turn, output: Any) -> None:
    """A success of a call whose tool has a `cache_ttl`."""
    tool = turn.tool
    assert tool is not None
    key = turn.x.cached[turn.index] = key_of(turn)
    turn.x.services.cache.put(key, output, tool.cache_ttl_ns // 1_000_000)


def _from_store(turn: Turn) -> bool:
    stored = turn.x.results.get(key_of(turn))
    if stored is None:
        return False
    _deduplicate(turn, stored.output, stored.state_changes, str(stored.origin))
    return True


def _from_cache(turn: Turn) -> bool:
    hit = turn.x.services.cache.get(key_of(turn))
    if hit is None:
        return False
    _deduplicate(turn, hit.output, {}, "cache")
    return True


def _deduplicate(turn: Turn, output: Any, state_changes: dict[str, Any], origin: str) -> None:
    """Give the action a stored result: nothing runs, nothing is committed again, nothing is spent."""
    x = turn.x
    give_back(turn)
    row = ActionResult(
        action_id=turn.action.id,
        status="succeeded",
        output=output,
        state_changes=state_changes,
        waited_ms=turn.waited_ns / 1e6,
        timestamp=x.clock.now_us(),
        deduplicated_from=origin,
    )
    if x.recorder is not None:
        row.seq = x.recorder.append(
            ActionDeduplicated(
                source=origin,
                output=x.recorder.keep(output),
                state_changes=x.recorder.shown(state_changes),
                **x.recorder.stamp(x, turn.index, 7),
            )
        )
    x.finished(turn.index, row, Outcome.DONE)
