"""Cursor and VS Code, which were not tried: their files, and their events as documented or as others have recorded them."""

from __future__ import annotations

import json

import pytest

from interlock.model.errors import UsageError
from interlock.surfaces.clients.client import HOOK_SECONDS, Setup, program
from interlock.surfaces.clients.doors import examine_clients
from interlock.surfaces.clients.hooks import GatewayCall, NativeCall, Verdict
from interlock.surfaces.clients.installation import Installation
from interlock.surfaces.clients.known import CLIENTS, find_speaker
from interlock.surfaces.resident.native_calls import WAIT_S

pytest_plugins = ["clients_world"]
ROOT = "/srv/project"


def cursor(name: str, **more) -> bytes:
    """An event of Cursor 3.9."""
    common = {"conversation_id": "74676b03", "generation_id": "f7746f6e", "model": "default", "session_id": "74676b03"}
    place = {"cursor_version": "3.9.16", "workspace_roots": [ROOT], "user_email": None, "transcript_path": None}
    return json.dumps({**common, "hook_event_name": name, **place, **more}).encode()


def vscode(name: str, **more) -> bytes:
    """An event of VS Code 1.110."""
    common = {"timestamp": "2026-02-09T10:30:00.000Z", "cwd": ROOT, "sessionId": "s", "hookEventName": name}
    return json.dumps({**common, "transcript_path": "/t.json", **more}).encode()


def judged(client: str, data: bytes):
    """What an event comes to: a call as (tool, parameters), or a decision."""
    dialect = CLIENTS[client].dialect
    found = dialect.translate(dialect.read(data, ""))
    if isinstance(found, GatewayCall):
        return f"gateway: {found.tool}"
    return (found.tool, found.parameters) if isinstance(found, NativeCall) else found.decision


CURSOR_CALLS = [
    ("Shell", {"command": "make", "cwd": "", "timeout": 30000}, ("shell", {"command": "make", "cwd": ROOT})),
    ("Shell", {"command": "make", "working_directory": "/w"}, ("shell", {"command": "make", "cwd": "/w"})),
    ("Write", {"path": "/w/a", "contents": "x"}, ("fs.write", {"path": "/w/a", "content": "x"})),
    ("Write", {"file_path": "/w/a", "content": "x"}, ("fs.write", {"path": "/w/a", "content": "x"})),
    (
        "StrReplace",
        {"path": "/w/a", "old_string": "o", "new_string": "n"},
        ("fs.edit", {"path": "/w/a", "old": "o", "new": "n"}),
    ),
    ("Delete", {"path": "/w/a"}, ("fs.delete", {"path": "/w/a"})),
    ("Read", {"file_path": "/w/a"}, ("fs.read", {"path": "/w/a"})),
    ("Grep", {"pattern": "p", "file_path": "/w"}, ("fs.search", {"pattern": "p", "path": "/w"})),
    ("Task", {"prompt": "x"}, "allow"),
    ("MCP:fs_read", {"path": "a"}, "allow"),
    ("EditNotebook", {"path": "/w/a"}, "deny"),
    ("Future", {}, "deny"),
]
VSCODE_CALLS = [
    ("run_in_terminal", {"command": "make", "explanation": "x"}, ("shell", {"command": "make", "cwd": ROOT})),
    ("create_file", {"filePath": "/w/a", "content": "x"}, ("fs.write", {"path": "/w/a", "content": "x"})),
    (
        "replace_string_in_file",
        {"filePath": "/w/a", "oldString": "o", "newString": "n"},
        ("fs.edit", {"path": "/w/a", "old": "o", "new": "n"}),
    ),
    (
        "multi_replace_string_in_file",
        {"replacements": [{"filePath": "/w/a", "oldString": "o", "newString": "n"}]},
        ("fs.edit", {"path": "/w/a", "old": "o", "new": "n"}),
    ),
    ("multi_replace_string_in_file", {"replacements": [{}, {}]}, "deny"),
    (
        "apply_patch",
        {"input": "*** Begin Patch\n*** Delete File: a\n*** End Patch"},
        ("fs.delete", {"path": "a"}),
    ),
    ("read_file", {"filePath": "/w/a", "startLine": 1}, ("fs.read", {"path": "/w/a"})),
    ("fetch_webpage", {"urls": ["https://example.org"]}, "deny"),
    ("mcp_interlock_fs_read", {"path": "a"}, "gateway: fs_read"),
    ("mcp_other_tool", {}, "deny"),
    ("manage_todo_list", {}, "allow"),
    ("insert_edit_into_file", {"filePath": "/w/a", "code": "..."}, "deny"),
]


@pytest.mark.parametrize(("tool", "given", "expected"), CURSOR_CALLS)
def test_what_a_call_of_cursor_comes_to(tool, given, expected):
    data = cursor("preToolUse", tool_name=tool, tool_input=given, tool_use_id="09dca0a5", cwd="")
    assert judged("cursor", data) == expected


@pytest.mark.parametrize(("tool", "given", "expected"), VSCODE_CALLS)
def test_what_a_call_of_vscode_comes_to(tool, given, expected):
    data = vscode("PreToolUse", tool_name=tool, tool_input=given, tool_use_id="tool-123")
    assert judged("vscode", data) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (program(), "gateway: fs_read"),
        (f"{program()} gateway --agent coder", "gateway: fs_read"),
        ("/elsewhere/bin/interlock gateway", "gateway: fs_read"),
        ("/srv/project/bin/interlock gateway", "deny"),  # a program that the project has brought
        ("bin/interlock gateway", "deny"),
        (f"{program()} shell", "deny"),
        ("npx other", "deny"),
        ("'", "deny"),
        (None, "deny"),  # a server that is reached by a URL
    ],
)
def test_an_mcp_tool_in_cursor_is_judged_by_its_server(command, expected):
    data = cursor("beforeMCPExecution", tool_name="fs_read", tool_input="{}", command=command)
    assert judged("cursor", data) == expected


def test_a_command_in_cursor_comes_to_the_same_call_in_both_of_its_events():
    first = cursor("preToolUse", tool_name="Shell", tool_input={"command": "make", "cwd": ""}, tool_use_id="u", cwd="")
    second = cursor("beforeShellExecution", command="make", cwd="", sandbox=False)
    assert judged("cursor", first) == judged("cursor", second)


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"tool_output": '{"output": "x", "exitCode": 0}'}, "after"),
        ({"tool_output": '{"output": "x", "exitCode": 3}'}, "failed"),
        ({"tool_output": "not JSON"}, "after"),
        ({}, "after"),
    ],
)
def test_how_a_call_of_cursor_has_ended(more, kind):
    data = cursor("postToolUse", tool_name="Shell", tool_input={"command": "x"}, tool_use_id="u", **more)
    assert CLIENTS["cursor"].dialect.read(data, "").kind == kind


@pytest.mark.parametrize("client", ["cursor", "vscode", "copilot"])
@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": 1, "a": 2}', b"{}"])
def test_an_event_that_is_not_understood_raises(client, data):
    with pytest.raises(Exception, match=r".") as caught:
        CLIENTS[client].dialect.read(data, "")
    assert "Error" in type(caught.value).__name__


def test_the_form_of_answers():
    """Never `ask`: in these clients it passes, or nobody sees it."""
    deny, ask = Verdict("deny", "why"), Verdict("ask")
    for client, event in (("cursor", cursor("preToolUse")), ("vscode", vscode("PreToolUse"))):
        dialect = CLIENTS[client].dialect
        read = dialect.read(event, "")
        for verdict in (deny, ask):
            reply = dialect.reply(read, verdict)
            assert reply.exit_code == 0
            assert b'"deny"' in reply.stdout
        assert b'"allow"' in dialect.reply(read, Verdict("allow")).stdout
    dialect = CLIENTS["cursor"].dialect
    shell = dialect.read(cursor("beforeShellExecution", command="x"), "")
    assert json.loads(dialect.reply(shell, ask).stdout) == {"permission": "allow"}, "what preToolUse has allowed"
    assert json.loads(dialect.reply(shell, deny).stdout)["permission"] == "deny"


def test_programs_that_read_each_others_hook_files_are_distinguished():
    names = {"hook_event_name": "PreToolUse", "session_id": "s", "cwd": ROOT}
    claude = json.dumps(names | {"transcript_path": "/t", "tool_use_id": "u", "tool_input": {"timestamp": 1}}).encode()
    copilot = json.dumps(names | {"timestamp": "t", "tool_input": {"hookEventName": "x"}}).encode()
    code = vscode("PreToolUse", tool_input={"hook_event_name": "x"})
    asks = json.dumps({"hookName": "permissionRequest", "sessionId": "s", "timestamp": 1, "toolName": "edit"}).encode()
    events = {"claude": claude, "copilot": copilot, "asks": asks, "code": code, "broken": b"{"}
    found = {(named, name): find_speaker(named, data).name for named in CLIENTS for name, data in events.items()}
    assert {key: name for key, name in found.items() if key[0] != name} == {
        ("claude-code", "code"): "vscode",
        ("claude-code", "copilot"): "copilot",
        ("claude-code", "asks"): "copilot",
        ("copilot", "code"): "vscode",
        ("vscode", "copilot"): "copilot",
        ("vscode", "asks"): "copilot",
    }
    dialect = CLIENTS["copilot"].dialect
    event = dialect.read(asks, "")
    assert (event.kind, event.tool, dialect.reply(event, Verdict("allow")).stdout) == ("other", "", b"{}")
    assert find_speaker("emacs", code) is None


@pytest.mark.parametrize(
    ("client", "mode", "scope", "hooks", "gateway"),
    [
        ("cursor", "guard", "project", "project/.cursor/hooks.json", None),
        ("cursor", "guard", "user", "home/.cursor/hooks.json", None),
        ("cursor", "replace", "project", "project/.cursor/hooks.json", "project/.cursor/mcp.json"),
        ("vscode", "guard", "project", "project/.github/hooks/interlock-vscode.json", None),
        ("vscode", "guard", "user", "home/.copilot/hooks/interlock-vscode.json", None),
        ("vscode", "replace", "project", "project/.github/hooks/interlock-vscode.json", "project/.vscode/mcp.json"),
    ],
)
def test_files_are_written_with_comments_kept_and_restored(project, client, mode, scope, hooks, gateway):
    base = project.root.parent
    project.env["HOME"] = str(base / "home")
    servers = "servers" if client == "vscode" else "mcpServers"
    before = f'{{\n  // mine\n  "{servers}": {{"other": {{"command": "x"}}}}\n}}\n'
    if gateway is not None:
        (base / gateway).parent.mkdir(parents=True)
        (base / gateway).write_text(before)
    project.install(client, mode, scope)
    written = json.loads((base / hooks).read_text())["hooks"]
    text = json.dumps(written)
    assert ("mode=replace" in text) == (mode == "replace")
    assert (f"project={project.root}" in text) == (scope == "project")
    if client == "cursor":
        assert all(hook["failClosed"] for event in ("preToolUse", "beforeMCPExecution") for hook in written[event])
    if gateway is not None:
        left = (base / gateway).read_text()
        assert "// mine" in left
        assert '"gateway"' in left
    facts = {fact.name: fact for fact in examine_clients(project.root, project.env, run=True)}
    assert "not tested with the real program" in facts[f"{client}: own tools"].detail
    assert facts[f"{client}: {mode} mode, {scope}: hook"].status == "ok"
    project.remove(client, scope)
    project.stop_gate()
    assert not (base / hooks).exists()
    assert gateway is None or (base / gateway).read_text() == before


def test_replace_mode_is_a_projects(project):
    installation = Installation("vscode", project.root, project.env, "user")
    with pytest.raises(UsageError) as caught:
        installation.plan_install("replace", None)
    assert caught.value.code == "client_mode"


def limits(value) -> list[float]:
    """In seconds, the limits that entries of a client's files set, in the names and units of all of them."""
    if isinstance(value, dict):
        own = [value[name] for name in ("timeout", "timeoutSec", "tool_timeout_sec") if name in value]
        inner = [limit for each in value.values() for limit in limits(each)]
        return [limit / 1000 if limit >= 1000 else limit for limit in own] + inner
    return [limit for each in value for limit in limits(each)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("mode", ["guard", "replace"])
def test_each_clients_own_limit_is_longer_than_what_interlock_takes(client, mode, tmp_path):
    """A hook has its deadline before the client's, where a client lets a call pass; a held call's answer comes before it, too."""
    files = CLIENTS[client].files(Setup(mode, "project", None, tmp_path, {"HOME": str(tmp_path)}))
    entries = [entry for found in files.values() for entry in found]
    text = str(entries)
    hooked = "hook_program" in text
    assert hooked or "gateway" in text
    found = [limit for entry in entries if entry.keys[-1:] != ("SessionEnd",) for limit in limits(entry.value)]
    assert all(limit > (HOOK_SECONDS if hooked else WAIT_S) for limit in found)
    assert WAIT_S < HOOK_SECONDS
    if hooked and client != "opencode":  # whose plug-in has a limit of its own
        assert found
