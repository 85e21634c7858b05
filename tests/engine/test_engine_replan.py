"""After a failure a planner proposes again: each time a whole new proposal, judged, recorded and undone by itself."""

import asyncio

import pytest
from engine_world import AGENT, binding, call, embedded, plan, reasons

import interlock
from interlock.model.errors import ToolError, UsageError


async def fail(parameters, ctx):
    raise ToolError("no", code="tool_failed", retryable=False)


async def work(parameters, ctx):
    return "done"


@pytest.fixture
def rt():
    opened = embedded(binding("fail", fail), binding("work", work), journal={"durability": "memory"})
    yield opened
    opened.close()


def run(rt, planner, how="auto", **options):
    first = plan(call("fail", "f"), agent=AGENT)
    return asyncio.run(rt.execute(first, planner=planner, replan=how, **options))


def test_the_planner_gets_the_failure_and_its_proposal_is_a_run_of_its_own(rt):
    seen = []

    def planner(failure):
        seen.append(failure)
        return plan(call("work"))

    result = run(rt, planner)
    assert (result.status, len(result.replaced)) == ("succeeded", 1)
    (failure,) = seen
    assert isinstance(failure, interlock.PlanFailure)
    assert (failure.attempt, reasons(failure.result), failure.proposal.actions[0].tool) == (1, ["tool_failed"], "fail")
    assert failure.result.run_id == result.replaced[0] != result.run_id
    assert rt.runs.get(result.run_id).agent == AGENT


def test_there_are_no_more_proposals_than_the_limit(rt):
    asked = []

    async def planner(failure):
        asked.append(failure.attempt)
        return plan(call("fail"))

    result = run(rt, planner, replans_max=3)
    assert (result.status, asked, len(result.replaced)) == ("failed", [1, 2, 3], 3)


def test_a_planner_that_has_no_other_proposal_ends_it(rt):
    result = run(rt, lambda _failure: None)
    assert (result.status, result.replaced) == ("failed", [])


def test_off_asks_no_planner_and_both_belong_together(rt):
    with pytest.raises(UsageError, match="planner"):
        run(rt, lambda _failure: None, how="off")
    with pytest.raises(UsageError, match="planner"):
        asyncio.run(rt.execute(plan(call("fail")), replan="auto"))
    with pytest.raises(UsageError, match="between 1 and"):
        run(rt, lambda _failure: None, replans_max=11)


def test_a_refusal_does_not_lead_to_a_new_plan(rt):
    asked = []
    result = asyncio.run(rt.execute(plan(call("nothing_like_this")), planner=asked.append, replan="auto"))
    assert (result.status, asked) == ("rejected", [])


def test_what_the_planner_proposes_is_judged_like_any_other():
    settings = {"rules": {"allow": ["fail"], "deny": ["work"]}, "journal": {"durability": "memory"}}
    with embedded(binding("fail", fail), binding("work", work), **settings) as rt:
        result = run(rt, lambda _failure: plan(call("work")))
        assert (result.status, reasons(result)) == ("rejected", ["policy_denied"])


def test_it_is_for_the_same_agent(rt):
    with pytest.raises(UsageError, match="another agent"):
        run(rt, lambda _failure: plan(call("work"), agent="other"))


@pytest.mark.parametrize(("yes", "status", "replaced"), [(True, "succeeded", 1), (False, "failed", 0)])
def test_a_person_reads_each_new_proposal_first_if_that_is_wanted(rt, yes, status, replaced):
    shown = []

    def answer(question):
        shown.append(question)
        return yes

    result = run(rt, lambda _failure: plan(call("work", "w")), how="ask", on_question=answer)
    assert (result.status, len(result.replaced)) == (status, replaced)
    assert "`f` failed" in shown[0].summary
    assert shown[0].context["proposal"]["actions"][0]["tool"] == "work"


def test_nobody_is_asked_where_no_answer_is_waited_for(rt):
    with pytest.raises(UsageError, match="wait=False"):
        run(rt, lambda _failure: None, how="ask", wait=False)
