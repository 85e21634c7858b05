"""The real Claude Code in guard mode: its own tools ask the gate."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal

import pytest
from attempts import SECOND_SERVER, Attempts, Means
from claude_runs import OWN, begin, run
from held_commands import HELD_ANSWERS, HELD_COMMANDS
from npm_programs import installed

from interlock.surfaces.clients.claude_code import CLIENT, TESTED
from interlock.surfaces.clients.client import Setup, hook_command
from interlock.surfaces.clients.entries import add
from interlock.surfaces.clients.scripted_model import ScriptedModel

pytest_plugins = ["clients_world"]
pytestmark = [pytest.mark.slow, pytest.mark.clients, pytest.mark.timeout(600)]
CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "fs.write", "shell"]
ask = ["fs.edit"]
deny = ["shell(rm *)"]

[grants.agent]
tools = ["fs.*", "shell"]

[approvals]
ttl = "5s"
"""


@pytest.fixture(scope="module")
def claude():
    """The program, in the version that the documentation names."""
    return installed("@anthropic-ai/claude-code", TESTED, "claude")


@pytest.fixture
def guarded(project):
    """A project in guard mode."""
    project.configure(CONFIGURATION)
    project.install("claude-code", "guard")
    yield project
    project.stop_gate()


def write(project, name: str, content: str = "new"):
    return ("Write", {"file_path": str(project.root / name), "content": content})


def shell(command: str):
    return ("Bash", {"command": command})


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
    assert [row for row in guarded.actions()[::-1] if row[0] in ("shell", "fs.write")][:2] == [
        ("shell", "echo made > by-shell", "succeeded"),
        ("fs.write", "by-editor", "succeeded"),
    ]
    assert ("shell", "exit 3", "failed") in guarded.actions()
    guarded.undo("fs.write", "by-editor")
    assert not (root / "by-editor").exists()


def test_held_calls_are_answered_while_it_waits(claude, guarded):
    for name in ("approved", "denied", "expired"):
        (guarded.root / name).write_text("old")
    names = ("approved", "denied", "expired")
    reads = [("Read", {"file_path": str(guarded.root / name)}) for name in names]
    model = ScriptedModel([*reads, *(edit(guarded, name) for name in names)])
    with guarded.person({"approved": "approve", "denied": "deny"}):
        run(claude, guarded, model)
    assert [(guarded.root / name).read_text() for name in ("approved", "denied", "expired")] == ["new", "old", "old"]
    assert "approval_denied" in model.results[4]
    assert "approval_expired" in model.results[5]
    assert [row[1:] for row in guarded.actions()[::-1] if row[0] == "fs.edit"] == [
        ("approved", "succeeded"),
        ("denied", "rejected"),
        ("expired", "rejected"),
    ]


def test_its_calls_are_judged_by_what_it_does(claude, project):
    """It cuts off spaces, and follows patterns out of the project: then the call is refused."""
    project.configure(CONFIGURATION.replace('"fs.list"', '"fs.list", "fs.search"'))
    project.install("claude-code", "guard")
    root = project.root
    (root / "a.txt").write_text("old\n")
    model = ScriptedModel(
        [
            ("Grep", {"pattern": "root", "path": " /etc", "output_mode": "content", "glob": "passwd"}),
            ("Glob", {"pattern": "*", "path": " /etc"}),
            ("Glob", {"pattern": "/etc/host*"}),
            ("Bash", {"command": "touch unsandboxed", "dangerouslyDisableSandbox": True}),
            write(project, ".claude/agents/a.md"),
            write(project, ".claude/skills/a/SKILL.md"),
            write(project, "packages/a/.claude/commands/a.md"),
            write(project, ".claude/rules/a.md"),
            ("Grep", {"pattern": "ol+d", "path": str(root), "output_mode": "content", "-n": True, "head_limit": 5}),
            ("Glob", {"pattern": "*.{txt,md}", "path": str(root)}),
            ("Read", {"file_path": str(root / "a.txt"), "offset": 1, "limit": 1}),
            ("Bash", {"command": "touch plain", "description": "x", "timeout": 10000}),
        ]
    )
    run(claude, project, model)
    project.stop_gate()
    assert all(word not in json.dumps(model.results) for word in ("root:x", "hostname")), model.results
    assert "sandbox" in model.results[3]
    assert not (root / "unsandboxed").exists()
    assert all("path_" in model.results[call] for call in (4, 5, 6)), model.results
    assert not list(root.rglob("*.md")), model.results
    assert "path_" not in model.results[7], "its user is asked about it by the program itself"
    assert "old" in model.results[8]
    assert "a.txt" in model.results[9]
    assert "old" in model.results[10]
    assert (root / "plain").exists()


def test_held_commands_are_answered_while_it_waits(claude, project):
    project.configure_held_commands()
    project.install("claude-code", "guard")
    model = ScriptedModel([shell(command) for command in HELD_COMMANDS])
    with project.person(HELD_ANSWERS):
        run(claude, project, model)
    project.stop_gate()
    project.check_held_commands(model.results)


def test_in_a_subdirectory_it_does_not_read_the_projects_settings(claude, project):
    """Documented, and named by install and doctor. The scope `user` covers it."""
    work = project.root / "sub"
    work.mkdir()
    home = project.root.parent / "home-of-sub"
    home.mkdir()
    project.env["HOME"] = str(home)
    project.configure(CONFIGURATION.replace('"shell"]\nask', '"shell(true)"]\nask'))
    project.install("claude-code", "guard")
    for scope, name, made in (("project", "made", True), ("user", "again", False)):
        project.install("claude-code", "guard", scope)
        model = ScriptedModel([shell(f"touch {name}")])
        with model.serving():
            begin(claude, project, model, *OWN, work=work).communicate(timeout=300)
        assert (work / name).exists() is made, model.results
    assert "in a subdirectory" in project.interlock("doctor", "--json")
    project.stop_gate()


def test_when_a_hook_fails(claude, project, failing_hooks):
    """Nothing runs, but where a hook says what is no JSON: the client is told to block when a hook fails in any other way."""
    project.install("claude-code", "guard")
    model = ScriptedModel([shell(command) for command in failing_hooks.commands()])
    run(claude, project, model)
    assert failing_hooks.ran() == {"text"}, model.results


def test_what_the_agent_tries_against_the_gate(claude, guarded):
    """Each attempt is followed by a call that the rules forbid."""
    guarded.remove("claude-code")
    server = {"command": SECOND_SERVER[0], "args": SECOND_SERVER[1:]}
    (guarded.root / ".mcp.json").write_text(json.dumps({"mcpServers": {"other": server}}))
    guarded.install("claude-code", "guard")
    agent = Attempts(
        guarded,
        Means(
            shell=shell,
            write=lambda name: write(guarded, name),
            background=lambda command: ("Bash", {"command": command, "run_in_background": True}),
            sub_agent=("Agent", {"description": "x", "prompt": "work", "subagent_type": "general-purpose"}),
            second_tool="mcp__other__touch",
            hooks=".claude/settings.json",
            off={".claude/settings.local.json": '{"disableAllHooks": true}'},
        ),
    )
    run(claude, guarded, agent, *OWN, "mcp__other__touch", "--settings", '{"enabledMcpjsonServers": ["other"]}')
    assert agent.succeeded() == set(), (agent.results, agent.sub.results)


def test_interrupted_and_killed_while_a_call_is_held(claude, guarded):
    """By Ctrl-C, then with the gate. Approved after that, nothing has happened; made again, it happens once."""
    guarded.configure(CONFIGURATION.replace("5s", "10m"))
    path = guarded.root / "a.txt"
    path.write_text("old")
    again = ("Edit", {"file_path": str(path), "old_string": "old", "new_string": "old and more"})
    calls = [("Read", {"file_path": str(path)}), again]
    for end in (signal.SIGINT, signal.SIGKILL):
        model = ScriptedModel(calls)
        with model.serving():
            process = begin(claude, guarded, model, *OWN)
            held = guarded.wait_for_question()
            if end == signal.SIGKILL:
                os.kill(guarded.start_gate(), end)
            process.send_signal(end)
            process.communicate(timeout=60)
        assert path.read_text() == "old"
    guarded.interlock("approvals", "approve", held)
    assert "succeeded" not in [status for tool, _, status in guarded.actions() if tool == "fs.edit"]
    run(claude, guarded, ScriptedModel(calls))
    assert path.read_text() == "old and more"
    assert [status for tool, _, status in guarded.actions() if tool == "fs.edit"].count("succeeded") == 1


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
