"""Reads servers from the files of other MCP clients (`.mcp.json`), to put them behind the gateway (`[mcp] files`).

They become tables of `[mcp.servers]`, and are checked in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from interlock.model.errors import ConfigurationError, ProposalError
from interlock.model.values import parse_json

_OWN: Final = "interlock"
"""The gateway's own entry, written by `interlock install`. It is skipped."""
_KEYS: Final = {"command", "args", "env", "url", "headers", "type", "cwd", "disabled", "description"}


def files_of(table: Mapping[str, Any]) -> list[str]:
    """The files that `mcp.files` names; empty if it is not a list of names, which decoding reports."""
    mcp = table.get("mcp")
    files = mcp.get("files") if isinstance(mcp, Mapping) else None
    well_formed = isinstance(files, list) and all(isinstance(name, str) and name for name in files)
    return files if well_formed and files is not None else []


def read_servers(data: bytes, name: str) -> dict[str, dict[str, Any]]:
    """The servers of a file, as tables of `[mcp.servers]`. Raises: ConfigurationError."""
    try:
        document = parse_json(data)
    except ProposalError as error:
        where = f"{name}: {error.path}" if error.path else name
        raise ConfigurationError(f"the file of MCP servers cannot be read: {error.message}", path=where) from None
    found = document.get("mcpServers", document.get("servers")) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise ConfigurationError("the file has no object `mcpServers`", path=name)
    return {server: _table(one, f"{name}: {server}") for server, one in found.items() if server != _OWN}


def merged(table: Mapping[str, Any], servers: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Add these servers to the configuration's table. Raises: ConfigurationError if two servers have the same name."""
    mcp = dict(table["mcp"])
    own = dict(mcp["servers"]) if isinstance(mcp.get("servers"), Mapping) else {}
    for server, one in servers.items():
        given = own.get(server, {})
        if not isinstance(given, Mapping):
            continue  # decoding reports this
        if set(given) & {"command", "url"}:
            raise ConfigurationError(
                f"two MCP servers are named `{server}`", path=name, hint="rename or remove one of them"
            )
        own[server] = {**one, **given}
    return {**table, "mcp": {**mcp, "servers": own}}


def _table(one: Any, path: str) -> dict[str, Any]:
    if not isinstance(one, dict):
        raise ConfigurationError("a server must be an object", path=path)
    unknown = sorted(one.keys() - _KEYS)
    if unknown:
        raise ConfigurationError(f"unknown key `{unknown[0][:80]}`", path=path, hint="remove it")
    if one.get("type") == "sse":
        raise ConfigurationError(
            "the transport `sse` is no longer part of MCP", path=path, hint="use `http`, or a command"
        )
    if one.get("cwd") not in (None, ".", "${workspaceFolder}"):
        raise ConfigurationError("`cwd` is not supported: servers start in the project", path=path, hint="remove it")
    found: dict[str, Any] = {}
    if "command" in one:
        found["command"] = [one["command"], *(one["args"] if isinstance(one.get("args"), list) else [])]
    for key, target in (("url", "url"), ("headers", "headers"), ("env", "variables")):
        if one.get(key):
            found[target] = one[key]
    return found
