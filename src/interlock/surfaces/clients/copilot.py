"""Copilot CLI: its hooks ask the gate; in replace mode they refuse its own tools, and the gateway is started.

Tested with version 1.0.102. It has no setting that removes its own tools, only a command-line option. It reads a
project's `.github` only if the user trusts the directory, so that is configured too. Sources: its documentation and
help, and trials with the program.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from interlock.surfaces.clients import copilot_trial
from interlock.surfaces.clients.client import (
    CLIENT_HOOK_SECONDS,
    SERVER,
    Client,
    Setup,
    gateway_entry,
    home_of,
    hook_command,
)
from interlock.surfaces.clients.copilot_hooks import KINDS, CopilotHooks
from interlock.surfaces.clients.entries import Entry

TESTED: Final = "1.0.102"
_HOOK_FILE: Final = "hooks/interlock-copilot.json"
_VERSION: Final = 1
"""Version of the format of its hook files; a file without it is not read."""


def files(setup: Setup) -> dict[str, tuple[Entry, ...]]:
    """See `Client.files`."""
    hook: dict[str, Any] = {
        "type": "command",
        "bash": hook_command("copilot", setup),
        "timeoutSec": CLIENT_HOOK_SECONDS,
    }
    hooks = (Entry(("version",), _VERSION), *(Entry(("hooks", event), hook, listed=True) for event in KINDS))
    if not setup.project:
        return {_HOOK_FILE: hooks}
    trusted = Entry(("trustedFolders",), str(setup.root), listed=True)
    server = {"type": "local", **gateway_entry(setup), "tools": ["*"]}
    gateway = {".github/mcp.json": (Entry(("mcpServers", SERVER), server),)}
    return {
        f".github/{_HOOK_FILE}": hooks,
        str(_home(setup) / "config.json"): (trusted,),
        **(gateway if setup.mode == "replace" else {}),
    }


def _home(setup: Setup) -> Path:
    named = setup.env.get("COPILOT_HOME")
    return Path(named) if named else home_of(setup) / ".copilot"


CLIENT: Final = Client(
    name="copilot",
    program="copilot",
    tested=(TESTED,),
    modes=("replace", "guard"),
    scopes={
        ("replace", "project"): lambda setup: setup.root,
        ("guard", "project"): lambda setup: setup.root,
        ("guard", "user"): _home,
    },
    files=files,
    comments=True,
    dialect=CopilotHooks(),
    open_doors={
        "guard": (
            "a hook that is too slow lets the call pass; `disableAllHooks` in settings of the project or user switches hooks off",
            "in a directory that its user does not trust it runs no hooks of the project; take the scope `user`",
            "its shell runs without walls: the effects of an allowed command are not seen, and its edits cannot be undone",
            "results of its own search and listing are not checked against the grants file by file",
        ),
        "replace": (
            "a hook that is too slow lets the call pass; `disableAllHooks` in settings of the project or user switches hooks off",
            "in a directory that its user does not trust it runs no hooks of the project, and not the gateway",
            "its own tools are still offered, but the hook refuses them",
        ),
    },
    not_read_in="a subdirectory that is a git repository of its own, or of a project that is not one",
    probe={
        "hook_event_name": "PreToolUse",
        "session_id": "interlock-doctor",
        "timestamp": "",
        "tool_name": "interlock_probe",
        "tool_input": {},
        "cwd": "/",
    },
    trial=copilot_trial.trial,
    trial_files=copilot_trial.FILES,
    trial_home_files=copilot_trial.HOME_FILES,
    server_files=(".github/mcp.json", ".mcp.json", ".vscode/mcp.json"),
)
