"""The hooks of Codex 0.171: Claude Code's events and answers, with its own tools. Sources: its documentation, trials.

An event's directory is the one in which the command will run. Failures are not reported: a patch that does not apply
has no event at all, and a command's event has no exit code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from interlock.surfaces.clients.claude_hooks import ClaudeHooks, Translate
from interlock.surfaces.clients.hooks import Kind, NativeCall, Verdict, read_call, shell_call, text_of
from interlock.surfaces.clients.patches import patch_call

KINDS: Final[Mapping[str, Kind]] = {
    "PreToolUse": "before",
    "PermissionRequest": "permission",
    "PostToolUse": "after",
    "SessionStart": "start",
    "SessionEnd": "end",
}
HARMLESS: Final = frozenset(
    {
        "update_plan", "get_goal", "create_goal", "update_goal", "tool_search", "list_mcp_resources",
        "list_mcp_resource_templates", "spawn_agent", "send_input", "resume_agent", "wait_agent", "close_agent",
    }
)  # fmt: skip


def _patch(given: Mapping[str, Any], _: str) -> NativeCall | Verdict:
    return patch_call(text_of(given, "command"))


NATIVE: Final[Mapping[str, Translate]] = {
    "Bash": lambda given, cwd: shell_call(text_of(given, "command"), cwd),
    "apply_patch": _patch,
    "view_image": lambda given, _: read_call(text_of(given, "path")),
}


class CodexHooks(ClaudeHooks):
    """The dialect."""

    def __init__(self) -> None:
        """Use Codex's events and tools."""
        super().__init__(
            NATIVE,
            kinds=KINDS,
            harmless=HARMLESS,
            for_its_user=frozenset({"request_user_input"}),
            project_variable=None,
        )
