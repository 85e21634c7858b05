"""The hooks of Claude Code 2.1: its events, its own tools, and the format of its answers.

Codex uses nearly the same format. Sources: its documentation of hooks, `sdk-tools.d.ts` of the package, trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from interlock.model import typed
from interlock.surfaces.clients.hooks import (
    GatewayCall,
    HookEvent,
    Kind,
    NativeCall,
    Reply,
    Verdict,
    deny,
    edit_call,
    event_fields,
    failure,
    fetch_call,
    judge_untranslated,
    list_call,
    optional_text,
    read_call,
    search_call,
    shell_call,
    text_of,
    write_call,
)
from interlock.surfaces.clients.own_tools import OwnTool, beside, event_call, flag, unless

KINDS: Final[Mapping[str, Kind]] = {
    "PreToolUse": "before",
    "PreSkillShellCommand": "before",
    "PermissionRequest": "permission",
    "PostToolUse": "after",
    "PostToolUseFailure": "failed",
    "PermissionDenied": "failed",
    "SessionStart": "start",
    "SessionEnd": "end",
    "ConfigChange": "settings",
}
GATEWAY_PREFIX: Final = "mcp__interlock__"
"""The prefix of the gateway's tools. The gateway itself checks their calls, with all parameters, so hooks do not."""
HARMLESS: Final = frozenset(
    {
        "Agent", "Task", "TaskCreate", "TaskGet", "TaskList", "TaskUpdate", "TaskOutput", "TaskStop", "BashOutput", "KillShell",
        "TodoWrite", "ToolSearch", "Skill", "EnterPlanMode", "SendMessage", "ReportFindings", "ReadNotifications",
    }
)  # fmt: skip
"""Tools that affect only the client itself and its own processes. Sub-agents' calls reach the hooks separately."""
FOR_ITS_USER: Final = frozenset({"AskUserQuestion", "ExitPlanMode"})
"""Dialogues between the client and its user, which Interlock must not answer."""


def _shell(given: Mapping[str, Any], cwd: str) -> NativeCall:
    unless(given, "dangerouslyDisableSandbox", "Interlock's answer is about a command in the client's own sandbox")
    return shell_call(text_of(given, "command"), cwd)


def _edit(given: Mapping[str, Any], cwd: str) -> NativeCall:
    everywhere = flag(given, "replace_all")
    old, new = text_of(given, "old_string"), text_of(given, "new_string")
    return edit_call(text_of(given, "file_path"), old, new, everywhere=everywhere, cwd=cwd)


def _fetch(given: Mapping[str, Any], _: str) -> NativeCall:
    url = text_of(given, "url")
    if not url.startswith("https://"):
        raise ValueError("Claude Code fetches pages by https only, so write `https://`")
    return fetch_call(url)


NATIVE: Final[Mapping[str, OwnTool]] = {
    "Bash": OwnTool(_shell, beside("description timeout run_in_background")),
    "Monitor": OwnTool(_shell, beside("description timeout_ms persistent")),
    "Write": OwnTool(lambda given, _: write_call(text_of(given, "file_path"), text_of(given, "content"))),
    "Edit": OwnTool(_edit),
    "Read": OwnTool(lambda given, _: read_call(text_of(given, "file_path")), beside("offset limit pages allow_large")),
    "Glob": OwnTool(lambda given, _: list_call(optional_text(given, "path") or "", text_of(given, "pattern"))),
    "Grep": OwnTool(
        lambda given, _: search_call(
            text_of(given, "pattern"), optional_text(given, "path") or "", optional_text(given, "glob")
        ),
        beside("output_mode -A -B -C context -n -i -o type head_limit offset multiline"),
    ),
    "WebFetch": OwnTool(_fetch, beside("prompt offset")),
}


class ClaudeHooks:
    """The dialect. Clients with the same protocol pass their own tools."""

    def __init__(
        self,
        native: Mapping[str, OwnTool] = NATIVE,
        *,
        kinds: Mapping[str, Kind] = KINDS,
        harmless: frozenset[str] = HARMLESS,
        for_its_user: frozenset[str] = FOR_ITS_USER,
        project_variable: str | None = "CLAUDE_PROJECT_DIR",
    ) -> None:
        """`native` translates the input of each tool, given the client's directory."""
        self._native = native
        self._kinds = kinds
        self._harmless = harmless
        self._for_its_user = for_its_user
        self.project_variable = project_variable

    def read(self, data: bytes, named: str = "") -> HookEvent:
        """See `Dialect`."""
        given = event_fields(data)
        name = named or text_of(given, "hook_event_name")
        fields = {
            "session": given.get("session_id", ""),
            "call_id": given.get("tool_use_id", ""),
            "tool": given.get("tool_name", ""),
            "input": given.get("tool_input", {}),
            "cwd": given.get("cwd", ""),
            "sub_agent": given.get("agent_id"),
            "server": None if (server := given.get("mcp_server")) is None else text_of(server, "name"),
            "output": given.get("tool_response", given.get("error")),
        }
        if name == "PreSkillShellCommand" and not fields["tool"]:
            fields |= {"tool": "Bash", "input": {"command": given.get("command")}}
        return typed.convert({"name": name, "kind": self._kinds.get(name, "other"), **fields}, HookEvent)

    def translate(self, event: HookEvent) -> NativeCall | GatewayCall | Verdict:
        """See `Dialect`."""
        if event.tool == "Monitor" and event.input.get("ws") is not None:
            return deny("`Monitor` of a web socket is not supported: use a command.")
        if event.tool in ("Agent", "Task") and event.input.get("isolation") == "remote":
            return deny(
                "a sub-agent on another machine is not supported, because its calls reach no hook: leave `isolation` out."
            )
        if (found := event_call(self._native, event)) is not None:
            return found
        if event.tool in self._for_its_user:
            return Verdict("ask")
        return judge_untranslated(event, self._harmless, GATEWAY_PREFIX, "mcp__")

    def reply(self, event: HookEvent, verdict: Verdict) -> Reply:
        """See `Dialect`."""
        output: dict[str, Any] = {}
        if event.kind == "before" and event.name != "PreToolUse" and verdict.decision != "allow":
            return failure(verdict.reason)
        if event.kind == "before":
            output = {"permissionDecision": verdict.decision, "permissionDecisionReason": verdict.reason}
        elif event.kind == "permission" and verdict.decision != "ask":
            output = {"decision": {"behavior": verdict.decision}}
            if verdict.decision == "deny":
                output["decision"]["message"] = verdict.reason
        elif event.kind == "settings" and verdict.decision == "deny":
            return Reply(0, msgspec.json.encode({"decision": "block", "reason": verdict.reason}))
        elif event.kind == "start":
            if verdict.decision != "allow":
                return Reply(0, msgspec.json.encode({"systemMessage": verdict.reason}))
            output = {"additionalContext": verdict.reason}
        document = {"hookSpecificOutput": {"hookEventName": event.name, **output}} if output else {}
        return Reply(0, msgspec.json.encode(document))
