"""Native tool calls of a client: allowed, refused, held; and how they end in the record."""

from __future__ import annotations

import asyncio
import json

import pytest


@pytest.fixture
def project(lasting_world, request):
    """A project of the test's own, under one gate."""
    return lasting_world.project(f"project-{len(list(lasting_world.base.iterdir()))}")


def test_an_allowed_call_is_on_record_from_intent_to_outcome(project):
    answer = project.before("Bash", {"command": "ls"})
    assert (answer.code, answer.decision) == (0, "allow")
    [line] = project.lines()
    assert (line.tool, line.about, line.status, line.agent) == ("shell", "ls", "running", "agent")
    assert project.after("Bash").code == 0
    [line] = project.lines()
    assert line.status == "succeeded"
    assert "ran the command itself" in line.not_undoable[0]
    project.before("Bash", {"command": "false"})
    project.after("Bash", failed="Exit code 1")
    assert [line.status for line in project.lines()] == ["succeeded", "failed"]


def test_what_is_refused_and_why(project, tmp_path):
    (tmp_path / "outside").write_text("mine")
    (project.root / "link").symlink_to(tmp_path / "outside")
    (project.root / "to-settings").symlink_to(project.root / "interlock.toml")
    (project.root / ".claude").mkdir()
    refused = [
        ("Write", {"file_path": str(tmp_path / "outside"), "content": "x"}, "path_outside_workspace"),
        ("Write", {"file_path": str(project.root / "link"), "content": "x"}, "path_outside_workspace"),
        ("Read", {"file_path": "../outside"}, "path_outside_workspace"),
        ("Write", {"file_path": str(project.root / "interlock.toml"), "content": "x"}, "path_"),
        ("Write", {"file_path": str(project.root / "to-settings"), "content": "x"}, "path_"),
        ("Write", {"file_path": str(project.root / ".claude/settings.json"), "content": "x"}, "path_"),
        ("WebFetch", {"url": "https://example.org", "prompt": "x"}, "capability_denied"),
        ("NotebookEdit", {"notebook_path": "n.ipynb"}, "does not know"),
        ("mcp__other__tool", {}, "not behind"),
        ("Bash", {"cmd": "ls"}, "`command` is not a string"),
        ("Write", {"file_path": "a\0b", "content": "x"}, "NUL"),
        ("Monitor", {"ws": {"url": "wss://example.org"}}, "web socket"),
    ]
    for tool, given, reason in refused:
        answer = project.before(tool, given)
        assert (answer.decision, reason in answer.reason) == ("deny", True), (tool, given, answer.reason)
    assert "running" not in [line.status for line in project.lines()]
    passed = {"mcp__interlock__fs_read": "allow", "TodoWrite": "allow", "Agent": "allow", "AskUserQuestion": "ask"}
    assert {tool: project.before(tool, {}).decision for tool in passed} == passed


def test_a_held_call_continues_when_it_is_made_again(project):
    (project.root / "a.txt").write_text("old")
    call = {"file_path": str(project.root / "a.txt"), "old_string": "old", "new_string": "new"}
    first = project.before("Edit", call)
    assert (first.decision, "[HELD]" in first.reason) == ("deny", True)
    hold = first.reason.partition("approvals approve ")[2].partition("`")[0]
    with project.runtime() as runtime:
        shown = runtime.approvals.get(hold)
        assert (shown.tool, shown.context["source"]) == ("fs.edit", "client/claude-code")
        runtime.approvals.approve(hold)
    assert project.before("Edit", call).decision == "allow"
    project.after("Edit")
    assert project.before("Edit", call).decision == "deny", "an approval is for one call"


def test_a_file_that_the_client_changed_is_undone(project):
    path = project.root / "a.txt"
    path.write_text("old")
    project.before("Write", {"file_path": str(path), "content": "new"})
    path.write_text("new")
    project.after("Write")
    project.before("Write", {"file_path": str(project.root / "d/b.txt"), "content": "new"})
    (project.root / "d").mkdir()
    (project.root / "d/b.txt").write_text("new")
    project.after("Write")
    with project.runtime() as runtime:
        for line in project.lines():
            assert asyncio.run(runtime.runs.undo(line.run_id)).status == "succeeded"
    assert path.read_text() == "old"
    assert not (project.root / "d").exists()


def test_secrets_are_not_in_the_record(project):
    secret = "ghp_" + "a1B2" * 9
    project.before("Bash", {"command": f"curl -H 'Authorization: token {secret}'"})
    project.after("Bash")
    for path in project.world.state.rglob("*"):
        if path.is_file() and "private" not in path.parts:
            assert secret.encode() not in path.read_bytes(), path


def test_a_secret_at_which_a_message_is_cut_off_is_not_in_the_record(project):
    secret = "ghp_" + "kNthN0aB3cD4eF5gH6iJ7kL8mN9oP0qRsTuV"
    for at in (1950, 1970, 1990):
        project.before("Bash", {"command": "make"})
        project.after("Bash", failed=f"{'x' * at} {secret} and more {'y' * 100}")
    written = [
        path.read_bytes() for path in project.world.state.rglob("*") if path.is_file() and "private" not in path.parts
    ]
    assert not [data for data in written if secret[:12].encode() in data]
    assert [line.status for line in project.lines()] == ["failed"] * 3


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"{}", b'{"hook_event_name": "PreToolUse", "tool_input": 3}'],
)
def test_an_event_that_is_not_understood_is_a_refusal(project, data):
    answer = project.say(data)
    assert (answer.code, "does not understand the event" in answer.error) == (2, True)


def test_large_and_small_inputs(project):
    for size, decision in ((900_000, "allow"), (2_000_000, "deny")):
        answer = project.before("Write", {"file_path": str(project.root / "big"), "content": "x" * size})
        assert answer.decision == decision, answer.reason
        project.after("Write")
    assert {line.about for line in project.lines()} == {"big"}, (
        "the path, although the journal has no room for the content"
    )


def test_each_agent_has_its_own_grants_and_sub_agents_are_asked_about(project):
    assert project.before("Bash", {"command": "ls"}, options={"agent": "coder"}).decision == "deny"
    assert project.before("Read", {"file_path": "interlock.toml"}, options={"agent": "coder"}).decision == "allow"
    assert project.before("Bash", {"command": "ls"}, agent_id="sub-1").decision == "allow"


OTHER_SCOPE = {"project": ""}
"""A hook of the scope `user`, which finds the project by the client's directory."""


def test_a_use_is_asked_about_once(project):
    """By the hooks of each scope."""
    first = project.before("Bash", {"command": "ls"}, "u")
    again = project.before("Bash", {"command": "ls"}, "u", options=OTHER_SCOPE)
    assert json.dumps(first.document) == json.dumps(again.document)
    assert "in progress" in project.before("Bash", {"command": "ls"}, "u").reason
    assert project.before("Bash", {"command": "rm -r x"}, "u").decision == "deny"
    assert len(project.lines()) == 1


def told(project, client: str, event: dict, **given) -> tuple[int, dict, str]:
    """What the hook of a client says to an event: exit code, document, standard error."""
    process = project.begin(json.dumps({"cwd": str(project.root), **event}).encode(), client=client, **given)
    out, err = process.communicate(timeout=60)
    return process.returncode, json.loads(out or b"{}"), err.decode()


def test_a_call_is_one_call_when_the_hooks_of_two_clients_are_asked_about_it(project):
    """VS Code runs the hooks of Claude Code's settings too, with events of its own form."""
    event = {"hookEventName": "PreToolUse", "sessionId": "s", "timestamp": "1", "tool_use_id": "u"}
    call = event | {"tool_name": "run_in_terminal", "tool_input": {"command": "ls"}}
    first = told(project, "vscode", call)
    assert first[1]["hookSpecificOutput"]["permissionDecision"] == "allow"
    assert told(project, "claude-code", call) == first
    told(project, "claude-code", call | {"hookEventName": "PostToolUse", "tool_response": "done"})
    assert [(line.tool, line.status) for line in project.lines()] == [("shell", "succeeded")]


def test_in_replace_mode_a_hook_refuses_the_clients_own_tools(project):
    event = {"hook_event_name": "preToolUse", "conversation_id": "s", "tool_use_id": "u"}
    shell = event | {"tool_name": "Shell", "tool_input": {"command": "ls"}}
    _, answer, _ = told(project, "cursor", shell, mode="replace")
    assert (answer["permission"], "use the tools of the MCP server" in answer["user_message"]) == ("deny", True)
    _, answer, _ = told(project, "cursor", event | {"tool_name": "MCP:fs_read"}, mode="replace")
    assert answer["permission"] == "allow"
    assert project.lines() == []


def test_the_second_event_of_a_command_passes_only_what_the_first_has_allowed(project):
    second = {"hook_event_name": "beforeShellExecution", "conversation_id": "s", "command": "ls"}
    assert told(project, "cursor", second)[1]["permission"] == "deny"
    first = {"hook_event_name": "preToolUse", "conversation_id": "s", "tool_use_id": "u", "tool_name": "Shell"}
    assert told(project, "cursor", first | {"tool_input": {"command": "ls"}})[1]["permission"] == "allow"
    assert told(project, "cursor", second)[1]["permission"] == "allow"
    assert told(project, "cursor", second | {"command": "rm x"})[1]["permission"] == "deny"


def test_a_tool_call_in_an_event_that_is_not_known_is_refused(project):
    code, _, error = told(project, "claude-code", {"hook_event_name": "PreToolUseLater", "tool_name": "Bash"})
    assert (code, "does not know" in error) == (2, True)


def gemini(project, name: str, moment: str, *, scope=None, **more) -> tuple[int, dict]:
    """An event as Gemini CLI gives it, which has no id of the call."""
    event = {"session_id": "s", "cwd": str(project.root), "hook_event_name": name, "timestamp": moment, **more}
    call = {"tool_name": "run_shell_command", "tool_input": {"command": "make", "description": moment}}
    process = project.begin(json.dumps(event | call).encode(), client="gemini", **(scope or {}))
    out, _ = process.communicate(timeout=60)
    return process.returncode, json.loads(out)


def test_equal_calls_of_a_client_without_ids_are_two(project):
    """Hooks of two scopes are given the same event, and ask once; the same call again is another one."""
    first = gemini(project, "BeforeTool", "1")
    assert (first[0], first[1]["decision"]) == (0, "allow")
    assert gemini(project, "BeforeTool", "1", scope=OTHER_SCOPE) == first
    again = gemini(project, "BeforeTool", "2")
    assert (again[1]["decision"], again[1] != first[1]) == ("allow", True)
    gemini(project, "AfterTool", "3", tool_response={"llmContent": "done"})
    assert [line.status for line in project.lines()] == ["unknown_outcome", "succeeded"]


@pytest.mark.parametrize("held", [False, True])
def test_equal_calls_at_the_same_moment_are_not_one(project, held):
    """An agent can make a call several times at once: a permission is for one of them, and the others have to be repeated."""
    rules = 'ask = ["shell"]' if held else 'allow = ["shell"]'
    project.configure(f'[rules]\n{rules}\n[grants.agent]\ntools = ["shell"]\n')
    event = {
        "hook_event_name": "PreToolUse",
        "session_id": "s",
        "cwd": str(project.root),
        "timestamp": "2026-11-28T12:00:00.000Z",
    }
    call = event | {"tool_name": "Bash", "tool_input": {"command": "make pay", "description": "x"}}
    hooks = [project.begin(json.dumps(call).encode(), client="copilot", wait="50") for _ in range(4)]
    if held:
        with project.runtime() as runtime:
            while not runtime.approvals.list():
                pass
            [hold] = runtime.approvals.list()
            runtime.approvals.approve(hold)
    decisions = [json.loads(hook.communicate(timeout=60)[0])["permissionDecision"] for hook in hooks]
    assert sorted(decisions) == ["allow", "deny", "deny", "deny"]
    assert len(project.lines()) == 1
