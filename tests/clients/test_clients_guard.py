"""The real Claude Code in guard mode: its own tools ask the gate."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from npm_programs import installed
from two_agents import PROMPT

from interlock.surfaces.clients.claude_code import CLIENT, TESTED
from interlock.surfaces.clients.client import Setup, hook_command
from interlock.surfaces.clients.entries import add
from interlock.surfaces.clients.hook_program import Gate
from interlock.surfaces.clients.scripted_model import ScriptedModel

pytest_plugins = ["clients_world"]
pytestmark = [pytest.mark.slow, pytest.mark.clients, pytest.mark.timeout(600)]
CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "fs.write", "shell"]
ask = ["fs.edit"]

[grants.agent]
tools = ["fs.*", "shell"]

[approvals]
ttl = "10s"
"""


@pytest.fixture(scope="module")
def claude():
    """The program, in the version that the documentation names."""
    return installed("@anthropic-ai/claude-code", TESTED, "claude")


@pytest.fixture
def guarded(project):
    """A project in guard mode."""
    (project.root / "interlock.toml").write_text(CONFIGURATION)
    project.interlock("trust", "--yes")
    project.interlock("install", "claude-code", "--mode", "guard")
    yield project
    project.interlock("gate", "stop")


def begin(claude, project, model: ScriptedModel, *arguments: str, work: Path | None = None) -> subprocess.Popen[str]:
    work = work or project.root
    home = project.root.parent / f"home-of-{work.name}"
    home.mkdir(exist_ok=True)
    trusted = {"projects": {str(work): {"hasTrustDialogAccepted": True}}}
    (home / ".claude.json").write_text(json.dumps(trusted))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_API_KEY": "sk-none",
        "ANTHROPIC_BASE_URL": model.url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
    }
    return subprocess.Popen(
        [claude, "-p", PROMPT, *arguments],
        cwd=work,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


OWN = ("--allowedTools", "Bash", "Write", "Edit", "Read", "Glob", "Grep", "Agent")
"""The client's own permissions let everything through: what stops a call is Interlock."""


def run(claude, project, model: ScriptedModel, *arguments: str) -> None:
    with model.serving():
        process = begin(claude, project, model, *(arguments or OWN))
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err


def rows(project) -> list[tuple[str, str, str]]:
    return [(row["tool"], row["about"], row["status"]) for row in json.loads(project.interlock("log", "--json"))]


def write(project, name: str, content: str = "new"):
    return ("Write", {"file_path": str(project.root / name), "content": content})


def edit(project, name: str):
    return ("Edit", {"file_path": str(project.root / name), "old_string": "old", "new_string": "new"})


def test_its_own_calls_are_allowed_refused_and_on_record(claude, guarded):
    root = guarded.root
    model = ScriptedModel(
        [
            ("Bash", {"command": "echo made > by-shell"}),
            write(guarded, "by-editor"),
            write(guarded, "../outside"),
            write(guarded, ".claude/settings.json", "{}"),
            ("Bash", {"command": "exit 3"}),
            ("WebFetch", {"url": "https://example.org", "prompt": "x"}),
            ("Agent", {"description": "x", "prompt": "[[sub]]", "subagent_type": "general-purpose"}),
        ]
    )
    run(claude, guarded, model)
    assert (root / "by-shell").read_text() == "made\n"
    assert (root / "by-editor").read_text() == "new"
    assert not (root.parent / "outside").exists()
    assert "path_outside_workspace" in model.results[2]
    assert "path_" in model.results[3]
    assert "capability_denied" in model.results[5]
    assert '"hooks"' in (root / ".claude/settings.json").read_text()
    assert [row for row in rows(guarded) if row[0] in ("shell", "fs.write")][:2] == [
        ("shell", "echo made > by-shell", "succeeded"),
        ("fs.write", "by-editor", "succeeded"),
    ]
    assert ("shell", "exit 3", "failed") in rows(guarded)
    run_id = next(
        row["run_id"] for row in json.loads(guarded.interlock("log", "--json")) if row["about"] == "by-editor"
    )
    guarded.interlock("undo", run_id)
    assert not (root / "by-editor").exists()


def test_held_calls_are_answered_while_it_waits(claude, guarded):
    for name in ("approved", "denied", "expired"):
        (guarded.root / name).write_text("old")
    model = ScriptedModel([[("Read", {"file_path": str(guarded.root / name)})] for name in ("approved", "denied", "expired")])
    model.turns += [[edit(guarded, name)] for name in ("approved", "denied", "expired")]
    over = threading.Event()

    def answer() -> None:
        done: set[str] = set()
        while not over.is_set():
            for hold in json.loads(guarded.interlock("approvals", "list", "--json")):
                name = hold["parameters"]["path"]
                if hold["id"] not in done and name != "expired":
                    done.add(hold["id"])
                    guarded.interlock("approvals", "approve" if name == "approved" else "deny", hold["id"])
            time.sleep(0.05)

    person = threading.Thread(target=answer)
    person.start()
    try:
        run(claude, guarded, model)
    finally:
        over.set()
        person.join()
    assert [(guarded.root / name).read_text() for name in ("approved", "denied", "expired")] == ["new", "old", "old"]
    assert "approval_denied" in model.results[4]
    assert "approval_expired" in model.results[5]
    assert [row[1:] for row in rows(guarded) if row[0] == "fs.edit"] == [
        ("approved", "succeeded"),
        ("denied", "rejected"),
        ("expired", "rejected"),
    ]


def test_nothing_runs_when_a_hook_fails(claude, project):
    """Each of its tools has a hook that fails in a way of its own; the client's own permissions allow all of them."""
    failures = {
        "Bash": "exit 1",
        "Write": "kill -9 $$",
        "Glob": "/nowhere/at/all",
        "Grep": "sleep 60",
        "Read": "echo reason >&2; exit 2",
    }
    project.interlock("install", "claude-code", "--mode", "guard")
    path = project.root / ".claude/settings.json"
    settings = json.loads(path.read_text())
    [ours] = settings["hooks"]["PreToolUse"]
    settings["hooks"]["PreToolUse"] = [
        {"matcher": tool, "hooks": [{**ours["hooks"][0], "command": command, "timeout": 2}]}
        for tool, command in failures.items()
    ]
    path.write_text(json.dumps(settings))
    (project.root / "a.txt").write_text("content")
    model = ScriptedModel(
        [
            ("Bash", {"command": "touch ran"}),
            write(project, "written"),
            ("Glob", {"pattern": "*.txt"}),
            ("Grep", {"pattern": "content"}),
            ("Read", {"file_path": str(project.root / "a.txt")}),
        ]
    )
    run(claude, project, model)
    assert {path.name for path in project.root.iterdir()} == {"a.txt", "interlock.toml", ".claude"}
    assert not any("a.txt" in model.results[turn] for turn in (2, 3))
    assert "content" not in model.results[4]
    project.interlock("gate", "stop")


def test_what_it_tries_against_the_gate(claude, guarded):
    """It kills the gate, and edits its settings with its shell: the calls after it are checked as before."""
    guarded.interlock("gate", "start")
    pid = json.loads(
        Gate(guarded.env["INTERLOCK_STATE_DIR"], time.monotonic() + 60).ask_once(b"interlock 1 status\n" + bytes(16))[
            17:
        ]
    )["pid"]
    off = """python3 -c "open('.claude/settings.local.json', 'w').write('{\\"disableAllHooks\\": true}')" """
    model = ScriptedModel(
        [
            ("Bash", {"command": f"kill -9 {pid}; echo killed"}),
            write(guarded, "../outside"),
            ("Bash", {"command": off}),
            ("Bash", {"command": "sleep 1"}),
            write(guarded, "../outside"),
        ]
    )
    run(claude, guarded, model)
    assert not (guarded.root.parent / "outside").exists()
    assert "path_outside_workspace" in model.results[1]
    assert "path_outside_workspace" in model.results[4]
    assert rows(guarded)[0][0] == "shell"
    assert rows(guarded)[0][2] == "succeeded", "the next gate heard of its end"


def test_interrupted_while_a_call_is_held(claude, guarded):
    (guarded.root / "a.txt").write_text("old")
    model = ScriptedModel([("Read", {"file_path": str(guarded.root / "a.txt")}), edit(guarded, "a.txt")])
    with model.serving():
        process = begin(claude, guarded, model, *OWN)
        end = time.monotonic() + 60
        while not (holds := json.loads(guarded.interlock("approvals", "list", "--json"))):
            assert time.monotonic() < end
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    guarded.interlock("approvals", "approve", holds[0]["id"])
    assert (guarded.root / "a.txt").read_text() == "old"
    assert ("fs.edit", "a.txt", "succeeded") not in rows(guarded)


STARTED = {"bare": ("--bare",), "sources": ("--setting-sources", "user"), "setting": ()}
"""Ways to start the client without the hooks of its project; the last writes `disableAllHooks`."""


def run_all(program, guarded, models: dict[str, ScriptedModel]) -> None:
    """Start it in each way, side by side, each in a copy of the project."""
    with contextlib.ExitStack() as stack:
        processes = []
        for how, model in models.items():
            stack.enter_context(model.serving())
            work = shutil.copytree(guarded.root, guarded.root.parent / f"started-{how}")
            if how == "setting":
                (work / ".claude").mkdir(exist_ok=True)
                (work / ".claude/settings.local.json").write_text('{"disableAllHooks": true}')
            processes.append(begin(program, guarded, model, *OWN, *STARTED[how], work=work))
        for process in processes:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, out + err


def doors(guarded) -> dict[str, str]:
    facts = json.loads(guarded.interlock("doctor", "--clients", "--json"))["facts"]
    return {fact["name"]: fact["detail"] for fact in facts if fact["section"] == "clients"}


def test_what_a_projects_settings_do_not_close(claude, guarded):
    """Who starts the client, or may write its settings, starts it without hooks: documented, and named by doctor."""
    models = {how: ScriptedModel([("Bash", {"command": f"touch ../outside-{how}"})]) for how in STARTED}
    run_all(claude, guarded, models)
    assert all((guarded.root.parent / f"outside-{how}").exists() for how in STARTED)
    guarded.env["PATH"] = f"{claude.parent}:{guarded.env['PATH']}"
    assert doors(guarded)["claude-code: own shell"].startswith("closed")
    (guarded.root / ".claude/settings.local.json").write_text('{"disableAllHooks": true}')
    assert doors(guarded)["claude-code: own shell"].startswith("open")


def test_managed_settings_hold_however_it_is_started(claude, guarded, tmp_path):
    """The same three ways, with the hooks in the machine's settings: in a mount namespace, so that the machine's own stay."""
    guarded.interlock("install", "claude-code", "--remove")
    setup = Setup("guard", "managed", None, guarded.root, guarded.env)
    document = add({}, CLIENT.files(setup)["managed-settings.json"], tmp_path)
    for event in document["hooks"].values():  # bound to the project, so that its copies are outside of it
        event[0]["hooks"][0]["command"] = hook_command("claude-code", setup._replace(scope="project"))
    (tmp_path / "etc/claude-code").mkdir(parents=True)
    (tmp_path / "etc/claude-code/managed-settings.json").write_text(json.dumps(document))
    program = tmp_path / "claude-with-managed-settings"
    program.write_text(
        f"#!/bin/sh\nexec unshare -rm sh -c 'mount -t overlay overlay -o lowerdir={tmp_path}/etc:/etc /etc &&"
        f' exec "$0" "$@"\' {claude} "$@"\n'
    )
    program.chmod(0o755)
    models = {how: ScriptedModel([("Bash", {"command": f"touch ran-{how}"})]) for how in STARTED}
    run_all(program, guarded, models)
    for how, model in models.items():
        assert "path_outside_workspace" in model.results[0], how
        assert not (guarded.root.parent / f"started-{how}" / f"ran-{how}").exists()
