"""Whatever a tool puts into its failure, the engine continues and the journal can be read back."""

import math

import pytest
from engine_world import binding, call, execute, plan

import interlock
from interlock import ToolError
from interlock.journal import read
from interlock.model.tool import CompensationTemplate


class UnshowableError(Exception):
    def __str__(self):
        raise ValueError("no")


class Unreadable(dict):
    def items(self):
        raise RuntimeError("dictionary changed size during iteration")  # as a dictionary that a thread keeps changing


FAILURES = {
    "an exception that cannot be shown": (UnshowableError, "tool_error", "cannot be shown"),
    "a code that is no text": (lambda: ToolError("broke", code=5), "tool_failed", "broke"),
    "a code that is no code": (lambda: ToolError("broke", code="Oh No\n"), "tool_failed", "broke"),
    "a message that is no text": (lambda: ToolError(5), "tool_failed", "5"),
    "half a character": (lambda: ToolError("a\ud800b"), "tool_failed", "a?b"),
    "half a character in an exception": (lambda: ValueError("a\ud800b"), "tool_error", "a?b"),
    "a hint": (lambda: ToolError("broke", hint="mend it"), "tool_failed", "broke; mend it"),
    "a hint that is no text": (lambda: ToolError("broke", hint=5), "tool_failed", "broke"),
    "half a character in a hint": (lambda: ToolError("broke", hint="a\ud800b"), "tool_failed", "broke; a?b"),
    "an output that is not JSON": (lambda: ToolError("broke", output={1, 2}), "tool_failed", "not JSON, left out"),
    "an output that is no number": (lambda: ToolError("broke", output=math.nan), "tool_failed", "not JSON, left out"),
    "an output that cannot be read": (lambda: ToolError("broke", output=Unreadable(a=1)), "tool_failed", "left out"),
    "an output that is too large": (
        lambda: ToolError("broke", output="x" * ((16 << 20) + 1)),
        "tool_failed",
        "left out",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("how", ["raised", "returned"])
def test_a_failure_is_kept_as_far_as_it_can_be(project, name, how):
    make, reason, said = FAILURES[name]

    def fail() -> None:
        error = make()
        if how == "raised" or not isinstance(error, ToolError):
            raise error
        return error

    rt = project.open(fail)
    result = rt.execute_sync(plan(call("fail", failure_behavior="skip"), call("fail", failure_behavior="skip")))
    for row in result.results:
        assert (row.status, row.reason, row.output) == ("failed", reason, None)
        assert said in row.error
    assert [event for event in read(project.run_directory(result.run_id)) if event.proposal], "it can be read"


class Panic(BaseException):
    """As the Rust libraries under Python raise it."""


@pytest.mark.parametrize("mode", ["async", "thread", "inline"])
def test_a_panic_is_a_failure_of_its_tool_and_ends_no_run(project, mode):
    def panic(parameters, ctx):
        raise Panic("at the disco")

    async def panic_async(parameters, ctx):
        panic(parameters, ctx)

    async def book(parameters, ctx):
        return None

    rt = project.open(
        binding("panic", *((panic_async,) if mode == "async" else (panic, mode))),
        binding("book", book, compensation=CompensationTemplate(tool="panic", parameters={})),
    )
    result = rt.execute_sync(plan(call("book", "b"), call("panic", "p")))
    assert [(row.status, row.reason) for row in result.results] == [
        ("not_undone", "compensation_failed"),
        ("failed", "tool_error"),
    ]
    assert result.results[1].error == "Panic: at the disco"
    assert [left.reason for left in result.not_undone] == ["compensation_failed", "irreversible"]


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1, 1e309, "5", None])
def test_a_cost_that_is_not_an_amount_fails_the_action_and_spends_nothing(project, cost):
    """NaN ended every budget and made the journal unreadable; a cost below zero filled a budget up again."""

    def spend(ctx: interlock.Context) -> None:
        ctx.report_cost(cost)

    rt = project.open(spend)
    result = rt.execute_sync(plan(call("spend", failure_behavior="skip"), budget={"cost": 1.0}))
    assert result.results[0].reason == "tool_error"
    assert list(read(project.run_directory(result.run_id)))


def test_costs_that_add_up_to_no_amount(embedded):
    def spend(ctx: interlock.Context) -> None:
        ctx.report_cost(1e308)
        ctx.report_cost(1e308)

    assert embedded(spend).execute_sync(plan(call("spend"))).results[0].reason == "tool_error"


def test_what_a_tool_says_beside_its_result_is_text(project):
    def say(ctx: interlock.Context) -> None:
        ctx.log(5)
        ctx.posture(sandbox=5)
        ctx.not_exactly_undoable(5)

    rt = project.open(say)
    result = rt.execute_sync(plan(call("say")))
    assert result.status == "succeeded"
    assert result.results[0].posture["sandbox"] == "5"
    assert list(read(project.run_directory(result.run_id)))


@pytest.mark.filterwarnings("error")
def test_a_runtime_that_was_closed_says_so(project):
    rt = project.open()
    rt.close()
    with pytest.raises(interlock.UsageError, match="closed"):
        rt.execute_sync(plan(call("nothing")))
    with pytest.raises(interlock.UsageError, match="closed"):
        rt.runs.start()


@pytest.mark.parametrize("output", [Unreadable(a=1), {"a": [Unreadable(a=1)]}])
def test_an_output_that_cannot_be_read_is_the_tools_failure(project, output):
    async def give(parameters, ctx):
        return output

    rt = project.open(binding("give", give))
    result = execute(rt, call("give", failure_behavior="skip"), call("give", failure_behavior="skip"))
    assert [row.reason for row in result.results] == ["invalid_output"] * 2
    assert "cannot be read: RuntimeError: dictionary changed size" in result.results[0].error
    assert result.status == "failed"
