"""Codex: in replace mode it has no shell, a read-only editor and the gateway; in guard mode its hooks ask the gate.

Tested with version 0.171.0. It reads a project's `.codex` only if the user trusts the project, and runs only hooks
whose hash is in the user's `config.toml`; both are written there. Sources: its documentation of settings, hooks and
MCP, and trials with the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from interlock.surfaces.clients import codex_trial
from interlock.surfaces.clients.client import (
    CLIENT_HOOK_SECONDS,
    SERVER,
    Client,
    Setup,
    gateway_entry,
    home_of,
    hook_command,
)
from interlock.surfaces.clients.codex_hooks import KINDS, CodexHooks
from interlock.surfaces.clients.codex_trust import hook_hashes
from interlock.surfaces.clients.entries import Entry

TESTED: Final = "0.171.0"
GATEWAY_SECONDS: Final = 120
"""How long it waits for a call of the gateway: longer than the gateway waits for an approval."""
_END_SECONDS: Final = 3
"""The maximum time that it gives the hook at the end of a session."""


def files(setup: Setup) -> dict[str, tuple[Entry, ...]]:
    """See `Client.files`."""
    user = str(_home(setup) / "config.toml")
    trusted = Entry(("projects", str(setup.root), "trust_level"), "trusted")
    if setup.mode == "replace":
        return {
            ".codex/config.toml": (
                Entry(("sandbox_mode",), "read-only"),  # its editor cannot be removed, so make it read-only
                Entry(("approval_policy",), "never"),  # and do not let it ask to write
                Entry(("web_search",), "disabled"),
                *(Entry(("features", name), value=False) for name in ("shell_tool", "view_image", "multi_agent")),
                Entry(
                    ("mcp_servers", SERVER),
                    {
                        **gateway_entry(setup),
                        "default_tools_approval_mode": "approve",
                        "tool_timeout_sec": GATEWAY_SECONDS,
                        "required": True,
                    },
                ),
            ),
            user: (trusted,),
        }
    return {
        str(_hook_file(setup)): tuple(Entry(("hooks", event), _hook(event, setup), listed=True) for event in KINDS),
        # Without a terminal, a command's standard input is closed, so `write_stdin`, which no hook sees, cannot reach a
        # shell. If somebody starts it with terminals, the dialect refuses commands that ask for one.
        user: (Entry(("features", "unified_exec_tty"), value=False), *((trusted,) if setup.project else ())),
    }


def trust(setup: Setup, planned: Mapping[Path, bytes | None]) -> dict[str, tuple[Entry, ...]]:
    """See `Client.more`: the hashes of the hooks, without which Codex does not run them."""
    if setup.mode == "replace":
        return {}
    path = _hook_file(setup)
    hashes = hook_hashes(planned[path] or b"", hook_command("codex", setup), setup.env)
    # It names the file as it has found it: in the user's home by the name of the home, even if that is a link.
    places = dict.fromkeys((path.parent.resolve() / path.name, path))
    return {
        str(_home(setup) / "config.toml"): tuple(
            Entry(("hooks", "state", f"{place}{suffix}", "trusted_hash"), value)
            for place in places
            for suffix, value in hashes.items()
        )
    }


def _hook(event: str, setup: Setup) -> dict[str, Any]:
    seconds = _END_SECONDS if event == "SessionEnd" else CLIENT_HOOK_SECONDS
    hook = {"type": "command", "command": hook_command("codex", setup), "timeout": seconds}
    return {"matcher": "*", "hooks": [hook]}


def _home(setup: Setup) -> Path:
    named = setup.env.get("CODEX_HOME")
    return Path(named) if named else home_of(setup) / ".codex"


def _hook_file(setup: Setup) -> Path:
    return (setup.root / ".codex" if setup.project else _home(setup)) / "hooks.json"


CLIENT: Final = Client(
    name="codex",
    program="codex",
    tested=(TESTED,),
    modes=("replace", "guard"),
    scopes={
        ("replace", "project"): lambda setup: setup.root,
        ("guard", "project"): lambda setup: setup.root,
        ("guard", "user"): _home,
    },
    files=files,
    more=trust,
    dialect=CodexHooks(),
    open_doors={
        "guard": (
            "a hook that is too slow, or is killed together with its shell, lets the call pass",
            "`features.hooks = false`, and a change of the hook file, switch hooks off in the next session",
            "its shell runs without walls: the effects of an allowed command are not seen, and its edits cannot be undone",
            "its web search is not seen",
        ),
        "replace": (
            "whoever starts it can pass other settings: `-c`, `--sandbox`, `--dangerously-bypass-...`",
            "its editor is still offered, but the sandbox does not let it write",
        ),
    },
    not_read_in="a subdirectory that is a git repository of its own, or of a project that is not one",
    probe={
        "session_id": "interlock-doctor",
        "hook_event_name": "PreToolUse",
        "tool_name": "InterlockProbe",
        "tool_input": {},
        "tool_use_id": "probe",
        "cwd": "/",
    },
    trial=codex_trial.trial,
    trial_files=codex_trial.FILES,
    trial_home_files=codex_trial.HOME_FILES,
    server_files=(".codex/config.toml",),
)
