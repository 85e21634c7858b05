"""The real Claude Code, set up with `interlock install`, against a scripted model."""

from __future__ import annotations

import json
import subprocess

import psutil
import pytest
from claude_runs import begin, run
from npm_programs import installed

from interlock.surfaces.clients.claude_code import NATIVE, TESTED
from interlock.surfaces.clients.scripted_model import ScriptedModel

pytest_plugins = ["clients_world"]
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def claude():
    """The program, in the version that the documentation names."""
    return installed("@anthropic-ai/claude-code", TESTED, "claude")


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
        ("mcp__interlock__fs_write", {"path": ".claude/skills/a/SKILL.md", "content": "---\nhooks: {}\n---"}),
        ("mcp__interlock__fs_write", {"path": ".claude/agents/a.md", "content": "---\nmcpServers: []\n---"}),
    ]
    model = ScriptedModel(turns)
    run(claude, project, model)
    assert "hello" in model.results[0]
    assert (project.root / "b.txt").read_text() == "made"
    assert "REJECTED" in model.results[2]
    assert "REJECTED" in model.results[3]
    assert "No such tool" in model.results[4]
    assert "No such tool" in model.results[5]
    assert all("path_" in model.results[call] for call in (6, 7)), model.results
    assert not {"skills", "agents"} & {path.name for path in (project.root / ".claude").iterdir()}
    assert not model.offered & set(NATIVE)
    assert not (project.root / "pwned").exists()
    assert not (project.root.parent / "outside").exists()
    rows = json.loads(project.interlock("log", "--json"))
    assert {(row["agent"], row["tool"]) for row in rows} == {("coder", "fs.read"), ("coder", "fs.write")}
    run_id = next(row["run_id"] for row in rows if row["about"] == "b.txt")
    project.interlock("undo", run_id)
    assert not (project.root / "b.txt").exists()


def test_a_held_call_continues_in_another_session(claude, project):
    """Its gateway is killed, and then the client. Approved after that, the call happens once, when it is made again."""
    project.install("claude-code")
    (project.root / "a.txt").write_text("old")
    call = ("mcp__interlock__fs_edit", {"path": "a.txt", "old": "old", "new": "old and more"})
    first = ScriptedModel([call])
    with first.serving():
        process = begin(claude, project, first)
        held = project.wait_for_question()
        for child in psutil.Process(process.pid).children(recursive=True):
            if "gateway" in child.cmdline():
                child.kill()
                child.wait(60)
        process.kill()
        process.communicate(timeout=60)
    project.interlock("approvals", "approve", held)
    assert (project.root / "a.txt").read_text() == "old"
    assert [status for _, _, status in project.actions()] == ["held"]
    run(claude, project, ScriptedModel([call]))
    assert (project.root / "a.txt").read_text() == "old and more"
    assert [status for _, _, status in project.actions()].count("succeeded") == 1


def test_it_waits_for_as_long_as_the_gateway_does(claude, project):
    """45 seconds, after which the model is told that the call waits: no limit of the client's ends it before."""
    project.install("claude-code")
    (project.root / "a.txt").write_text("old")
    model = ScriptedModel([("mcp__interlock__fs_edit", {"path": "a.txt", "old": "old", "new": "new"})])
    run(claude, project, model)
    assert "[HELD]" in model.results[0]
    assert (project.root / "a.txt").read_text() == "old"


def test_what_it_edited_tested_and_committed_is_undone(claude, project):
    """In layers, what its tests leave behind too; afterwards git is as it was."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=project.root, check=True, capture_output=True, text=True
        ).stdout

    git("init", "--quiet")
    (project.root / "sum.sh").write_text("test $((1 + 1)) = 3\n")
    tools = '["fs.*", "shell", "git.*"]'
    rules = f"[rules]\nallow = {tools}\n[grants.agent]\ntools = {tools}\n"
    project.configure(f'[workspace]\nmode = "layer"\n{rules}')
    project.install("claude-code")
    git("add", ".")
    git("commit", "--quiet", "--message", "wrong")
    head = git("rev-parse", "HEAD")
    edit = {"path": "sum.sh", "old": "3", "new": "2"}
    model = ScriptedModel(
        [
            ("mcp__interlock__fs_edit", edit),
            ("mcp__interlock__shell", {"command": "sh sum.sh && touch passed"}),
            ("mcp__interlock__git_add", {"paths": ["sum.sh"]}),
            ("mcp__interlock__git_commit", {"message": "right"}),
        ]
    )
    run(claude, project, model)
    assert git("rev-parse", "HEAD") != head, model.results
    assert (project.root / "passed").exists(), model.results[1]
    for run_id in [line.run_id for line in project.lines()]:
        project.interlock("undo", run_id)
    assert (git("rev-parse", "HEAD"), git("status", "--porcelain")) == (head, "")
