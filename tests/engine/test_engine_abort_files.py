"""The files of a proposal that is undone: each action's from its own lines in the index of the backups."""

import asyncio

from engine_world import binding, call, execute, write

from interlock.engine.record.replay import ReplayedRun
from interlock.state.store import StateStore
from interlock.workspace import undo


def fs_write(path, name):
    return call("fs.write", name, parameters={"path": path, "content": "new"})


def failing():
    async def fail(parameters, ctx):
        raise RuntimeError("no")

    return binding("fail", fail)


def counted(monkeypatch, where, name):
    """The arguments of each call of a function, which is made all the same."""
    calls = []
    real = getattr(where, name)
    monkeypatch.setattr(where, name, lambda *args, **kwargs: calls.append(args) or real(*args, **kwargs))
    return calls


def test_undo_of_a_run_looks_each_thing_up_once(project, monkeypatch):
    """Once for each action: 4,000 writes of one key took a minute to undo."""

    async def noop(parameters, ctx):
        return None

    rt = project.open(binding("do", noop, reversibility="compensable"), binding("un", noop))
    compensation = {"type": "action_ref", "action_id": "un"}
    done = execute(
        rt,
        *(fs_write(f"f{i}", f"a{i}") for i in range(5)),
        *(write("k", i, f"w{i}") for i in range(5)),
        *(call("do", f"d{i}", compensation=compensation) for i in range(5)),
        call("un", "un"),
    )
    index = counted(monkeypatch, undo, "read_entries")
    histories = counted(monkeypatch, StateStore, "histories")
    decoded = counted(monkeypatch, ReplayedRun, "proposal")
    result = asyncio.run(rt.runs.undo(done.run_id))
    assert result.ok
    assert len(result.results[0].output["compensated"]) == 5
    assert not list(project.root.glob("f*"))
    assert rt.services.store.get("k") is None
    assert (len(index), len(histories), len(decoded)) == (2, 1, 1), "the index once more, to look for conflicts first"


def test_the_index_is_read_once_however_many_actions_are_undone(project, monkeypatch):
    """Once for each action took minutes for 10,000 of them."""
    reads = counted(monkeypatch, undo, "read_entries")
    rt = project.open(failing())
    result = execute(rt, *(fs_write(f"f{i}", f"a{i}") for i in range(5)), call("fail"))
    assert [row.status for row in result.results[:5]] == ["rolled_back"] * 5
    assert len(reads) == 1
    assert not list(project.root.glob("f*"))


def test_a_damaged_line_keeps_no_other_action_from_coming_back(project):
    async def damage(parameters, ctx):
        (index,) = project.home.glob("runs/*/backups/index.ndjson")
        lines = index.read_bytes().splitlines(keepends=True)
        lines[0] = lines[0].replace(b'"seq":', b'"sEq":')
        index.write_bytes(b"".join(lines))

    rt = project.open(failing(), binding("damage", damage, read_only=True))
    result = execute(
        rt, fs_write("one", "a"), fs_write("two", "b"), call("damage", dependencies=["b"]), call("fail", "z")
    )
    assert result.status == "failed"
    assert not (project.root / "two").exists(), "its line is whole"
    assert (project.root / "one").exists()
    assert [(left.action_id, left.reason) for left in result.not_undone] == [
        ("a", "undo_conflict"),
        ("z", "irreversible"),
    ]
    assert "damaged" in result.not_undone[0].detail
