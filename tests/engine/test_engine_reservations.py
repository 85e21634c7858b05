"""Tokens and money of a call that says beforehand what it can use: reserved before it starts, settled by what it used."""

import asyncio

from engine_world import AGENT, SETTINGS, call, embedded, execute, nothing, plan, reasons, statuses

import interlock
from interlock.engine.record.replay import ReplayedAction, ReplayedProposal
from interlock.model.errors import ToolError
from interlock.model.events import ActionCancelled, ActionFailed, ActionIntent, ActionSucceeded, ActionUnknown
from interlock.model.proposal import Budget
from interlock.model.tool import Binding, Estimate, Tool
from interlock.state.budgets import BudgetStore


def model(function, *estimates, name="think", **definition):
    """A tool that reserves: `estimates`, or those that `estimates` gives for the parameters."""
    found = estimates[0] if callable(estimates[0]) else lambda _: estimates
    tool = Tool(name=name, read_only=True, destructive=False, **definition)
    return Binding(tool=tool, function=function, mode="async", writes="nothing", estimates=found)


def using(tokens, cost):
    async def think(parameters, ctx):
        ctx.report_usage(tokens, cost)

    return think


def test_what_a_call_used_replaces_what_was_reserved_for_it():
    rt = embedded(model(using(30, 0.25), Estimate(100, 1.0)))
    result = execute(rt, *(call("think") for _ in range(3)), budget={"tokens": 160, "cost": 1.5})
    assert statuses(result) == ["succeeded"] * 3  # at once they would not fit; one after the other they do
    assert (result.cost.tokens, result.cost.cost, result.cost.cost_unknown) == (90, 0.75, 0)


def test_a_call_that_may_take_more_than_is_left_does_not_start():
    rt = embedded(model(using(1, 0.0), Estimate(101, 0.1)))
    result = execute(rt, call("think"), budget={"tokens": 100})
    assert (statuses(result), reasons(result)) == (["skipped"], ["budget_exceeded"])
    assert "leaves 100, and the call may take 101" in result.results[0].error


def test_calls_that_run_at_once_never_reserve_more_than_the_budget():
    running, most = 0, 0

    async def think(parameters, ctx):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        ctx.report_usage(10, 0.0)

    rt = embedded(model(think, Estimate(10, 0.0)))
    result = execute(rt, *(call("think") for _ in range(8)), budget={"tokens": 40}, order="free")
    assert statuses(result).count("succeeded") == 4
    assert most <= 4


def test_a_smaller_reservation_is_taken_where_the_larger_one_does_not_fit():
    seen = []

    async def think(parameters, ctx):
        seen.append(ctx.reserved)

    rt = embedded(model(think, Estimate(300, 3.0), Estimate(100, 1.0)))
    execute(rt, call("think"), budget={"tokens": 150})
    execute(rt, call("think"), budget={"tokens": 300})
    assert seen == [Estimate(100, 1.0), Estimate(300, 3.0)]


def test_a_call_that_reports_nothing_has_spent_its_reservation():
    rt = embedded(model(nothing, Estimate(60, 0.6)))
    result = execute(rt, call("think"), call("think"), budget={"cost": 1.0})
    assert statuses(result) == ["succeeded", "skipped"]
    assert (result.cost.cost, result.cost.tokens, result.cost.cost_unknown) == (0.6, 60, 1)


def test_that_counts_without_any_budget_too():
    result = execute(embedded(model(nothing, Estimate(60, 0.6))), call("think"))
    assert (result.cost.cost, result.cost.tokens, result.cost.cost_unknown) == (0.6, 60, 1)


def test_without_prices_a_budget_in_money_refuses_and_one_in_tokens_does_not():
    rt = embedded(model(using(5, None), Estimate(10, None)))
    refused = execute(rt, call("think"), budget={"cost": 100.0})
    assert (statuses(refused), reasons(refused)) == (["rejected"], ["price_unknown"])
    counted = execute(rt, call("think"), budget={"tokens": 10})
    assert (statuses(counted), counted.cost.tokens, counted.cost.cost, counted.cost.cost_unknown) == (
        ["succeeded"], 5, 0.0, 1,
    )  # fmt: skip


def test_a_shared_budget_in_money_refuses_without_prices_as_well():
    rt = embedded(model(using(5, None), Estimate(10, None)), budget={"agent": {"cost": 1.0}})
    assert reasons(execute(rt, call("think"))) == ["price_unknown"]


def test_failures_count_what_they_used_and_each_attempt_reserves_anew():
    attempts = []

    async def think(parameters, ctx):
        attempts.append(ctx.attempt)
        ctx.report_usage(40, 0.0)
        raise ToolError("garbage")

    rt = embedded(model(think, Estimate(50, 0.0)))
    result = execute(rt, call("think", failure_behavior="retry", max_retries=5), budget={"tokens": 100})
    assert attempts == [1, 2]  # 80 are used, and a third attempt may take 50
    assert result.cost.tokens == 80


def test_tools_that_use_no_tokens_continue_when_the_tokens_are_used_up():
    rt = embedded(model(using(10, 0.0), Estimate(10, 0.0)), Binding(tool=Tool(name="nothing"), function=nothing))
    result = execute(rt, call("think"), call("nothing"), budget={"tokens": 10})
    assert statuses(result) == ["succeeded", "succeeded"]


def test_an_edit_of_an_approver_is_reserved_for_as_edited():
    rt = embedded(
        model(using(1, 0.0), lambda parameters: [Estimate(parameters["n"], 0.0)]),
        rules={"ask": ["think"]},
    )
    options = {"on_question": lambda hold: {"n": 500}}
    fits = asyncio.run(rt.execute(plan(call("think", parameters={"n": 5}), budget={"tokens": 500}), **options))
    does_not = asyncio.run(rt.execute(plan(call("think", parameters={"n": 5}), budget={"tokens": 499}), **options))
    assert (statuses(fits), reasons(does_not)) == (["succeeded"], ["budget_exceeded"])


def test_budgets_of_sessions_and_agents_hold_back_what_is_reserved():
    rt = embedded(
        model(using(30, 0.25), Estimate(100, 1.0)),
        budget={"agent": {"tokens": 200, "cost": 2.0}},
    )
    results = [execute(rt, call("think")) for _ in range(5)]
    assert [r.status for r in results] == ["succeeded"] * 4 + ["failed"]  # after 120 only 80 are left
    spent = BudgetStore(rt.services.db).spent(f"agent:{AGENT}")
    assert (spent["tokens"], spent["cost"]) == (120, 1.0)


def test_the_journal_has_what_was_reserved_and_what_was_used():
    rt = interlock.Runtime.open(settings=SETTINGS | {"journal": {"durability": "memory"}})
    rt.register(model(using(30, 0.25), Estimate(100, 1.0)))
    rt.register(model(nothing, Estimate(7, 0.5), name="mute"))
    events = []
    rt.subscribe(events=lambda _run, event: events.append(event))
    result = execute(rt, call("think"), call("mute"))
    intents = [(e.tokens, e.cost) for e in events if isinstance(e, ActionIntent)]
    used = [(e.tokens, e.cost, e.cost_unknown) for e in events if isinstance(e, ActionSucceeded | ActionFailed)]
    assert intents == [(100, 1.0), (7, 0.5)]
    assert used == [(30, 0.25, False), (7, 0.5, True)]
    assert (result.cost.tokens, result.cost.cost) == (37, 0.75)


def test_a_changed_setting_of_a_tool_leaves_its_reservation_in_place():
    rt = embedded(model(nothing, Estimate(60, 0.6)))
    rt.set_rate_limit("think", calls=100, per_ms=1000)
    assert reasons(execute(rt, call("think"), budget={"tokens": 10})) == ["budget_exceeded"]


def test_amounts_that_would_refill_a_budget_are_errors():
    for tokens, cost in ((-1, 0.0), (1, -0.5), (1, float("nan"))):
        result = execute(embedded(model(using(tokens, cost), Estimate(10, 1.0))), call("think"))
        assert reasons(result) == ["tool_error"]
        assert (result.cost.tokens, result.cost.cost) == (10, 1.0)


def test_the_budget_of_a_program_counts_tokens_too():
    rt = embedded(model(using(30, 0.0), Estimate(30, 0.0)))
    rt.set_budget(Budget(tokens=59))
    assert statuses(execute(rt, call("think"), call("think"))) == ["succeeded", "skipped"]


INTENT = ActionIntent(attempt=1, tool="think", tokens=100, cost=1.0)


def replayed(*events):
    """What a resumed proposal counts as spent after these events of one action."""
    proposal, action = ReplayedProposal("run_1", None), ReplayedAction()
    for event in events:
        if isinstance(event, ActionIntent):
            proposal.reserve(action, event)
        else:
            proposal.count(action, event)
    return proposal.tokens, proposal.cost, proposal.cost_unknown


def test_a_resumed_proposal_counts_what_a_dead_process_may_have_spent():
    done = ActionSucceeded(attempt=1, duration_ms=1.0, output=None, tokens=30, cost=0.25)
    mute = ActionFailed(attempt=1, reason="timeout", error="", tokens=100, cost=1.0, cost_unknown=True)
    lost = ActionUnknown(attempt=1, reason="interrupted")
    stopped = ActionCancelled(attempt=1, reason="cancelled", tokens=100, cost=1.0, cost_unknown=True)
    assert replayed(INTENT, done) == (30, 0.25, 0)
    assert replayed(INTENT, mute) == (100, 1.0, 1)
    assert replayed(INTENT, stopped) == (100, 1.0, 1)
    assert replayed(INTENT) == (100, 1.0, 0)  # still open
    assert replayed(INTENT, lost) == (100, 1.0, 1)
    assert replayed(INTENT, lost, INTENT, done) == (130, 1.25, 1)
    assert replayed(INTENT, INTENT, done) == (130, 1.25, 1)  # the process died before it could say so
