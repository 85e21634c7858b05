"""Finds servers in a project's files that have the gateway's name, but are other programs.

Clients tell their hooks at most the name of a tool's server, and a project that comes from elsewhere can bring files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from interlock.model.errors import ConfigurationError, UsageError
from interlock.settings.file_bytes import read_bytes
from interlock.surfaces.clients.client import Client, starts_gateway
from interlock.surfaces.clients.documents import read_document
from interlock.surfaces.clients.gateway_trial import find_starts
from interlock.surfaces.clients.hooks import GATEWAY

_GROUPS: Final = ("mcpServers", "mcp_servers", "servers", "mcp")


def find_impostor(client: Client, root: str) -> str | None:
    """The file of a project that gives the gateway's name to another program, or that cannot be read; None if there is none."""
    for name in client.server_files:
        path = Path(root, name)
        try:
            data = read_bytes(path, follow=True)
            document = {} if data is None else read_document(data, path, comments=True)
        except (ConfigurationError, UsageError):  # the client may be able to read it
            return name
        if not all(_is_gateway(server, root) for server in _named(document)):
            return name
    return None


def _named(document: dict[str, Any]) -> Iterator[Any]:
    for group in _GROUPS:
        servers = document.get(group)
        if isinstance(servers, dict):
            yield from (server for name, server in servers.items() if name.casefold() == GATEWAY)


def _is_gateway(server: Any, root: str) -> bool:
    return any(starts_gateway(start.command[0], start.command[1:], root) for start in find_starts(server))
