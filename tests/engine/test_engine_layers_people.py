"""A person, or another proposal, works on the same files while a process runs in a layer: nothing of theirs is lost."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from engine_world import TOML, call, execute, living

from interlock.workspace.layer_mounts import LayerMounts, UnmountableError

LAYER = '[workspace]\nmode = "layer"\n'
# It continues once the person has done, if it sees that, and after half a minute anyway.
UNTIL_THEN = "; touch started; for i in $(seq 400); do ls gate | grep -q go && break; sleep 0.05; done"


@pytest.fixture(params=["overlay", "copy"])
def project(new_project, request, monkeypatch):
    if request.param == "copy":

        def refuse(*arguments, **options):
            raise UnmountableError("overlayfs refuses")

        monkeypatch.setattr(LayerMounts, "mount_overlay", refuse)
    made = new_project(toml=TOML % "" + LAYER)
    (made.root / "a").write_text("one\n")
    for name in ("d", "gate"):
        (made.root / name).mkdir()
    (made.root / "d" / "x").write_text("x\n")
    return made


def meanwhile(project, command, edit):
    """Run a shell command in a layer, and `edit` in the workspace between its work and its end."""
    root, problem = project.root, []

    def person():
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for tree in (
                one / "workspace" / "1" / name for one in project.state.glob("*/runs/*") for name in ("upper", "tree")
            ):
                if not (tree / "started").exists():
                    continue
                try:
                    edit()
                except BaseException as error:
                    problem.append(error)
                if tree.name == "tree":
                    (tree / "gate" / "go").touch()
                (root / "gate" / "go").touch()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=person)
    thread.start()
    try:
        rt = project.open()
        result = execute(rt, call("shell", "s", parameters={"command": command + UNTIL_THEN}))
    finally:
        thread.join()
    assert problem == []
    return result


@pytest.mark.parametrize(
    ("command", "edit"),
    [
        ("echo two > a; rm -rf d; mkdir -p d/s", "echo PERSON > a; echo mine > d/mine"),
        ("echo two > a; echo two > d/x", "rm a; mv d renamed"),
    ],
)
def test_a_persons_work_while_a_process_runs_is_a_conflict_and_nothing_is_taken(project, command, edit):
    def person():
        subprocess.run(["sh", "-ec", edit], cwd=project.root, check=True)

    result = meanwhile(project, command, person)
    assert result.status == "failed"
    assert result.workspace.status == "kept"
    assert result.workspace.blocked["a"] == "conflict"
    root = project.root
    if "PERSON" in edit:
        assert (root / "a").read_text() == "PERSON\n"
        assert (root / "d" / "mine").read_text() == "mine\n"
        assert (root / "d" / "x").read_text() == "x\n"
    else:
        assert not (root / "a").exists()
        assert not (root / "d").exists()
        assert (root / "renamed" / "x").read_text() == "x\n"
    assert not (root / "started").exists()


def test_a_commit_of_git_while_a_process_commits_stays_on_the_branch(project):
    root = project.root

    def git(*words):
        who = ("-c", "user.name=p", "-c", "user.email=p@example.org")
        return subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("add", "a", "d")
    git("commit", "-qm", "first")

    def person():
        (root / "d" / "x").write_text("person\n")
        git("commit", "-qam", "person")

    agent = "echo two > a; git -c user.name=a -c user.email=a@example.org commit -qam agent"
    result = meanwhile(project, agent, person)
    assert result.status == "failed"
    assert "conflict" in result.workspace.blocked.values()
    assert git("log", "--format=%s").split() == ["person", "first"]
    assert git("reflog", "--format=%gs").splitlines()[0] == "commit: person"


@pytest.fixture
def plain(new_project):
    made = new_project(toml=TOML % "" + LAYER)
    for number in range(60):
        (made.root / f"f{number}").write_text("before\n")
    return made


RIVAL = """
    number, go = sys.argv[1], Path(sys.argv[2])
    rt = project.open()

    async def wait(parameters, ctx):
        (go.parent / f"ready{number}").touch()
        while not go.exists():
            await asyncio.sleep(0.005)

    rt.register(beside("wait", wait))
    command = f"for i in $(seq 0 59); do echo {number} > f$i; done"
    result = execute(rt, call("shell", "s", parameters={"command": command}), call("wait", "w", dependencies=["s"]))
    print(number, result.status, result.workspace.status, result.workspace.reason)
"""


def test_of_two_runs_that_commit_the_same_files_at_the_same_moment_one_is_committed_whole(plain, tmp_path):
    go = tmp_path / "go"
    rivals = [plain.script(RIVAL, number, go) for number in (1, 2)]
    until = time.monotonic() + 60
    while not all((tmp_path / f"ready{number}").exists() for number in (1, 2)):
        assert time.monotonic() < until
        time.sleep(0.01)
    go.touch()
    said = sorted((rival.communicate(timeout=60)[0].split() for rival in rivals), key=lambda words: words[1])
    assert [words[1:] for words in said] == [
        ["failed", "kept", "workspace_conflict"],
        ["succeeded", "committed", "None"],
    ]
    assert {(plain.root / f"f{number}").read_text() for number in range(60)} == {f"{said[1][0]}\n"}
    assert list(plain.root.glob(".interlock-*.tmp")) == []


def test_a_supervisor_that_is_killed_in_a_layer_leaves_nothing_in_the_workspace(plain):
    rt, killed = plain.open(), []

    def kill():
        """The supervisor of a process is the process that has a pid namespace of its own, as its first one."""
        until = time.monotonic() + 60
        while time.monotonic() < until and not killed:
            for pid in living("600.25"):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                os.kill(parent, signal.SIGKILL)
                killed.append(parent)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        result = execute(
            rt, call("shell", "s", parameters={"command": "echo agent > f0; echo n > new; exec sleep 600.25"})
        )
    finally:
        thread.join()
    assert (result.status, result["s"].reason) == ("failed", "process_lost")
    assert (plain.root / "f0").read_text() == "before\n"
    assert not (plain.root / "new").exists()
    assert living("600.25") == []
    assert execute(rt, call("shell", "s", parameters={"command": "echo next > f0"})).status == "succeeded"
    assert (plain.root / "f0").read_text() == "next\n"
