"""The ten cases of car_engine's executor that matter most, and where this engine answers differently.

Each test names the behaviour of the source and, after "Here:", the deviation (if there is one).
"""

import asyncio
import threading
import time

import pytest
from engine_world import (
    AGENT,
    SETTINGS,
    binding,
    call,
    change_services,
    execute,
    expect,
    plan,
    read,
    reasons,
    statuses,
    write,
)

import interlock
from interlock.model.tool import CompensationTemplate


async def noop(parameters, ctx):
    return "done"


def failing(message="no"):
    async def fail(parameters, ctx):
        raise interlock.ToolError(message)

    return fail


def test_1_a_failed_assertion_aborts_and_the_state_is_as_before(embedded):
    """Source: a failed assertion fails, `abort` rolls the state back to the snapshot, the rest is skipped.

    Here: the writes never reached the store, so other writers lose nothing; the row says `rolled_back`, not `succeeded`.
    """
    rt = embedded()
    execute(rt, write("x", 1))
    result = execute(rt, write("x", 2), expect("x", 3), write("x", 4))
    assert result.status == "failed"
    assert statuses(result) == ["rolled_back", "failed", "skipped"]
    assert reasons(result) == [None, "assertion_failed", "aborted"]
    assert result.results[1].output == {"asserted": "x", "value": 2, "expected": 3}
    assert execute(rt, read("x")).results[0].output == 1


def test_1_rollback_does_not_erase_what_others_wrote_meanwhile(embedded):
    """Source: restoring the snapshot erases every write since, whoever made it. Here: others keep theirs."""
    rt = embedded()

    async def interfere(parameters, ctx):
        await rt.execute(plan(write("other", "mine")))

    rt.register(binding("interfere", interfere))
    result = execute(rt, write("x", 1), call("interfere"), expect("x", 2))
    assert result.status == "failed"
    assert rt.services.store.get("x") is None
    assert rt.services.store.get("other").value == "mine"


def test_2_a_rejection_aborts(embedded):
    """Source: an action with `abort` that is rejected stops the proposal, and everything is rolled back."""
    rt = embedded(rules={"allow": ["state_write"]})
    result = execute(rt, write("x", 1), read("x"), write("y", 1))
    assert statuses(result) == ["rolled_back", "rejected", "skipped"]
    assert reasons(result) == [None, "policy_denied", "aborted"]
    assert rt.services.store.snapshot() == {}


def test_2_a_rejected_action_that_may_be_skipped_does_not_abort(embedded):
    rt = embedded(rules={"allow": ["state_write"]})
    result = execute(rt, write("x", 1), read("x", failure_behavior="skip"), write("y", 1))
    assert statuses(result) == ["succeeded", "rejected", "succeeded"]
    assert result.status == "failed"


def test_3_there_are_two_reasons_to_be_skipped(embedded):
    """Source: "skipped due to abort" and "cost budget exceeded". Here: stable codes, and a third one for dependants."""
    rt = embedded(binding("noop", noop))
    aborted = execute(rt, expect("x", 1), call("noop"))
    assert reasons(aborted) == ["assertion_failed", "aborted"]
    spent = execute(rt, call("noop"), call("noop"), call("noop"), budget={"actions": 1})
    assert statuses(spent) == ["succeeded", "skipped", "skipped"]
    assert reasons(spent) == [None, "budget_exceeded", "budget_exceeded"]


def test_4_retries_are_exhausted_and_then_the_proposal_aborts(embedded):
    """Source: `max_retries` + 1 attempts, then `failed`. Here: that aborts, which the source forgets to do."""
    attempts = []

    async def flaky(parameters, ctx):
        attempts.append(ctx.attempt)
        raise RuntimeError("still broken")

    rt = embedded(binding("flaky", flaky))
    change_services(rt, jitter=lambda: 0.0)
    result = execute(
        rt, write("x", 1), call("flaky", failure_behavior="retry", max_retries=2), expect("x", 1, dependencies=["a2"])
    )
    assert attempts == [1, 2, 3]
    assert statuses(result) == ["rolled_back", "failed", "skipped"]
    assert (result.results[1].reason, result.results[1].attempts) == ("tool_error", 3)
    assert result.cost.retries == 2


def test_5_a_failure_that_may_be_skipped(embedded):
    """Source: the action's status is `skipped`. Here: it is `failed`, because it ran; what needs it is skipped."""
    rt = embedded(binding("noop", noop), binding("broken", failing()))
    result = execute(
        rt,
        call("broken", "a", failure_behavior="skip"),
        call("noop", "b", dependencies=["a"]),
        call("noop", "c"),
    )
    assert statuses(result) == ["failed", "skipped", "succeeded"]
    assert reasons(result) == ["tool_failed", "dependency_failed", None]


def test_6_declared_effects_are_claims(embedded):
    """Source: `expected_effects` are written into the state as if they had happened.

    Here: they satisfy preconditions of the same proposal and never reach the store.
    """
    rt = embedded(binding("noop", noop))
    claim = call("noop", "a", expected_effects={"built": True})
    needs = call("noop", "b", preconditions=[{"key": "built", "value": True}], dependencies=["a"])
    result = execute(rt, claim, needs, read("built"))
    assert statuses(result) == ["succeeded"] * 3
    assert result["a3"].output is None
    assert result["a"].state_changes == {}
    assert rt.services.store.get("built") is None
    alone = execute(rt, needs | {"dependencies": []})
    assert reasons(alone) == ["precondition_failed"]


def test_7_the_same_idempotent_call_runs_once_and_undo_forgets_it(embedded):
    """Source: a second identical idempotent call takes the first one's result, also a failure's, and before policy.

    Here: only successes, only after policy, and only once the proposal that made it was committed.
    """
    calls = []

    async def charge(parameters, ctx):
        calls.append(parameters["amount"])
        return {"receipt": len(calls)}

    rt = embedded(binding("charge", charge, idempotent=True))
    action = call("charge", parameters={"amount": 5}, idempotent=True)
    first = execute(rt, action)
    second = execute(rt, action)
    assert calls == [5]
    assert second.results[0].output == {"receipt": 1}
    assert second.results[0].deduplicated_from == f"{first.run_id}/{first.proposal_id}/a1"
    assert (second.results[0].duration_ms, second.results[0].attempts) == (0, 0)
    assert (second.cost.tool_calls, second.cost.actions_executed) == (0, 0)


def test_7_an_aborted_call_is_not_remembered(embedded):
    calls = []

    async def charge(parameters, ctx):
        calls.append(parameters)

    rt = embedded(binding("charge", charge, idempotent=True))
    action = call("charge", parameters={"amount": 5}, idempotent=True)
    assert execute(rt, action, expect("x", 1)).status == "failed"
    assert execute(rt, action).ok
    assert len(calls) == 2


def test_7_policy_comes_before_the_stored_result(embedded):
    """Source: the cache is asked first, so a call that became forbidden still has its result handed out."""
    rt = embedded(binding("charge", noop, idempotent=True))
    action = call("charge", parameters={}, idempotent=True)
    assert execute(rt, action).ok
    settings = SETTINGS | {"rules": {"deny": ["charge"]}}
    other = interlock.Runtime.open(settings=settings)
    with other:
        change_services(other, idempotency=rt.services.idempotency)
        other.register(binding("charge", noop, idempotent=True))
        assert reasons(execute(other, action)) == ["policy_denied"]


@pytest.mark.parametrize("wide", [1, 5, 20])
def test_8_a_budget_holds_in_parallel(embedded, wide):
    """Source: actions of one level all pass the check before any of them counts. Here: a place is reserved first."""
    calls = []

    async def slow(parameters, ctx):
        calls.append(1)
        await asyncio.sleep(0.01)

    rt = embedded(binding("slow", slow))
    result = execute(rt, *[call("slow") for _ in range(40)], order="free", budget={"tool_calls": wide})
    assert len(calls) == wide == statuses(result).count("succeeded")
    assert set(reasons(result)) == {None, "budget_exceeded"}
    assert result.cost.tool_calls == wide


def test_9_time_outs_stop_what_runs(embedded):
    """Source: a time-out only where the action has one, and nothing else is ever stopped. Here: every action has one."""
    ended = []

    async def slow(parameters, ctx):
        try:
            await asyncio.sleep(20)
        finally:
            ended.append(1)

    rt = embedded(binding("slow", slow, timeout_ms=50))
    began = time.monotonic()
    result = execute(rt, call("slow"))
    assert (statuses(result), reasons(result)) == (["failed"], ["timeout"])
    assert ended == [1]
    assert execute(rt, call("slow", timeout_ms=20)).results[0].reason == "timeout"
    assert time.monotonic() - began < 15


def test_10_capabilities_are_checked_for_tools_keys_and_the_number_of_actions(embedded):
    """Source: tools, and keys of reads and writes only. Here: also assertions, claims, preconditions."""
    grant = {"tools": ["noop"], "unscoped": ["noop"], "state_keys": ["mine.*"], "actions_max": 3}
    rt = embedded(binding("noop", noop), binding("other", noop), grants={AGENT: grant})
    assert reasons(execute(rt, call("other"))) == ["capability_denied"]
    for action in (
        write("theirs", 1),
        read("theirs"),
        expect("theirs", None),
        call("noop", expected_effects={"theirs": 1}),
        call("noop", preconditions=[{"key": "theirs", "operator": "not_exists"}]),
        call("noop", assumptions=[{"key": "theirs", "read_version": 0}]),
        call("noop", read_set=["theirs"]),
        call("noop", write_set=["theirs"]),
        call("noop", state_dependencies=["theirs"]),
    ):
        assert reasons(execute(rt, action)) == ["state_key_denied"], action
    assert execute(rt, write("mine.x", 1), call("noop")).ok
    many = execute(rt, *[call("noop") for _ in range(4)])
    assert reasons(many) == ["too_many_actions"] * 4
    assert many.status == "rejected"
    assert (many.cost.actions_rejected, many.cost.actions_executed) == (4, 0)


def test_plain_functions_run_in_parallel(embedded):
    """Source: one executor behind one lock. Here: 32 plain `def` tools are inside at the same time."""
    barrier = threading.Barrier(32)

    def meet(parameters, ctx):
        return barrier.wait(timeout=20) >= 0

    rt = embedded(binding("meet", meet, mode="thread"))
    result = execute(rt, *[call("meet") for _ in range(32)], order="free")
    assert statuses(result) == ["succeeded"] * 32


def test_a_tools_own_compensation_needs_no_word_from_the_agent(embedded):
    """Source: has no compensation at all."""
    undone = []

    async def make(parameters, ctx):
        return {"id": 7}

    async def unmake(parameters, ctx):
        undone.append(parameters)

    template = CompensationTemplate(tool="unmake", parameters={"id": "$output.id", "name": "$parameters.name"})
    rt = embedded(binding("make", make, reversibility="compensable", compensation=template), binding("unmake", unmake))
    result = execute(rt, call("make", parameters={"name": "n"}), expect("x", 1))
    assert statuses(result) == ["compensated", "failed"]
    assert undone == [{"id": 7, "name": "n"}]
    assert result.not_undone == []
