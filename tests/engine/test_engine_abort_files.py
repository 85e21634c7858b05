"""The files of a proposal that is taken back: each action's from its own lines in the index of the backups."""

from engine_world import binding, call, execute

from interlock.engine import undoing


def fs_write(path, name):
    return call("fs.write", name, parameters={"path": path, "content": "new"})


def failing():
    async def fail(parameters, ctx):
        raise RuntimeError("no")

    return binding("fail", fail)


def test_the_index_is_read_once_however_many_actions_are_taken_back(project, monkeypatch):
    """Once for each action took minutes for 10,000 of them."""
    reads = []
    real = undoing.plan_undo
    monkeypatch.setattr(undoing, "plan_undo", lambda run, **which: reads.append(which) or real(run, **which))
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
