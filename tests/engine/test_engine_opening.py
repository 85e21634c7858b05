"""A runtime that cannot be opened leaves nothing open, and one that is closed closes all of its parts."""

import collections
import gc
import os
import threading
from pathlib import Path

import pytest
from engine_world import Project

from interlock.disk import Database, Disk
from interlock.engine.inspect.history import History
from interlock.engine.local.location import locate
from interlock.engine.services import close_all
from interlock.model.errors import InterlockError, StoreError, ToolError, UsageError
from interlock.workspace import Workspace

LEARNING = '[learning]\nmemory = true\ndistill = true\n[workspace]\nmode = "direct"\n'
NEWER = "update schema_versions set version = 99 where room = ?"


def held():
    """What this process holds: descriptors and threads, except for those that wait for the next function of a tool."""
    gc.collect()
    found = collections.Counter(one.name for one in threading.enumerate() if one.name != "interlock-tool")
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of the listing itself
            continue
        if not f"{target}/".startswith("/proc/"):  # what samplers of other tests' runtimes are just reading or listing
            found[target] += 1
    return found


def new_since(before):
    """What is held now and was not before; other tests' rests may go meanwhile."""
    return held() - before


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path, toml='[rules]\nallow = ["*"]\n[grants.agent]\ntools = ["*"]\n' + LEARNING)
    yield made
    made.close()


def database(project):
    (found,) = project.state.glob("*/interlock.db")
    return found


def test_whichever_part_fails_the_others_are_closed(project):
    project.open().close()
    with_database = Database(database(project))
    rooms = [row[0] for row in with_database.execute("select room from schema_versions order by room")]
    with_database.close()
    assert {"memory", "skills", "journal"} <= set(rooms)
    before = held()
    for room in rooms:
        db = Database(database(project))
        (known,) = db.execute("select version from schema_versions where room = ?", (room,))
        db.execute(NEWER, (room,))
        db.close()
        with pytest.raises(StoreError) as failed:
            project.open()
        assert failed.value.code == "newer_database"
        assert not new_since(before), room
        db = Database(database(project))
        db.execute("update schema_versions set version = ? where room = ?", (*known, room))
        db.close()
    project.open().close()


def test_an_audit_file_that_is_refused_leaves_the_one_before_it_closed(project, tmp_path):
    path = project.root / "interlock.toml"
    sinks = [tmp_path / "audit.ndjson", project.root / "audit.ndjson"]
    path.write_text(
        path.read_text() + "".join(f'[[approvals.audit]]\nkind = "file"\npath = "{one}"\n' for one in sinks)
    )
    project.trust()
    before = held()
    with pytest.raises(InterlockError, match="inside the workspace"):
        project.open()
    assert not new_since(before)


def test_a_history_that_cannot_be_opened_closes_the_database(project):
    project.open().close()
    place = locate(project.root, project.env, Disk())
    db = Database(database(project))
    db.execute(NEWER, ("journal",))
    db.close()
    before = held()
    with pytest.raises(StoreError, match="newer"):
        History(place, Disk())
    assert not new_since(before)


def test_a_workspace_that_cannot_be_opened_lets_its_root_go(tmp_path):
    before = held()
    with pytest.raises(ToolError):
        Workspace(tmp_path, protected=["../outside"])
    with pytest.raises(UsageError):
        Workspace(tmp_path / "absent")
    assert not new_since(before)


def test_a_file_that_is_not_a_database_is_closed_again(tmp_path):
    path = Path(tmp_path / "x.db")
    path.write_bytes(b"not a database " * 1000)
    before = held()
    with pytest.raises(StoreError):
        Database(path)
    assert not new_since(before)


def test_one_part_that_cannot_be_closed_does_not_keep_the_others_open():
    closed = []

    def fail():
        raise OSError("no")

    closing = [lambda: closed.append("first"), fail, lambda: closed.append("last")]
    with pytest.raises(OSError, match="no"):
        close_all(closing)
    assert (closed, closing) == (["last", "first"], [])
    close_all(closing)
