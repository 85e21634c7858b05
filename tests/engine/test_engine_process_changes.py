"""A run's own processes are part of the run: what they change where it has been comes back with the rest, and is kept.

What a person changes is not: before a process starts and after it has ended it is a conflict. While one runs the two cannot be
told apart; then what is overwritten is kept, and named.
"""

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from engine_world import DIRECT, call, execute, statuses

FORMAT = "printf 'x = 1\\n' > a.py"
IMPORT = [sys.executable, "-c", "import pkg.mod"]


@pytest.fixture
def project(new_project):
    """In a layer everything that a process changed is known; here not."""
    return new_project(toml=DIRECT % "")


@pytest.fixture
def root(project):
    (project.root / "a.py").write_text("original\n")
    return project.root


@pytest.fixture
def rt(project, root):
    return project.open()


def fs_write(path="a.py", content="x=1\n", name="write"):
    return call("fs.write", name, parameters={"path": path, "content": content})


def shell(command, name="shell", **fields):
    return call("shell", name, parameters={"command": command}, **fields)


FAIL = shell("exit 3", "fail")


def imported(name="import"):
    # Bytecode goes beside the source, whatever the environment of the tests says.
    return call("exec", name, parameters={"argv": IMPORT})


def undo(rt, run_id, **more):
    return asyncio.run(rt.runs.undo(run_id, **more))


def kept(project, named):
    """The content of a backup that an output names as `run/backups/sha256`."""
    return (project.home / "runs" / named).read_text()


def test_a_file_that_a_formatter_changed_comes_back_in_a_rollback_and_what_it_made_of_it_is_kept(rt, root, project):
    result = execute(rt, fs_write(), shell(FORMAT), FAIL)
    assert (root / "a.py").read_text() == "original\n"
    assert statuses(result) == ["rolled_back", "not_undone", "failed"], result.results
    (left,) = (one for one in result.not_undone if "`a.py`" in one.detail)
    assert (left.action_id, left.reason) == ("shell", "not_exactly_undoable")
    name = left.detail.split("`backups/")[1].split("`")[0]
    assert kept(project, f"{result.run_id}/backups/{name}") == "x = 1\n"


def test_the_same_in_an_undo_of_the_whole_run(rt, root, project):
    done = execute(rt, fs_write(), shell(FORMAT))
    result = undo(rt, done.run_id)
    assert (root / "a.py").read_text() == "original\n"
    assert result.ok
    (named,) = [one for one in result.results[0].output["restored"] if "kept" in one]
    assert (named["path"], named["by_process"]) == ("a.py", True)
    assert kept(project, named["kept"]) == "x = 1\n"


def test_an_undo_of_that_undo_brings_the_formatted_file_again(rt, root):
    done = execute(rt, fs_write(), shell(FORMAT))
    first = undo(rt, done.run_id)
    assert undo(rt, first.run_id).ok
    assert (root / "a.py").read_text() == "x = 1\n"


def test_the_process_alone_can_be_undone(rt, root):
    done = execute(rt, fs_write(), shell(FORMAT))
    undo(rt, done.run_id, action_id="shell")
    assert (root / "a.py").read_text() == "x=1\n"


@pytest.mark.parametrize("end", ["rollback", "undo"])
def test_what_an_import_puts_into_a_new_package_goes_with_the_package(rt, root, end):
    actions = [
        fs_write("pkg/__init__.py", "", "init"), fs_write("pkg/mod.py", "x = 1\n", "mod"), imported(),
        shell("test -d pkg/__pycache__", "there"),
    ]  # fmt: skip
    result = execute(rt, *actions, *([FAIL] if end == "rollback" else []))
    assert statuses(result)[3] in ("succeeded", "not_undone"), "the import did write its cache"
    if end == "undo":
        assert undo(rt, result.run_id).ok
    assert not (root / "pkg").exists()


def test_several_processes_one_after_another(rt, root):
    result = execute(
        rt, fs_write(), shell("echo one >> a.py", "s1"), shell("echo two >> a.py", "s2"),
        fs_write(content="again\n", name="w2"), shell("rm a.py; mkdir a.py; touch a.py/inside", "s3"), FAIL,
    )  # fmt: skip
    assert (root / "a.py").read_text() == "original\n"
    assert {row.action_id: row.status for row in result.results}["write"] == "rolled_back"
    assert "succeeded" not in statuses(result)


@pytest.mark.parametrize(
    "command", ["rm a.py", "chmod 600 a.py", "ln -sf /etc/passwd a.py", "rm a.py; mkdir a.py", "echo more >> a.py"]
)
def test_whatever_a_process_makes_of_a_file_of_the_run_the_original_comes_back(rt, root, command):
    os.chmod(root / "a.py", 0o640)
    result = execute(rt, fs_write(), shell(command), FAIL)
    assert result["write"].status == "rolled_back"
    assert (root / "a.py").read_text() == "original\n"
    assert not (root / "a.py").is_symlink()
    assert (root / "a.py").stat().st_mode & 0o7777 == 0o640


def test_a_process_that_fails_or_is_stopped_has_changed_files_all_the_same(rt, root):
    result = execute(rt, fs_write(), shell(f"{FORMAT}; exit 1"))
    assert (root / "a.py").read_text() == "original\n"
    assert result["write"].status == "rolled_back"
    result = execute(rt, fs_write(), shell(f"{FORMAT}; sleep 60", timeout_ms=500))
    assert (root / "a.py").read_text() == "original\n"
    assert result["write"].status == "rolled_back"


# -- a person


def persons_edit(project, text="a person's\n"):
    """A tool that only reads, as far as the run knows: what a person does meanwhile."""
    from engine_world import binding  # noqa: PLC0415

    async def edit(parameters, ctx):
        (project.root / "a.py").write_text(text)

    return binding("person", edit, read_only=True)


PERSON = call("person", "person")


def ordered(*actions):
    """One after the other, whatever they do."""
    return [dict(a, dependencies=[b["id"]]) for a, b in zip(actions[1:], actions, strict=False)]


def in_order(*actions):
    return [actions[0], *ordered(*actions)]


@pytest.mark.parametrize(
    "actions",
    [
        in_order(fs_write(), PERSON, shell("true"), FAIL),
        in_order(fs_write(), shell(FORMAT), PERSON, FAIL),
        in_order(fs_write(), PERSON, shell("echo more >> a.py"), FAIL),
    ],
    ids=["before a process that leaves it", "after the process", "before a process that changes it"],
)
def test_what_a_person_edits_outside_of_a_process_is_a_conflict_and_stays(project, root, actions):
    rt = project.open(persons_edit(project))
    result = execute(rt, *actions)
    assert (root / "a.py").read_text() == "a person's\n"
    assert (result["write"].status, result["write"].reason) == ("not_undone", "undo_conflict")
    assert "succeeded" not in [row.status for row in result.results if row.action_id != "person"]


@pytest.mark.parametrize("later", [[], [shell("echo more >> a.py", "s2")]], ids=["last", "and a process after it"])
def test_undo_of_such_a_run_touches_nothing(project, root, later):
    rt = project.open(persons_edit(project))
    done = execute(rt, *in_order(fs_write(), shell(FORMAT), PERSON, *later))
    before = (root / "a.py").read_text()
    result = undo(rt, done.run_id)
    assert result.results[0].reason == "undo_conflict"
    assert (root / "a.py").read_text() == before
    assert undo(rt, done.run_id, force=True).results[0].status == "succeeded"
    assert (root / "a.py").read_text() == "original\n"


def test_what_a_person_puts_into_a_directory_of_the_run_is_not_attributed_to_its_processes(project, root):
    from engine_world import binding  # noqa: PLC0415

    async def edit(parameters, ctx):
        (project.root / "pkg" / "mine").write_text("mine")

    rt = project.open(binding("person", edit, read_only=True))
    done = execute(rt, *in_order(fs_write("pkg/mod.py"), PERSON, shell("touch pkg/cache")))
    assert undo(rt, done.run_id).results[0].reason == "undo_conflict"
    assert (root / "pkg" / "mine").read_text() == "mine"


def test_what_a_person_edits_while_a_process_runs_is_kept_and_named(project, root):
    rt = project.open()
    waiting = "touch in; while [ ! -e go ]; do sleep 0.01; done"

    async def both():
        run = asyncio.create_task(rt.execute({"actions": [fs_write(), shell(waiting), FAIL]}))
        while not (root / "in").exists():
            await asyncio.sleep(0.01)
        (root / "a.py").write_text("a person's, meanwhile\n")
        (root / "go").touch()
        return await run

    result = asyncio.run(both())
    assert (root / "a.py").read_text() == "original\n"
    (left,) = (one for one in result.not_undone if "`a.py`" in one.detail)
    name = left.detail.split("`backups/")[1].split("`")[0]
    assert kept(project, f"{result.run_id}/backups/{name}") == "a person's, meanwhile\n"


# -- a crash


KILLED = """
    rt = project.open()
    execute(rt, call("fs.write", "write", parameters={"path": "a.py", "content": "x=1\\n"}),
            call("shell", "shell", parameters={"command": "echo changed > a.py; mkdir -p pkg; touch in; sleep 60"}))
"""


@pytest.fixture
def crashed(project, root):
    """A run whose Interlock was killed while its process ran, after that had changed a file."""
    project.open().close()
    child = project.script(KILLED, stdout=subprocess.DEVNULL)
    try:
        while not (root / "in").exists():
            assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    (root / "in").unlink()
    (run_id,) = project.runs()
    return run_id


def test_after_a_crash_undo_does_not_guess_whose_a_change_is(project, root, crashed):
    (root / "mine.txt").write_text("a person's")
    rt = project.open()
    result = undo(rt, crashed)
    assert result.results[0].reason == "undo_conflict"
    assert "a process that ran when Interlock died" in result.results[0].error
    assert (root / "a.py").read_text() == "changed\n"
    result = undo(rt, crashed, force=True)
    assert (root / "a.py").read_text() == "original\n"
    assert (root / "mine.txt").read_text() == "a person's"
    assert asyncio.run(rt.runs.undo(result.run_id)).status == "succeeded"
    assert (root / "a.py").read_text() == "changed\n", "what was overwritten was kept"


def test_after_a_crash_an_edit_of_what_the_process_had_left_alone_is_a_persons(project, root, crashed):
    (root / "a.py").write_text("x=1\n")
    rt = project.open()
    assert undo(rt, crashed).status == "succeeded", "nothing but the run's own work is there"
    assert (root / "a.py").read_text() == "original\n"


def test_after_a_crash_and_recovery_a_change_is_still_left_to_the_person(project, root, crashed):
    rt = project.open()
    (root / "a.py").write_text("a person's, before recovery\n")
    asyncio.run(rt.runs.resume(crashed, {"shell": "succeeded"}, by="ann"))
    assert undo(rt, crashed).results[0].reason == "undo_conflict"
    assert (root / "a.py").read_text() == "a person's, before recovery\n"


def test_after_a_crash_a_rollback_does_not_guess_either(project, root, crashed):
    rt = project.open()
    (result,) = asyncio.run(rt.runs.resume(crashed, {"shell": "undo"}, by="ann"))
    assert (root / "a.py").read_text() == "changed\n"
    assert (result["write"].status, result["write"].reason) == ("not_undone", "undo_conflict")


# -- bounds


def test_what_is_beyond_the_limits_is_reported_and_stays_a_conflict(rt, root, monkeypatch):
    from interlock.workspace import process_changes  # noqa: PLC0415

    monkeypatch.setattr(process_changes, "BYTES_MAX", 1)
    result = execute(rt, fs_write(), shell(FORMAT), FAIL)
    assert (root / "a.py").read_text() == "x = 1\n"
    assert (result["write"].status, result["write"].reason) == ("not_undone", "undo_conflict")
    assert any("was not compared" in one.detail for one in result.not_undone)


def test_beyond_the_limit_of_paths_nothing_is_taken_for_the_work_of_a_process(rt, root, monkeypatch):
    from interlock.workspace import process_changes  # noqa: PLC0415

    monkeypatch.setattr(process_changes, "PATHS_MAX", 3)
    done = execute(rt, fs_write("pkg/mod.py"), shell("touch pkg/1 pkg/2 pkg/3"))
    assert undo(rt, done.run_id).results[0].reason == "undo_conflict"
    assert (root / "pkg" / "3").exists()


def test_a_file_that_did_not_change_is_read_once_however_many_processes_run(rt, root, monkeypatch):
    from interlock.workspace import Workspace  # noqa: PLC0415

    execute(rt, fs_write("warm", name="warm"))
    reads = []
    real = Workspace.examine
    monkeypatch.setattr(
        Workspace, "examine", lambda self, path, *a, **k: reads.append(path) or real(self, path, *a, **k)
    )
    writes = [fs_write(f"f{i}", name=f"w{i}") for i in range(20)]
    execute(rt, *in_order(*writes, shell("sleep 0.2", "settle"), *(shell("true", f"s{i}") for i in range(10))))
    assert len([path for path in reads if path == (b"f0",)]) <= 4, (
        "by fs.write, before and after the first process, once more"
    )


def test_a_run_that_has_touched_nothing_records_nothing_about_its_processes(rt, project):
    result = execute(rt, shell("touch somewhere"))
    assert not (project.run_directory(result.run_id) / "backups" / "index.ndjson").exists()


def test_a_fifo_that_a_process_made_is_named_and_forced_past(rt, root):
    (root / "b.py").write_text("original\n")
    result = execute(rt, fs_write("new/a.py"), fs_write("b.py", name="other"), shell("mkfifo new/pipe"))
    (row,) = undo(rt, result.run_id).results
    assert (row.status, row.reason) == ("failed", "undo_blocked")
    assert row.error.startswith("`new/pipe` cannot be restored")
    assert "caused by" not in row.error
    assert (root / "b.py").read_text() == "x=1\n", "nothing was touched"
    (row,) = undo(rt, result.run_id, force=True).results
    assert row.reason == "undo_incomplete"
    assert "`new/pipe` cannot be restored" in row.error
    assert (root / "b.py").read_text() == "original\n"
    (root / "new" / "pipe").unlink()
    assert undo(rt, result.run_id).ok
    assert not (root / "new").exists()
