"""Claude Code: in replace mode it has the gateway instead of its own tools; in guard mode its hooks ask the gate.

Tested with version 2.1.332. Sources: its documentation of settings, permissions, hooks and MCP, and trials with the
program.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from interlock.surfaces.clients import claude_trial
from interlock.surfaces.clients.claude_hooks import KINDS, ClaudeHooks
from interlock.surfaces.clients.client import (
    CLIENT_HOOK_SECONDS,
    SERVER,
    Client,
    Scope,
    Setup,
    gateway_entry,
    home_of,
    hook_command,
)
from interlock.surfaces.clients.entries import Entry

TESTED: Final = "2.1.332"
NATIVE: Final = (
    "Bash", "BashOutput", "KillShell", "Monitor", "Write", "Edit", "MultiEdit", "NotebookEdit", "Read", "Glob", "Grep", "LS",
    "WebFetch", "EnterWorktree", "ExitWorktree",
)  # fmt: skip
"""Its own tools that run commands, access files or fetch pages. If denied, they are not offered to the model or to sub-agents."""
_SETTINGS: Final[dict[Scope, str]] = {
    "project": ".claude/settings.json",
    "user": ".claude/settings.json",
    "managed": "managed-settings.json",
}
_BLOCKING: Final = ("PreToolUse", "PermissionRequest", "PreSkillShellCommand", "ConfigChange")
"""Events whose hooks are configured to block if they fail in any way."""


def files(setup: Setup) -> dict[str, tuple[Entry, ...]]:
    """See `Client.files`."""
    if setup.mode == "guard":
        return {_SETTINGS[setup.scope]: _hooks(setup)}
    return {
        ".mcp.json": (Entry(("mcpServers", SERVER), gateway_entry(setup)),),
        ".claude/settings.json": (
            Entry(("enabledMcpjsonServers",), SERVER, listed=True),
            Entry(("permissions", "allow"), f"mcp__{SERVER}", listed=True),
            *(Entry(("permissions", "deny"), name, listed=True) for name in NATIVE),
        ),
    }


def _hooks(setup: Setup) -> tuple[Entry, ...]:
    command = hook_command("claude-code", setup)
    entries = []
    for event in KINDS:
        hook: dict[str, Any] = {"type": "command", "command": command, "timeout": CLIENT_HOOK_SECONDS}
        if event in _BLOCKING:
            hook["onFailure"] = "block"
        entries.append(Entry(("hooks", event), {"matcher": "*", "hooks": [hook]}, listed=True))
    if setup.scope == "managed":  # in other scopes, a project's or the user's own hooks could also answer
        entries.append(Entry(("allowManagedHooksOnly",), value=True))
    return tuple(entries)


CLIENT: Final = Client(
    name="claude-code",
    program="claude",
    tested=(TESTED,),
    modes=("replace", "guard"),
    scopes={
        ("replace", "project"): lambda setup: setup.root,
        ("guard", "project"): lambda setup: setup.root,
        ("guard", "user"): home_of,
        ("guard", "managed"): lambda _: Path("/etc/claude-code"),
    },
    files=files,
    dialect=ClaudeHooks(),
    open_doors={
        "guard": (
            "a project's or user's settings with `disableAllHooks`, and `--bare` or `--setting-sources`, start it without hooks",
            "its shell runs without walls: the effects of an allowed command are not seen, and its edits cannot be undone",
            "results of its own search and listing are not checked against the grants file by file",
        ),
        "replace": (
            "whoever starts it can pass other settings: `--bare`, `--setting-sources`",
            "what it does without local tools (web search, scheduled prompts) is not seen",
        ),
    },
    not_read_in="a subdirectory",
    probe={
        "session_id": "interlock-doctor",
        "hook_event_name": "PreToolUse",
        "tool_name": "InterlockProbe",
        "tool_input": {},
        "tool_use_id": "probe",
        "cwd": "/",
    },
    trial=claude_trial.trial,
    trial_files=claude_trial.FILES,
    trial_home_files=claude_trial.HOME_FILES,
    server_files=(".mcp.json",),
)
