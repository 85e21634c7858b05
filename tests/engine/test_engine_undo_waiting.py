"""An undo asks the run that it undoes to stop if that only waits; one that is at work is left alone."""

import asyncio

import pytest
from engine_world import AGENT, DIRECT, call, execute, plan

from interlock.engine.runs.write_lease import open_queue
from interlock.model.errors import StoreError
from interlock.workspace import EVERYTHING

ASKING = DIRECT % 'ask = ["shell"]\n'
MIXED = [
    call("fs.write", "w", parameters={"path": "f", "content": "x"}),
    call("shell", "s", parameters={"command": "touch never"}),
]
ASKS = f"""
    rt = project.open()
    result = execute(rt, *{MIXED!r})
    print(result.status, result["s"].reason, result["s"].error, flush=True)
"""


@pytest.fixture
def project(new_project):
    return new_project(toml=DIRECT % "")


@pytest.fixture
def asking(new_project):
    return new_project(toml=ASKING)


def pending(rt):
    return rt.services.desk.store.list_holds("pending")


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def check_undone(project, rt, run_id):
    assert not (project.root / "f").exists()
    assert not (project.root / "never").exists()
    assert pending(rt) == []
    assert rt.services.index.get(run_id).status not in ("running", "held", "interrupted")
    assert rt.runs.recover() == []


def test_a_run_that_waits_in_another_process_stops_and_is_undone(asking):
    rt = asking.open()
    child = asking.script(ASKS)
    try:
        asyncio.run(until(lambda: pending(rt)))
        (hold,) = pending(rt)
        result = asyncio.run(rt.runs.undo(hold.run))
        assert result.ok, result
        said = child.communicate(timeout=25)[0]
    finally:
        child.kill()
        child.communicate()
    check_undone(asking, rt, hold.run)
    status, reason, error = said.split(maxsplit=2)
    assert (status, reason) == ("cancelled", "stopped")
    assert "it is to be undone" in error
    assert "stop_requested" in asking.kinds(hold.run)


def test_a_run_that_waits_on_the_same_loop_stops_and_is_undone(asking):
    rt = asking.open()

    async def main():
        waiting = asyncio.create_task(rt.execute(plan(*MIXED)))
        await until(lambda: pending(rt))
        (hold,) = pending(rt)
        assert (await rt.runs.undo(hold.run)).ok
        assert (await waiting)["s"].reason == "stopped"
        return hold.run

    check_undone(asking, rt, asyncio.run(main()))


def test_a_run_that_waits_for_its_turn_stops_at_once(project):
    """It is before its own undo in the queue."""
    rt = project.open()

    async def main():
        lease = open_queue(rt.services).attempt(EVERYTHING, "a long build")
        waiting = asyncio.create_task(rt.execute(plan(*MIXED)))
        await until(lambda: len(open_queue(rt.services).turns()) == 2)
        run_id = open_queue(rt.services).turns()[1].holder.split()[0]
        undo = asyncio.create_task(rt.runs.undo(run_id))
        assert (await waiting)["w"].reason == "stopped"
        lease.release()
        assert (await undo).ok, "it has ended the run: more there was not to do"

    asyncio.run(main())


def test_a_run_that_is_at_work_is_left_alone(project):
    """At once, and not after it had its turn."""
    rt = project.open()
    done = execute(rt, call("fs.write", parameters={"path": "g", "content": "x"})).run_id

    async def main():
        work = call("shell", "build", parameters={"command": "touch began; while [ ! -e go ]; do sleep 0.02; done"})
        working = asyncio.create_task(rt.execute(plan(MIXED[0], work)))
        await until((project.root / "began").exists)
        (run_id,) = set(project.runs()) - {done}
        with pytest.raises(StoreError) as caught:
            await rt.runs.undo(run_id)
        assert caught.value.code == "run_locked"
        assert "`build` runs" in caught.value.message
        assert f"interlock stop {run_id}" in caught.value.hint
        (project.root / "go").touch()
        assert (await working).ok

    asyncio.run(main())
    assert (project.root / "f").exists()


def test_an_agent_does_not_stop_the_run_of_another(asking):
    rt = asking.open()

    async def main():
        waiting = asyncio.create_task(rt.execute(plan(*MIXED)))
        await until(lambda: pending(rt))
        (hold,) = pending(rt)
        undo = call("undo", "u", parameters={"run": hold.run})
        result = await rt.execute(plan(undo, agent="other"))
        assert result["u"].status == "rejected"
        assert not waiting.done()
        assert len(pending(rt)) == 1
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(main())


def test_an_agent_stops_and_undoes_its_own(asking):
    rt = asking.open()

    async def main():
        waiting = asyncio.create_task(rt.execute(plan(*MIXED)))
        await until(lambda: pending(rt))
        (hold,) = pending(rt)
        result = await rt.execute(plan(call("undo", "u", parameters={"run": hold.run}), agent=AGENT))
        assert result.ok, result
        row = (await waiting)["s"]
        assert row.reason == "stopped"
        assert f"stopped by `{AGENT}`" in row.error
        return hold.run

    check_undone(asking, rt, asyncio.run(main()))


def test_one_action_of_a_waiting_run_is_not_undone_and_it_continues(asking):
    rt = asking.open()

    async def main():
        waiting = asyncio.create_task(rt.execute(plan(*MIXED)))
        await until(lambda: pending(rt))
        (row,) = (await rt.runs.undo(pending(rt)[0].run, "w")).results
        assert row.reason == "run_unfinished"
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(main())
    assert execute(rt, call("fs.read", parameters={"path": "f"})).ok
