"""What is in the state directory and is gone, or is something else: an error that is told, never a silent new beginning."""

import asyncio
import os
import threading

import pytest
from engine_world import binding, call, execute, nothing, write

from interlock.disk import Database
from interlock.engine.inspect.history import History
from interlock.engine.people.identity import open_desk
from interlock.model.errors import IntegrityError, StoreError, ToolError
from interlock.model.tool import CompensationTemplate

OPENERS = {
    "runtime": lambda project: project.open().close(),
    "history": lambda project: History.open(project.root, project.env).close(),
    "approvals": lambda project: open_desk(project.root, project.env).__enter__(),
}


def used(project):
    """A project with an approver and a run; its database is closed."""
    rt = project.open(binding("nothing", nothing))
    assert execute(rt, call("nothing")).ok
    rt.services.desk.approvers.add("ann")
    home = project.home
    project.close()
    return home


def gone(home):
    for name in ("interlock.db", "interlock.db-wal", "interlock.db-shm"):
        (home / name).unlink(missing_ok=True)


def empty(home):
    gone(home)
    (home / "interlock.db").touch()


def another(home):
    gone(home)
    Database(home / "interlock.db").migrate("room", ("create table t (x)",))


def without_mark(home):
    """As an older version left it: the runs alone tell that there was one."""
    gone(home)
    (home / "database.id").unlink()


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("damage", [gone, empty, another, without_mark])
def test_a_lost_database_is_not_begun_anew(project, damage, opener):
    home = used(project)
    damage(home)
    with pytest.raises(IntegrityError) as lost:
        OPENERS[opener](project)
    assert lost.value.code == "database_lost"
    assert "approvers" in lost.value.message


def test_a_database_of_an_older_version_gets_its_mark(project):
    home = used(project)
    (home / "database.id").unlink()
    with project.open() as rt:
        assert rt.services.desk.approvers.all(), "nothing is forgotten"
    assert (home / "database.id").exists()


def test_two_that_begin_at_once_agree(new_project):
    project = new_project()
    failures = []

    def begin():
        try:
            with History.open(project.root, project.env):
                pass
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_fifo_as_a_journal_is_damage_and_is_not_waited_for(project):
    rt = project.open()
    done = execute(rt, call("fs.write", "w", parameters={"path": "x", "content": "1"}))
    journal = project.run_directory(done.run_id) / "journal.ndjson"
    journal.unlink()
    os.mkfifo(journal)
    with History.open(project.root, project.env) as past:
        checked = past.check(done.run_id)
    assert not checked.ok
    assert "not a regular file" in checked.problems[0]["message"]
    assert asyncio.run(rt.runs.undo(done.run_id)).results[0].status == "failed"


def test_a_fifo_among_the_backups_or_the_heads_is_not_waited_for(project):
    rt = project.open()
    done = execute(rt, call("fs.write", "w", parameters={"path": "x", "content": "1"}))
    directory = project.run_directory(done.run_id)
    for path in [*directory.glob("head*"), directory / "backups" / "index.ndjson"]:
        path.unlink()
        os.mkfifo(path)
    with History.open(project.root, project.env) as past:
        assert not past.check(done.run_id).ok
    result = asyncio.run(rt.runs.undo(done.run_id))
    assert (result.status, (project.root / "x").exists()) == ("failed", True)


def test_a_failed_write_leaves_no_directories(project, monkeypatch):
    """Directories that were made for a file that could not be written go again, and one that somebody uses by now stays."""
    rt = project.open()

    def full(*_arguments, **_options):
        raise StoreError("the disk is full", code="disk_full") from OSError(28, "no space")

    for name in ("d/e/f", "g/h"):
        with monkeypatch.context() as patched:
            patched.setattr(rt.services.workspace.disk, "rename_at", full)
            patched.setattr("interlock.workspace.effects.write_chunks", full)
            result = execute(
                rt, call("fs.write", "w", parameters={"path": name, "content": "1"}, failure_behavior="skip")
            )
        assert result.results[0].status == "failed", result.results
    assert sorted(path.name for path in project.root.iterdir()) == ["interlock.toml"]


def test_a_compensation_says_why_it_failed(project):
    async def refuse(parameters, ctx):
        raise ToolError("it ended with exit code 1", output={"stderr": "hint: look\nfatal: bad revision 'x'\n"})

    template = CompensationTemplate(tool="unbook", parameters={})
    rt = project.open(binding("book", nothing, compensation=template), binding("unbook", refuse))
    result = execute(rt, call("book", "b"), write("k", 1), call("shell", "s", parameters={"command": "false"}))
    (left,) = [one for one in result.not_undone if one.action_id == "b"]
    assert left.reason == "compensation_failed"
    assert "fatal: bad revision 'x'" in left.detail
    done = execute(rt, call("book", "b"))
    undone = asyncio.run(rt.runs.undo(done.run_id))
    assert "fatal: bad revision 'x'" in undone.not_undone[0].detail


def test_what_is_left_is_listed_once(project):
    """A note that each attempt makes anew is one note, and what never began is none."""

    async def messy(parameters, ctx):
        ctx.not_exactly_undoable("it left a mess")
        raise ToolError("again")

    rt = project.open(binding("messy", messy))
    result = execute(
        rt,
        call("messy", "m", failure_behavior="retry", max_retries=2),
        call("shell", "s", parameters={"command": "true"}),
    )
    assert [(one.action_id, one.detail) for one in result.not_undone] == [("m", "it left a mess")]
    undone = asyncio.run(rt.runs.undo(result.run_id))
    assert [one.detail for one in undone.not_undone] == ["it left a mess"]
