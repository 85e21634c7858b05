"""The own tools of all clients: what is judged is what the client does, and an input that could mean another thing is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from interlock.model.errors import ProposalError
from interlock.surfaces.clients.gateway_name import find_impostor
from interlock.surfaces.clients.hooks import GatewayCall, NativeCall, Verdict, placed
from interlock.surfaces.clients.known import CLIENTS

PATCH = "*** Begin Patch\n*** Update File: a\n-x\n+y\n*** End Patch\n"
GREP = {
    "output_mode": "content",
    "-i": True,
    "-A": 1,
    "-B": 1,
    "-C": 1,
    "-n": True,
    "head_limit": 5,
    "multiline": False,
}
INPUTS = [
    ("claude-code", "Bash", {"command": "x", "description": "d", "timeout": 1, "run_in_background": False}),
    ("claude-code", "Bash", {"command": "x", "dangerouslyDisableSandbox": False}),
    ("claude-code", "Monitor", {"command": "x", "description": "d", "timeout_ms": 1, "persistent": False}),
    ("claude-code", "Write", {"file_path": "a", "content": "x"}),
    ("claude-code", "Edit", {"file_path": "a", "old_string": "x", "new_string": "y", "replace_all": True}),
    ("claude-code", "Read", {"file_path": "a", "offset": 1, "limit": 2, "pages": "1-2", "allow_large": True}),
    ("claude-code", "Glob", {"pattern": "**/*.{ts,tsx}", "path": "a"}),
    ("claude-code", "Grep", {"pattern": "x", "path": "a", "glob": "*", "type": "py", "context": 1, "-o": True, **GREP}),
    ("claude-code", "WebFetch", {"url": "https://example.org", "prompt": "x", "offset": 0}),
    ("codex", "Bash", {"command": "x"}),
    ("codex", "apply_patch", {"command": PATCH}),
    ("codex", "view_image", {"path": "a", "detail": "original"}),
    ("copilot", "Bash", {"command": "x", "description": "d", "shellId": "s", "mode": "async", "detach": False}),
    ("copilot", "Bash", {"command": "x", "description": "d", "mode": "sync", "initial_wait": 30}),
    ("copilot", "Write", {"path": "a", "file_text": "x"}),
    ("copilot", "Edit", {"path": "a", "old_str": "x", "new_str": "y"}),
    ("copilot", "Edit", PATCH),
    ("copilot", "Read", {"path": "a", "view_range": [1, 2], "forceReadLargeFiles": False}),
    ("copilot", "Glob", {"pattern": "**/*.js", "paths": "a"}),
    ("copilot", "Grep", {"pattern": "x", "paths": ["a"], "glob": "*", "type": "py", **GREP}),
    (
        "gemini",
        "run_shell_command",
        {"command": "x", "description": "d", "dir_path": "a", "is_background": True, "delay_ms": 1},
    ),
    ("gemini", "write_file", {"file_path": "a", "content": "x", "wait_for_previous": True}),
    (
        "gemini",
        "replace",
        {"file_path": "/w/a", "instruction": "i", "old_string": "x", "new_string": "y", "allow_multiple": True},
    ),
    ("gemini", "read_file", {"file_path": "a", "start_line": 1, "end_line": 2}),
    ("gemini", "glob", {"pattern": "**/*.py", "dir_path": "a", "case_sensitive": True, "respect_git_ignore": True}),
    (
        "gemini",
        "grep_search",
        {"pattern": "x", "dir_path": "a", "include_pattern": "*", "names_only": True, "context": 1},
    ),
    ("gemini", "list_directory", {"dir_path": "a", "ignore": ["x"], "file_filtering_options": {}}),
    ("opencode", "bash", {"command": "x", "description": "d", "timeout": 1, "workdir": "a"}),
    ("opencode", "write", {"filePath": "a", "content": "x"}),
    ("opencode", "edit", {"filePath": "a", "oldString": "x", "newString": "y", "replaceAll": True}),
    ("opencode", "apply_patch", {"patchText": PATCH}),
    ("opencode", "read", {"filePath": "a", "offset": 1, "limit": 2}),
    ("opencode", "glob", {"pattern": "*", "path": "a"}),
    ("opencode", "grep", {"pattern": "x", "path": "a", "include": "*"}),
    ("cursor", "Shell", {"command": "x", "working_directory": "a", "timeout": 1, "required_permissions": []}),
    ("cursor", "Write", {"path": "a", "contents": "x"}),
    ("cursor", "StrReplace", {"path": "a", "old_string": "x", "new_string": "y", "replace_all": True}),
    ("cursor", "Delete", {"path": "a"}),
    ("cursor", "Read", {"path": "a", "offset": 1, "limit": 2}),
    ("cursor", "Glob", {"glob_pattern": "*", "target_directory": "a"}),
    ("cursor", "Grep", {"pattern": "x", "path": "a", "glob": "*", **GREP}),
    (
        "vscode",
        "run_in_terminal",
        {"command": "x", "explanation": "e", "goal": "g", "isBackground": False, "timeout": 0},
    ),
    ("vscode", "create_file", {"filePath": "a", "content": "x"}),
    ("vscode", "replace_string_in_file", {"filePath": "a", "oldString": "x", "newString": "y"}),
    ("vscode", "apply_patch", {"input": PATCH, "explanation": "e"}),
    ("vscode", "read_file", {"filePath": "a", "startLine": 1, "endLine": 2}),
    ("vscode", "file_search", {"query": "**/*.ts", "maxResults": 5}),
    ("vscode", "grep_search", {"query": "x", "isRegexp": True, "includePattern": "src/**"}),
]
"""Inputs as the real programs offer them to a model; those of Cursor and VS Code from their documentation."""
PATHS = {
    "file_path", "path", "paths", "dir_path", "filePath", "workdir", "working_directory", "target_directory",
}  # fmt: skip
PATTERNS = {
    ("claude-code", "Glob"): "pattern", ("claude-code", "Grep"): "glob", ("copilot", "Glob"): "pattern",
    ("copilot", "Grep"): "glob", ("gemini", "glob"): "pattern", ("gemini", "grep_search"): "include_pattern",
    ("opencode", "glob"): "pattern", ("opencode", "grep"): "include", ("cursor", "Glob"): "glob_pattern",
    ("cursor", "Grep"): "glob", ("vscode", "file_search"): "query", ("vscode", "grep_search"): "includePattern",
}  # fmt: skip


def judged(client: str, tool: str, given, root: Path) -> NativeCall | Verdict | str:
    """What a call comes to in the workspace: the call, a refusal, or the reason why the input does not fit."""
    names = {
        "cursor": ("preToolUse", "hook_event_name", "conversation_id", "tool_name", "tool_input"),
        "gemini": ("BeforeTool", "hook_event_name", "session_id", "tool_name", "tool_input"),
        "opencode": ("before", "name", "sessionID", "tool", "args"),
        "vscode": ("PreToolUse", "hookEventName", "sessionId", "tool_name", "tool_input"),
    }
    name, *keys = names.get(client, ("PreToolUse", "hook_event_name", "session_id", "tool_name", "tool_input"))
    event = dict(zip(keys, (name, "s", tool, given), strict=True))
    event |= {"cwd": str(root), "directory": str(root), "tool_use_id": "c1", "callID": "c1"}
    if client == "codex" and tool == "Bash":
        recorded(root / "record.jsonl", "c1", {"cmd": given.get("command"), "login": False})
        event["transcript_path"] = str(root / "record.jsonl")
    dialect = CLIENTS[client].dialect
    try:
        found = dialect.translate(dialect.read(json.dumps(event).encode(), ""))
        return placed(found, str(root), str(root)) if isinstance(found, NativeCall) else found
    except ValueError as error:
        return str(error)


def recorded(path: Path, call_id: str, *inputs: dict) -> None:
    """A record of Codex with these calls."""
    lines = [{"type": "session_meta", "payload": {"id": "s"}}]
    for given in inputs:
        payload = {"type": "function_call", "name": "exec_command", "call_id": call_id, "arguments": json.dumps(given)}
        lines.append({"type": "response_item", "payload": payload})
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


@pytest.mark.parametrize(("client", "tool", "given"), INPUTS)
def test_what_a_client_sends_is_a_call(client, tool, given, tmp_path):
    assert isinstance(judged(client, tool, given, tmp_path), NativeCall) or given.get("file_path") == "/w/a"


@pytest.mark.parametrize(("client", "tool", "given"), INPUTS)
@pytest.mark.parametrize("other", ["patch", "command_line", "uri"])
def test_a_member_that_is_not_known_is_refused(client, tool, given, other, tmp_path):
    """The client could use it instead of the one that was judged."""
    if isinstance(given, str):
        return
    found = judged(client, tool, {**given, other: "x"}, tmp_path)
    assert (
        isinstance(found, str)
        or (found.decision, f"`{other}`" in found.reason) == ("deny", True)
        or "outside" in found.reason
    )


@pytest.mark.parametrize(
    ("client", "tool", "given"),
    [
        ("copilot", "Edit", {"path": "secret", "old_str": "x", "new_str": "y", "patch": PATCH}),
        ("copilot", "Grep", {"pattern": "x", "path": ".", "paths": "/etc"}),
        ("copilot", "Glob", {"pattern": "x", "paths": [".", "/etc"]}),
        ("cursor", "Write", {"path": "a", "file_path": "b", "contents": "x"}),
        ("cursor", "Write", {"path": "a", "contents": "x", "content": "y"}),
        ("cursor", "Shell", {"command": "x", "working_directory": ".", "cwd": "/etc"}),
        ("cursor", "Grep", {"pattern": "x", "path": ".", "target_directory": "/etc"}),
        ("claude-code", "Write", {"file_path": "a", "path": "b", "content": "x"}),
        ("opencode", "read", {"filePath": "a", "path": "b"}),
        (
            "vscode",
            "multi_replace_string_in_file",
            {"replacements": [{"filePath": "a", "oldString": "x", "newString": "y", "uri": "b"}]},
        ),
    ],
)
def test_two_alternatives_at_once_are_refused(client, tool, given, tmp_path):
    assert not isinstance(judged(client, tool, given, tmp_path), NativeCall)


@pytest.mark.parametrize(
    ("client", "tool", "given"),
    [
        ("claude-code", "Bash", {"command": "x", "dangerouslyDisableSandbox": True}),
        ("cursor", "Shell", {"command": "x", "required_permissions": ["all"]}),
        ("vscode", "run_in_terminal", {"command": "x", "requestUnsandboxedExecution": True}),
        ("gemini", "run_shell_command", {"command": "x", "additional_permissions": {"network": True}}),
        ("claude-code", "Edit", {"file_path": "a", "old_string": "x", "new_string": "y", "replace_all": "true"}),
    ],
)
def test_a_member_that_changes_how_a_call_runs_is_refused(client, tool, given, tmp_path):
    assert not isinstance(judged(client, tool, given, tmp_path), NativeCall)


ODD_PATHS = (
    " a", "a ", "\ta", "a\n", "a\r", "\u00a0a", "a\u2003", "\ufeffa", "~", "~/a", "~root/a", "file:///a", "a\x00", "a\u2028b",
)  # fmt: skip


@pytest.mark.parametrize(("client", "tool", "given"), INPUTS)
def test_a_path_that_clients_change_is_refused(client, tool, given, tmp_path):
    for path in ODD_PATHS:
        for name in PATHS & set(given):
            found = judged(client, tool, {**given, name: path}, tmp_path)
            assert not isinstance(found, NativeCall), (name, found)
        if path != "a\n" and (isinstance(given, str) or PATCH in given.values()):
            text = json.loads(json.dumps(given).replace("File: a", f"File: {json.dumps(path)[1:-1]}"))
            assert not isinstance(judged(client, tool, text, tmp_path), NativeCall), path


@pytest.mark.parametrize(
    "path", ["a b", "./~", "./x:y", "é", "a/ b", "(group)/[id]/page.tsx", "@scope/a", "a%2fb", "C:x"]
)
def test_other_unusual_paths_are_allowed(path, tmp_path):
    assert judged("claude-code", "Write", {"file_path": path, "content": ""}, tmp_path).parameters[
        "path"
    ] == path.removeprefix("./")


LEADING_OUT = (
    "/etc/*", "../*", "a/../../*", "{/etc,x}/*", "{a,..}/*", ".{.,a}/*", "{a,{b,..}}/*", "{.,.}./*", "[.][.]/*", "\\.\\./*",
    "@(..)/*", "@(/etc)/*", "\\/etc/*", "~/*", " /etc/*", "link/*", "{link,x}/*", "*/link/../*", "{.../}*", "{1..3}", "..",
)  # fmt: skip


def test_sub_agents_of_claude_code_work_where_hooks_see_them(tmp_path):
    given = {"description": "x", "prompt": "y"}
    for isolation, decision in ((None, "allow"), ("worktree", "allow"), ("remote", "deny")):
        found = judged("claude-code", "Agent", {**given, "isolation": isolation}, tmp_path)
        assert found.decision == decision


@pytest.mark.parametrize(("client", "tool"), PATTERNS)
def test_a_pattern_that_leads_out_is_refused(client, tool, tmp_path):
    (tmp_path / "link").symlink_to("/etc")
    given = next(given for one, name, given in INPUTS if (one, name) == (client, tool))
    given = {name: value for name, value in given.items() if name not in PATHS}
    for pattern in LEADING_OUT:
        found = judged(client, tool, {**given, PATTERNS[client, tool]: pattern}, tmp_path)
        assert not isinstance(found, NativeCall), pattern


@pytest.mark.parametrize(
    "pattern", ["*", "**/*.py", "src/**", "*.{js,ts}", "{src,test}/**", "?/a", "[a-z]*/b", "a..b", "./x/*", "@app/*"]
)
def test_other_patterns_are_allowed(pattern, tmp_path):
    assert judged("claude-code", "Glob", {"pattern": pattern}, tmp_path).parameters["glob"] == pattern


def test_a_pattern_with_very_many_alternatives_is_refused(tmp_path):
    assert "too many" in judged("claude-code", "Glob", {"pattern": "{a,b}" * 40}, tmp_path)


@pytest.mark.parametrize("command", ["\u00a0rm x", "rm x\u00a0", "\ufeffrm x", "rm x\r", "\x0brm x"])
def test_a_command_whose_ends_clients_cut_off_is_refused(command, tmp_path):
    found = judged("gemini", "run_shell_command", {"command": command}, tmp_path)
    assert "white space" in found


@pytest.mark.parametrize(
    "command",
    ["bash -c 'x' ';y;' ''", " sh  -c x", "/bin/bash -c x", "ZSH -c x", "\ufeffbash\u00a0-c x", "pwsh -Command x"],
)
def test_gemini_takes_a_shell_off_a_command_in_its_own_way(command, tmp_path):
    found = judged("gemini", "run_shell_command", {"command": command}, tmp_path)
    assert "inner command" in found or "white space" in found


@pytest.mark.parametrize("command", ["bash x -c y", "echo bash -c x", "x; sh -c y", "bash -ec x", "bash-completion -c"])
def test_other_commands_of_gemini_are_calls(command, tmp_path):
    assert judged("gemini", "run_shell_command", {"command": command}, tmp_path).parameters == {"command": command}


@pytest.mark.parametrize("tool", ["write_file", "read_file", "replace"])
@pytest.mark.parametrize("path", ["%2egemini/settings.json", "@/a", "@a", "a%"])
def test_gemini_decodes_and_corrects_paths(tool, path, tmp_path):
    given = {"file_path": path, "content": "x"} if tool == "write_file" else {"file_path": path}
    more = {"old_string": "x", "new_string": "y"} if tool == "replace" else {}
    assert "Gemini CLI" in judged("gemini", tool, {**given, **more}, tmp_path)


def test_gemini_edits_files_by_their_absolute_path(tmp_path):
    """A relative one means whichever file of that name it found before it asked: also one that exists only by now."""
    (tmp_path / "a").write_text("x")
    given = {"instruction": "i", "old_string": "x", "new_string": "y"}
    assert "absolute path" in judged("gemini", "replace", {"file_path": "a", **given}, tmp_path)
    found = judged("gemini", "replace", {"file_path": str(tmp_path / "a"), **given}, tmp_path)
    assert found.parameters["path"] == "a"


def codex(root: Path, *inputs: dict, record: bool = True) -> NativeCall | Verdict | str:
    """What a command of Codex comes to, which it has recorded with these inputs."""
    path = root / "record"
    recorded(path, "c1", *inputs)
    event = {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "x"}, "tool_use_id": "c1"}
    dialect = CLIENTS["codex"].dialect
    try:
        return dialect.translate(
            dialect.read(json.dumps({**event, "transcript_path": str(path) if record else None}).encode(), "")
        )
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    "more",
    [
        {"shell": "/usr/bin/zsh"},
        {"shell": "bash"},
        {"login": True},
        {"tty": True},
        {"environment_id": "remote"},
        {"cmd": "y"},
    ],
)
def test_a_command_of_codex_for_another_shell_is_refused(more, tmp_path):
    """Its event has only the command."""
    assert codex(tmp_path, {"cmd": "x", **more}).decision == "deny"
    assert codex(tmp_path, {"cmd": "x", **more}, {"cmd": "x"}).decision == "deny", "two calls with one id"


def test_a_command_of_codex_that_cannot_be_seen_as_a_whole_is_refused(tmp_path):
    assert "no record" in codex(tmp_path, record=False)
    assert "does not have the call" in codex(tmp_path)
    assert isinstance(codex(tmp_path, {"cmd": "x", "workdir": "a", "yield_time_ms": 1, "shell": None}), NativeCall)


def test_a_call_is_found_behind_much_that_was_recorded_since(tmp_path):
    recorded(tmp_path / "record", "c1", {"cmd": "x", "shell": "zsh"}, *({"cmd": "x" * 10_000} for _ in range(100)))
    text = (tmp_path / "record").read_text().replace('"c1"', '"c2"').replace('"c2"', '"c1"', 1)
    (tmp_path / "record").write_text(text)
    event = {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "x"}, "tool_use_id": "c1"}
    dialect = CLIENTS["codex"].dialect
    read = dialect.read(json.dumps({**event, "transcript_path": str(tmp_path / "record")}).encode(), "")
    assert dialect.translate(read).decision == "deny"


NAMED = [
    (client, tool, given, next(name for name in given if name in PATHS))
    for client, tool, given in INPUTS
    if isinstance(given, dict) and PATHS & given.keys()
]
"""Inputs that name a file or a directory."""


@pytest.mark.parametrize(("client", "tool", "given", "name"), NAMED)
def test_a_path_that_programs_follow_in_two_ways_is_refused(client, tool, given, name, tmp_path):
    """Some clients take `..` and the name before it off, and others follow the link first; `/proc/self` is each process's own."""
    root = tmp_path / "project"
    (root / "src/deep").mkdir(parents=True)
    (root / "link").symlink_to("src/deep")
    (root / "by-process").symlink_to("/proc/self/cwd")
    two_ways = [
        "link/../a",
        "link/../../a",
        f"{root}/link/../a",
        f"/proc/self/cwd{root}/a",
        f"by-process{root}/a",
        "/dev/fd/3/a",
    ]
    for path in two_ways:
        value = [path] if isinstance(given[name], list) else path
        found = judged(client, tool, {**given, name: value}, root)
        assert isinstance(found, str) or found.decision == "deny", (path, found)
    plain = f"{root}/src/deep/../a"  # without a link, all programs agree
    found = judged(client, tool, {**given, name: [plain] if isinstance(given[name], list) else plain}, root)
    assert isinstance(found, NativeCall)
    assert "src/a" in found.parameters.values()


@pytest.mark.parametrize("client", ["codex", "copilot", "opencode", "vscode"])
def test_a_path_in_a_patch_is_followed_in_one_way(client, tmp_path):
    (tmp_path / "src/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("src/deep")
    patch = "*** Begin Patch\n*** Add File: link/../../outside\n+x\n*** End Patch\n"
    tool, given = {
        "codex": ("apply_patch", {"command": patch}),
        "copilot": ("Edit", patch),
        "opencode": ("apply_patch", {"patchText": patch}),
        "vscode": ("apply_patch", {"input": patch}),
    }[client]
    assert "`..`" in judged(client, tool, given, tmp_path)


FETCHES = [
    ("claude-code", "WebFetch", {"url": "http://example.org", "prompt": "x"}),
    ("copilot", "WebFetch", {"url": "https://example.org"}),
    ("cursor", "WebFetch", {"url": "https://example.org"}),
    ("opencode", "webfetch", {"url": "https://example.org", "format": "text"}),
    ("vscode", "fetch_webpage", {"urls": ["https://example.org"], "query": "x"}),
]


@pytest.mark.parametrize(("client", "tool", "given"), FETCHES)
def test_a_page_is_fetched_only_from_the_host_that_is_judged(client, tool, given, tmp_path):
    """Claude Code asks for each host, and fetches by https. Others follow redirects, or it is not known whether they do."""
    found = judged(client, tool, given, tmp_path)
    assert (
        "https" in found if client == "claude-code" else (found.decision, "redirect" in found.reason) == ("deny", True)
    )


MEMBERS = {
    "claude-code": "session_id cwd hook_event_name tool_name tool_input tool_use_id agent_id mcp_server tool_response command",
    "codex": "session_id cwd hook_event_name tool_name tool_input tool_use_id agent_id transcript_path tool_response",
    "copilot": "session_id cwd hook_event_name tool_name tool_input timestamp tool_result error hookName",
    "cursor": "conversation_id cwd hook_event_name tool_name tool_input tool_use_id tool_output command workspace_roots",
    "gemini": "session_id cwd hook_event_name tool_name tool_input timestamp tool_response mcp_context",
    "opencode": "sessionID directory name tool args callID output",
    "vscode": "sessionId cwd hookEventName tool_name tool_input tool_use_id timestamp tool_response",
}
VALUES = (None, 1, 1.5, True, "x", [], {}, [1], {"name": 1}, {"a": []})


@pytest.mark.parametrize("client", MEMBERS)
def test_an_event_of_another_form_is_a_refusal_and_no_bug(client):
    """Whatever type a member has, in each event: a later version of a client may change it."""
    dialect = CLIENTS[client].dialect
    kinds = sys.modules[type(dialect).__module__].KINDS
    named = {"opencode": "name", "vscode": "hookEventName"}.get(client, "hook_event_name")
    for name in (*kinds, "Later"):
        whole = dict.fromkeys(MEMBERS[client].split(), "/w") | {named: name, "tool_input": {}, "args": {}}
        whole.pop("hookName", None)
        for member in MEMBERS[client].split():
            for value in VALUES:
                event = whole | {member: value}
                if member in ("mcp_server", "mcp_context"):
                    event["tool_name"] = "mcp__interlock__fs_read"
                try:
                    found = dialect.translate(dialect.read(json.dumps(event).encode(), ""))
                except (ValueError, ProposalError):
                    continue
                assert isinstance(found, NativeCall | GatewayCall | Verdict)


@pytest.mark.parametrize("made", ["a FIFO", "a huge file", "a link to a device"])
def test_a_file_of_servers_that_cannot_be_read_is_not_waited_for(tmp_path, made):
    """The gate reads it for each call of the gateway's tools, for all projects of the user."""
    path = tmp_path / ".mcp.json"
    match made:
        case "a FIFO":
            os.mkfifo(path)
        case "a huge file":
            path.touch()
            os.truncate(path, 1 << 40)
        case _:
            path.symlink_to("/dev/zero")
    assert find_impostor(CLIENTS["claude-code"], str(tmp_path)) == ".mcp.json"
