"""What stops a proposal, what becomes of what runs, and what is undone: honest statuses, nothing hidden."""

import asyncio
import contextlib
import threading

import pytest
from engine_world import AGENT, binding, call, change_services, execute, expect, plan, reasons, statuses, write

import interlock


async def noop(parameters, ctx):
    return parameters


def recording(log, output=None, error=None):
    async def tool(parameters, ctx):
        log.append(parameters)
        if error is not None:
            raise error
        return output

    return tool


def test_abort_cancels_what_runs(embedded):
    """Running actions are cancelled and say so; what never started is skipped."""
    started, ended = asyncio.Event(), []

    async def long(parameters, ctx):
        started.set()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            ended.append(ctx.action_id)
            raise

    async def fail(parameters, ctx):
        await started.wait()
        raise interlock.ToolError("no")

    rt = embedded(binding("long", long, read_only=True), binding("fail", fail))
    result = execute(rt, call("long"), call("fail"), call("long", dependencies=["a2"]), order="free")
    assert statuses(result) == ["cancelled", "failed", "skipped"]
    assert reasons(result) == ["aborted", "tool_failed", "aborted"]
    assert ended == ["a1"]


def test_a_cancelled_action_that_may_have_had_an_effect_is_not_undone(embedded):
    inside = asyncio.Event()

    async def long(parameters, ctx):
        inside.set()
        await asyncio.sleep(20)

    async def fail(parameters, ctx):
        await inside.wait()
        raise interlock.ToolError("no")

    rt = embedded(binding("long", long), binding("fail", fail))
    result = execute(rt, call("long"), call("fail"), order="free")
    assert statuses(result) == ["cancelled", "failed"]
    assert [n.action_id for n in result.not_undone] == ["a1", "a2"]


def test_a_thread_that_is_cancelled_is_an_unknown_outcome(embedded):
    inside, go = threading.Event(), threading.Event()

    def long(parameters, ctx):
        inside.set()
        go.wait(20)

    def fail(parameters, ctx):
        inside.wait(20)
        raise interlock.ToolError("no")

    rt = embedded(binding("long", long, mode="thread"), binding("fail", fail, mode="thread"))
    result = execute(rt, call("long"), call("fail"), order="free")
    go.set()
    assert statuses(result) == ["unknown_outcome", "failed"]
    assert ("a1", "unknown_outcome") in [(n.action_id, n.reason) for n in result.not_undone]


def test_no_row_of_an_aborted_proposal_says_succeeded_if_it_changed_something(embedded):
    log = []
    rt = embedded(
        binding("irreversible", noop),
        binding("reversible", noop, reversibility="reversible"),
        binding("look", noop, read_only=True),
        binding("undo_it", recording(log)),
    )
    compensation = {"type": "tool", "tool": "undo_it", "parameters": {"what": "$c.output.x"}}
    result = execute(
        rt,
        call("irreversible", "i"),
        call("reversible", "r"),
        call("look", "l"),
        call("irreversible", "c", parameters={"x": 1}, compensation=compensation),
        write("k", 1, "w"),
        expect("k", 2, "stop"),
    )
    assert statuses(result) == ["not_undone", "rolled_back", "succeeded", "compensated", "rolled_back", "failed"]
    assert result["i"].reason == "irreversible"
    assert [(n.action_id, n.reason) for n in result.not_undone] == [("i", "irreversible")]
    assert log == [{"what": 1}]


def test_compensations_run_newest_first_and_only_for_what_succeeded(embedded):
    log = []
    rt = embedded(
        binding("do", noop),
        binding("fail", recording([], error=interlock.ToolError("no"))),
        binding("un", recording(log)),
    )

    def with_undo(tool, name):
        return call(tool, name, compensation={"type": "tool", "tool": "un", "parameters": {"n": name}})

    result = execute(rt, with_undo("do", "a"), with_undo("do", "b"), with_undo("fail", "c"), with_undo("do", "d"))
    assert log == [{"n": "b"}, {"n": "a"}]
    assert statuses(result) == ["compensated", "compensated", "failed", "skipped"]


def test_a_reserved_action_runs_only_as_a_compensation(embedded):
    log = []
    rt = embedded(binding("do", noop), binding("un", recording(log)))
    actions = [
        call("do", "a", parameters={"id": 7}, compensation={"type": "action_ref", "action_id": "u"}),
        call("un", "u", parameters={"id": "$a.output.id"}),
    ]
    fine = execute(rt, *actions)
    assert (statuses(fine), reasons(fine)) == (["succeeded", "skipped"], [None, "reserved"])
    assert fine.ok
    assert log == []
    aborted = execute(rt, *actions, expect("x", 1))
    assert statuses(aborted) == ["compensated", "skipped", "failed"]
    assert log == [{"id": 7}]


def test_what_needs_a_reserved_action_is_skipped(embedded):
    rt = embedded(binding("do", noop))
    result = execute(
        rt,
        call("do", "a", compensation={"type": "action_ref", "action_id": "u"}),
        call("do", "u"),
        call("do", "b", dependencies=["u"]),
    )
    assert reasons(result) == [None, "reserved", "dependency_failed"]


@pytest.mark.parametrize(
    ("rules", "grant", "said"),
    [
        ({"allow": ["do", "assert"]}, {"tools": ["*"], "unscoped": ["*"]}, "policy_denied"),
        ({"allow": ["*", "assert"]}, {"tools": ["do"], "unscoped": ["*"]}, "capability_denied"),
        ({"allow": ["do", "assert"], "ask": ["un"]}, {"tools": ["*"], "unscoped": ["*"]}, "approval"),
    ],
)
def test_a_compensation_that_is_refused_is_not_undone(embedded, rules, grant, said):
    log = []
    rt = embedded(binding("do", noop), binding("un", recording(log)), rules=rules, grants={AGENT: grant})
    result = execute(rt, call("do", "a", compensation={"type": "tool", "tool": "un"}), expect("x", 1))
    assert log == []
    assert (result["a"].status, result["a"].reason) == ("not_undone", "compensation_failed")
    (left,) = result.not_undone
    assert (left.action_id, left.reason) == ("a", "compensation_failed")
    assert said in left.detail


BROKEN = [
    interlock.ToolError("no way"),
    ValueError("oops"),
    asyncio.CancelledError(),
    "slow",
    "missing",
    "reference",
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_compensation_that_fails_is_not_undone_and_the_others_still_run(embedded, broken):
    log = []

    async def slow(parameters, ctx):
        await asyncio.sleep(20)

    tool = slow if broken == "slow" else recording([], error=broken if isinstance(broken, BaseException) else None)
    rt = embedded(binding("do", noop), binding("un", recording(log)), binding("bad", tool, timeout_ms=50))
    bad = {"type": "tool", "tool": "absent" if broken == "missing" else "bad", "parameters": {}}
    if broken == "reference":
        bad["parameters"] = {"x": "$b.output.nothing.there"}
    result = execute(
        rt,
        call("do", "a", compensation={"type": "tool", "tool": "un", "parameters": {}}),
        call("do", "b", compensation=bad),
        expect("x", 1),
    )
    assert statuses(result) == ["compensated", "not_undone", "failed"]
    assert [(n.action_id, n.reason) for n in result.not_undone] == [("b", "compensation_failed")]
    assert log == [{}]


def test_a_compensation_on_a_thread_is_told_that_its_time_is_over(embedded):
    told = threading.Event()

    def late(parameters, ctx):
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        told.set()

    rt = embedded(binding("do", noop), binding("late", late, mode="thread", timeout_ms=20))
    compensation = {"type": "tool", "tool": "late", "parameters": {}}
    result = execute(rt, call("do", "a", compensation=compensation), expect("x", 1))
    assert "longer than its time-out of 20ms" in result.not_undone[0].detail
    assert told.wait(20)


def test_a_compensation_that_continues_after_its_time_out_has_undone_nothing(embedded):
    async def stubborn(parameters, ctx):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(20)

    rt = embedded(binding("do", noop), binding("late", stubborn, timeout_ms=20))
    compensation = {"type": "tool", "tool": "late", "parameters": {}}
    result = execute(rt, call("do", "a", compensation=compensation), expect("x", 1))
    assert [n.reason for n in result.not_undone] == ["compensation_failed"]


def test_the_parameters_of_a_compensation_are_checked(embedded):
    log = []
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    rt = embedded(binding("do", noop), binding("un", recording(log), parameters=schema))
    result = execute(rt, call("do", "a", compensation={"type": "tool", "tool": "un"}), expect("x", 1))
    assert [n.reason for n in result.not_undone] == ["compensation_failed"]
    assert log == []


def test_the_more_cautious_of_tool_and_action_holds(embedded):
    rt = embedded(binding("safe", noop, reversibility="reversible"), binding("wild", noop))
    result = execute(
        rt,
        call("safe", "a", reversibility="irreversible"),
        call("wild", "b", reversibility="reversible"),
        call("safe", "c", reversibility="reversible"),
        expect("x", 1),
    )
    assert [n.action_id for n in result.not_undone] == ["a", "b"]
    calls = []
    rt.register(binding("count", recording(calls), idempotent=False))
    again = call("count", idempotent=True)
    execute(rt, again)
    execute(rt, again)
    assert len(calls) == 2, "the agent alone cannot declare a call idempotent"


def test_a_failure_that_is_skipped_lets_the_rest_continue_and_undoes_nothing(embedded):
    rt = embedded(binding("do", noop), binding("fail", recording([], error=ValueError("x"))))
    result = execute(rt, call("do"), call("fail", failure_behavior="skip"), write("k", 1))
    assert statuses(result) == ["succeeded", "failed", "succeeded"]
    assert rt.services.store.get("k").value == 1
    assert result.status == "failed"


def test_what_is_not_retryable_is_not_retried(embedded):
    attempts = []

    async def never(parameters, ctx):
        attempts.append(1)
        raise interlock.ToolError("no", retryable=False)

    rt = embedded(binding("never", never))
    result = execute(rt, call("never", failure_behavior="retry"))
    assert (len(attempts), result.results[0].attempts) == (1, 1)


def test_a_tool_that_returns_an_error_has_failed(embedded):
    async def give(parameters, ctx):
        return interlock.ToolError("no", output={"code": 3}, retryable=False)

    result = execute(embedded(binding("give", give)), call("give"))
    row = result.results[0]
    assert (row.status, row.reason, row.error, row.output) == ("failed", "tool_failed", "no", {"code": 3})


def test_a_rejection_is_not_retried(embedded):
    rt = embedded(binding("do", noop), rules={"deny": ["do"]})
    result = execute(rt, call("do", failure_behavior="retry"))
    assert (statuses(result), result.cost.retries) == (["rejected"], 0)


def test_back_off_grows_and_is_waited_outside_of_execution_time(embedded):
    async def flaky(parameters, ctx):
        if ctx.attempt < 3:
            raise ValueError("again")
        return ctx.attempt

    rt = embedded(binding("flaky", flaky))
    asked = []

    def jitter():
        asked.append(1)
        return 0.1

    change_services(rt, jitter=jitter)
    row = execute(rt, call("flaky", failure_behavior="retry")).results[0]
    assert (row.status, row.output, row.attempts, len(asked)) == ("succeeded", 3, 3, 2)
    assert row.waited_ms >= 10 + 20
    assert row.duration_ms < row.waited_ms


@pytest.mark.parametrize("mode", ["async", "thread", "inline", "executor"])
def test_every_attempt_sees_the_parameters_that_were_judged(embedded, mode):
    """A tool that changes what it was given changes nothing for the next attempt, nor for the compensation."""
    seen, undone = [], []

    def greedy(parameters, ctx):
        seen.append({"items": list(parameters["items"]), "flag": parameters.get("flag")})
        parameters["items"].append("more")
        parameters["flag"] = True
        if ctx.attempt == 1:
            raise ValueError("again")

    template = interlock.model.tool.CompensationTemplate(tool="un", parameters={"items": "$parameters.items"})

    async def greedy_async(parameters, ctx):
        greedy(parameters, ctx)

    class Executor:
        async def execute(self, tool, parameters, ctx):
            greedy(parameters, ctx)

    tool, how = (greedy, mode) if mode in ("thread", "inline") else (greedy_async, "async")
    rt = embedded(binding("greedy", tool, how, compensation=template), binding("un", recording(undone)))
    change_services(rt, jitter=lambda: 0.0)
    action = call("greedy", "g", parameters={"items": ["one"]}, failure_behavior="retry")
    options = {"executor": Executor()} if mode == "executor" else {}
    execute(rt, action, expect("x", 1, dependencies=["g"]), **options)
    assert seen == [{"items": ["one"], "flag": None}] * 2
    assert undone == [{"items": ["one"]}]


@pytest.mark.parametrize(
    "output",
    [
        2**60,
        {"x": -(2**60)},
        float("nan"),
        [float("inf")],
        "\ud800",
        {"\ud800": 1},
        {1: 2},
        object(),
        b"x",
        {"x": {1, 2}},
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_is_not_json_is_an_invalid_output(embedded, output):
    async def give(parameters, ctx):
        return output

    tool = binding("give", give, idempotent=True, cache_ttl_ms=1000)
    result = execute(embedded(tool), call("give", idempotent=True), write("k", 1))
    assert (result.results[0].status, result.results[0].reason) == ("failed", "invalid_output")


def test_what_a_tool_does_with_its_output_afterwards_is_seen_by_nobody(project):
    """A list that a tool keeps and adds to would change what the journal has said, and could be no JSON at the end."""
    kept = [1]

    async def give(parameters, ctx):
        return {"kept": kept}

    async def add(parameters, ctx):
        kept.append(object())
        return parameters["seen"]

    rt = project.open(binding("give", give, idempotent=True), binding("add", add))
    result = execute(rt, call("give", "g", idempotent=True), call("add", "a", parameters={"seen": "$g.output"}))
    assert result.status == "succeeded"
    assert [row.output for row in result.results] == [{"kept": [1]}] * 2


def test_an_output_that_does_not_fit_returns(embedded):
    rt = embedded(binding("give", noop, returns={"type": "object", "required": ["id"]}))
    assert reasons(execute(rt, call("give"))) == ["invalid_output"]
    assert execute(rt, call("give", parameters={"id": 1})).ok


def test_the_callers_cancellation_passes_and_the_loop_is_clean(embedded):
    began = asyncio.Event()

    async def long(parameters, ctx):
        began.set()
        await asyncio.sleep(20)

    rt = embedded(binding("long", long))

    async def main():
        task = asyncio.get_running_loop().create_task(rt.execute(plan(*[call("long") for _ in range(5)], order="free")))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        assert others == []

    asyncio.run(main())


def test_our_own_cancelling_leaves_no_trace_on_the_callers_task(embedded):
    """An aborted proposal cancels its workers; one of them is the caller's own task."""

    async def quick_fail(parameters, ctx):
        await asyncio.sleep(0.01)
        raise ValueError("x")

    async def stubborn(parameters, ctx):
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            return "I finished all the same"

    rt = embedded(binding("fail", quick_fail), binding("stubborn", stubborn))

    async def main():
        for actions in ([call("stubborn"), call("fail")], [call("fail"), call("stubborn")]):
            result = await rt.execute(plan(*actions, order="free"))
            assert result.status == "failed"
            assert asyncio.current_task().cancelling() == 0
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
        assert "not_undone" in statuses(result)

    asyncio.run(main())
