"""A person stops a run, whatever process carries it: what runs is cancelled, nothing more starts, and what is done stands."""

import asyncio
import signal
import threading

import pytest
from engine_world import DIRECT, binding, call, living, nothing, plan, reasons, statuses, unique_seconds, write

from interlock.approvals import Approver
from interlock.engine.record.replay import ReplayedRun
from interlock.engine.runs.stop import Stopper
from interlock.model.errors import UsageError

RULES = """
agent = "coder"
[rules]
allow = ["shell", "proc.start", "slow", "state_write", "assert", "undo"]
ask = ["fs.write"]
[grants.coder]
tools = ["*"]
unscoped = ["*"]
state_keys = ["**"]
"""


class Slow:
    """A tool that runs until it is cancelled, and says when it has begun."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.binding = binding("slow", self)

    async def __call__(self, parameters, ctx):
        self.begun.set()
        await asyncio.Event().wait()


def stopped_while(rt, *actions, until, **options):
    """Take a plan, stop its run once `until` (awaited) says so; the result, and the reports."""

    async def both():
        task = asyncio.create_task(rt.execute(plan(*actions, **options)))
        await until()
        reports = await rt.runs.stop(reason="too much", by="ann")
        return await task, reports

    return asyncio.run(both())


async def question(rt):
    """Wait for a question, and give it."""
    while not (found := rt.services.desk.store.list_holds()):
        await asyncio.sleep(0.005)
    return found[0]


def test_what_runs_is_cancelled_and_what_is_done_stands(project):
    slow = Slow()
    rt = project.open(slow.binding, binding("other", nothing))
    result, [report] = stopped_while(
        rt, write("k", 1, "done"), call("slow", "runs"), call("other", "waits"), until=slow.begun.wait
    )
    assert result.status == "cancelled"
    assert statuses(result) == ["succeeded", "cancelled", "skipped"]
    assert reasons(result) == [None, "stopped", "stopped"]
    assert {result["runs"].error, result["waits"].error} == {"stopped by `ann`: too much"}
    assert rt.services.store.get("k").value == 1
    assert (report.outcome, report.ok, report.not_begun) == ("stopped", True, 1)
    assert [(one.action, one.tool, one.status) for one in report.actions] == [("runs", "slow", "cancelled")]


def test_the_journal_says_who_and_why_and_replay_gives_the_same_rows(project):
    slow = Slow()
    rt = project.open(slow.binding)
    result, _ = stopped_while(rt, call("slow", "runs"), call("slow", "waits"), until=slow.begun.wait)
    [event] = [e for e in project.journal(result.run_id) if e["kind"] == "stop_requested"]
    assert (event["by"], event["surface"], event["reason"]) == ("ann", "python", "too much")
    replayed = ReplayedRun(project.run_directory(result.run_id)).result(result.proposal_id)
    assert replayed.status == "cancelled"
    assert [(r.status, r.reason, r.error) for r in replayed.results] == [
        (r.status, r.reason, r.error) for r in result.results
    ]
    with pytest.raises(UsageError, match="is finished"):
        asyncio.run(rt.runs.resume(result.run_id))


def test_an_action_that_waits_for_an_answer_is_stopped_and_its_question_withdrawn(new_project):
    rt = new_project(toml=RULES).open()
    result, [report] = stopped_while(
        rt, call("fs.write", "asked", parameters={"path": "a", "content": ""}), until=lambda: question(rt)
    )
    assert reasons(result) == ["stopped"]
    assert [hold.status for hold in rt.services.desk.store.list_holds(None)] == ["cancelled"]
    assert (report.outcome, report.not_begun) == ("stopped", 1)


def test_a_run_of_another_process_is_stopped_with_the_processes_of_its_actions(project):
    mark = unique_seconds()
    process = project.script(
        """
        rt = project.open()
        result = execute(rt, call("shell", "runs", parameters={"command": "exec sleep " + sys.argv[1]}))
        print(result.status, result.results[0].error)
        """,
        mark,
    )
    wait_for(lambda: living(mark))
    rt = project.open()
    [report] = rt.runs.stop_sync(by="ann")
    out, err = process.communicate(timeout=25)
    assert (out, err) == ("cancelled stopped by `ann`\n", "")
    assert [(one.action, one.tool, one.status) for one in report.actions] == [("runs", "shell", "cancelled")]
    assert report.pid == process.pid
    assert not living(mark)


def test_a_proposal_that_waits_for_its_turn_to_write_is_stopped(new_project):
    """The other run continues."""
    project = new_project(toml=DIRECT % "")
    slow = Slow()
    rt = project.open(slow.binding)
    waits = []
    rt.subscribe(waits=waits.append)

    async def both():
        writing = asyncio.create_task(rt.execute(plan(call("slow"))))
        await slow.begun.wait()
        waiting = asyncio.create_task(rt.execute(plan(call("fs.write", parameters={"path": "a", "content": ""}))))
        while not waits:
            await asyncio.sleep(0.005)
        [report] = await rt.runs.stop(waits[0].run_id)
        result = await waiting
        assert not writing.done()
        await rt.runs.stop()
        return result, report, await writing

    result, report, other = asyncio.run(both())
    assert (result.status, reasons(result), report.outcome) == ("cancelled", ["stopped"], "stopped")
    assert other.status == "cancelled"


def test_a_program_that_would_outlive_the_run_is_ended(new_project):
    slow = Slow()
    project = new_project(toml=RULES)
    rt = project.open(slow.binding)
    mark = unique_seconds()
    command = {"command": f"touch started; exec sleep {mark}"}
    start = call("proc.start", "starts", parameters=command, invocation_mode="session")
    ready = call("shell", parameters={"command": "until test -e started; do sleep 0.01; done"})
    result, [report] = stopped_while(rt, start, ready, call("slow"), until=slow.begun.wait, session="s")
    assert report.programs == 1
    assert not living(mark)
    [end] = [e for e in project.journal(result.run_id) if e["kind"] == "process_ended"]
    assert (end["why"], end["handle"]) == ("run_stopped", result["starts"].output["handle"])


def test_nothing_more_starts_in_a_stopped_run_that_carries_several_proposals(project):
    calls = []

    async def count(parameters, ctx):
        calls.append(1)

    rt = project.open(binding("count", count))

    async def go():
        run = rt.runs.start()
        try:
            first = await run.execute(plan(call("count")))
            [report] = await rt.runs.stop(run.id, by="ann")
            return first, report, await run.execute(plan(call("count")))
        finally:
            run.finish()

    first, report, second = asyncio.run(go())
    assert (first.ok, report.outcome, report.actions) == (True, "stopped", ())
    assert (second.status, second.results[0].error) == ("cancelled", "stopped by `ann`")
    assert len(calls) == 1
    assert rt.services.index.get(first.run_id).status == "cancelled"


def test_a_thread_that_cannot_be_stopped_is_named(project):
    begun, go_on = threading.Event(), threading.Event()

    def stubborn(parameters, ctx):
        begun.set()
        go_on.wait(25)

    rt = project.open(binding("stubborn", stubborn, "thread"))
    try:
        result, [report] = stopped_while(rt, call("stubborn", "t"), until=lambda: asyncio.to_thread(begun.wait, 25))
    finally:
        go_on.set()
    assert statuses(result) == ["unknown_outcome"]
    assert result["t"].error == "stopped by `ann`: too much; its thread cannot be stopped"
    assert (report.outcome, report.ok, report.actions[0].status) == ("stopped", False, "unknown_outcome")


def test_a_rollback_under_way_continues(project):
    """A stop must not leave half an undo."""
    begun = asyncio.Event()

    async def back(parameters, ctx):
        begun.set()
        await asyncio.sleep(0.3)  # the stop arrives meanwhile

    async def fails(parameters, ctx):
        raise RuntimeError

    rt = project.open(binding("back", back), binding("fails", fails), binding("done", nothing))
    done = call(
        "done", "d", reversibility="compensable", compensation={"type": "tool", "tool": "back", "parameters": {}}
    )
    result, [report] = stopped_while(rt, done, call("fails", max_retries=0), until=begun.wait)
    assert result["d"].status == "compensated"
    assert report.actions == ()


def test_a_run_in_memory_is_stopped_too(embedded):
    slow = Slow()
    rt = embedded(slow.binding)
    result, [report] = stopped_while(rt, call("slow"), until=slow.begun.wait)
    assert (result.status, report.outcome) == ("cancelled", "stopped")
    assert asyncio.run(rt.runs.stop()) == []


# -- runs without a process, and processes that die


def held_run(project):
    """A run that waits for an answer, and whose process is gone."""
    with project.open() as rt:
        rt.services.desk.wait = False
        asked = call("fs.write", "asked", parameters={"path": "a", "content": ""})
        return asyncio.run(rt.execute(plan(asked))).run_id


def test_a_held_run_without_a_process_is_ended_and_its_question_withdrawn(new_project):
    project = new_project(toml=RULES)
    run_id = held_run(project)
    rt = project.open()
    [report] = rt.runs.stop_sync(run_id, by="ann")
    assert (report.outcome, report.ok) == ("no_process", True)
    [hold] = rt.services.desk.store.list_holds(None)
    assert hold.status == "cancelled"
    assert rt.services.index.get(run_id).status == "cancelled"
    assert {"stop_requested", "run_finished"} <= set(project.kinds(run_id))


def test_a_run_whose_process_dies_before_it_has_stopped_is_not_gone_on_with(project, tmp_path):
    """Killed between the request and the stop: the request stands, and the run is over when it is taken up."""
    mark = tmp_path / "mark"
    process = project.script(
        """
        from pathlib import Path
        rt = project.open()
        rt.services.stops.listen = lambda: None  # it never hears of the request
        def begins(parameters, ctx):
            Path(sys.argv[1]).touch()
            import time
            time.sleep(1000)
        rt.register(binding("begins", begins, "thread"))
        execute(rt, call("begins"), expect("k", None))
        """,
        mark,
    )
    wait_for(mark.exists)
    rt = project.open(binding("begins", nothing))
    [report] = rt.runs.stop_sync(wait_ms=50)
    assert (report.outcome, report.ok, report.pid) == ("no_answer", False, process.pid)
    process.kill()
    process.communicate()
    [result] = asyncio.run(rt.runs.resume(report.run_id))
    assert rt.services.index.get(report.run_id).status == "cancelled"
    assert result.results[1].status == "skipped"
    assert project.kinds(report.run_id)[-1] == "run_finished"


def test_a_process_that_hangs_is_killed_if_that_is_asked_for(project, tmp_path):
    mark = tmp_path / "mark"
    process = project.script(
        """
        from pathlib import Path
        rt = project.open()
        async def begins(parameters, ctx):
            Path(sys.argv[1]).touch()
            await asyncio.Event().wait()
        rt.register(binding("begins", begins))
        execute(rt, call("fs.write", parameters={"path": "made", "content": ""}), call("begins"))
        """,
        mark,
    )
    wait_for(mark.exists)
    process.send_signal(signal.SIGSTOP)
    rt = project.open(binding("begins", nothing))
    [report] = rt.runs.stop_sync(wait_ms=50, kill=True)
    process.communicate(timeout=25)
    assert (report.outcome, report.pid, process.returncode) == ("killed", process.pid, -signal.SIGKILL)
    assert rt.services.index.get(report.run_id).status == "cancelled"
    assert (project.root / "made").exists(), "what is done stands"
    asyncio.run(rt.runs.undo(report.run_id))
    assert not (project.root / "made").exists()


def test_a_request_whose_author_dies_before_it_has_rung_is_found(project):
    slow = Slow()
    rt = project.open(slow.binding)

    async def both():
        task = asyncio.create_task(rt.execute(plan(call("slow"))))
        await slow.begun.wait()
        services = rt.services
        stopper = Stopper(services.db, services.state_dir, services.disk, services.clock, by="ann", surface="cli")
        stopper.ask(stopper.active()[0], "")
        return await task

    assert asyncio.run(both()).status == "cancelled"


def test_a_finished_and_an_unknown_run_are_refused(project):
    rt = project.open(binding("fine", nothing))
    result = asyncio.run(rt.execute(plan(call("fine"))))
    with pytest.raises(UsageError) as finished:
        rt.runs.stop_sync(result.run_id)
    with pytest.raises(UsageError) as unknown:
        rt.runs.stop_sync("run_0")
    assert (finished.value.code, unknown.value.code) == ("run_finished", "not_found")


def test_an_answer_after_the_stop_does_not_bring_the_run_back(new_project):
    project = new_project(toml=RULES)
    run_id = held_run(project)
    rt = project.open()
    [hold] = rt.services.desk.store.list_holds()
    rt.runs.stop_sync(run_id)
    ann = Approver(id="ann", groups=("*",))
    assert rt.services.desk.store.vote(hold.id, ann, "cli", "approve", digest=hold.digest).code == "already_resolved"
    with pytest.raises(UsageError, match="is finished"):
        asyncio.run(rt.runs.resume(run_id))


def wait_for(condition):
    """Until another process has got so far."""
    for _ in range(5000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("the other process did not get so far")
