"""Cursor: its hooks ask the gate; in replace mode they refuse its own tools, and the gateway is started.

Set up from its documentation (hooks, MCP) and published events of version 3.9; the program was not tried. It has no
setting that removes its own tools.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

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
from interlock.surfaces.clients.cursor_hooks import KINDS, CursorHooks
from interlock.surfaces.clients.entries import Entry

_HOOKS: Final[dict[Scope, str]] = {
    "project": ".cursor/hooks.json",
    "user": ".cursor/hooks.json",
    "managed": "hooks.json",
}
_VERSION: Final = 1
"""Version of the format of its hook file; a file without it is not read."""


def files(setup: Setup) -> dict[str, tuple[Entry, ...]]:
    """See `Client.files`."""
    hooks = (
        Entry(("version",), _VERSION),
        *(Entry(("hooks", event), _hook(event, setup), listed=True) for event in KINDS),
    )
    gateway = {".cursor/mcp.json": (Entry(("mcpServers", SERVER), gateway_entry(setup)),)}
    return {_HOOKS[setup.scope]: hooks, **(gateway if setup.mode == "replace" else {})}


def _hook(event: str, setup: Setup) -> dict[str, Any]:
    hook: dict[str, Any] = {"command": hook_command("cursor", setup), "timeout": CLIENT_HOOK_SECONDS}
    return hook | ({"failClosed": True} if KINDS[event] in ("before", "permission") else {})


CLIENT: Final = Client(
    name="cursor",
    program="cursor",
    tested=(),
    modes=("replace", "guard"),
    scopes={
        ("replace", "project"): lambda setup: setup.root,
        ("guard", "project"): lambda setup: setup.root,
        ("guard", "user"): home_of,
        ("guard", "managed"): lambda _: Path("/etc/cursor"),
    },
    files=files,
    comments=True,
    dialect=CursorHooks(),
    open_doors={
        "guard": (
            "it was not tested with the real program: whether each of its programs runs hooks before each tool is unknown",
            "in a project that its user does not trust it runs no hooks of the project; take the scope `user`",
            "its shell runs without walls: the effects of an allowed command are not seen, and its edits cannot be undone",
            "its completions (Tab) read and write without these hooks",
        ),
        "replace": (
            "it was not tested with the real program: whether each of its programs runs hooks before each tool is unknown",
            "in a project that its user does not trust it runs no hooks of the project",
            "its own tools are still offered, but the hook refuses them; its completions (Tab) write without hooks",
        ),
    },
    not_read_in="a subdirectory",
    probe={
        "hook_event_name": "preToolUse",
        "conversation_id": "interlock-doctor",
        "tool_name": "InterlockProbe",
        "tool_input": {},
        "tool_use_id": "probe",
        "cwd": "/",
    },
    server_files=(".cursor/mcp.json",),
)
