"""The clients that can be set up, by name."""

from __future__ import annotations

from typing import Final

from interlock.model.errors import UsageError
from interlock.surfaces.clients import claude_code, codex, gemini, opencode
from interlock.surfaces.clients.client import Client

CLIENTS: Final = {client.name: client for client in (claude_code.CLIENT, codex.CLIENT, gemini.CLIENT, opencode.CLIENT)}


def find_client(name: str) -> Client:
    """The client of that name. Raises: UsageError `client_unknown`."""
    if name not in CLIENTS:
        raise UsageError(
            f"`{name}` is not a client that can be set up here",
            code="client_unknown",
            hint=f"one of {', '.join(CLIENTS)}; any other MCP client can start `interlock gateway` by itself",
        )
    return CLIENTS[name]
