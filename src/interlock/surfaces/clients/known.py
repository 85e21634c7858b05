"""The clients that can be set up, by name."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from interlock.model import typed
from interlock.model.errors import UsageError
from interlock.surfaces.clients import claude_code, codex, copilot, cursor, gemini, opencode, vscode
from interlock.surfaces.clients.client import Client

CLIENTS: Final[dict[str, Client]] = {
    module.CLIENT.name: module.CLIENT for module in (claude_code, codex, copilot, cursor, gemini, opencode, vscode)
}
_SHARED: Final = frozenset({"claude-code", "copilot", "vscode"})
"""Clients that read each other's hook files: VS Code and Copilot CLI both read those of the other two."""


def find_client(name: str) -> Client:
    """The client with this name. Raises: UsageError `client_unknown`."""
    if name not in CLIENTS:
        raise UsageError(
            f"`{name}` is not a client that can be set up here",
            code="client_unknown",
            hint=f"one of {', '.join(CLIENTS)}; other MCP clients can start `interlock gateway` themselves",
        )
    return CLIENTS[name]


def find_speaker(named: str, data: bytes) -> Client | None:
    """The client that an event comes from; None if the name is unknown.

    It may differ from the client for which the hook was set up: the name of the event distinguishes programs that read
    each other's files. So a call counts once, whichever hooks are run for it.
    """
    name = named
    if named in _SHARED:
        try:
            shape = typed.decode(data, _Shape)
        except msgspec.DecodeError:
            shape = _Shape()  # refused by the dialect, with a reason
        if shape.camel is not None:
            name = "vscode"
        elif shape.permission is not None or shape.is_dated:
            name = "copilot"
    return CLIENTS.get(name)


class _Shape(msgspec.Struct):
    """Fields that distinguish programs: VS Code has its own event names; Copilot CLI sends a time, Claude Code the call's id."""

    permission: Any = msgspec.field(default=None, name="hookName")
    camel: Any = msgspec.field(default=None, name="hookEventName")
    snake: Any = msgspec.field(default=None, name="hook_event_name")
    timestamp: Any = None
    transcript: Any = msgspec.field(default=None, name="transcript_path")
    use: Any = msgspec.field(default=None, name="tool_use_id")

    @property
    def is_dated(self) -> bool:
        return self.snake is not None and self.timestamp is not None and self.transcript is None and self.use is None
