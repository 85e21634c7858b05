"""The hooks of Codex 0.171: Claude Code's events and answers, with its own tools. Sources: its documentation, trials.

An event's directory is the one in which the command will run, which the model chooses. So the project is found by the
directory of the hook, which is that of the session. Failures are not reported: a patch that does not apply
has no event at all, and a command's event has no exit code. The event of a command does not name the shell either:
that is in Codex's record of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from interlock.surfaces.clients.claude_hooks import ClaudeHooks
from interlock.surfaces.clients.codex_record import recorded_inputs
from interlock.surfaces.clients.hooks import (
    GatewayCall,
    HookEvent,
    Kind,
    NativeCall,
    Verdict,
    deny,
    event_fields,
    optional_text,
    read_call,
    shell_call,
    text_of,
)
from interlock.surfaces.clients.own_tools import OwnTool, beside
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


_PATCHES: Final = ("apply_patch", "applypatch")


def _shell(given: Mapping[str, Any], cwd: str) -> NativeCall | Verdict:
    """The call of a command; a refusal for one from which Codex takes a patch, to apply it with its editor."""
    command = text_of(given, "command")
    if "*** Begin Patch" in command and any(name in command for name in _PATCHES):
        return deny(
            "Codex does not run this command, but applies the patch in it: use the tool `apply_patch`. Nothing was done."
        )
    return shell_call(command, cwd)


def _patch(given: Mapping[str, Any], _: str) -> NativeCall | Verdict:
    return patch_call(text_of(given, "command"))


NATIVE: Final[Mapping[str, OwnTool]] = {
    "Bash": OwnTool(_shell),
    "apply_patch": OwnTool(_patch),
    "view_image": OwnTool(lambda given, _: read_call(text_of(given, "path")), beside("detail")),
}
_BESIDE: Final = beside(
    "cmd command workdir timeout timeout_ms yield_time_ms max_output_tokens justification prefix_rule sandbox_permissions"
)
"""Members of a command's input that its event has, that change nothing, or about which Codex asks its own user."""
_OFF: Final = ("shell", "login", "tty")
"""Members that change which program reads the command, or what it runs before."""


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

    def read(self, data: bytes, named: str = "") -> HookEvent:
        """See `Dialect`."""
        record = optional_text(event_fields(data), "transcript_path")
        return msgspec.structs.replace(super().read(data, named), record=record or "", cwd_is_chosen=True)

    def translate(self, event: HookEvent) -> NativeCall | GatewayCall | Verdict:
        """See `Dialect`."""
        found = super().translate(event)
        if event.tool != "Bash" or event.kind != "before" or isinstance(found, Verdict):
            return found
        for given in recorded_inputs(event.record, event.call_id):
            unlike = [name for name in given if name not in _BESIDE and (name not in _OFF or given[name])]
            if unlike:
                return deny(
                    f"`{unlike[0][:80]}` is not supported: a command is judged as one for the client's default shell. Call it"
                    " without it. Nothing was done."
                )
            if given.get("cmd", given.get("command")) != event.input.get("command"):
                return deny("Interlock: the command in Codex's record of the session is not the one in the event")
        return found
