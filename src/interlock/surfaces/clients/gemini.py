"""Gemini CLI: in replace mode it has the gateway instead of its own tools; in guard mode its hooks ask the gate.

Tested with version 0.61.0. It reads a project's `.gemini` only if the user trusts the directory, so that is configured
too. Sources: its documentation of settings, hooks and MCP, and trials with the program.
"""

from __future__ import annotations

from typing import Any, Final

from interlock.surfaces.clients import gemini_trial
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
from interlock.surfaces.clients.gemini_hooks import KINDS, GeminiHooks

TESTED: Final = "0.61.0"
NATIVE: Final = (
    "run_shell_command", "write_file", "replace", "read_file", "read_many_files", "glob", "grep_search",
    "search_file_content", "list_directory", "web_fetch", "google_web_search", "save_memory",
)  # fmt: skip
"""Its own tools that run commands, access files or reach the network. If excluded, they are not offered to the model."""
GATEWAY_MS: Final = 120_000
"""How long it waits for a call of the gateway: longer than the gateway waits for an approval."""
_SETTINGS: Final = ".gemini/settings.json"
_TRUSTED: Final = ".gemini/trustedFolders.json"


def files(setup: Setup) -> dict[str, tuple[Entry, ...]]:
    """See `Client.files`."""
    trusted = {str(home_of(setup) / _TRUSTED): (Entry((str(setup.root),), "TRUST_FOLDER"),)}
    if setup.mode == "replace":
        server = {**gateway_entry(setup), "trust": True, "timeout": GATEWAY_MS}
        return {
            _SETTINGS: (
                Entry(("mcpServers", SERVER), server),
                *(Entry(("tools", "exclude"), name, listed=True) for name in NATIVE),
            ),
            **trusted,
        }
    hooks = tuple(Entry(("hooks", event), _hook(event, setup), listed=True) for event in KINDS)
    return {_SETTINGS: hooks, **(trusted if setup.project else {})}


def _hook(event: str, setup: Setup) -> dict[str, Any]:
    hook = {"type": "command", "command": hook_command("gemini", setup), "timeout": CLIENT_HOOK_SECONDS * 1000}
    return {**({"matcher": ".*"} if event.endswith("Tool") else {}), "hooks": [hook]}


CLIENT: Final = Client(
    name="gemini",
    program="gemini",
    tested=(TESTED,),
    modes=("replace", "guard"),
    scopes={
        ("replace", "project"): lambda setup: setup.root,
        ("guard", "project"): lambda setup: setup.root,
        ("guard", "user"): home_of,
    },
    files=files,
    comments=True,
    dialect=GeminiHooks(),
    open_doors={
        "guard": (
            "a hook that is too slow, or is killed together with its shell, lets the call pass",
            "it starts hooks with the first `bash` on the PATH: another program of that name before it lets all calls pass",
            "a project's `hooksConfig.enabled = false` switches hooks off in the next session",
            "in a directory that its user does not trust it reads no settings of the project; without a person it then exits",
            "its shell runs without walls: the effects of an allowed command are not seen, and its edits cannot be undone",
            "results of its own search and listing are not checked against the grants file by file",
        ),
        "replace": (
            "in a directory that its user does not trust it reads no settings of the project; without a person it then exits",
            "its skills and sub-agents are still offered; they have only the remaining tools",
        ),
    },
    not_read_in="a subdirectory",
    probe={
        "session_id": "interlock-doctor",
        "hook_event_name": "BeforeTool",
        "tool_name": "interlock_probe",
        "tool_input": {},
        "cwd": "/",
        "timestamp": "",
    },
    trial=gemini_trial.trial,
    trial_files=gemini_trial.FILES,
    trial_home_files=gemini_trial.HOME_FILES,
    server_files=(".gemini/settings.json",),
)
