"""The real Claude Code, set up with `interlock install`, against a scripted model."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from attempts import PROMPT
from npm_programs import installed

from interlock.surfaces.clients.claude_code import NATIVE, TESTED
from interlock.surfaces.clients.scripted_model import ScriptedModel

pytest_plugins = ["clients_world"]
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def claude():
    """The program, in the version that the documentation names."""
    return installed("@anthropic-ai/claude-code", TESTED, "claude")


def run(claude, project, model: ScriptedModel) -> None:
    home = project.root.parent / "home"
    home.mkdir(exist_ok=True)
    trusted = {"projects": {str(project.root): {"hasTrustDialogAccepted": True}}}
    (home / ".claude.json").write_text(json.dumps(trusted))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_API_KEY": "sk-none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
    }
    with model.serving():
        done = subprocess.run(
            [claude, "-p", PROMPT],
            cwd=project.root,
            env={**env, "ANTHROPIC_BASE_URL": model.url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_calls_go_through_the_gate_and_its_own_tools_are_off(claude, project):
    project.interlock("install", "claude-code", "--agent", "coder")
    (project.root / "a.txt").write_text("hello")
    turns = [
        ("mcp__interlock__fs_read", {"path": "a.txt"}),
        ("mcp__interlock__fs_write", {"path": "b.txt", "content": "made"}),
        ("mcp__interlock__fs_write", {"path": "../outside", "content": "no"}),
        ("mcp__interlock__fs_write", {"path": ".claude/settings.json", "content": "{}"}),
        ("Bash", {"command": "touch pwned"}),
        ("Write", {"file_path": str(project.root / "pwned"), "content": ""}),
    ]
    model = ScriptedModel(turns)
    run(claude, project, model)
    assert "hello" in model.results[0]
    assert (project.root / "b.txt").read_text() == "made"
    assert "REJECTED" in model.results[2]
    assert "REJECTED" in model.results[3]
    assert "No such tool" in model.results[4]
    assert "No such tool" in model.results[5]
    assert not model.offered & set(NATIVE)
    assert not (project.root / "pwned").exists()
    assert not (project.root.parent / "outside").exists()
    rows = json.loads(project.interlock("log", "--json"))
    assert {(row["agent"], row["tool"]) for row in rows} == {("coder", "fs.read"), ("coder", "fs.write")}
    run_id = next(row["run_id"] for row in rows if row["about"] == "b.txt")
    project.interlock("undo", run_id)
    assert not (project.root / "b.txt").exists()


def test_a_held_call_goes_on_in_another_session(claude, project):
    project.interlock("install", "claude-code")
    path = project.root / ".mcp.json"
    path.write_text(path.read_text().replace('"gateway"', '"gateway", "--wait", "0s"'))
    (project.root / "a.txt").write_text("old")
    call = ("mcp__interlock__fs_edit", {"path": "a.txt", "old": "old", "new": "new"})
    first = ScriptedModel([call])
    run(claude, project, first)
    assert "HELD" in first.results[0]
    assert (project.root / "a.txt").read_text() == "old"
    project.interlock("approvals", "approve", "last")
    run(claude, project, ScriptedModel([call]))
    assert (project.root / "a.txt").read_text() == "new"
