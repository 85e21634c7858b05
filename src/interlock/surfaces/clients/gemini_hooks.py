"""The hooks of Gemini CLI 0.61: its events, its own tools, and the format of its answers.

Sources: its documentation, trials.

An event has no id of the call, so one is derived from the tool and its inputs. The event after a call also has inputs
that the model did not give (defaults), so only the inputs that `translate` uses are part of the id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from interlock.model import typed
from interlock.surfaces.clients.client import starts_gateway
from interlock.surfaces.clients.hooks import (
    GATEWAY,
    GatewayCall,
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
from interlock.surfaces.clients.own_tools import OwnTool, beside, event_call, flag

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


_SHELL: Final = re.compile(
    r"[\s\ufeff]*(?:(?:\S+/)?(?:sh|bash|zsh)[\s\ufeff]+-c|cmd\.exe|powershell|pwsh)(?![\w-])", re.IGNORECASE
)
"""The start of a command from which it takes off the shell, and the quotes around the rest, in a way of its own."""


def _shell(given: Mapping[str, Any], cwd: str) -> NativeCall:
    command = text_of(given, "command")
    if _SHELL.match(command) is not None:
        raise ValueError("Gemini CLI runs a command such as `bash -c` in another form: give the inner command itself")
    where = optional_text(given, "dir_path")
    return shell_call(command, _path(where, cwd) if where else cwd)


def _path(path: str, cwd: str) -> str:
    """The path. Raises: ValueError for one that Gemini CLI decodes or corrects, so that it means another file."""
    if path.startswith("@"):
        raise ValueError(f"Gemini CLI removes the `@` in front of `{path[:_SHOWN]}`: leave it out, or write `./@`")
    if "%" in (path if path[:1] == "/" else cwd + path):
        raise ValueError(f"Gemini CLI decodes `%` in a path, so `{path[:_SHOWN]}` could mean another file")
    return path


def _named(given: Mapping[str, Any], cwd: str) -> str:
    return _path(text_of(given, "file_path"), cwd)


def _where(given: Mapping[str, Any], cwd: str) -> str:
    return _path(optional_text(given, "dir_path") or "", cwd)


def _edit(given: Mapping[str, Any], cwd: str) -> NativeCall:
    """The call for `replace`, which searches for a relative path in all directories, before any hook sees the call."""
    path = _named(given, cwd)
    if not path.startswith("/"):
        raise ValueError(
            f"Gemini CLI takes `{path[:_SHOWN]}` for any file of that name in the project: give the absolute path"
        )
    old, new = text_of(given, "old_string"), text_of(given, "new_string")
    return edit_call(path, old, new, everywhere=flag(given, "allow_multiple"), cwd=cwd)


_SHOWN: Final = 200
_EACH: Final = beside("wait_for_previous")
"""A member that every tool has: whether it waits for the calls before it."""
_EDITED: Final = _EACH | beside("modified_by_user ai_proposed_content")
"""Members about how its user changed what the model proposed. What it writes is in the others."""
NATIVE: Final[Mapping[str, tuple[OwnTool, tuple[str, ...]]]] = {
    "run_shell_command": (
        OwnTool(_shell, _EACH | beside("description is_background delay_ms")),
        ("command", "dir_path"),
    ),
    "write_file": (
        OwnTool(lambda given, cwd: write_call(_named(given, cwd), text_of(given, "content")), _EDITED),
        ("file_path", "content"),
    ),
    "replace": (
        OwnTool(_edit, _EDITED | beside("instruction")),
        ("file_path", "old_string", "new_string", "allow_multiple"),
    ),
    "read_file": (
        OwnTool(lambda given, cwd: read_call(_named(given, cwd)), _EACH | beside("start_line end_line")),
        ("file_path",),
    ),
    "glob": (
        OwnTool(
            lambda given, cwd: list_call(_where(given, cwd), text_of(given, "pattern")),
            _EACH | beside("case_sensitive respect_git_ignore respect_gemini_ignore"),
        ),
        ("dir_path", "pattern"),
    ),
    "grep_search": (
        OwnTool(
            lambda given, cwd: search_call(
                text_of(given, "pattern"), _where(given, cwd), optional_text(given, "include_pattern")
            ),
            _EACH
            | beside("exclude_pattern names_only case_sensitive fixed_strings context after before no_ignore")
            | beside("max_matches_per_file total_max_matches"),
        ),
        ("dir_path", "pattern", "include_pattern"),
    ),
    "list_directory": (
        OwnTool(
            lambda given, cwd: list_call(_path(text_of(given, "dir_path"), cwd)),
            _EACH | beside("ignore file_filtering_options"),
        ),
        ("dir_path",),
    ),
}
"""Its tools, and which inputs identify a call."""
_TOOLS: Final = {name: tool for name, (tool, _) in NATIVE.items()}


def _server(context: Any, root: str) -> str | None:
    """The name of a tool's server; "" if it has the gateway's name and is another program."""
    if context is None:
        return None
    if not isinstance(context, dict):
        raise ValueError("`mcp_context` is not an object")  # noqa: TRY004 - the client's input
    name, command, arguments = (context.get(key) for key in ("server_name", "command", "args"))
    is_gateway = isinstance(command, str) and isinstance(arguments, list) and starts_gateway(command, arguments, root)
    return "" if name == GATEWAY and not is_gateway else str(name)


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
        fields = {
            "name": name,
            "kind": kind,
            "session": given.get("session_id", ""),
            "moment": given.get("timestamp", ""),
            "tool": tool or "",
            "input": tool_input or {},
            "output": response,
            "cwd": given.get("cwd", ""),
            "server": _server(given.get("mcp_context"), optional_text(given, "cwd") or ""),
        }
        event = typed.convert(fields, HookEvent)
        _, inputs = NATIVE.get(event.tool, (None, ()))
        return msgspec.structs.replace(event, call_id=made_id(event.tool, event.input, inputs))

    def translate(self, event: HookEvent) -> NativeCall | GatewayCall | Verdict:
        """See `Dialect`."""
        if (found := event_call(_TOOLS, event)) is not None:
            return found
        return judge_untranslated(event, HARMLESS, GATEWAY_PREFIX, MCP_PREFIX)

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
