"""`interlock tools`: the tools that can be called."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click
import msgspec

from interlock.model.tool import Tool
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.open_project import runtime
from interlock.surfaces.cli.output import Output, brief


@click.group(cls=Group)
def tools() -> None:
    """List the tools: the built-in ones, and those of the configured modules."""


@tools.command("list")
@click.pass_obj
def list_tools(out: Output) -> None:
    """List the tools with their declared properties. With --json: full definitions and versions."""
    with runtime(out) as opened:
        asyncio.run(opened.prepare())
        found = opened.tools()
    out.emit([{**msgspec.to_builtins(tool), "version": tool.version} for tool in found], lambda: _table(out, found))


def _table(out: Output, found: list[Tool]) -> Iterable[str]:
    return out.table(
        ("TOOL", "EFFECT", "UNDO", "WORLD", "DESCRIPTION"),
        (
            (
                tool.name,
                "reads" if tool.read_only else "destroys" if tool.destructive else "writes",
                "-" if tool.read_only else tool.reversibility,
                "open" if tool.open_world else "",
                brief(tool.description.split("\n")[0], 70),
            )
            for tool in found
        ),
    )
