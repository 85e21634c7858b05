"""The event before a tool call, as each client gives it to its hook."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

_FORMS = {
    "cursor": ("preToolUse", "hook_event_name", "conversation_id", "tool_name", "tool_input"),
    "gemini": ("BeforeTool", "hook_event_name", "session_id", "tool_name", "tool_input"),
    "opencode": ("before", "name", "sessionID", "tool", "args"),
    "vscode": ("PreToolUse", "hookEventName", "sessionId", "tool_name", "tool_input"),
}
_CLAUDE = ("PreToolUse", "hook_event_name", "session_id", "tool_name", "tool_input")
_uses = itertools.count()


def event(client: str, tool: str, given: Any, cwd: Path) -> dict[str, Any]:
    """The event; each has an id, or a time, of its own."""
    name, *keys = _FORMS.get(client, _CLAUDE)
    found = dict(zip(keys, (name, "s", tool, given), strict=True)) | {"cwd": str(cwd), "directory": str(cwd)}
    use = f"use-{next(_uses)}"
    if client in ("copilot", "gemini"):
        return found | {"timestamp": use}
    return found | {"tool_use_id": use, "callID": use}
