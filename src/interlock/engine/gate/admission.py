"""Step 7: looks for a stored result, then checks the budget, the rate limit and the load of the machine.

Waits here do not count as execution time. Each is journaled with its cause, and the gate judges again afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from interlock.engine.proposals.action_run import ActionRun, Outside
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.waiting import tell_waiting
from interlock.engine.proposals.watchdog import NEVER, Alone, Slot, Watchdog
from interlock.engine.tools.registry import Registered
from interlock.model.decision import Refusal
from interlock.model.errors import StoreError
from interlock.model.proposal import Action
from interlock.model.result import ActionResult
from interlock.model.tool import Estimate
from interlock.state.idempotency import Origin, call_key
from interlock.state.idempotency import Stored as StoredCall


class Admitted:
    """The attempt may be made; budget is reserved for it."""

    __slots__ = ()


class Stored(NamedTuple):
    """The tool need not run: the result of an earlier call is used."""

    output: Any
    state_changes: dict[str, Any]
    source: str


class Exhausted(NamedTuple):
    """A budget is used up (the text names it): no further action of the proposal starts."""

    detail: str


ADMITTED: Final = Admitted()


def needs_nothing(action: ActionRun) -> bool:
    """True if step 7 has nothing to look up, count or wait for: the usual case, decided without a coroutine."""
    run, tool = action.run, action.tool
    if run.dry_run or run.judges.issued or not run.allowance.free:
        return False
    if tool is None:
        return True
    if tool.estimates is not None or not tool.plain or (action.spec.idempotent and tool.tool.idempotent):
        return False
    guard = run.services.guard
    if not (tool.read_only or guard is None or guard.check() is None):
        return False
    return run.turn is None or run.turn.try_enter(action)


async def admit(action: ActionRun) -> Admitted | Stored | Refusal | Exhausted:
    """Step 7. May wait; `action.waited_ns` says how long."""
    run, tool, outside = action.run, action.tool, action.outside
    if outside is None and tool is not None and (stored := _find_stored(action, tool)):
        return stored
    if action.admitted:
        if action.reserved is None:
            return await take_turn(action) or ADMITTED
        action.refund()  # reserved for the old parameters: an approver may have edited them since
        return _reserve(action) or await take_turn(action) or ADMITTED
    short = _reserve(action)
    if short is not None and (outside is None or outside.limited):
        return short
    if tool is None or run.dry_run:
        return ADMITTED
    refusal = None if action.used else _use_grants(action, tool)
    if refusal is None and tool.bucket is not None:
        refusal = await _wait_for_rate(action, tool)
    if outside is None:
        if refusal is None and not tool.read_only and run.services.guard is not None:
            refusal = await _wait_for_machine(action)
        if refusal is None:
            refusal = await take_turn(action)
    if refusal is None:
        return ADMITTED
    action.step = 7
    return refusal


async def wait(action: ActionRun, seconds: float) -> None:
    """Sleep outside of execution time; the time counts as waited, and cancellation ends it."""
    with waiting(action):
        await asyncio.sleep(seconds)


@contextlib.contextmanager
def waiting(action: ActionRun) -> Iterator[None]:
    """The time of the block counts as waited, and other proposals may write in the workspace meanwhile."""
    clock, turn = action.run.clock, action.run.turn
    before = clock.mono_ns()
    try:
        # The turn in which a call outside the plan is made is not its own: whoever has it may be in the middle of writing.
        with contextlib.nullcontext() if turn is None or action.outside is not None else turn.pause(action):
            yield
    finally:
        action.waited_ns += clock.mono_ns() - before


async def take_turn(action: ActionRun) -> Refusal | None:
    """Wait for the proposal's turn to write in the workspace. This comes last, because a turn keeps others waiting."""
    turn = action.run.turn
    if turn is None or action.tool is None or action.in_turn:
        return None
    refusal = None if turn.try_enter(action) else await turn.enter(action)
    if refusal is not None:
        action.step = 7
    return refusal


def _reserve(action: ActionRun) -> Refusal | Exhausted | None:
    """Reserve for one attempt in every budget, or in none: the largest of the tool's estimates that fits."""
    run, tool = action.run, action.tool
    allowance, calls = run.allowance, 0 if tool is None else 1
    estimates: Sequence[Estimate | None] = (None,)
    if tool is not None and tool.estimates is not None:
        estimates = tool.estimates(action.parameters)
    for most in estimates:
        if most is not None and most.cost is None and allowance.counts_cost:
            action.step = 7
            return Refusal("price_unknown", "a budget in money is in force, and the model has no `prices`")
        if allowance.reserve(calls, most):
            action.admitted, action.reserved = True, most
            return None
    return Exhausted(allowance.exhausted)


def _use_grants(action: ActionRun, tool: Registered) -> Refusal | None:
    """Take one use of a grant that counts its uses, once per action; for each of the judges of a call outside the plan."""
    run, outside = action.run, action.outside
    principal, judges = (run.principal, (run.judges,)) if outside is None else (outside.principal, outside.judges)
    for one in judges:
        if not one.issued:
            continue
        action.used = True
        choices = one.uses(principal, tool, action.parameters)
        if choices and not any(not ids or run.services.desk.issued.use(ids) for ids in choices):
            return Refusal("grant_used_up", f"the grants that allow `{tool.name}` have no uses left")
    return None


async def _wait_for_rate(action: ActionRun, tool: Registered) -> Refusal | None:
    """Wait for the next token of the tool's rate limit, if it comes early enough."""
    run, outside = action.run, action.outside
    assert tool.bucket is not None
    now = run.clock.mono_ns()
    if outside is not None:
        wait_max_ns: int | None = outside.wait_max_ns
    else:
        wait_max_ns = None if run.deadline_ns == NEVER else max(0, run.deadline_ns - now)
    wait_ns = tool.bucket.acquire(now, wait_max_ns)
    if wait_ns is None:
        when = "before the deadline" if outside is None else "in the time that is left"
        return Refusal("rate_limited", f"the rate limit of `{tool.name}` leaves no place {when}")
    if wait_ns:
        if outside is None:  # other calls belong to an action that runs, or has ended
            what, wait_ms = f"the rate limit of `{tool.name}`", wait_ns / 1e6
            tell_waiting(run, action.index, "rate_limit", what, wait_ms, reading={"wait_ms": wait_ms})
        await wait(action, wait_ns / 1e9)
    return None


async def _wait_for_machine(action: ActionRun) -> Refusal | None:
    """Wait until the machine is under the guard's limits, for as long as the guard allows."""
    run = action.run
    guard = run.services.guard
    assert guard is not None
    reading = guard.check()
    if reading is None:
        return None
    what, wait_ms = f"the machine: {reading.describe()}", run.services.bounds.guard_wait_ms
    tell_waiting(run, action.index, "resource_guard", what, wait_ms, reading=reading.as_dict())
    with waiting(action):
        reading = await guard.wait(run.services.bounds.guard_wait_ms)
    return None if reading is None else Refusal("resource_guard", reading.describe())


# -- calls outside the plan


@contextlib.contextmanager
def outside_plan(run: ProposalRun, index: int, spec: Action, tool: Registered, outside: Outside) -> Iterator[ActionRun]:
    """The call of a tool for the action at `index`, in this task. A reservation is released if the call is not made."""
    task = asyncio.current_task()
    assert task is not None
    watchdog = Watchdog(run.loop, run.clock)
    action = ActionRun(run, Slot(task, watchdog, Alone()), index)
    action.spec, action.tool, action.parameters, action.outside = spec, tool, spec.parameters, outside
    try:
        yield action
    finally:
        watchdog.close()
        action.refund()


async def admit_outside(action: ActionRun) -> Refusal | None:
    """Step 7: the reason why the call may not be made now; None if it may."""
    answer = await admit(action)
    if answer is ADMITTED:
        return None
    return answer if isinstance(answer, Refusal) else Refusal("budget_exceeded", action.run.allowance.exhausted)


# -- stored results


def key_for(run: ProposalRun, tool: Registered, parameters: dict[str, Any]) -> str:
    """The key under which two calls count as the same call."""
    return call_key(
        workspace=run.services.workspace_id,
        agent=run.principal.agent,
        grant=run.grants_digest(),
        tool=tool.name,
        tool_version=tool.version,
        parameters=parameters,
    )


def remember(action: ActionRun, row: ActionResult) -> None:
    """Store the result of a success for the next identical call, if the call is idempotent or its tool has a `cache_ttl`."""
    run, tool = action.run, action.tool
    if tool is None:
        return
    if action.spec.idempotent and tool.tool.idempotent:
        origin = Origin(run.files.id, run.proposal.id, action.spec.id)
        run.results.put(_key(action), StoredCall(origin, row.output, row.state_changes))
    if tool.cache_ttl_ns:
        _put_into_cache(action, tool, row.output)


def _key(action: ActionRun) -> str:
    assert action.tool is not None
    return key_for(action.run, action.tool, action.parameters)


def _find_stored(action: ActionRun, tool: Registered) -> Stored | None:
    """The stored result of an earlier call that is the same call."""
    if tool.cache_ttl_ns and (stored := _from_cache(action)):
        return stored
    return _from_store(action) if action.spec.idempotent and tool.tool.idempotent else None


def _from_store(action: ActionRun) -> Stored | None:
    stored = action.run.results.get(_key(action))
    return None if stored is None else Stored(stored.output, stored.state_changes, str(stored.origin))


def _cache_key(action: ActionRun) -> str:
    """Keyed, so that a reader of the database cannot guess parameters by trial."""
    return action.run.services.redactor.keyed(_key(action))


def _put_into_cache(action: ActionRun, tool: Registered, output: Any) -> None:
    """Store an output for other processes too, unless it contains a secret, which the journal would not show either."""
    run = action.run
    if tool.secrets or _is_apart(action) or run.services.redactor.redact(output) is not output:
        return
    key = run.cached[action.index] = _cache_key(action)
    with contextlib.suppress(StoreError):  # the call succeeded; failing to cache it must not make it fail
        run.services.cache.put(
            key, output, tool.cache_ttl_ns // 1_000_000, files=tool.reads_files,
            generation=action.generation if tool.read_only else None,  # otherwise the call itself started a new generation
        )  # fmt: skip


def _is_apart(action: ActionRun) -> bool:
    """True if the action reads files of a layer, which no other proposal sees."""
    return action.run.layer is not None and action.tool is not None and action.tool.reads_files


def _from_cache(action: ActionRun) -> Stored | None:
    if _is_apart(action):
        return None
    cache = action.run.services.cache
    action.generation = cache.begin()
    hit = cache.get(_cache_key(action))
    return None if hit is None else Stored(hit.output, {}, "cache")
