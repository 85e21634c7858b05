"""Visual Studio Code: its agents' hooks ask the gate; in replace mode they refuse its own tools in favour of the
gateway.

Set up from its documentation (hooks, MCP) and the published source of its chat extension; the program was not tried. It
has no setting that removes its own tools. Copilot CLI reads the same hook files, and VS Code those of Claude Code: see
`known.py`.
"""

from __future__ import annotations

from typing import Any, Final

from interlock.surfaces.clients.client import (
    CLIENT_HOOK_SECONDS,
    SERVER,
    Client,
    Setup,
    gateway_entry,
    home_of,
    hook_command,
)
from interlock.surfaces.clients.entries import Entry
from interlock.surfaces.clients.vscode_hooks import KINDS, VsCodeHooks

_HOOK_FILE: Final = "hooks/interlock-vscode.json"


def files(setup: Setup) -> dict[str, tuple[Entry, ...]]:
    """See `Client.files`."""
    hook: dict[str, Any] = {
        "type": "command",
        "command": hook_command("vscode", setup),
        "timeout": CLIENT_HOOK_SECONDS,
    }
    hooks = tuple(Entry(("hooks", event), hook, listed=True) for event in KINDS)
    gateway = {".vscode/mcp.json": (Entry(("servers", SERVER), {"type": "stdio", **gateway_entry(setup)}),)}
    return {
        f"{'.github' if setup.project else '.copilot'}/{_HOOK_FILE}": hooks,
        **(gateway if setup.mode == "replace" else {}),
    }


CLIENT: Final = Client(
    name="vscode",
    program="code",
    tested=(),
    modes=("replace", "guard"),
    scopes={
        ("replace", "project"): lambda setup: setup.root,
        ("guard", "project"): lambda setup: setup.root,
        ("guard", "user"): home_of,
    },
    files=files,
    comments=True,
    dialect=VsCodeHooks(),
    open_doors={
        "guard": (
            "it was not tested with the real program, and its hooks are a preview: settings and policies switch them off",
            "a hook that is too slow lets the call pass",
            "its terminal runs without walls, and keeps its directory and variables from one command to the next",
            "other extensions and tasks of the editor work without these hooks",
        ),
        "replace": (
            "it was not tested with the real program, and its hooks are a preview: settings and policies switch them off",
            "a hook that is too slow lets the call pass",
            "its own tools are still offered, but the hook refuses them; other extensions work without it",
        ),
    },
    not_read_in="a subdirectory",
    probe={
        "hookEventName": "PreToolUse",
        "sessionId": "interlock-doctor",
        "timestamp": "",
        "tool_name": "interlock_probe",
        "tool_input": {},
        "tool_use_id": "probe",
        "cwd": "/",
    },
    server_files=(".vscode/mcp.json",),
)
