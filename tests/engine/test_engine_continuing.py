"""Taking up runs whose process is gone: in the background, once, and never by guessing that a run is over."""

import asyncio
import os
import signal
import threading

import pytest
from engine_world import DIRECT as TOML
from engine_world import call, plan

from interlock.approvals import Approver
from interlock.engine.background_resume import Continuing
from interlock.engine.runs import resume as recovery
from interlock.engine.runs.write_lease import open_queue
from interlock.model.errors import StoreError
from interlock.workspace import EVERYTHING

ASK = TOML.replace('allow = ["*", ', 'ask = ["fs.write"]\nallow = ["fs.read", ') % ""
WRITE = plan(call("fs.write", "w", parameters={"path": "a.txt", "content": "x"}))
ANN = Approver(id="ann")


@pytest.fixture
def held(new_project):
    """A project with a run that asks and has no process any more: (project, runtime, the question)."""
    project = new_project(toml=ASK)
    rt = project.open()
    rt.services.desk.wait = False
    result = asyncio.run(rt.execute(WRITE))
    assert result.status == "held"
    (hold,) = rt.services.desk.store.list_holds()
    return project, rt, hold


def answer(rt, hold, decision):
    code = rt.services.desk.store.vote(hold.id, ANN, "cli", decision, digest=hold.digest).code
    assert code == "resolved"


def status(rt, hold):
    return rt.services.index.get(hold.run).status


def look(rt, times=1):
    """What a look of the background work reports, as (run id, statuses or error code)."""
    said = []

    def report(run_id, came):
        if isinstance(came, Exception):
            said.append((run_id, getattr(came, "code", type(came).__name__)))
        else:
            said.append((run_id, [result.status for result in came]))

    async def go():
        continuing = Continuing(rt, report)
        for _ in range(times):
            await continuing.look()

    asyncio.run(go())
    return said


def test_what_nobody_has_answered_is_left_alone(held):
    _, rt, hold = held
    assert look(rt) == []
    assert status(rt, hold) == "held"


def test_an_approved_run_continues_once(held):
    project, rt, hold = held
    answer(rt, hold, "approve")
    assert look(rt, times=3) == [(hold.run, ["succeeded"])]
    assert (project.root / "a.txt").read_text() == "x"


@pytest.mark.parametrize("process", ["continued", "resumed"])
def test_a_denial_stands_when_the_run_is_taken_up_again(held, process):
    project, rt, hold = held
    answer(rt, hold, "deny")
    if process == "continued":
        ((_, statuses),) = look(rt)
    else:
        statuses = [result.status for result in asyncio.run(recovery.resume(rt.services, hold.run))]
    assert statuses == ["rejected"] or statuses == ["failed"]
    assert len(rt.services.desk.store.of_run(hold.run)) == 1, "nothing is asked twice"
    assert not (project.root / "a.txt").exists()


def test_a_question_that_was_withdrawn_leaves_the_run_to_its_owner(held):
    _, rt, hold = held
    rt.services.desk.store.cancel(hold.id, "stopped")
    assert look(rt) == []
    assert status(rt, hold) == "held"


def test_a_run_that_cannot_continue_is_reported_once_and_tried_again_by_the_next_process(held):
    project, rt, hold = held
    answer(rt, hold, "approve")
    journal = project.run_directory(hold.run) / "journal.ndjson"
    whole = journal.read_bytes()
    journal.write_bytes(whole.replace(b'"run_started"', b'"run_stArted"', 1))
    assert look(rt, times=3) == [(hold.run, "journal_corrupt")]
    journal.write_bytes(whole)
    assert look(rt) == [(hold.run, ["succeeded"])]


def test_a_defect_that_one_run_meets_keeps_no_other_waiting(held, monkeypatch):
    _, rt, _ = held
    asyncio.run(rt.execute(WRITE | {"id": "second"}))
    first, second = rt.services.desk.store.list_holds()
    answer(rt, first, "approve")
    answer(rt, second, "approve")
    resume = rt.runs.resume

    async def broken(run_id):
        return await resume(run_id) if run_id != first.run else {}["defect"]

    monkeypatch.setattr(rt.runs, "resume", broken)
    assert look(rt, times=2) == [(first.run, "KeyError"), (second.run, ["succeeded"])]


def test_a_run_whose_process_lives_is_its_own(held):
    project, rt, hold = held
    answer(rt, hold, "approve")
    other = project.open()
    lock = other.services.disk.lock(project.run_directory(hold.run) / "lock")
    assert look(rt, times=2) == []
    os.close(lock)
    assert look(rt) == [(hold.run, ["succeeded"])]


def test_a_journal_that_grew_since_it_was_read_is_not_run_from(held, monkeypatch):
    """Two processes that resume at once: the second has read the journal, and then the first runs all of it."""
    project, rt, hold = held
    answer(rt, hold, "approve")
    other = project.open()
    replayed = recovery.ReplayedRun

    class Slow(replayed):
        def __init__(self, directory, **options):
            super().__init__(directory, **options)
            monkeypatch.setattr(recovery, "ReplayedRun", replayed)
            thread = threading.Thread(target=lambda: asyncio.run(recovery.resume(other.services, hold.run)))
            thread.start()
            thread.join()

    monkeypatch.setattr(recovery, "ReplayedRun", Slow)
    with pytest.raises(StoreError) as caught:
        asyncio.run(recovery.resume(rt.services, hold.run))
    assert caught.value.code == "run_locked"
    assert status(rt, hold) == "succeeded"
    assert project.kinds(hold.run).count("action_succeeded") == 1
    assert project.kinds(hold.run).count("run_resumed") == 1


def test_a_run_that_may_not_write_now_is_not_over(held):
    """Another proposal has the workspace: the run is left as it is, and continues later."""
    project, rt, hold = held
    answer(rt, hold, "approve")
    rt.services.bounds.lease_wait_ms = 1
    lease = open_queue(rt.services).attempt(EVERYTHING, "somebody else")
    assert look(rt) == []
    assert status(rt, hold) == "interrupted"
    assert "run_finished" not in project.kinds(hold.run)
    lease.release()
    assert look(rt) == [(hold.run, ["succeeded"])]


def test_a_fresh_run_that_may_not_write_now_is_over(new_project):
    """Nothing was done, and its caller lives: it is not left behind as interrupted."""
    project = new_project(toml=TOML % "")
    rt = project.open()
    rt.services.bounds.lease_wait_ms = 1
    open_queue(rt.services).attempt(EVERYTHING, "somebody else", doing="`build` (`shell`)")
    (row,) = asyncio.run(rt.execute(WRITE)).results
    assert (row.status, row.reason) == ("rejected", "workspace_busy")
    assert "`somebody else`" in row.error
    assert "`build` (`shell`)" in row.error
    (run_id,) = project.runs()
    assert rt.services.index.get(run_id).status == "rejected"
    assert rt.runs.recover() == []


def test_the_background_work_hears_of_an_answer_and_stops_when_it_is_cancelled(held):
    project, rt, hold = held

    async def go():
        done = asyncio.Event()
        work = asyncio.create_task(Continuing(rt, lambda *_: done.set()).go())
        await asyncio.sleep(0.05)
        await asyncio.to_thread(answer, rt, hold, "approve")
        async with asyncio.timeout(20):
            await done.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(go())
    assert (project.root / "a.txt").exists()


def test_a_killed_process_leaves_a_run_that_continues(new_project):
    project = new_project(toml=ASK)
    rt = project.open()
    process = project.script(f"import asyncio\nasyncio.run(project.open().execute({WRITE!r}))")
    while not rt.services.desk.store.list_holds():
        assert process.poll() is None, process.communicate()[1]
    (hold,) = rt.services.desk.store.list_holds()
    answerer = project.open()
    assert look(answerer) == [], "it is alive"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    answer(rt, hold, "approve")
    assert look(answerer) == [(hold.run, ["succeeded"])]
