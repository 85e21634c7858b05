"""A proposal that only changes one file needs no layer, unless other programs execute the file later."""

import asyncio

import pytest
from engine_world import TOML, call, execute, plan, reasons, statuses

from interlock.engine.runs.resume import resume
from interlock.journal import read as read_journal
from interlock.workspace.layer_mounts import LayerMounts

LAYER = '[workspace]\nmode = "layer"\n'
ASK = '[rules]\nallow = ["fs.read"]\nask = ["fs.write"]\n'


@pytest.fixture
def mounted(monkeypatch):
    """The layers that were mounted."""
    found = []

    def mount(self, *arguments, real=LayerMounts.mount_overlay, **options):
        found.append(arguments)
        return real(self, *arguments, **options)

    monkeypatch.setattr(LayerMounts, "mount_overlay", mount)
    return found


@pytest.fixture
def project(new_project):
    return new_project(toml=TOML % "" + LAYER, files=[("a", "original\n")])


def fs_write(path="a", content="agent\n", name="write", **fields):
    return call("fs.write", name, parameters={"path": path, "content": content}, **fields)


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "action",
    [
        fs_write(),
        fs_write("made/here/new"),
        call("fs.write", "add", parameters={"path": "a", "content": "more", "append": True}),
        call("fs.edit", "edit", parameters={"path": "a", "old": "original", "new": "edited"}),
    ],
)
def test_one_change_of_one_file_has_no_layer_and_is_undone_exactly(project, mounted, action):
    rt, before = project.open(), tree(project.root)
    result = execute(rt, action)
    assert result.ok, result.results
    assert (mounted, result.workspace) == ([], None)
    kinds = {type(event).__struct_config__.tag for event in read_journal(project.home / "runs" / result.run_id)}
    assert not any(kind.startswith("layer") for kind in kinds)
    assert tree(project.root) != before
    back = asyncio.run(rt.runs.undo(result.run_id))
    assert back.ok, back.results
    assert tree(project.root) == before


@pytest.mark.parametrize("path", [".envrc", "link", "scripts/pre-commit", ".github/workflows/ci.yml"])
def test_a_file_that_runs_later_waits_in_a_layer(project, mounted, path):
    (project.root / "link").symlink_to(".envrc")
    (project.root / ".git").mkdir()
    (project.root / ".git" / "config").write_text("[core]\n hooksPath = scripts\n")
    result = execute(project.open(), fs_write(path))
    assert result.workspace.status == "kept"
    assert set(result.workspace.blocked.values()) == {"runs_later"}
    assert len(mounted) == 1
    assert not (project.root / ".envrc").exists()
    assert not (project.root / path).exists()


@pytest.mark.parametrize(
    "actions",
    [
        (fs_write(), fs_write("b", name="more")),
        (fs_write(), call("shell", "sh", parameters={"command": "true"})),
        (call("fs.delete", "delete", parameters={"path": "a"}),),
        (call("fs.move", "move", parameters={"source": "a", "destination": "b"}),),
    ],
)
def test_every_other_change_has_a_layer(project, mounted, actions):
    result = execute(project.open(), *actions)
    assert result.ok, result.results
    assert (len(mounted), result.workspace.status) == (1, "committed")


def test_a_change_that_waits_for_a_person_has_a_layer(new_project, mounted):
    project = new_project(toml=TOML % "" + LAYER + 'commit = "ask"\n', files=[("a", "original\n")])
    result = execute(project.open(), fs_write())
    assert (len(mounted), result.workspace.status) == (1, "kept")
    assert (project.root / "a").read_text() == "original\n"


def test_a_change_after_a_kept_layer_of_its_run_is_made_above_it(project, mounted):
    async def work(rt):
        run = rt.runs.start()
        kept = await run.execute(plan(fs_write(".envrc", "kept\n")))
        edit = call("fs.edit", "edit", parameters={"path": ".envrc", "old": "kept", "new": "edited"})
        edited = await run.execute(plan(edit))
        run.finish()
        return kept, edited

    kept, edited = asyncio.run(work(project.open()))
    assert (kept.workspace.status, edited.workspace.status, len(mounted)) == ("kept", "kept", 2)


def ask_first(new_project):
    toml = (TOML % "").replace('[rules]\nallow = ["*", "state_read", "state_write", "assert"]\n', ASK)
    assert ASK in toml
    project = new_project(toml=toml + LAYER, files=[("a", "original\n")])
    rt = project.open()
    held = asyncio.run(rt.execute(plan(fs_write("new")), wait=False))
    assert statuses(held) == ["held"]
    return project, rt, held


def test_an_approver_cannot_lead_it_to_a_file_that_runs_later(new_project):
    project, rt, held = ask_first(new_project)
    rt.approvals.edit(held["write"].output["approval"], {"path": ".envrc"})
    (result,) = asyncio.run(rt.runs.resume(held.run_id))
    assert not (project.root / ".envrc").exists()
    assert result.workspace is None or result.workspace.blocked == {".envrc": "runs_later"}


@pytest.mark.parametrize("config", ["", "[core]\n hooksPath = scripts\n"])
def test_what_the_path_leads_to_is_looked_at_again_when_it_is_written(project, monkeypatch, config):
    """Somebody changes a link, or the configuration of git, after it was decided that no layer is needed."""
    rt, root = project.open(), project.root

    def change(_, real=rt.services.cache.files_changed):
        real()
        if config:
            (root / ".git").mkdir(exist_ok=True)
            (root / ".git" / "config").write_text(config)
        elif not (root / "scripts").exists():
            (root / "scripts").mkdir()
            (root / "scripts" / "new").symlink_to("../.envrc")

    monkeypatch.setattr(type(rt.services.cache), "files_changed", change)
    result = execute(rt, fs_write("scripts/new"))
    assert reasons(result) == ["layer_unavailable"]
    assert set(tree(root)) <= {"a", "interlock.toml", ".git/config"}


def test_it_is_looked_at_as_well_when_a_killed_process_is_resumed(project):
    child = project.script(
        """
        from interlock.workspace import effects
        def dies(*_, **__):
            os.kill(os.getpid(), 9)
        effects.put_file = dies
        action = call("fs.write", "write", parameters={"path": "new", "content": "agent"})
        asyncio.run(project.open().execute(plan(action)))
        """
    )
    _, errors = child.communicate(timeout=20)
    assert child.returncode == -9, errors
    (run_id,) = project.runs()
    (project.root / "new").symlink_to(".envrc")
    (result,) = asyncio.run(resume(project.open().services, run_id, {"write": "again"}, by="me"))
    assert not (project.root / ".envrc").exists()
    assert reasons(result) == ["layer_unavailable"], result.results
