"""Turns at writing between processes: ten agents beside an open question, a long build and an undo, and who is killed."""

import asyncio
import threading

import pytest
from engine_world import DIRECT as TOML
from engine_world import call, execute

from interlock.approvals import Approver
from interlock.engine.runs.write_lease import open_queue

ANN = Approver(id="ann")

ASKS = """
    rt = project.open()
    print(execute(rt, call("shell", "s", parameters={"command": "true"})).status, flush=True)
"""
WRITES = """
    rt = project.open()
    print("in", flush=True)
    for n in range(3):
        result = execute(rt, call("fs.write", "w", parameters={"path": f"{sys.argv[1]}/{n}", "content": sys.argv[1]}))
        assert result.ok, result
    print("done", flush=True)
"""
BUILDS = """
    rt = project.open()
    command = "touch began; while [ ! -e go ]; do sleep 0.02; done"
    print(execute(rt, call("shell", "build", parameters={"command": command})).status, flush=True)
"""
BUILDING = "`build` (`shell`)"


@pytest.fixture
def project(new_project):
    return new_project(toml=TOML % "")


@pytest.fixture
def start(request):
    """Starts scripts of a project, and ends them with the test."""
    children = []

    def begin(project, body, *arguments):
        project.open().close()  # makes the state directory
        children.append(project.script(body, *arguments))
        return children[-1]

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def wait_until(condition):
    done = threading.Event()
    for _ in range(4_000):
        if condition():
            return
        done.wait(0.005)
    raise TimeoutError


def pending(rt):
    return rt.services.desk.store.list_holds("pending")


def holders(rt):
    return [turn.holder.split()[0] for turn in open_queue(rt.services).turns()]


def test_ten_agents_write_while_one_question_is_open(new_project, start):
    project = new_project(toml=TOML % 'ask = ["shell"]\n')
    asking = start(project, ASKS)
    rt = project.open()
    wait_until(lambda: pending(rt))
    agents = [start(project, WRITES, f"d{n}") for n in range(10)]
    for agent in agents:
        output, errors = agent.communicate(timeout=25)
        assert output.splitlines()[-1:] == ["done"], errors
    assert len(pending(rt)) == 1
    for n in range(10):
        assert (project.root / f"d{n}" / "2").read_text() == f"d{n}"
    (hold,) = pending(rt)
    rt.services.desk.store.vote(hold.id, ANN, "cli", "approve", digest=hold.digest)
    assert asking.stdout.readline() == "succeeded\n"


def test_undo_works_while_a_question_is_open(new_project, start):
    project = new_project(toml=TOML % 'ask = ["shell"]\n')
    rt = project.open()
    done = execute(rt, call("fs.write", parameters={"path": "f", "content": "x"}))
    start(project, ASKS)
    wait_until(lambda: pending(rt))
    assert asyncio.run(rt.runs.undo(done.run_id)).ok
    assert not (project.root / "f").exists()
    assert len(pending(rt)) == 1


def test_an_undo_waits_for_a_long_build_and_says_so(project, start):
    rt = project.open()
    done = execute(rt, call("fs.write", parameters={"path": "f", "content": "x"}))
    build = start(project, BUILDS)
    wait_until((project.root / "began").exists)
    told = []

    def go(waiting):
        told.append(waiting)
        assert (project.root / "f").exists()
        (project.root / "go").touch()

    rt.subscribe(waits=go)
    assert asyncio.run(rt.runs.undo(done.run_id)).ok
    assert not (project.root / "f").exists()
    assert build.stdout.readline() == "succeeded\n"
    first = told[0]
    assert (first.cause, first.doing) == ("workspace", BUILDING)
    assert first.holder.split()[0] in rt.services.index.ids()
    assert BUILDING in first.what
    assert first.since_us > 0
    assert first.wait_max_ms > 0
    kinds = [e for e in project.journal(first.run_id) if e["kind"] == "action_waiting"]
    assert BUILDING in kinds[0]["what"]


def test_who_waits_lives_and_is_not_listed_as_interrupted(project, start):
    start(project, BUILDS)
    wait_until((project.root / "began").exists)
    waiting = start(project, WRITES, "d")
    rt = project.open()
    wait_until(lambda: len(holders(rt)) == 2)
    found = {one.run_id: (one.status, one.need) for one in rt.runs.recover()}
    assert [found[run_id] for run_id in holders(rt)] == [("running", "nothing")] * 2
    (project.root / "go").touch()
    assert waiting.communicate(timeout=25)[0].splitlines()[-1:] == ["done"]


def test_a_killed_build_lets_the_next_one_write_and_a_killed_waiter_is_passed_over(project, start):
    build = start(project, BUILDS)
    wait_until((project.root / "began").exists)
    rt = project.open()
    second = start(project, WRITES, "d")
    wait_until(lambda: len(holders(rt)) == 2)
    third = start(project, WRITES, "d")
    wait_until(lambda: len(holders(rt)) == 3)
    second.kill()
    second.wait()
    build.kill()
    build.wait()
    assert third.communicate(timeout=25)[0].splitlines()[-1:] == ["done"]
    assert holders(rt) == []
