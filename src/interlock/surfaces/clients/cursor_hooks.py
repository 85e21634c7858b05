"""The hooks of Cursor: its events, its own tools, and the format of its answers.

Sources: its documentation of hooks, and published recordings of events of version 3.9. The program was not tried.

Each tool call reaches `preToolUse`. A command or a call of an MCP server also has its own event afterwards. Calls are
judged in the first. The second names the server of an MCP tool, and is the only event that some of Cursor's programs
fire for a command; there only previously allowed calls pass.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from interlock.model import typed
from interlock.surfaces.clients.client import starts_gateway
from interlock.surfaces.clients.hooks import (
    FETCH_REFUSED,
    GATEWAY,
    GatewayCall,
    HookEvent,
    Kind,
    NativeCall,
    Reply,
    Verdict,
    deny,
    edit_call,
    event_fields,
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
    "preToolUse": "before",
    "beforeShellExecution": "permission",
    "beforeMCPExecution": "before",
    "postToolUse": "after",
    "postToolUseFailure": "failed",
    "sessionStart": "start",
    "sessionEnd": "end",
}
HARMLESS: Final = frozenset({"Task", "TodoWrite", "AskQuestion", "ReadLints", "SwitchMode", "CreatePlan"})
"""Tools that change only its own lists, or ask its user. Sub-agents' calls reach the hooks separately."""
_MCP_PREFIX: Final = "MCP:"


def _path(given: Mapping[str, Any]) -> str:
    return text_of(given, "path" if "path" in given else "file_path")


def _edit(given: Mapping[str, Any], cwd: str) -> NativeCall:
    old, new = text_of(given, "old_string"), text_of(given, "new_string")
    return edit_call(_path(given), old, new, everywhere=flag(given, "replace_all"), cwd=cwd)


def _where(given: Mapping[str, Any]) -> str:
    """The directory to search; the whole project if none is given."""
    for name in ("path", "file_path", "target_directory"):
        if given.get(name):
            return text_of(given, name)
    return ""


def _shell(given: Mapping[str, Any], cwd: str) -> NativeCall:
    unless(given, "required_permissions", "Interlock's answer is about a command in the client's own sandbox")
    where = optional_text(given, "working_directory") or optional_text(given, "cwd")
    return shell_call(text_of(given, "command"), where or cwd)


NATIVE: Final[Mapping[str, OwnTool]] = {
    "Shell": OwnTool(_shell, beside("description timeout block_until_ms is_background")),
    "Write": OwnTool(
        lambda given, _: write_call(_path(given), text_of(given, "contents" if "contents" in given else "content"))
    ),
    "StrReplace": OwnTool(_edit),
    "Delete": OwnTool(
        lambda given, _: NativeCall("fs.delete", {"path": _path(given)}, writes="path"), beside("explanation")
    ),
    "Read": OwnTool(lambda given, _: read_call(_path(given)), beside("offset limit")),
    "LS": OwnTool(lambda given, _: list_call(_where(given)), beside("ignore_globs ignore")),
    "Glob": OwnTool(lambda given, _: list_call(_where(given), text_of(given, "glob_pattern"))),
    "Grep": OwnTool(
        lambda given, _: search_call(text_of(given, "pattern"), _where(given), optional_text(given, "glob")),
        beside("output_mode type -i -A -B -C -n head_limit offset multiline case_insensitive"),
    ),
    "WebFetch": OwnTool(lambda *_: FETCH_REFUSED),
}


class CursorHooks:
    """The dialect."""

    project_variable: str | None = "CURSOR_PROJECT_DIR"

    def read(self, data: bytes, named: str = "") -> HookEvent:
        """See `Dialect`."""
        given = event_fields(data)
        name = named or text_of(given, "hook_event_name")
        roots = given.get("workspace_roots")
        root = roots[0] if isinstance(roots, list) and roots else ""
        fields: dict[str, Any] = {
            "name": name,
            "kind": KINDS.get(name, "other"),
            "session": given.get("conversation_id", ""),
            "call_id": given.get("tool_use_id", ""),
            "tool": given.get("tool_name", ""),
            "input": given.get("tool_input") or {},
            "output": given.get("tool_output", given.get("error_message")),
            "cwd": given.get("cwd") or root,
        }
        if name == "beforeShellExecution":
            fields |= {"tool": "Shell", "input": {"command": given.get("command")}}
        elif name == "beforeMCPExecution":  # its input is text; only the server matters
            fields["server"] = GATEWAY if _is_gateway(given.get("command"), fields["cwd"]) else ""
            fields["tool"] = text_of(given, "tool_name").removeprefix(_MCP_PREFIX)
            fields["input"] = {}
        elif fields["kind"] == "after" and _exit_code(fields["output"]) not in (None, 0):
            fields["kind"] = "failed"
        return typed.convert(fields, HookEvent)

    def translate(self, event: HookEvent) -> NativeCall | GatewayCall | Verdict:
        """See `Dialect`."""
        if event.name == "beforeMCPExecution" and event.server == GATEWAY:
            return GatewayCall(event.tool)
        if event.name == "beforeMCPExecution":
            return deny("the tool belongs to an MCP server that is not behind `interlock gateway`.")
        if (found := event_call(NATIVE, event)) is not None:
            return found
        if event.tool.startswith(_MCP_PREFIX):
            return Verdict("allow", "Interlock: judged by its server, in the event that names it")
        if event.tool in HARMLESS:
            return Verdict("allow", "Interlock: not a call that it has to check")
        return deny(f"Interlock does not know what `{event.tool}` does, so it is not allowed.")

    def reply(self, event: HookEvent, verdict: Verdict) -> Reply:
        """See `Dialect`. Always a decision, because a hook that fails closed also blocks without an answer."""
        document: dict[str, Any] = {}
        if event.kind == "permission":  # `ask`: the call that was allowed a moment ago
            document = {"permission": "deny" if verdict.decision == "deny" else "allow"}
        elif event.kind == "before":
            document = {"permission": "allow" if verdict.decision == "allow" else "deny"}
        elif event.kind == "start" and verdict.decision == "allow":
            document = {"additional_context": verdict.reason}
        if document.get("permission") == "deny":
            document |= {"user_message": verdict.reason, "agent_message": verdict.reason}
        return Reply(0, msgspec.json.encode(document))


def _is_gateway(command: Any, root: str) -> bool:
    """True if a server's command is this Interlock's gateway. The arguments may be missing."""
    if not isinstance(command, str):
        return False
    with contextlib.suppress(ValueError, IndexError):
        words = shlex.split(command)
        return starts_gateway(words[0], words[1:] or ["gateway"], root)
    return False


def _exit_code(output: Any) -> Any:
    """The exit code of a command, from Cursor's text for the result of a tool."""
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        return json.loads(output).get("exitCode")
    return None
