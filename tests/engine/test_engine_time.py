"""Time-outs, deadlines, waiting, nesting, and what tools do to the loop they run on. Bounds are generous."""

import asyncio
import threading
import time

import anyio
import pytest
from engine_world import binding, call, change_services, execute, plan, reasons, statuses, write

import interlock
from interlock.engine.proposals import watchdog


async def noop(parameters, ctx):
    return parameters


async def sleep(parameters, ctx):
    await asyncio.sleep(parameters.get("seconds", 20))
    return "slept"


def test_the_actions_time_out_comes_before_the_tools(embedded):
    rt = embedded(binding("sleep", sleep, timeout_ms=60_000))
    assert reasons(execute(rt, call("sleep", timeout_ms=20))) == ["timeout"]


def test_each_attempt_has_its_own_time(embedded):
    attempts = []

    async def slow_at_first(parameters, ctx):
        attempts.append(ctx.attempt)
        await asyncio.sleep(0 if ctx.attempt == 3 else 20)

    rt = embedded(binding("slow", slow_at_first))
    change_services(rt, jitter=lambda: 0.0)
    result = execute(rt, call("slow", timeout_ms=40, failure_behavior="retry"))
    assert (attempts, result.ok) == ([1, 2, 3], True)


def test_a_thread_that_runs_over_is_an_unknown_outcome_and_never_retried(embedded):
    go, attempts, told = threading.Event(), [], []

    def slow(parameters, ctx):
        attempts.append(1)
        go.wait(20)
        told.append(ctx.cancelled)

    rt = embedded(binding("slow", slow, mode="thread"))
    result = execute(rt, call("slow", timeout_ms=50, failure_behavior="retry"), call("slow", dependencies=["a1"]))
    assert (statuses(result)[0], result.results[0].reason) == ("unknown_outcome", "timeout")
    assert result.results[1].status == "skipped"
    assert [n.reason for n in result.not_undone] == ["unknown_outcome"]
    go.set()
    while not told:
        time.sleep(0.001)
    assert (attempts, told) == ([1], [True])


def test_a_read_only_thread_that_runs_over_has_only_failed(embedded):
    go = threading.Event()
    rt = embedded(binding("slow", lambda p, c: go.wait(20), mode="thread", read_only=True))
    result = execute(rt, call("slow", timeout_ms=50))
    go.set()
    assert (statuses(result), reasons(result)) == (["failed"], ["timeout"])


def test_a_hanging_thread_does_not_use_up_the_others(embedded):
    go = threading.Event()
    rt = embedded(
        binding("hang", lambda p, c: go.wait(20), mode="thread", timeout_ms=50),
        binding("work", lambda p, c: "done", mode="thread"),
    )
    for _ in range(3):
        hanging = [call("hang", failure_behavior="skip") for _ in range(32)]
        assert set(statuses(execute(rt, *hanging, order="free"))) == {"unknown_outcome"}
    assert execute(rt, *[call("work") for _ in range(40)], order="free").ok
    go.set()


@pytest.mark.parametrize("where", ["running", "waiting for retry", "rate limit", "ready"])
def test_the_deadline_covers_everything(embedded, where):
    async def fail(parameters, ctx):
        raise ValueError("again")

    rt = embedded(binding("sleep", sleep), binding("fail", fail), binding("noop", noop))
    change_services(rt, jitter=lambda: 1.0)
    rt.set_rate_limit("noop", calls=1, per_ms=60_000)
    actions = {
        "running": [call("sleep")],
        "waiting for retry": [call("fail", failure_behavior="retry", max_retries=50)],
        "rate limit": [call("noop"), call("noop")],
        "ready": [call("sleep"), call("sleep")],
    }[where]
    result = execute(rt, write("k", 1), *actions, deadline_ms=120)
    assert result.status == "failed"
    assert rt.services.store.get("k") is None
    assert result.results[0].status == "rolled_back"
    wanted = "rate_limited" if where == "rate limit" else "deadline_exceeded"
    assert wanted in reasons(result)


def test_the_deadline_covers_the_wait_for_the_right_to_write(project):
    rt = project.open(binding("sleep", sleep), binding("noop", noop))

    async def main():
        first = asyncio.create_task(rt.execute(plan(call("sleep"))))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        result = await rt.execute(plan(call("noop"), deadline_ms=600))
        waited = time.monotonic() - began
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return result, waited

    result, waited = asyncio.run(main())
    assert (result.status, reasons(result)) == ("failed", ["deadline_exceeded"])
    assert waited < 2
    (what,) = result.results[0].waited_for
    assert what.startswith("its turn to write in the workspace")
    (shown,) = rt.runs.results(result.run_id)
    assert shown.results[0].waited_for == (what,)


def test_waiting_is_outside_of_the_time_out(embedded):
    rt = embedded(binding("noop", noop))
    rt.set_rate_limit("noop", calls=1, per_ms=150)
    result = execute(rt, call("noop", timeout_ms=50), call("noop", timeout_ms=50))
    assert result.ok
    assert result.results[1].waited_ms > 100
    assert result.results[1].duration_ms < 50


@pytest.mark.parametrize("raises", [False, True])
def test_a_tool_that_continues_after_its_cancellation_has_timed_out(embedded, raises):
    """Late is not a success, and not another failure either; what it said is kept, and it is not done twice."""
    attempts = []

    async def stubborn(parameters, ctx):
        attempts.append(1)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
        if raises:
            raise ValueError("too bad")
        return "finished"

    rt = embedded(binding("stubborn", stubborn))
    behavior = "skip" if raises else "retry"
    row = execute(rt, call("stubborn", timeout_ms=30, failure_behavior=behavior)).results[0]
    assert (row.status, row.reason, row.output) == ("failed", "timeout", None if raises else "finished")
    assert "30ms" in row.error
    assert attempts == [1]


@pytest.mark.parametrize("mode", ["async", "inline"])
def test_a_tool_that_holds_the_loop_past_its_time_out_has_timed_out(embedded, mode):
    def blocks(parameters, ctx):
        threading.Event().wait(0.05)

    async def blocks_the_loop(parameters, ctx):
        blocks(parameters, ctx)

    rt = embedded(binding("blocks", blocks_the_loop if mode == "async" else blocks, mode=mode))
    row = execute(rt, call("blocks", timeout_ms=10)).results[0]
    assert (row.status, row.reason, row.error) == ("failed", "timeout", "it ended after its time-out of 10ms")


def test_a_time_out_says_after_how_long(embedded):
    rt = embedded(binding("sleep", sleep, timeout_ms=40))
    assert execute(rt, call("sleep")).results[0].error == "stopped after its time-out of 40ms"
    assert execute(rt, call("sleep", timeout_ms=20)).results[0].error == "stopped after its time-out of 20ms"


def test_a_tool_that_swallows_its_cancellation_is_cancelled_again(embedded, monkeypatch):
    monkeypatch.setattr(watchdog, "_AGAIN_NS", 50_000_000)
    caught = []

    async def swallow(parameters, ctx):
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                caught.append(1)
        await asyncio.sleep(60)

    rt = embedded(binding("swallow", swallow))

    async def main():
        result = await rt.execute(plan(call("swallow", timeout_ms=30)))
        assert asyncio.current_task().cancelling() == 0
        return result

    result = asyncio.run(main())
    assert (reasons(result), len(caught)) == (["timeout"], 2)


def test_time_limits_of_the_tools_own_work_as_always(embedded):
    async def stdlib(parameters, ctx):
        try:
            async with asyncio.timeout(0.02):
                await asyncio.sleep(20)
        except TimeoutError:
            return "timed out"

    async def by_wait_for(parameters, ctx):
        await asyncio.wait_for(asyncio.sleep(20), 0.02)

    async def with_anyio(parameters, ctx):
        with anyio.move_on_after(0.02) as scope:
            await anyio.sleep(20)
        return scope.cancelled_caught

    async def with_fail_after(parameters, ctx):
        with anyio.fail_after(0.02):
            await anyio.sleep(20)

    async def with_group(parameters, ctx):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 20)
            await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        return "group"

    tools = [stdlib, by_wait_for, with_anyio, with_fail_after, with_group]
    rt = embedded(*[binding(tool.__name__, tool) for tool in tools])
    for round_of in (1, 7):  # alone on the caller's task, and on workers
        calls = [call(tool.__name__, failure_behavior="skip") for tool in tools] * round_of
        result = execute(rt, *calls, order="free")
        assert [row.output or row.reason for row in result.results] == [
            "timed out", "tool_error", True, "tool_error", "group",
        ] * round_of  # fmt: skip


@pytest.mark.parametrize("width", [1, 4])
def test_something_that_a_tool_waits_for_and_that_was_cancelled_is_its_own_failure(embedded, width):
    """Not the caller's wish, and not ours: the proposal continues."""

    async def unlucky(parameters, ctx):
        inner = asyncio.ensure_future(asyncio.sleep(20))
        asyncio.get_running_loop().call_soon(inner.cancel)
        await inner

    rt = embedded(binding("unlucky", unlucky), binding("noop", noop))
    actions = [call("unlucky", failure_behavior="skip") for _ in range(width)] + [call("noop")]
    result = execute(rt, *actions, order="free")
    assert reasons(result) == ["tool_error"] * width + [None]


def test_inline_tools_run_on_the_loop(embedded):
    seen = []
    rt = embedded(binding("inline", lambda p, c: seen.append(threading.current_thread()), mode="inline"))
    assert execute(rt, call("inline")).ok
    assert seen == [threading.current_thread()]


@pytest.mark.parametrize("mode", ["async", "thread", "inline"])
@pytest.mark.parametrize("width", [1, 3])
def test_an_interrupt_passes_through_after_the_outcome_is_journaled(project, mode, width):
    async def leave_async(parameters, ctx):
        raise KeyboardInterrupt

    def leave(parameters, ctx):
        raise KeyboardInterrupt

    rt = project.open(
        binding("leave", leave_async if mode == "async" else leave, mode=mode, read_only=True),
        binding("sleep", sleep, read_only=True),
    )

    async def main():
        await rt.execute(plan(call("leave", "l"), *[call("sleep", f"s{i}") for i in range(width - 1)]))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    (run,) = project.runs()
    outcome = [e for e in project.journal(run) if e.get("action") == "l"][-1]
    assert (outcome["kind"], outcome["reason"]) == ("action_cancelled", "interrupted")
    assert "run_finished" not in project.kinds(run), "it can be resumed"


# -- nesting


def test_a_tool_may_propose_something_itself(embedded):
    rt = embedded(binding("noop", noop))

    async def outer(parameters, ctx):
        result = await rt.execute(plan(call("noop", parameters={"x": 1}), write("inner", 1)))
        return result.results[0].output

    rt.register(binding("outer", outer))
    result = execute(rt, *[call("outer") for _ in range(3)])
    assert [row.output for row in result.results] == [{"x": 1}] * 3


def test_nesting_holds_no_slot(embedded):
    """As many levels as there are slots, and more."""
    rt = embedded()
    rt.services.bounds.concurrency_max = 2

    async def deeper(parameters, ctx):
        depth = parameters["depth"]
        if depth == 0:
            return 0
        inner = [call("deeper", parameters={"depth": depth - 1}) for _ in range(2)]
        result = await rt.execute(plan(*inner, order="free"))
        return 1 + max(row.output for row in result.results)

    rt.register(binding("deeper", deeper))
    assert execute(rt, call("deeper", parameters={"depth": 5})).results[0].output == 5


@pytest.mark.parametrize("outermost", ["async", "sync"])
def test_a_plain_function_may_propose_something_itself(embedded, outermost):
    rt = embedded(binding("noop", noop))

    def outer(parameters, ctx):
        depth = parameters["depth"]
        if depth:
            return rt.execute_sync(plan(call("outer", parameters={"depth": depth - 1}))).results[0].output
        return "bottom"

    rt.register(binding("outer", outer, mode="thread", timeout_ms=5_000))
    actions = [call("outer", parameters={"depth": 3}) for _ in range(3)]
    run = (lambda p: asyncio.run(rt.execute(p))) if outermost == "async" else rt.execute_sync
    result = run(plan(*actions, order="free"))
    assert [row.output for row in result.results] == ["bottom"] * 3


def test_nesting_in_a_project_works_under_the_outer_proposals_lease(project):
    rt = project.open(binding("noop", noop))

    async def outer(parameters, ctx):
        return (await rt.execute(plan(call("noop"), call("fs.write", parameters={"path": "x", "content": "y"})))).status

    def plain(parameters, ctx):
        return rt.execute_sync(plan(call("noop"))).status

    rt.register(binding("outer", outer))
    rt.register(binding("plain", plain, mode="thread"))
    result = execute(rt, call("outer"), call("plain"))
    assert [row.output for row in result.results] == ["succeeded", "succeeded"], result.results


def test_the_outer_time_out_ends_what_is_nested(embedded):
    rt = embedded(binding("sleep", sleep))

    async def outer(parameters, ctx):
        await rt.execute(plan(call("sleep"), call("sleep"), order="free"))

    rt.register(binding("outer", outer))

    async def main():
        result = await rt.execute(plan(call("outer", timeout_ms=50)))
        assert asyncio.current_task().cancelling() == 0
        assert len(asyncio.all_tasks()) == 1
        return result

    assert reasons(asyncio.run(main())) == ["timeout"]


def test_no_more_than_concurrency_max_run_at_once(embedded):
    running, most = 0, 0

    async def count(parameters, ctx):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1

    rt = embedded(binding("count", count))
    assert execute(rt, *[call("count") for _ in range(200)], order="free").ok
    assert most == 32


def test_a_busy_proposal_lets_the_loop_breathe(embedded):
    """Actions that never wait still give other tasks their turn."""
    rt = embedded(binding("noop", noop))

    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await rt.execute(plan(*[call("noop") for _ in range(5_000)]))
        task.cancel()
        return turns

    assert asyncio.run(main()) > 5


def test_execute_sync_inside_a_loop_says_so(embedded):
    rt = embedded()

    async def main():
        with pytest.raises(interlock.UsageError) as caught:
            rt.execute_sync(plan(write("k", 1)))
        assert caught.value.code == "loop_running"

    asyncio.run(main())


def test_execute_sync_from_many_threads(embedded):
    rt = embedded(binding("noop", noop))
    results, threads = [], []
    for _ in range(8):
        threads.append(threading.Thread(target=lambda: results.append(rt.execute_sync(plan(call("noop"))).ok)))
        threads[-1].start()
    for thread in threads:
        thread.join(20)
    assert results == [True] * 8
