"""What the rows and the cost of a proposal say: who stopped it, what was tried how often, and what only looked."""

import asyncio

import pytest
from engine_world import binding, call, change_services, execute, expect, read, reasons, statuses, write

import interlock
from interlock.engine.record.replay import ReplayedRun


async def noop(parameters, ctx):
    return parameters


async def fails(parameters, ctx):
    raise interlock.ToolError("no")


async def hangs(parameters, ctx):
    await asyncio.sleep(60)


def errors(result):
    return [row.error for row in result.results]


def test_rows_of_a_stopped_proposal_name_the_action_that_stopped_it(embedded):
    rt = embedded(binding("do", noop), binding("bad", fails), binding("hang", hangs))
    result = execute(
        rt, call("do", "a"), call("hang", "h"), call("bad", "b", dependencies=["a"]), call("do", "c", dependencies=["h"]),
        order="free",
    )  # fmt: skip
    by = {row.action_id: row for row in result.results}
    assert (by["h"].status, by["h"].reason, by["h"].error) == (
        "cancelled",
        "aborted",
        "`b` stopped the proposal: failed, tool_failed",
    )
    assert (by["c"].status, by["c"].reason, by["c"].error) == ("skipped", "aborted", by["h"].error)


def test_a_refusal_that_stops_it_is_named_too(embedded):
    rt = embedded(binding("do", noop))
    result = execute(rt, expect("x", 1, "look"), call("do", "d"))
    assert errors(result)[1] == "`look` stopped the proposal: failed, assertion_failed"
    result = execute(rt, call("nothing.there", "n"), call("do", "d"))
    assert "`n` stopped the proposal: rejected, unknown_tool" in errors(result)


def test_a_skipped_row_names_the_action_that_it_needs(embedded):
    rt = embedded(binding("do", noop), binding("bad", fails))
    result = execute(
        rt,
        call("bad", "b", failure_behavior="skip", write_set=["k"]),
        call("do", "by_id", dependencies=["b"], failure_behavior="skip"),
        call("do", "by_reference", parameters={"x": "$b.output"}, failure_behavior="skip"),
        read("k", "by_state", failure_behavior="skip"),
        call("do", "far", dependencies=["by_id"], failure_behavior="skip"),
    )
    assert statuses(result) == ["failed", *["skipped"] * 4]
    assert errors(result)[1:4] == ["it needs `b`: failed, tool_failed"] * 3
    assert errors(result)[4] == "it needs `by_id`: skipped, dependency_failed"


def test_a_deadline_and_a_budget_are_named(embedded):
    rt = embedded(binding("do", noop), binding("hang", hangs))
    result = execute(rt, call("hang", "h"), call("do", "d", dependencies=["h"]), deadline_ms=50)
    assert errors(result) == ["the proposal's deadline of 50ms was over"] * 2
    result = execute(rt, call("do", "a"), call("do", "b"), budget={"actions": 1})
    assert errors(result) == [None, "the proposal's budget of 1 actions is used up"]


def test_the_journal_says_the_same(project):
    rt = project.open(binding("do", noop), binding("bad", fails), binding("hang", hangs))
    result = execute(
        rt,
        read("k", "r"),
        call("hang", "h"),
        call("bad", "b", dependencies=["r"]),
        call("do", "c", dependencies=["h"]),
        order="free",
    )
    replayed = ReplayedRun(project.run_directory(result.run_id))
    (known,) = (replayed.result(name) for name in replayed.proposals)
    assert errors(known) == errors(result)
    assert statuses(known) == statuses(result)
    assert known.cost == result.cost


@pytest.mark.parametrize("tries", [1, 5])
def test_each_try_is_a_tool_call(embedded, tries):
    """`cost.tool_calls` is what the budget `tool_calls` counts: with a budget of exactly that many, nothing runs short."""
    seen = []

    async def flaky(parameters, ctx):
        seen.append(1)
        if len(seen) < tries:
            raise interlock.ToolError("again")

    rt = embedded(binding("flaky", flaky))
    change_services(rt, jitter=lambda: 0.0)
    flaky_call = call("flaky", failure_behavior="retry", max_retries=9)
    result = execute(rt, flaky_call, write("k", 1), budget={"tool_calls": tries})
    assert result.ok
    assert (result.cost.tool_calls, result.cost.retries, len(seen)) == (tries, tries - 1, tries)


def test_a_retry_without_budget_is_not_made(embedded):
    rt = embedded(binding("bad", fails))
    change_services(rt, jitter=lambda: 0.0)
    result = execute(rt, call("bad", failure_behavior="retry"), budget={"tool_calls": 2})
    assert reasons(result) == ["budget_exceeded"]
    assert (result.cost.tool_calls, result.cost.retries) == (2, 1)


def test_a_stored_result_does_not_count_as_a_call(embedded):
    rt = embedded(binding("do", noop, idempotent=True))
    once = call("do", idempotent=True)
    assert execute(rt, once).cost.tool_calls == 1
    assert execute(rt, once).cost.tool_calls == 0


def test_what_only_looked_is_not_said_to_be_rolled_back(project):
    rt = project.open(binding("look", noop, read_only=True), binding("bad", fails))
    result = execute(
        rt, write("k", 1), read("k"), expect("k", 1), call("look"), call("fs.list", parameters={}), call("bad")
    )
    assert statuses(result) == ["rolled_back", *["succeeded"] * 4, "failed"]
    assert reasons(result)[:5] == [None] * 5
    assert result.status == "failed"


def test_a_reading_tool_whose_operator_vouches_for_an_effect_is_rolled_back(embedded):
    rt = embedded(binding("login", noop, read_only=True, effects={"session": 1}), binding("bad", fails))
    assert statuses(execute(rt, call("login"), call("bad"))) == ["rolled_back", "failed"]
