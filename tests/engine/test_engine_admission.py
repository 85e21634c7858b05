"""Step 7: stored results, the cache, rate limits, budgets, the guard; and the dry run, which does none of it."""

import asyncio

import pytest
from engine_world import TOML, binding, call, change_services, execute, expect, plan, reasons, statuses, write
from engine_world import embedded as open_embedded

import interlock
from interlock.model.proposal import Budget
from interlock.telemetry import GuardLimits, ResourceGuard, Snapshot
from interlock.testing import FakeClock

DAY = 24 * 3600


def counting(name="count", **definition):
    calls = []

    async def tool(parameters, ctx):
        calls.append(parameters)
        return {"call": len(calls)}

    return binding(name, tool, **definition), calls


def same(parameters=None, **fields):
    return call("count", parameters=parameters or {}, idempotent=True, **fields)


# -- stored results


def test_a_stored_result_lasts_a_day():
    clock = FakeClock()
    tool, _calls = counting(idempotent=True)
    with open_embedded(tool, clock=clock) as rt:
        execute(rt, same())
        clock.advance(DAY - 1)
        assert execute(rt, same()).results[0].output == {"call": 1}
        clock.advance(1)
        assert execute(rt, same()).results[0].output == {"call": 2}


def test_what_makes_another_call(embedded):
    tool, calls = counting(idempotent=True)
    rt = embedded(tool)
    execute(rt, same({"a": 1, "b": 2}))
    execute(rt, same({"b": 2, "a": 1}))
    assert len(calls) == 1, "the order of keys is no difference"
    execute(rt, same({"a": 1}))
    assert len(calls) == 2
    rt.register(binding("count", tool.function, idempotent=True, description="changed"))
    execute(rt, same({"a": 1}))
    assert len(calls) == 3, "another version is another tool"


def test_a_fork_for_another_agent_shares_no_results(embedded):
    tool, calls = counting(idempotent=True)
    grant = {"tools": ["*"], "unscoped": ["*"]}
    rt = embedded(tool, grants={"coder": grant, "other": grant})
    execute(rt, same())
    other = rt.fork("other")
    assert execute(other, same()).ok
    assert len(calls) == 2


def test_failures_are_not_remembered(embedded):
    calls = []

    async def fail(parameters, ctx):
        calls.append(1)
        raise interlock.ToolError("no")

    rt = embedded(binding("count", fail, idempotent=True))
    for _ in range(2):
        execute(rt, same(failure_behavior="skip"))
    assert len(calls) == 2


def test_a_hit_has_the_state_changes_of_the_first_call_and_commits_nothing_again(embedded):
    tool, _ = counting(idempotent=True, effects={"n": "$output.call"})
    rt = embedded(tool)
    first = execute(rt, same())
    execute(rt, write("n", 99))
    again = execute(rt, same())
    assert again.results[0].state_changes == first.results[0].state_changes == {"n": 1}
    assert rt.services.store.get("n").value == 99


def test_within_one_proposal_the_second_call_takes_the_firsts_result(embedded):
    tool, calls = counting(idempotent=True)
    result = execute(embedded(tool), same(), same())
    assert len(calls) == 1
    assert result.results[1].deduplicated_from.endswith("/a1")
    assert result.ok


def test_what_is_rolled_back_takes_its_copies_with_it(embedded):
    tool, calls = counting(idempotent=True, reversibility="reversible")
    rt = embedded(tool)
    result = execute(rt, same(), same(), expect("x", 1))
    assert statuses(result) == ["rolled_back", "rolled_back", "failed"]
    execute(rt, same())
    assert len(calls) == 2


# -- the cache


def test_the_cache_has_a_time_to_live():
    clock = FakeClock()
    tool, _calls = counting(cache_ttl_ms=1_000, read_only=True)
    with open_embedded(tool, clock=clock) as rt:
        execute(rt, call("count"))
        clock.advance(0.999)
        hit = execute(rt, call("count")).results[0]
        assert (hit.output, hit.deduplicated_from, hit.duration_ms) == ({"call": 1}, "cache", 0)
        clock.advance(0.001)
        assert execute(rt, call("count")).results[0].output == {"call": 2}


def test_what_was_undone_is_not_in_the_cache(embedded):
    tool, calls = counting(cache_ttl_ms=60_000, reversibility="reversible")
    rt = embedded(tool)
    execute(rt, call("count"), expect("x", 1))
    execute(rt, call("count"))
    assert len(calls) == 2


def test_a_cached_value_is_a_copy(embedded):
    kept = {"list": [1]}

    async def give(parameters, ctx):
        return kept

    rt = embedded(binding("give", give, cache_ttl_ms=60_000))
    execute(rt, call("give")).results[0].output["list"].append(2)
    assert execute(rt, call("give")).results[0].output == {"list": [1]}


# -- rate limits


def test_the_rate_limit_waits_its_turn_and_says_so(embedded):
    tool, _calls = counting()
    rt = embedded(tool)
    rt.set_rate_limit("count", calls=2, per_ms=100)
    result = execute(rt, *[call("count") for _ in range(5)], order="free")
    assert result.ok
    waited = sorted(row.waited_ms for row in result.results)
    assert waited[:2] == [0, 0]
    assert waited[2] >= 45
    assert waited[4] >= 140


def test_a_place_beyond_the_deadline_is_refused_at_once(embedded):
    tool, _calls = counting()
    rt = embedded(tool)
    rt.set_rate_limit("count", calls=1, per_ms=3_600_000)
    result = execute(rt, call("count"), call("count", failure_behavior="skip"), deadline_ms=10_000)
    assert (statuses(result), reasons(result)[1]) == (["succeeded", "rejected"], "rate_limited")


def test_a_stored_result_needs_no_place_in_the_rate_limit(embedded):
    tool, _calls = counting(idempotent=True)
    rt = embedded(tool)
    rt.set_rate_limit("count", calls=1, per_ms=3_600_000)
    assert execute(rt, same(), same(), same(), deadline_ms=5_000).ok


# -- budgets


@pytest.mark.parametrize("kind", ["actions", "tool_calls"])
def test_a_budget_counts_attempts(embedded, kind):
    attempts = []

    async def fail(parameters, ctx):
        attempts.append(1)
        raise ValueError("again")

    rt = embedded(binding("fail", fail))
    change_services(rt, jitter=lambda: 0.0)
    result = execute(rt, call("fail", failure_behavior="retry", max_retries=9), write("k", 1), budget={kind: 3})
    assert len(attempts) <= 3
    row = result.results[0]
    assert (row.status, row.reason, row.attempts) == ("failed", "budget_exceeded", len(attempts))
    assert "again" in row.error


def test_a_reached_budget_skips_the_rest_and_undoes_nothing(embedded):
    tool, _calls = counting()
    rt = embedded(tool)
    result = execute(
        rt,
        write("k", 1),
        call("count"),
        call("count", "x"),
        call("count", dependencies=["x"]),
        call("count", parameters={"y": "$x.output"}),
        write("k", 2),
        budget={"actions": 2},
    )
    assert statuses(result) == ["succeeded", "succeeded", "skipped", "skipped", "skipped", "skipped"]
    assert set(reasons(result)[2:]) == {"budget_exceeded"}
    assert rt.services.store.get("k").value == 1
    assert result.status == "failed"


def test_state_actions_cost_no_tool_calls(embedded):
    tool, _calls = counting()
    assert execute(embedded(tool), write("k", 1), call("count"), write("k", 2), budget={"tool_calls": 1}).ok


def test_duration_and_cost_are_counted_afterwards(embedded):
    async def costly(parameters, ctx):
        ctx.report_cost(0.5)
        ctx.report_cost(0.25)
        await asyncio.sleep(0.02)

    rt = embedded(binding("costly", costly))
    result = execute(rt, *[call("costly") for _ in range(4)], budget={"cost": 1.5})
    assert reasons(result) == [None, None, "budget_exceeded", "budget_exceeded"]
    assert result.cost.cost == 1.5
    assert reasons(execute(rt, call("costly"), call("costly"), budget={"duration_ms": 10})) == [None, "budget_exceeded"]


def test_the_smaller_of_the_configured_and_the_proposed_budget_holds(embedded):
    tool, _calls = counting()
    rt = embedded(tool, budget={"proposal": {"actions": 2}})
    assert reasons(execute(rt, *[call("count")] * 3))[2] == "budget_exceeded"
    assert reasons(execute(rt, *[call("count")] * 3, budget={"actions": 100}))[2] == "budget_exceeded"
    assert reasons(execute(rt, *[call("count")] * 3, budget={"actions": 1}))[1] == "budget_exceeded"
    rt.set_budget(Budget(actions=3))
    assert execute(rt, *[call("count")] * 3).ok


BUDGETS = {
    "session": "[budget]\nactions = 4",
    "run": "[budget.run]\nactions = 4",
    "agent": "[budget.agent]\nactions = 4",
}


@pytest.mark.parametrize("scope", BUDGETS)
def test_shared_budgets(new_project, scope):
    project = new_project(toml=TOML % "" + BUDGETS[scope])
    tool, _calls = counting()

    async def main(rt, session, together):
        decode = interlock.model.decode.proposal_from_builtins
        if together:
            run = rt.runs.start(session=session)
            rows = [await run.execute(decode(plan(*[call("count")] * 3))) for _ in range(2)]
            run.finish()
        else:
            rows = [await rt.execute(plan(*[call("count")] * 3), session=session) for _ in range(2)]
        return sum(s == "succeeded" for result in rows for s in statuses(result))

    with project.open(tool) as rt:
        assert asyncio.run(main(rt, "nightly", together=True)) == 4
    with project.open(tool) as rt:  # a later process
        left = asyncio.run(main(rt, "nightly", together=False))
        assert left == {"session": 0, "run": 6, "agent": 0}[scope]
    with project.open(tool) as rt:
        other = asyncio.run(main(rt, "another", together=False))
        assert other == {"session": 4, "run": 6, "agent": 0}[scope]


def test_what_did_not_run_costs_nothing_of_a_shared_budget(new_project):
    """Reserved and then refused: by the rules after a wait, by the rate limit, by a stored result."""
    project = new_project(toml=TOML % "" + BUDGETS["session"] + "\n")
    tool, _calls = counting(idempotent=True)
    rt = project.open(tool)
    rt.set_rate_limit("count", calls=1, per_ms=3_600_000)
    session = {"session": "s"}
    execute(rt, same(), **session)
    for _ in range(5):
        assert execute(rt, same(), **session).results[0].deduplicated_from
    for _ in range(5):
        refused = execute(rt, same({"other": 1}), deadline_ms=1_000, **session)
        assert reasons(refused) == ["rate_limited"]
    assert rt.services.budgets.spent("session:s")["actions"] == 1


def test_rejected_after_a_wait_is_refunded(embedded):
    """The rules are asked again after the wait; what they then refuse did not run."""
    tool, _calls = counting()
    rt = embedded(tool, budget={"actions": 10})
    rt.set_rate_limit("count", calls=1, per_ms=200)

    async def main():
        run = rt.runs.start(session="s")
        decode = interlock.model.decode.proposal_from_builtins
        task = asyncio.ensure_future(
            run.execute(
                decode(plan(call("count"), call("count", preconditions=[{"key": "ok", "operator": "not_exists"}])))
            )
        )
        await asyncio.sleep(0.05)
        return await task, run

    result, run = asyncio.run(main())
    assert result.ok
    run.finish()
    assert rt.services.budgets.spent("session:s")["actions"] == 2


def test_cancelled_while_waiting_is_refunded(embedded):
    tool, _calls = counting()

    async def fail(parameters, ctx):
        await asyncio.sleep(0.05)
        raise ValueError("stop")

    rt = embedded(tool, binding("fail", fail), budget={"actions": 10})
    rt.set_rate_limit("count", calls=1, per_ms=3_600_000)
    result = execute(
        rt, call("count"), call("count", failure_behavior="retry"), call("fail"), order="free", session="s"
    )
    assert result.status == "failed"
    assert rt.services.budgets.spent("session:s")["actions"] == 2


# -- the guard


class Machine:
    """A machine that is as busy as it is told, sampled anew each time it is looked at."""

    def __init__(self, clock):
        self.clock = clock
        self.cpu = 0.0

    def latest(self):
        fields = dict.fromkeys(Snapshot.__struct_fields__)
        defaults = {"cpus": 1, "cpu_percent": self.cpu, "own_cpu_percent": 0.0, "mono_ns": self.clock.mono_ns()}
        return Snapshot(**(fields | defaults))


def guarded(rt, wait_ms=50):
    machine = Machine(rt.services.clock)
    change_services(rt, guard=ResourceGuard(GuardLimits(), machine, rt.services.clock))
    rt.services.bounds.guard_wait_ms = wait_ms
    return machine


def test_the_guard_holds_actions_back_and_then_refuses(embedded):
    tool, calls = counting()
    rt = embedded(tool)
    guarded(rt).cpu = 99.0
    result = execute(rt, write("k", 1), call("count"))
    assert (statuses(result), reasons(result)) == (["rolled_back", "rejected"], [None, "resource_guard"])
    assert "cpu" in result.results[1].error
    assert result.results[1].waited_ms >= 50
    assert calls == []


def test_the_guard_lets_go_and_lets_reading_pass(embedded):
    tool, calls = counting()
    look, _looks = counting("look", read_only=True)
    rt = embedded(tool, look)
    machine = guarded(rt, wait_ms=20_000)
    machine.cpu = 99.0
    assert execute(rt, call("look")).ok

    async def main():
        task = asyncio.ensure_future(rt.execute(plan(call("count"))))
        await asyncio.sleep(0.05)
        assert calls == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


# -- the dry run


def test_a_dry_run_calls_nothing_writes_nothing_spends_nothing(project):
    tool, calls = counting(idempotent=True)
    rt = project.open(tool, binding("denied", tool.function))
    files = [
        call("fs.write", parameters={"path": "x", "content": "y"}),
        call("shell", parameters={"command": "touch z"}),
    ]
    before = {p.name for p in project.root.iterdir()}
    result = execute(rt, write("k", 1), expect("k", 1), call("count"), *files, dry_run=True)
    assert reasons(result) == ["dry_run"] * 5
    assert result.status == "succeeded"
    assert (calls, rt.services.store.snapshot()) == ([], {})
    assert {p.name for p in project.root.iterdir()} == before
    assert result.cost.actions_executed == 0


def test_a_dry_run_says_what_would_be_refused(embedded):
    tool, _calls = counting(parameters={"type": "object", "required": ["x"]})
    rt = embedded(tool, counting("other")[0], rules={"allow": ["count", "state_write"], "ask": ["other"]})
    said = execute(
        rt,
        write("k", 1),
        call("count", failure_behavior="skip"),
        call("other", failure_behavior="skip"),
        call("count", parameters={"x": 1}, preconditions=[{"key": "k", "value": 1}], failure_behavior="skip"),
        call("count", parameters={"x": 1}, preconditions=[{"key": "k", "value": 2}], failure_behavior="skip"),
        dry_run=True,
    )
    assert reasons(said) == ["dry_run", "invalid_parameters", "approval_required", "dry_run", "precondition_failed"]
    assert said.status == "rejected"


def test_a_dry_run_continues_past_references(embedded):
    """What an earlier action would have given is not known; so much is said, and the rest is looked at all the same."""
    tool, _calls = counting(parameters={"type": "object", "properties": {"n": {"type": "integer"}}})
    grant = {"tools": ["count"], "unscoped": ["*"]}
    rt = embedded(tool, counting("denied")[0], grants={"coder": grant})
    said = execute(
        rt,
        call("count", "c"),
        call("count", parameters={"n": "$c.output.call"}),
        call("denied", parameters={"n": "$c.output.call"}, failure_behavior="skip"),
        call("count", "last"),
        dry_run=True,
    )
    assert reasons(said) == ["dry_run", "dry_run", "capability_denied", "dry_run"]
    assert "$c.output" in said.results[1].error


def test_a_dry_run_costs_no_budget(embedded):
    tool, _calls = counting()
    rt = embedded(tool, budget={"actions": 3})
    for _ in range(5):
        assert execute(rt, *[call("count")] * 3, dry_run=True, session="s").status == "succeeded"
    assert rt.services.budgets.spent("session:s")["actions"] == 0


@pytest.mark.parametrize("where", ["proposal", "run", "agent", "proposed"])
def test_a_dry_run_says_where_a_budget_would_end(embedded, where):
    tool, calls = counting()
    sections = {"proposal": {"actions": 2}, "run": {"run": {"tool_calls": 2}}, "agent": {"agent": {"actions": 2}}}
    rt = embedded(tool, **({"budget": sections[where]} if where in sections else {}))
    fields = {"budget": {"actions": 2}} if where == "proposed" else {}
    before = rt.services.budgets.spent("agent:coder")
    dry = execute(rt, *[call("count")] * 4, dry_run=True, **fields)
    assert rt.services.budgets.spent("agent:coder") == before
    real = execute(rt, *[call("count")] * 4, **fields)
    assert dry.status == real.status == "failed"
    assert reasons(dry) == ["dry_run"] * 2 + ["budget_exceeded"] * 2
    assert reasons(real) == [None] * 2 + ["budget_exceeded"] * 2
    assert len(calls) == 2


def test_a_dry_run_sees_what_was_spent_before(embedded):
    tool, _calls = counting()
    rt = embedded(tool, budget={"agent": {"actions": 5}})
    execute(rt, *[call("count")] * 3)
    dry = execute(rt, *[call("count")] * 3, dry_run=True)
    assert reasons(dry) == ["dry_run"] * 2 + ["budget_exceeded"]


# -- fork, and executors


def test_a_forks_own_tools_are_its_own(embedded):
    tool, _calls = counting()
    grant = {"tools": ["*"], "unscoped": ["*"]}
    rt = embedded(tool, grants={"coder": grant, "other": grant})
    other = rt.fork("other")
    mine, _mine_calls = counting("mine")
    other.register(mine)
    assert execute(other, call("mine"), call("count"), write("shared", 1)).ok
    assert rt.services.store.get("shared").value == 1
    assert reasons(execute(rt, call("mine"))) == ["unknown_tool"]


def test_an_executor_performs_what_passed_the_gate(embedded):
    done = []

    class Elsewhere:
        async def execute(self, tool, parameters, ctx):
            done.append((tool, parameters, ctx.action_id))
            return "elsewhere"

    tool, calls = counting(parameters={"type": "object", "properties": {"x": {"type": "integer"}}})
    rt = embedded(tool)
    result = execute(rt, call("count", parameters={"x": 1}), executor=Elsewhere())
    assert (result.results[0].output, done, calls) == ("elsewhere", [("count", {"x": 1}, "a1")], [])
    refused = execute(rt, call("count", parameters={"x": "1"}), executor=Elsewhere())
    assert reasons(refused) == ["invalid_parameters"]
    assert len(done) == 1
