"""The hooks of Copilot CLI 1.0: its events, its own tools, and the format of its answers.

Sources: its documentation, trials.

Event names are written in VS Code's form. Then an event has the fields of Claude Code's, and its names for most tools,
but with Copilot's own inputs. It has no id of the call, so one is derived from the tool and its input. Copilot CLI also
runs the hooks in the settings of Claude Code and VS Code, with events of this form.
"""

from __future__ import annotations

import re
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
from interlock.surfaces.clients.own_tools import OwnTool, beside, event_call
from interlock.surfaces.clients.patches import patch_call

KINDS: Final[Mapping[str, Kind]] = {
    "PreToolUse": "before",
    "PostToolUse": "after",
    "PostToolUseFailure": "failed",
    "SessionStart": "start",
    "SessionEnd": "end",
}
HARMLESS: Final = frozenset(
    {
        "Agent", "AskUserQuestion", "ask_user", "TodoWrite", "update_todo", "report_intent", "Skill", "skill", "read_bash",
        "list_bash", "stop_bash", "read_agent", "list_agents", "write_agent", "fetch_copilot_cli_documentation",
    }
)  # fmt: skip
"""Tools that change only its own lists and processes, or ask its user. Sub-agents' calls reach the hooks separately."""
GATEWAY_PREFIX: Final = "interlock-"
_PATCH: Final = "a patch"
"""The name that is used here for the editor whose input is a text, which has the name of the other editor in events."""
_EXIT_CODE: Final = re.compile(r"<shellId: \S+ completed with exit code (-?\d+)>\s*\Z")


def _where(given: Mapping[str, Any]) -> str:
    """The directory to search, which is given alone or in a list; the client's own if none is given. Raises: ValueError."""
    several = given.get("paths")
    if several is None:
        return optional_text(given, "path") or ""
    if isinstance(several, list) and len(several) == 1:
        several = several[0]
    if not isinstance(several, str):
        raise ValueError("`paths` is not one directory: search in each with a call of its own")  # noqa: TRY004 - the client's input
    return several


NATIVE: Final[Mapping[str, OwnTool]] = {
    "Bash": OwnTool(
        lambda given, cwd: shell_call(text_of(given, "command"), cwd),
        beside("description shellId mode detach initial_wait"),
    ),
    "Write": OwnTool(lambda given, _: write_call(text_of(given, "path"), optional_text(given, "file_text") or "")),
    "Edit": OwnTool(
        lambda given, cwd: edit_call(
            text_of(given, "path"), text_of(given, "old_str"), text_of(given, "new_str"), cwd=cwd
        )
    ),
    _PATCH: OwnTool(lambda given, _: patch_call(text_of(given, _PATCH))),
    "Read": OwnTool(lambda given, _: read_call(text_of(given, "path")), beside("view_range forceReadLargeFiles")),
    "Glob": OwnTool(lambda given, _: list_call(_where(given), text_of(given, "pattern"))),
    "Grep": OwnTool(
        lambda given, _: search_call(text_of(given, "pattern"), _where(given), optional_text(given, "glob")),
        beside("output_mode type -i -A -B -C -n head_limit multiline"),
    ),
    "WebFetch": OwnTool(lambda *_: FETCH_REFUSED),
}


class CopilotHooks:
    """The dialect."""

    project_variable: str | None = None

    def read(self, data: bytes, named: str = "") -> HookEvent:
        """See `Dialect`."""
        given = event_fields(data)
        if "hookName" in given:  # its own permission event, about a call that was already allowed: no answer needed
            return HookEvent(name=text_of(given, "hookName"), kind="other")
        name = named or text_of(given, "hook_event_name")
        kind, output = KINDS.get(name, "other"), given.get("tool_result", given.get("error"))
        if kind == "after" and _has_failed(output):
            kind = "failed"
        tool, tool_input = given.get("tool_name", ""), given.get("tool_input") or {}
        if isinstance(tool_input, str):
            tool, tool_input = (_PATCH if tool == "Edit" else tool), {_PATCH: tool_input}
        fields = {
            "name": name,
            "kind": kind,
            "session": given.get("session_id", ""),
            "moment": given.get("timestamp", ""),
            "tool": tool,
            "input": tool_input,
            "output": output,
            "cwd": given.get("cwd", ""),
        }
        event = typed.convert(fields, HookEvent)
        return msgspec.structs.replace(event, call_id=made_id(event.tool, event.input))

    def translate(self, event: HookEvent) -> NativeCall | GatewayCall | Verdict:
        """See `Dialect`."""
        if (found := event_call(NATIVE, event)) is not None:
            return found
        return judge_untranslated(event, HARMLESS, GATEWAY_PREFIX, None)

    def reply(self, event: HookEvent, verdict: Verdict) -> Reply:
        """See `Dialect`. It never returns `ask`, because a person would then decide at the client's terminal, unrecorded."""
        document: dict[str, Any] = {}
        if event.kind == "before":
            decision = "allow" if verdict.decision == "allow" else "deny"
            document = {"permissionDecision": decision, "permissionDecisionReason": verdict.reason}
        elif event.kind == "start":
            document = {"additionalContext": verdict.reason}
        return Reply(0, msgspec.json.encode(document))


def _has_failed(result: Any) -> bool:
    """True for a command with a non-zero exit code, which is in the text for the model, after the command's output."""
    text = result.get("text_result_for_llm") if isinstance(result, dict) else None
    found = _EXIT_CODE.search(text[-_TAIL:]) if isinstance(text, str) else None
    return found is not None and int(found[1]) != 0


_TAIL: Final = 200
