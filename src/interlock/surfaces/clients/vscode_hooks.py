"""The hooks of Visual Studio Code's agents: their events, their tools, and the format of the answers.

Sources: its documentation of hooks and tools, and the published source of its chat extension. The program was not
tried.

There is no event for a failed call. A call without an event after it is considered abandoned when the turn ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from interlock.model import typed
from interlock.surfaces.clients.hooks import (
    FETCH_REFUSED,
    GatewayCall,
    HookEvent,
    Kind,
    NativeCall,
    Reply,
    Verdict,
    deny,
    edit_call,
    event_fields,
    judge_untranslated,
    list_call,
    optional_text,
    read_call,
    search_call,
    shell_call,
    text_of,
    write_call,
)
from interlock.surfaces.clients.own_tools import OwnTool, beside, event_call, own_call, unless
from interlock.surfaces.clients.patches import patch_call

KINDS: Final[Mapping[str, Kind]] = {
    "PreToolUse": "before",
    "PostToolUse": "after",
    "SessionStart": "start",
    "Stop": "end",
}
HARMLESS: Final = frozenset(
    {
        "manage_todo_list", "runSubagent", "get_errors", "get_terminal_output", "get_task_output", "tool_search",
        "vscode_askQuestions", "get_vscode_api", "get_project_setup_info",
    }
)  # fmt: skip
"""Tools that change only its own lists, or ask its user. Sub-agents' calls reach the hooks separately."""
GATEWAY_PREFIX: Final = "mcp_interlock_"
MCP_PREFIX: Final = "mcp_"


def _replace(given: Mapping[str, Any], cwd: str) -> NativeCall:
    return edit_call(text_of(given, "filePath"), text_of(given, "oldString"), text_of(given, "newString"), cwd=cwd)


def _replace_several(given: Mapping[str, Any], cwd: str) -> NativeCall | Verdict:
    replacements = given.get("replacements")
    if not isinstance(replacements, list) or len(replacements) != 1 or not isinstance(replacements[0], dict):
        return deny("several replacements at once are not supported: call `replace_string_in_file` for each.")
    return own_call(_REPLACE, "multi_replace_string_in_file", replacements[0], cwd)


def _shell(given: Mapping[str, Any], cwd: str) -> NativeCall:
    unless(given, "requestUnsandboxedExecution", "Interlock's answer is about a command in the client's own sandbox")
    return shell_call(text_of(given, "command"), cwd)


_REPLACE: Final = OwnTool(_replace, beside("explanation"))
NATIVE: Final[Mapping[str, OwnTool]] = {
    "run_in_terminal": OwnTool(
        _shell, beside("explanation goal isBackground mode timeout requestUnsandboxedExecutionReason")
    ),
    "create_file": OwnTool(lambda given, _: write_call(text_of(given, "filePath"), text_of(given, "content"))),
    "replace_string_in_file": _REPLACE,
    "multi_replace_string_in_file": OwnTool(_replace_several, beside("explanation")),
    "apply_patch": OwnTool(lambda given, _: patch_call(text_of(given, "input")), beside("explanation")),
    "read_file": OwnTool(
        lambda given, _: read_call(text_of(given, "filePath")), beside("startLine endLine offset limit")
    ),
    "list_dir": OwnTool(lambda given, _: list_call(text_of(given, "path"))),
    "file_search": OwnTool(lambda given, _: list_call("", text_of(given, "query")), beside("maxResults")),
    "grep_search": OwnTool(
        lambda given, _: search_call(text_of(given, "query"), "", optional_text(given, "includePattern") or None),
        beside("isRegexp maxResults includeIgnoredFiles"),
    ),
    "fetch_webpage": OwnTool(lambda *_: FETCH_REFUSED),
}


class VsCodeHooks:
    """The dialect."""

    project_variable: str | None = None

    def read(self, data: bytes, named: str = "") -> HookEvent:
        """See `Dialect`."""
        given = event_fields(data)
        name = named or text_of(given, "hookEventName")
        fields = {
            "name": name,
            "kind": KINDS.get(name, "other"),
            "session": given.get("sessionId", ""),
            "call_id": given.get("tool_use_id", ""),
            "moment": given.get("timestamp", ""),
            "tool": given.get("tool_name", ""),
            "input": given.get("tool_input") or {},
            "output": given.get("tool_response"),
            "cwd": given.get("cwd", ""),
        }
        return typed.convert(fields, HookEvent)

    def translate(self, event: HookEvent) -> NativeCall | GatewayCall | Verdict:
        """See `Dialect`."""
        if (found := event_call(NATIVE, event)) is not None:
            return found
        return judge_untranslated(event, HARMLESS, GATEWAY_PREFIX, MCP_PREFIX)

    def reply(self, event: HookEvent, verdict: Verdict) -> Reply:
        """See `Dialect`. It never returns `ask`, because a person would then decide at the client's terminal, unrecorded."""
        output: dict[str, Any] = {}
        if event.kind == "before":
            decision = "allow" if verdict.decision == "allow" else "deny"
            output = {"permissionDecision": decision, "permissionDecisionReason": verdict.reason}
        elif event.kind == "start" and verdict.decision == "allow":
            output = {"additionalContext": verdict.reason}
        elif event.kind == "start":
            return Reply(0, msgspec.json.encode({"systemMessage": verdict.reason}))
        document = {"hookSpecificOutput": {"hookEventName": event.name, **output}} if output else {}
        return Reply(0, msgspec.json.encode(document))
