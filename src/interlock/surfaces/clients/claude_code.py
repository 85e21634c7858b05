"""What Claude Code needs in a project to work through Interlock.

Tested with version 2.1.332. Sources: its documentation of settings, permissions and MCP, and tries with the program.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from interlock.surfaces.clients.entries import Entry

TESTED: Final = "2.1.332"
NATIVE: Final = (
    "Bash", "BashOutput", "KillShell", "Monitor", "Write", "Edit", "MultiEdit", "NotebookEdit", "Read", "Glob", "Grep", "LS",
    "WebFetch", "EnterWorktree", "ExitWorktree",
)  # fmt: skip
"""Its own tools that run commands, touch files or fetch pages. Denied, they are not offered to the model, nor to sub-agents."""

_SERVER: Final = "interlock"
_PASSED_ON: Final = "INTERLOCK_STATE_DIR"


def entries(agent: str | None, env: Mapping[str, str]) -> dict[str, tuple[Entry, ...]]:
    """The entries, by file relative to the project."""
    server: dict[str, Any] = {
        "command": _program(),
        "args": ["gateway", *([] if agent is None else ["--agent", agent])],
    }
    if _PASSED_ON in env:  # else the gateway would look for the questions elsewhere than the terminal
        server["env"] = {_PASSED_ON: env[_PASSED_ON]}
    return {
        ".mcp.json": (Entry(("mcpServers", _SERVER), server),),
        ".claude/settings.json": (
            Entry(("enabledMcpjsonServers",), _SERVER, listed=True),
            Entry(("permissions", "allow"), f"mcp__{_SERVER}", listed=True),
            *(Entry(("permissions", "deny"), name, listed=True) for name in NATIVE),
        ),
    }


def _program() -> str:
    """The command that this process runs as, by its whole path: the client may have another PATH."""
    beside = Path(sys.executable).with_name("interlock")
    return str(beside) if os.access(beside, os.X_OK) else str(Path(sys.argv[0]).resolve())
