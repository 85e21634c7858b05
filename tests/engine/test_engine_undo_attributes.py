"""Undo takes neither extended attributes nor an owner that a person has set since: they are conflicts, as permissions are."""

import asyncio
import contextlib
import os

import pytest
from engine_world import DIRECT, TOML, call, execute

from interlock.model.canonical import digest_bytes
from interlock.workspace import backups
from interlock.workspace.nodes import identity

LAYER = '[workspace]\nmode = "layer"\n'


@pytest.fixture(params=["direct", "layer"])
def project(new_project, request):
    made = new_project(toml=DIRECT % "" if request.param == "direct" else TOML % "" + LAYER)
    (made.root / "d").mkdir()
    for name in ("a", "d/x"):
        (made.root / name).write_text("one\n")
    return made


def fs(tool, path, **more):
    return call(f"fs.{tool}", tool, parameters={"path": path, **more})


def undo(rt, result, **how):
    return asyncio.run(rt.runs.undo(result.run_id, **how))


def is_conflict(undone):
    return undone.status == "failed" and undone["undo"].reason == "undo_conflict"


PERSON = {
    "attribute": lambda path: os.setxattr(path, "user.note", b"mine"),
    "owner": lambda path: os.chown(path, 1000, -1),
    "group": lambda path: os.chown(path, -1, 1000),
}
RUNS = {
    "written": (fs("write", "a", content="two\n"), "a"),
    "edited": (fs("edit", "a", old="one", new="two"), "a"),
    "created": (fs("write", "new", content="new\n"), "new"),
    "directory": (fs("write", "made/new", content="new\n"), "made"),
    "moved": (call("fs.move", "m", parameters={"source": "a", "destination": "moved"}), "moved"),
    "by-a-process": (call("shell", "s", parameters={"command": "echo two > a"}), "a"),
}


# Only root may change an owner. Undo does not restore that of a directory.
SET_SINCE = [
    (what, who) for what in RUNS for who in PERSON if who == "attribute" or (os.geteuid() == 0 and what != "directory")
]


@pytest.mark.parametrize(("what", "who"), SET_SINCE)
def test_what_a_person_has_set_since_is_a_conflict(project, what, who):
    action, path = RUNS[what]
    rt, place = project.open(), project.root / path
    actions = [fs("write", "a", content="zero\n"), action] if what == "by-a-process" else [action]
    result = execute(rt, *actions, order="declared")
    assert result.status == "succeeded", result
    PERSON[who](place)
    before = (os.stat(place), os.listxattr(place))
    assert is_conflict(undo(rt, result))
    assert (identity(os.stat(place)), os.listxattr(place)) == (identity(before[0]), before[1])
    forced = undo(rt, result, force=True)
    assert forced.ok
    assert (project.root / "a").read_text() == "one\n"
    assert os.listxattr(project.root / "a") == []
    if what in ("created", "directory"):
        assert not place.exists()
    if place.exists() or what in ("written", "edited"):
        assert undo(rt, forced).ok  # and back: with what the person had set
        assert os.listxattr(place) == before[1]
        assert (os.stat(place).st_uid, os.stat(place).st_gid) == (before[0].st_uid, before[0].st_gid)


@pytest.mark.parametrize("what", RUNS)
def test_what_nobody_has_changed_since_is_undone_and_done_again(project, what):
    action, path = RUNS[what]
    os.setxattr(project.root / "a", "user.kept", b"1")
    rt = project.open()
    result = execute(rt, action)
    undone = undo(rt, result)
    if what == "by-a-process" and "direct" in project.root.joinpath("interlock.toml").read_text():
        return  # only what the run has touched is undone there
    assert undone.ok
    assert (project.root / "a").read_text() == "one\n"
    assert os.listxattr(project.root / "a") == ["user.kept"]
    again = undo(rt, undone)
    assert again.ok
    assert (project.root / path).exists()
    assert undo(rt, again).ok
    assert sorted(one.name for one in project.root.iterdir()) == ["a", "d", "interlock.toml"]


def test_an_attribute_that_a_process_of_the_run_has_set_is_no_conflict(project):
    rt = project.open()
    command = "python3 -I -S -c \"import os; os.setxattr('a', 'user.note', b'agent')\""
    result = execute(
        rt, fs("write", "a", content="two\n"), call("shell", "s", parameters={"command": command}), order="declared"
    )
    assert result.status == "succeeded", result
    assert os.listxattr(project.root / "a") == ["user.note"]
    assert undo(rt, result).ok
    assert os.listxattr(project.root / "a") == []


def test_what_a_directory_gives_to_new_files_is_no_conflict(project):
    """A set-gid directory gives its group."""
    with contextlib.suppress(PermissionError):
        os.chown(project.root / "d", -1, 1000)
    (project.root / "d").chmod(0o2755)
    rt = project.open()
    result = execute(rt, fs("write", "d/sub/new", content="new\n"))
    assert result.status == "succeeded", result
    assert undo(rt, result).ok
    assert [one.name for one in (project.root / "d").iterdir()] == ["x"]


def test_records_of_earlier_versions_without_owners_and_attributes_are_undone(project):
    rt = project.open()
    result = execute(rt, fs("write", "a", content="two\n"), fs("delete", "d/x"), order="declared")
    index = next(project.state.glob(f"*/runs/{result.run_id}/backups/index.ndjson"))
    lines = []
    for line, _ in backups._read(index):
        entry = backups.msgspec.structs.replace(line, after=_without(line.after))
        raw = backups.msgspec.json.encode(entry)
        lines.append(backups._Line(1, digest_bytes("backup", raw), backups.msgspec.Raw(raw)))
    index.write_bytes(b"".join(backups.msgspec.json.encode(line) + b"\n" for line in lines))
    os.setxattr(project.root / "a", "user.note", b"1")
    assert undo(rt, result).ok
    assert (project.root / "a").read_text() == (project.root / "d" / "x").read_text() == "one\n"


def _without(node):
    return backups.msgspec.structs.replace(node, owner=None, attributes=None)
