"""Whoever waits is told for what, and how long at most: from Python, and in the journal."""

import asyncio
import threading

from engine_world import TOML, binding, call, change_services, execute, plan, write

import interlock
from interlock.engine.record.replay import ReplayedRun
from interlock.telemetry.guard import Reading


async def noop(parameters, ctx):
    return parameters


def waits(rt):
    told = []
    rt.subscribe(waits=told.append)
    return told


def test_a_rate_limit_is_reported(embedded):
    rt = embedded(binding("do", noop))
    rt.set_rate_limit("do", calls=1, per_ms=50)
    told = waits(rt)
    execute(rt, call("do", "a"), call("do", "b"))
    (one,) = told
    assert (one.action_id, one.cause, one.what) == ("b", "rate_limit", "the rate limit of `do`")
    assert 0 < one.wait_max_ms <= 50


def test_a_busy_machine_is_reported(project):
    class Busy:
        def check(self):
            return Reading({"cpu": 0.9, "cpu_limit": 0.8})

        async def wait(self, max_wait_ms):
            return None

    rt = project.open(binding("do", noop))
    change_services(rt, guard=Busy())
    rt.services.bounds.guard_wait_ms = 7_000
    told = waits(rt)
    result = execute(rt, call("do", "a"))
    (one,) = told
    assert (one.run_id, one.cause, one.wait_max_ms) == (result.run_id, "resource_guard", 7_000)
    assert "cpu is at 90 %" in one.what
    (event,) = (e for e in project.journal(result.run_id) if e["kind"] == "action_waiting")
    assert (event["what"], event["wait_max_ms"]) == (one.what, 7_000)


def test_a_retry_is_reported(embedded):
    tries = []

    async def flaky(parameters, ctx):
        tries.append(1)
        if len(tries) == 1:
            raise interlock.ToolError("again")

    rt = embedded(binding("flaky", flaky))
    told = waits(rt)
    execute(rt, call("flaky", "f", failure_behavior="retry"))
    assert [(w.action_id, w.cause, w.what) for w in told] == [("f", "retry", "its attempt number 2")]


def test_a_question_is_reported(new_project):
    rt = new_project(toml=TOML % 'ask = ["do"]\n[approvals]\nttl = "50ms"\n').open(binding("do", noop))
    told = waits(rt)
    execute(rt, call("do", "a"))
    (one,) = told
    assert one.cause == "approval"
    assert 0 < one.wait_max_ms <= 50


def test_a_turn_to_write_is_reported(project):
    go, began = threading.Event(), threading.Event()

    def long(parameters, ctx):
        began.set()
        go.wait(20)

    first, second = project.open(binding("long", long, mode="thread")), project.open(binding("do", noop))
    other = threading.Thread(target=lambda: asyncio.run(first.execute(plan(call("long")))))
    other.start()
    assert began.wait(20)
    told = waits(second)
    second.subscribe(waits=lambda _waiting: go.set())
    assert execute(second, call("do"), write("k", 1)).ok
    other.join()
    (one,) = told
    assert (one.action_id, one.cause, one.doing) == ("a1", "workspace", "`a1` (`long`)")
    assert one.holder.split()[0] in first.services.index.ids()
    assert 0 < one.since_us <= first.services.clock.now_us()
    assert 0 < one.wait_max_ms <= 600_000


def test_rows_say_what_was_waited_for_and_the_journal_says_the_same(new_project):
    project = new_project(toml=TOML % 'ask = ["do"]\n[approvals]\nttl = "50ms"\n')
    rt = project.open(binding("do", noop))
    result = execute(rt, call("do", "a", failure_behavior="skip"), call("fs.read", "b", parameters={"path": "x"}))
    (question,) = result["a"].waited_for
    assert question.startswith("an answer to `")
    assert result["a"].waited_ms > 0
    assert result["b"].waited_for == ()
    replayed = ReplayedRun(project.run_directory(result.run_id)).result(result.proposal_id)
    assert [row.waited_for for row in replayed.results] == [(question,), ()]
