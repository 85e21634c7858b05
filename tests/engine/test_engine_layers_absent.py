"""Where a proposal has no layer: what it does then, what it says, and what refuses to run without one."""

import asyncio

import pytest
from engine_world import TOML, call, execute, plan, read, reasons, statuses, write

import interlock.engine.completion.layers as completion
from interlock.journal import read as read_journal
from interlock.workspace import layer_copy
from interlock.workspace.layer_mounts import LayerMounts, UnmountableError

DIRECT = '[workspace]\nmode = "direct"\n'
LAYER = '[workspace]\nmode = "layer"\n'
NEVER = LAYER + 'commit = "never"\n'


def refuse(*_, **__):
    raise UnmountableError("this kernel refuses")


@pytest.fixture
def no_overlay(monkeypatch):
    monkeypatch.setattr(LayerMounts, "mount_overlay", refuse)


@pytest.fixture
def no_mounts(no_overlay, monkeypatch):
    monkeypatch.setattr(LayerMounts, "mount_tree", refuse)


def fs_write(path="a", content="agent\n"):
    return call("fs.write", "write", parameters={"path": path, "content": content})


def shell(command, name="shell"):
    return call("shell", name, parameters={"command": command})


def opened(project, run_id):
    found = read_journal(project.home / "runs" / run_id)
    return [event for event in found if type(event).__struct_config__.tag == "layer_opened"]


def test_where_no_process_could_see_a_copy_the_proposal_works_directly_and_says_so(new_project, no_mounts):
    project = new_project(toml=TOML % "" + LAYER)
    rt = project.open()
    told = []
    rt.subscribe(notices=told.append)
    result = execute(rt, fs_write(), shell("cat a > b"))
    assert result.ok, result.results
    assert (project.root / "b").read_text() == "agent\n"
    assert result.workspace is None
    (event,) = opened(project, result.run_id)
    assert (event.absent, event.how) == (True, "no process could see it: this kernel refuses")
    assert result["write"].posture["layer"] == result["shell"].posture["layer"] == f"absent({event.how})"
    assert [event.how in text for text in told] == [True]


def test_what_must_wait_for_a_person_does_not_run_without_a_layer(new_project, no_mounts):
    project = new_project(toml=TOML % "" + NEVER)
    result = execute(project.open(), fs_write(), shell("echo 1 > b"))
    assert reasons(result) == ["layer_unavailable"] * 2
    assert sorted(path.name for path in project.root.iterdir()) == ["interlock.toml"]


def test_a_tool_that_works_on_the_files_themselves_is_refused_where_they_must_wait(new_project):
    project = new_project(toml=TOML % "" + NEVER)
    server = call("proc.start", "server", parameters={"argv": ["touch", "made"]})
    result = execute(project.open(), fs_write(), server)
    assert set(reasons(result)) == {"layer_unavailable"}
    assert "`proc.start`" in result["write"].error
    assert not (project.root / "a").exists()


def test_a_workspace_that_is_too_large_to_copy_is_worked_on_directly(new_project, no_overlay, monkeypatch):
    monkeypatch.setattr(layer_copy, "FILES_MAX", 3)
    project = new_project(toml=TOML % "" + LAYER, files=[(f"f{number}", "x") for number in range(5)])
    result = execute(project.open(), fs_write(), shell("rm f0"))
    assert result.ok, result.results
    assert "too large to be copied" in result["shell"].posture["layer"]
    assert not (project.home / "runs" / result.run_id / "workspace" / "1").exists()


def test_a_kernel_that_cannot_show_an_overlay_behind_walls_copies_for_processes_only(new_project, monkeypatch):
    def old(self, *arguments, attach=False, real=LayerMounts.mount_overlay, **options):
        if attach:
            raise UnmountableError("this kernel is old")
        return real(self, *arguments, **options)

    monkeypatch.setattr(LayerMounts, "mount_overlay", old)
    project = new_project(toml=TOML % "" + LAYER + '[isolation]\nprofile = "ns"\n', files=[("a", "x")])
    rt = project.open()
    both = execute(rt, fs_write(), shell("cat a; echo 1 > b"))
    assert both["shell"].output["stdout"] == "agent\n"
    assert both["shell"].posture["layer"] == "active(copy(this kernel is old))"
    assert (project.root / "b").exists()
    other = call("fs.delete", "delete", parameters={"path": "b"})
    assert execute(rt, fs_write(), other)["write"].posture["layer"] == "active(overlay)"


@pytest.mark.parametrize("began", ["direct", "layer"])
def test_a_run_is_resumed_where_it_began_whatever_the_configuration_says_by_then(new_project, began):
    ask = '[rules]\nallow = ["*"]\nask = ["fs.delete"]\n'
    toml = (TOML % "").replace('[rules]\nallow = ["*", "state_read", "state_write", "assert"]\n', ask)
    modes = [DIRECT, LAYER] if began == "direct" else [LAYER, DIRECT]
    project = new_project(toml=toml + modes[0], files=[("a", "original\n"), ("b", "b\n")])
    rt = project.open()
    delete = call("fs.delete", "delete", parameters={"path": "b"}, dependencies=["write"])
    fails = call("shell", "fail", parameters={"command": "exit 3"}, dependencies=["delete"])
    held = asyncio.run(rt.execute(plan(fs_write(), delete, fails), wait=False))
    assert statuses(held)[:2] == ["succeeded", "held"], held.results
    rt.close()
    assert (project.root / "a").read_text() == ("agent\n" if began == "direct" else "original\n")
    (project.root / "interlock.toml").write_text(toml + modes[1])
    project.trust()
    rt = project.open()
    rt.approvals.approve(held["delete"].output["approval"])
    (result,) = asyncio.run(rt.runs.resume(held.run_id))
    assert result.status == "failed"
    assert (project.root / "a").read_text() == "original\n"
    assert (project.root / "b").read_text() == "b\n"
    assert result["write"].status == "rolled_back"


def test_a_state_conflict_after_the_files_were_committed_puts_them_back(new_project, monkeypatch):
    project = new_project(toml=TOML % "" + LAYER, files=[("a", "original\n")])
    rt, other = project.open(), project.open()
    assert execute(other, write("k", 1)).ok
    raced = []

    async def commit(run, real=completion.commit_files):
        await real(run)
        raced.append((project.root / "a").read_text())
        assert (await other.execute(plan(write("k", 2)))).ok

    monkeypatch.setattr(completion, "commit_files", commit)
    result = execute(rt, read("k", "r"), fs_write(), shell("echo 1 > b"), write("k", 5, "w"))
    assert raced == ["agent\n"]
    assert (result.status, result.workspace.status) == ("failed", "discarded")
    assert (project.root / "a").read_text() == "original\n"
    assert not (project.root / "b").exists()
