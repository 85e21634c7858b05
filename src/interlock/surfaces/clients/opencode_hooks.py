"""The events that Interlock's plug-in for opencode sends (`opencode.py`), and its own tools. Sources: trials with the program."""

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
from interlock.surfaces.clients.own_tools import OwnTool, beside, event_call, flag
from interlock.surfaces.clients.patches import patch_call

KINDS: Final[Mapping[str, Kind]] = {"before": "before", "after": "after", "end": "end"}
HARMLESS: Final = frozenset({"todowrite", "todoread", "task", "skill", "invalid", "question", "plan_exit"})
"""Tools that change only its own lists. Sub-agents' calls reach the plug-in separately."""
GATEWAY_PREFIX: Final = "interlock_"
PROBE: Final = "interlock_probe"
"""The tool of the event by which `interlock doctor` tests the hook. The gateway has none of that name."""


def _edit(given: Mapping[str, Any], cwd: str) -> NativeCall:
    old, new = text_of(given, "oldString"), text_of(given, "newString")
    return edit_call(text_of(given, "filePath"), old, new, everywhere=flag(given, "replaceAll"), cwd=cwd)


NATIVE: Final[Mapping[str, OwnTool]] = {
    "bash": OwnTool(
        lambda given, cwd: shell_call(text_of(given, "command"), optional_text(given, "workdir") or cwd),
        beside("description timeout"),
    ),
    "write": OwnTool(lambda given, _: write_call(text_of(given, "filePath"), text_of(given, "content"))),
    "edit": OwnTool(_edit),
    "apply_patch": OwnTool(lambda given, _: patch_call(text_of(given, "patchText"))),
    "read": OwnTool(lambda given, _: read_call(text_of(given, "filePath")), beside("offset limit")),
    "list": OwnTool(lambda given, _: list_call(optional_text(given, "path") or ""), beside("ignore")),
    "glob": OwnTool(lambda given, _: list_call(optional_text(given, "path") or "", text_of(given, "pattern"))),
    "grep": OwnTool(
        lambda given, _: search_call(
            text_of(given, "pattern"), optional_text(given, "path") or "", optional_text(given, "include")
        )
    ),
    "webfetch": OwnTool(lambda *_: FETCH_REFUSED),
}


class OpencodeHooks:
    """The dialect."""

    project_variable: str | None = None

    def read(self, data: bytes, named: str = "") -> HookEvent:
        """See `Dialect`."""
        given = event_fields(data)
        name = named or text_of(given, "name")
        fields = {
            "name": name,
            "kind": KINDS.get(name, "other"),
            "session": given.get("sessionID", ""),
            "call_id": given.get("callID", ""),
            "tool": given.get("tool", ""),
            "input": given.get("args") or {},
            "output": given.get("output"),
            "cwd": given.get("directory", ""),
        }
        return typed.convert(fields, HookEvent)

    def translate(self, event: HookEvent) -> NativeCall | GatewayCall | Verdict:
        """See `Dialect`."""
        if (found := event_call(NATIVE, event)) is not None:
            return found
        if event.tool == PROBE:
            return deny("`interlock doctor` tests this hook by it.")
        return judge_untranslated(event, HARMLESS, GATEWAY_PREFIX, None)

    def reply(self, event: HookEvent, verdict: Verdict) -> Reply:  # noqa: ARG002 - one form for all events
        """See `Dialect`."""
        decision = "allow" if verdict.decision == "allow" else "deny"
        return Reply(0, msgspec.json.encode({"decision": decision, "reason": verdict.reason}))
