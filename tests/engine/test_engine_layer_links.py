"""Files with several names (hard links), as pnpm and git make them, under every file tool, in a layer and without one."""

import asyncio
import os

import pytest
from engine_world import TOML, call, execute

from interlock.workspace.layer_mounts import LayerMounts, UnmountableError


@pytest.fixture(params=["overlay", "copy", "direct"])
def project(new_project, request, monkeypatch):
    if request.param == "copy":

        def refuse(*arguments, **options):
            raise UnmountableError("overlayfs refuses")

        monkeypatch.setattr(LayerMounts, "mount_overlay", refuse)
    mode = "direct" if request.param == "direct" else "layer"
    made = new_project(toml=TOML % "" + f'[workspace]\nmode = "{mode}"\n')
    made.store = made.root.parent / "store"
    made.store.mkdir()
    for name in ("written", "edited", "deleted", "moved", "appended"):
        (made.store / name).write_text(f"{name}\n")
        os.link(made.store / name, made.root / name)  # as pnpm: one name in a store outside
        os.link(made.root / name, made.root / f"{name}.twin")
    return made


CALLS = [
    call("fs.write", "w", parameters={"path": "written", "content": "agent\n"}),
    call("fs.write", "p", parameters={"path": "appended", "content": "agent\n", "append": True}),
    call("fs.edit", "e", parameters={"path": "edited", "old": "edited", "new": "agent"}),
    call("fs.delete", "d", parameters={"path": "deleted"}),
    call("fs.move", "m", parameters={"source": "moved", "destination": "elsewhere/moved"}),
]
AFTER = {"written": "agent\n", "appended": "appended\nagent\n", "edited": "agent\n", "elsewhere/moved": "moved\n"}


def texts(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_file_tool_changes_the_name_that_it_is_given_and_no_other(project):
    before, store = texts(project.root), texts(project.store)
    rt = project.open()
    result = execute(rt, *CALLS)
    assert result.ok, result.results
    gone = {"written", "appended", "edited", "deleted", "moved"}
    assert texts(project.root) == {name: text for name, text in before.items() if name not in gone} | AFTER
    assert texts(project.store) == store
    back = asyncio.run(rt.runs.undo(result.run_id))
    assert back.ok, back.results
    assert texts(project.root) == before
    assert texts(project.store) == store


def test_it_is_changed_again_by_tools_and_processes_of_the_same_proposal(project):
    shell = call("shell", "s", parameters={"command": "echo process >> written; cat written edited.twin > seen"})
    again = call("fs.edit", "again", parameters={"path": "written", "old": "process", "new": "tool"})
    result = execute(project.open(), CALLS[0], shell, again)
    assert result.ok, result.results
    assert (project.root / "written").read_text() == "agent\ntool\n"
    assert (project.root / "seen").read_text() == "agent\nprocess\nedited\n"
    assert (project.root / "written.twin").read_text() == (project.store / "written").read_text() == "written\n"
