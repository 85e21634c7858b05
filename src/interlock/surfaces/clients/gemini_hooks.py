"""The hooks of Gemini CLI 0.61: its events, its own tools, and the format of its answers.

Sources: its documentation, trials.

An event has no id of the call, so one is derived from the tool and its inputs. The event after a call also has inputs
that the model did not give (defaults), so only the inputs that `translate` uses are part of the id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from interlock.model import typed
from interlock.surfaces.clients.claude_hooks import Translate
from interlock.surfaces.clients.hooks import (
    HookEvent,
    Kind,
    NativeCall,
    Reply,
    Verdict,
    edit_call,
    event_fields,
    judge_untranslated,
    list_call,
    made_id,
    optional_text,
    read_call,
    search_call,
    shell_call,
    text_of,
    write_call,
)

KINDS: Final[Mapping[str, Kind]] = {
    "BeforeTool": "before",
    "AfterTool": "after",
    "SessionStart": "start",
    "SessionEnd": "end",
}
HARMLESS: Final = frozenset(
    {
        "update_topic", "write_todos", "list_background_processes", "read_background_output", "enter_plan_mode",
        "exit_plan_mode", "invoke_agent", "complete_task", "activate_skill", "ask_user", "get_internal_docs",
    }
)  # fmt: skip
"""Tools that change only its own lists, or ask its user. Sub-agents' calls reach the hooks separately."""
MCP_PREFIX: Final = "mcp_"
GATEWAY_PREFIX: Final = "mcp_interlock_"


def _edit(given: Mapping[str, Any], cwd: str) -> NativeCall:
    old, new = text_of(given, "old_string"), text_of(given, "new_string")
    everywhere = given.get("allow_multiple") is True
    return edit_call(text_of(given, "file_path"), old, new, everywhere=everywhere, cwd=cwd)


NATIVE: Final[Mapping[str, tuple[Translate, tuple[str, ...]]]] = {
    "run_shell_command": (
        lambda given, cwd: shell_call(text_of(given, "command"), optional_text(given, "dir_path") or cwd),
        ("command", "dir_path"),
    ),
    "write_file": (
        lambda given, _: write_call(text_of(given, "file_path"), text_of(given, "content")),
        ("file_path", "content"),
    ),
    "replace": (_edit, ("file_path", "old_string", "new_string", "allow_multiple")),
    "read_file": (lambda given, _: read_call(text_of(given, "file_path")), ("file_path",)),
    "glob": (
        lambda given, _: list_call(optional_text(given, "dir_path") or "", text_of(given, "pattern")),
        ("dir_path", "pattern"),
    ),
    "grep_search": (
        lambda given, _: search_call(
            text_of(given, "pattern"), optional_text(given, "dir_path") or "", optional_text(given, "include_pattern")
        ),
        ("dir_path", "pattern", "include_pattern"),
    ),
    "list_directory": (lambda given, _: list_call(text_of(given, "dir_path")), ("dir_path",)),
}
"""How each tool's input is translated, and which inputs identify the call."""


class GeminiHooks:
    """The dialect."""

    project_variable: str | None = "GEMINI_PROJECT_DIR"

    def read(self, data: bytes, named: str = "") -> HookEvent:
        """See `Dialect`."""
        given = event_fields(data)
        name = named or text_of(given, "hook_event_name")
        tool, tool_input, response = (given.get(key) for key in ("tool_name", "tool_input", "tool_response"))
        kind = KINDS.get(name, "other")
        if kind == "after" and isinstance(response, dict) and response.get("error") is not None:
            kind, response = "failed", response["error"]
        server = (given.get("mcp_context") or {}).get("server_name", "interlock")
        if isinstance(tool, str) and tool.startswith(GATEWAY_PREFIX) and server != "interlock":
            tool = f"{MCP_PREFIX}{server}"  # a server whose name has the same prefix, but not the gateway
        fields = {
            "name": name,
            "kind": kind,
            "session": given.get("session_id", ""),
            "moment": given.get("timestamp", ""),
            "tool": tool or "",
            "input": tool_input or {},
            "output": response,
            "cwd": given.get("cwd", ""),
        }
        event = typed.convert(fields, HookEvent)
        _, inputs = NATIVE.get(event.tool, (None, ()))
        return msgspec.structs.replace(event, call_id=made_id(event.tool, event.input, inputs))

    def translate(self, event: HookEvent) -> NativeCall | Verdict:
        """See `Dialect`."""
        if event.tool in NATIVE:
            translate, _ = NATIVE[event.tool]
            return translate(event.input, event.cwd)
        return judge_untranslated(event.tool, HARMLESS, GATEWAY_PREFIX, MCP_PREFIX)

    def reply(self, event: HookEvent, verdict: Verdict) -> Reply:
        """See `Dialect`. It never returns `ask`: without a person, Gemini CLI would let the call pass, or hang."""
        document: dict[str, Any] = {}
        if event.kind == "before":
            decision = "allow" if verdict.decision == "allow" else "deny"
            document = {"decision": decision, "reason": verdict.reason}
        elif event.kind == "start" and verdict.decision == "allow":
            output = {"hookEventName": event.name, "additionalContext": verdict.reason}
            document = {"hookSpecificOutput": output}
        elif event.kind == "start":
            document = {"systemMessage": verdict.reason}
        return Reply(0, msgspec.json.encode(document))
