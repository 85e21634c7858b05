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
"""Clients that read each other's hook files: VS Code reads those of both others, Copilot CLI those of both others."""


def find_client(name: str) -> Client:
    """The client of that name. Raises: UsageError `client_unknown`."""
    if name not in CLIENTS:
        raise UsageError(
            f"`{name}` is not a client that can be set up here",
            code="client_unknown",
            hint=f"one of {', '.join(CLIENTS)}; any other MCP client can start `interlock gateway` by itself",
        )
    return CLIENTS[name]


def find_speaker(named: str, data: bytes) -> Client | None:
    """The client that an event comes from; None if there is none of that name.

    It is not always the one that the hook was set up for: the field that names the event tells programs apart that read each
    other's files. So one call is one call, whichever hooks are asked about it.
    """
    name = named
    if named in _SHARED:
        try:
            shape = typed.decode(data, _Shape)
        except msgspec.DecodeError:
            shape = _Shape()  # refused by the dialect, which says why
        if shape.camel is not None:
            name = "vscode"
        elif shape.permission is not None or shape.is_dated:
            name = "copilot"
    return CLIENTS.get(name)


class _Shape(msgspec.Struct):
    """Fields that tell programs apart: VS Code has names of its own; Copilot CLI says when, and Claude Code which call."""

    permission: Any = msgspec.field(default=None, name="hookName")
    camel: Any = msgspec.field(default=None, name="hookEventName")
    snake: Any = msgspec.field(default=None, name="hook_event_name")
    timestamp: Any = None
    transcript: Any = msgspec.field(default=None, name="transcript_path")
    use: Any = msgspec.field(default=None, name="tool_use_id")

    @property
    def is_dated(self) -> bool:
        return self.snake is not None and self.timestamp is not None and self.transcript is None and self.use is None
