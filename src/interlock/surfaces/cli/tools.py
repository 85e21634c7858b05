"""`interlock tools`: lists the available tools, and locks those that MCP servers define."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence

import click
import msgspec

from interlock.engine.inspect.server_tools import Difference
from interlock.engine.runtime import Runtime
from interlock.model.tool import Tool
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.open_project import runtime
from interlock.surfaces.cli.output import Output, brief, clean

_NONE = "no MCP servers are configured: see `[mcp.servers.NAME]` and `[mcp] files`"
_COLORS = {"+": "green", "-": "red", "@": "cyan"}


@click.group(cls=Group)
def tools() -> None:
    """List the tools, and pin the definitions of MCP servers' tools."""


@tools.command("list")
@click.pass_obj
def list_tools(out: Output) -> None:
    """List the tools with their declared properties. With --json: full definitions and versions."""
    with runtime(out) as opened:
        asyncio.run(opened.prepare())
        found = opened.tools()
    out.emit([{**msgspec.to_builtins(tool), "version": tool.version} for tool in found], lambda: _table(out, found))


@tools.command("diff")
@click.argument("servers", nargs=-1, metavar="[SERVER]...")
@click.pass_obj
def diff_tools(out: Output, servers: Sequence[str]) -> int:
    """Start MCP servers, and show how their tools differ from interlock.lock. Exit code 1 if they differ."""
    with runtime(out) as opened:
        found = _compared(out, opened, servers)
    out.emit(_document(found), lambda: _lines(out, found) if found else [_NONE])
    return int(any(one.differs for one in found))


@tools.command("lock")
@click.argument("servers", nargs=-1, metavar="[SERVER]...")
@click.pass_obj
def lock_tools(out: Output, servers: Sequence[str]) -> int:
    """Start MCP servers, show how their tools differ from interlock.lock, and update it. Agents see only locked tools.

    A tool that cannot be shown faithfully (invisible characters, an unusable schema) is left out. The lock is part of
    the configuration, so it takes effect once trusted.
    """
    with runtime(out) as opened:
        found = _compared(out, opened, servers)
        reached = [one for one in found if one.unreachable is None]
        path = opened.servers.write_lock(reached) if any(one.differs for one in reached) else None
    document = {
        **_document(found),
        "written": None if path is None else str(path),
        "next": ["interlock trust"] if path else [],
    }
    last = [f"wrote {clean(str(path))}", "next: interlock trust"]
    if path is None:
        last = [_NONE if not found else "nothing has changed" if reached else "nothing was locked"]
    out.emit(document, lambda: [*_lines(out, found), *last])
    return int(any(one.unreachable is not None or one.problems for one in found))


def _compared(out: Output, opened: Runtime, servers: Sequence[str]) -> list[Difference]:
    """The differences of these servers. They are started for it, which can take long, so a note says so."""
    names = [*servers] or opened.servers.names
    if names:
        out.note("starting " + ", ".join(f"`{clean(name)}`" for name in names) + " ...")
    return asyncio.run(opened.servers.compare(servers))


def _document(found: Sequence[Difference]) -> dict[str, object]:
    rows = [msgspec.to_builtins(one) | {"differs": one.differs} for one in found]
    for row in rows:
        del row["found"]
    return {"servers": rows}


def _lines(out: Output, found: Sequence[Difference]) -> Iterable[str]:
    """The differences for people. Text from a server is escaped."""
    for one in found:
        if one.unreachable is not None:
            yield f"{one.server}: {clean(one.unreachable)}"
            if one.hint:
                yield f"  do:   {clean(one.hint)}"
            continue
        yield f"{one.server}: " + ("matches the lock" if not one.differs else "differs from the lock")
        for tool, why in one.problems.items():
            yield f"  {clean(tool)}: cannot be locked: {clean(why)}"
        for tool, parts in one.remarks.items():
            yield from (f"  {clean(tool)}: read with care: {clean(part)}" for part in parts)
        for line in one.diff.splitlines():
            shown = clean(line, lines=True)
            yield out.paint(shown, _COLORS.get(line[:1], "dim"), sys.stdout)


def _table(out: Output, found: list[Tool]) -> Iterable[str]:
    width = 70 if out.drawing() is None else 200
    return out.table(
        ("TOOL", "EFFECT", "UNDO", "WORLD", "DESCRIPTION"),
        (
            (
                tool.name,
                "reads" if tool.read_only else "destroys" if tool.destructive else "writes",
                "-" if tool.read_only else tool.reversibility,
                "open" if tool.open_world else "",
                brief(tool.description.split("\n")[0], width),
            )
            for tool in found
        ),
        cut_last=True,
    )
