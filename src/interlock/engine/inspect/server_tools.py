"""Compares the tools of the MCP servers with the lock: `interlock tools lock` and `diff`."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from interlock.engine.services import Services
from interlock.executors.mcp.lock import FILE, LockedServer, as_text, encode_lock
from interlock.executors.mcp.peer import LostError, RpcError
from interlock.executors.mcp.servers import Servers
from interlock.model.errors import ToolError, UsageError


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of one server with the lock."""

    server: str
    unreachable: str | None = None
    """The reason why the server could not be asked."""
    hint: str = ""
    """The remedy for that."""
    diff: str = ""
    """A unified diff of the definitions, in the lock's format; empty if there is no difference."""
    problems: dict[str, str] = {}
    """Tools that cannot be locked, with the reason."""
    remarks: dict[str, list[str]] = {}
    """Parts of changed definitions that address the model instead of describing the tool, or look like other text."""
    found: LockedServer = LockedServer()
    """Its current tools, as far as they can be locked."""

    @property
    def differs(self) -> bool:
        """True if something has changed, or is unknown."""
        return bool(self.diff or self.unreachable)


async def compare_servers(services: Services, names: Sequence[str]) -> list[Difference]:
    """Start the servers (all, unless named) and compare. Raises: UsageError for one that is not configured."""
    servers = services.mcp
    known = [] if servers is None else servers.names
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no MCP server `{name}`",
                code="not_found",
                hint=f"configured are: {', '.join(known) or 'none'} (`[mcp.servers.NAME]` in the configuration)",
            )
    if servers is None:
        return []
    return list(await asyncio.gather(*(_compare(servers, name) for name in names or known)))


def write_lock(services: Services, found: Iterable[Difference]) -> Path:
    """Write the servers' tools into the lock; other servers do not change. Raises: StoreError."""
    assert services.mcp is not None
    assert services.workspace is not None
    locked = {name: server for name, server in services.mcp.lock.servers.items() if name in services.mcp.names}
    path = Path(services.workspace.root) / FILE
    servers = {**locked, **{one.server: one.found for one in found}}
    services.disk.write_atomic(path, encode_lock(servers, services.mcp.lock.capsules), mode=0o644)
    return path


async def _compare(servers: Servers, name: str) -> Difference:
    try:
        listing = await servers.list_now(name)
    except ToolError as error:
        return Difference(server=name, unreachable=error.message, hint=error.hint or "")
    except (RpcError, LostError) as error:
        return Difference(server=name, unreachable=str(error))
    except TimeoutError:
        return Difference(server=name, unreachable=f"the MCP server `{name}` did not answer in time")
    before = servers.lock.servers.get(name, LockedServer())
    changed = {tool.name for tool in listing.server.tools if before.by_name().get(tool.name) != tool}
    changed |= {
        f"prompt {prompt.name}"
        for prompt in listing.server.prompts
        if before.prompts_by_name().get(prompt.name) != prompt
    }
    return Difference(
        server=name,
        diff=_diff(name, before, listing.server),
        problems=listing.problems,
        remarks={tool: remark for tool, remark in listing.remarks.items() if tool in changed},
        found=listing.server,
    )


def _diff(name: str, before: LockedServer, after: LockedServer) -> str:
    """A diff with one hunk per tool and prompt, so that a reader sees to which of them each line belongs."""
    parts = []
    if before.instructions != after.instructions:
        parts += _lines(f"{name} instructions", before.instructions, after.instructions)
    old, new = before.by_name(), after.by_name()
    for tool in sorted(old.keys() | new.keys()):
        was = as_text(old[tool]) if tool in old else ""
        now = as_text(new[tool]) if tool in new else ""
        if was != now:
            parts += _lines(f"{name}/{tool}", was, now)
    if before.resources != after.resources:
        words = {True: "it has resources", False: ""}
        parts += _lines(f"{name} resources", words[before.resources], words[after.resources])
    asked, asks = before.prompts_by_name(), after.prompts_by_name()
    for prompt in sorted(asked.keys() | asks.keys()):
        was = as_text(asked[prompt]) if prompt in asked else ""
        now = as_text(asks[prompt]) if prompt in asks else ""
        if was != now:
            parts += _lines(f"{name} prompt {prompt}", was, now)
    return "\n".join(parts)


def _lines(what: str, was: str, now: str) -> list[str]:
    heads = f"{what} (locked)" if was else "/dev/null", what if now else "/dev/null"
    return list(difflib.unified_diff(was.splitlines(), now.splitlines(), *heads, lineterm=""))
