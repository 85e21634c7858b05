"""A journal that was put in order is not read again while nothing was written to it."""

import asyncio
import os

import pytest
from engine_world import TOML, call, execute

from interlock.approvals import Approver
from interlock.engine.runs import dead_undos
from interlock.engine.runs import recover as recovering
from interlock.engine.runs.resume import resume

ANN = Approver(id="ann")
ASKING = TOML % 'ask = ["shell", "slow"]\n'


@pytest.fixture
def reads(monkeypatch):
    """The runs whose journals are read."""
    found = []
    real = recovering.ReplayedRun

    def replayed(directory, **options):
        found.append(directory.name)
        return real(directory, **options)

    monkeypatch.setattr(recovering, "ReplayedRun", replayed)
    return found


@pytest.fixture
def held(new_project):
    """A project with three runs that wait for answers."""
    project = new_project(toml=ASKING)
    rt = project.open()
    rt.services.desk.wait = False
    for _ in range(3):
        assert execute(rt, call("shell", "s", parameters={"command": "true"})).status == "held"
    return project


def needs(rt):
    return [(one.run_id, one.need, one.detail, one.approvals) for one in rt.runs.recover()]


def test_held_runs_are_read_once(held, reads):
    first = needs(held.open())
    assert [need for _, need, _, _ in first] == ["answer"] * 3
    assert len(reads) == 3
    assert needs(held.open()) == first
    assert len(reads) == 3


def test_an_answer_is_seen_without_reading(held, reads):
    rt = held.open()
    needs(rt)
    (hold, *_) = rt.services.desk.store.list_holds()
    rt.services.desk.store.vote(hold.id, ANN, "cli", "approve", digest=hold.digest)
    found = {run: (need, detail) for run, need, detail, _ in needs(rt)}
    assert found[hold.run] == ("resume", "its questions are answered")
    assert sorted(need for need, _ in found.values()) == ["answer", "answer", "resume"]
    (hold, *_) = rt.services.desk.store.list_holds()
    rt.services.desk.store.vote(hold.id, ANN, "cli", "deny", digest=hold.digest)
    found = {run: (need, detail) for run, need, detail, _ in needs(rt)}
    assert found[hold.run] == ("resume", "it was not approved, and ends when it is resumed")
    assert len(reads) == 3


def test_what_was_resumed_is_read_again_or_over(held, reads):
    rt = held.open()
    needs(rt)
    (hold, *_) = rt.services.desk.store.list_holds()
    rt.services.desk.store.vote(hold.id, ANN, "cli", "approve", digest=hold.digest)
    asyncio.run(resume(rt.services, hold.run))
    assert len(needs(rt)) == 2
    assert len(reads) == 3
    ids = rt.services.db.execute("select run_id from recovered_runs")
    assert len(ids) == 2


@pytest.mark.parametrize("change", ["append", "cut", "replace", "torn"])
def test_a_journal_that_was_touched_is_read_again(held, reads, change):
    run_id = needs(held.open())[0][0]
    journal = held.run_directory(run_id) / "journal.ndjson"
    data = journal.read_bytes()
    if change == "append":
        journal.write_bytes(data + b"{")
    elif change == "cut":
        journal.write_bytes(data[: len(data) // 2])
    elif change == "replace":
        other = journal.with_name("other")
        other.write_bytes(data)
        os.replace(other, journal)
    else:
        (journal.parent / "journal.torn").write_bytes(b"what is this\n")
    found = {run: need for run, need, _, _ in needs(held.open())}
    assert reads.count(run_id) == (2 if change in ("append", "replace") else 1)
    assert found[run_id] == ("answer" if change in ("append", "replace") else "repair")


def test_a_run_whose_process_lives_is_not_remembered(held, reads):
    """A journal of a run that continues elsewhere is that process's: only the lock says whether it lives."""
    rt = held.open()
    needs(rt)
    rt.services.index.update(needs(rt)[0][0], status="running")
    needs(rt)
    assert len(reads) == 4


UNKNOWN = """
    async def die(parameters, ctx):
        os.kill(os.getpid(), 9)
    rt = project.open(binding("die", die))
    execute(rt, call("die", "d"))
"""


def test_an_unknown_outcome_is_asked_about_once_and_read_once(project, reads):
    project.open().close()
    project.script(UNKNOWN).communicate()
    first = needs(project.open())
    ((run_id, need, _, (question,)),) = first
    assert need == "settle"
    assert needs(project.open()) == first
    assert reads == [run_id]
    store = project.open().services.desk.store
    store.vote(question, ANN, "cli", "deny", digest=store.get(question).digest)
    ((_, need, _, _),) = needs(project.open())
    assert need == "resume"
    assert reads == [run_id, run_id]


def test_undo_passes_over_runs_that_undo_nothing(held, monkeypatch):
    rt = held.open()
    done = execute(rt, call("fs.write", parameters={"path": "f", "content": "x"}))
    seen = []
    monkeypatch.setattr(dead_undos, "recover", lambda directory, disk: seen.append(directory) or 1 / 0)
    assert asyncio.run(rt.runs.undo(done.run_id)).ok
    assert seen == []
