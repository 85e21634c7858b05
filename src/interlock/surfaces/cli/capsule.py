"""`interlock capsule`: tools as sandboxed WebAssembly, from an empty directory to a call."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from interlock.disk import Disk
from interlock.lazy import lazy
from interlock.model.errors import UsageError
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.call import call
from interlock.surfaces.cli.open_project import runtime
from interlock.surfaces.cli.output import Output, clean

if TYPE_CHECKING:
    from interlock.engine.facets.capsules import CapsuleState
    from interlock.engine.inspect import capsule_files
    from interlock.surfaces.cli import capsule_build, capsule_templates
else:
    capsule_files = lazy("interlock.engine.inspect.capsule_files")
    capsule_build = lazy("interlock.surfaces.cli.capsule_build")
    capsule_templates = lazy("interlock.surfaces.cli.capsule_templates")

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)
_VALUE_BYTES_MAX: Final = 1024 * 1024


@click.group(cls=Group)
def capsule() -> None:
    """Create, install and run capsules: tools as sandboxed WebAssembly."""


@capsule.command("new")
@click.option(
    "--lang", type=click.Choice(["wat", "c", "python", "js"]), default="wat", show_default=True, help="The language."
)
@click.argument("name")
@click.pass_obj
def new(out: Output, lang: str, name: str) -> None:
    """Write a small capsule into a new directory NAME."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            "the name of a capsule must be 1 to 64 of the characters a-z 0-9 -, and begin with one of a-z 0-9"
        )
    directory = Path(name)
    try:
        directory.mkdir()
    except FileExistsError:
        raise UsageError(f"`{name}` exists already", code="conflict") from None
    except OSError as error:
        raise UsageError(f"`{name}` cannot be created: {os.strerror(error.errno or 0)}") from None
    written = capsule_templates.files(name, lang)
    for file, text in written.items():
        Disk().write_atomic(directory / file, text.encode(), mode=0o644, durable=False)
    first = [] if Path("interlock.toml").exists() else ["interlock init"]
    steps = [f"interlock capsule build {name}", *first, f"interlock capsule install {name}", "interlock trust"]
    document = {"directory": str(directory.resolve()), "files": sorted(written), "next": steps}
    out.emit(document, lambda: [f"wrote {name}/: {', '.join(sorted(written))}", *(f"next: {step}" for step in steps)])


@capsule.command("build")
@click.argument("directory", type=_DIRECTORY, default=Path())
@click.pass_obj
def build(out: Output, directory: Path) -> None:
    """Compile the source of the capsule in DIRECTORY."""
    target = capsule_build.build(directory)
    size = target.stat().st_size
    out.emit({"built": str(target.resolve()), "bytes": size}, lambda: [f"built {clean(str(target))} ({size} bytes)"])


@capsule.command("install")
@click.argument("directory", type=_DIRECTORY)
@click.pass_obj
def install(out: Output, directory: Path) -> None:
    """Add the capsule in DIRECTORY to the configuration, and pin its build in interlock.lock. Takes effect once trusted."""
    path, name = capsule_files.add_capsule(Path(), directory)
    lock, _ = capsule_files.lock_capsules(Path(), [name])
    steps = [f"allow `{name}/*` in [rules], and in `tools` and `unscoped` of a grant", "interlock trust"]
    document = {"capsule": name, "written": [str(path), str(lock)], "next": steps}
    done = f"added `{name}` to {path.name}, and pinned its build in {lock.name}"
    out.emit(document, lambda: [done, *(f"next: {step}" for step in steps)])


@capsule.command("lock")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_obj
def lock_command(out: Output, names: Sequence[str]) -> None:
    """Pin the present builds of capsules in interlock.lock. Takes effect once trusted."""
    path, found = capsule_files.lock_capsules(Path(), names)
    changed = any(one.changed for one in found)
    document = {
        "written": str(path),
        "capsules": [msgspec.to_builtins(one) | {"changed": one.changed} for one in found],
        "next": ["interlock trust"] if changed else [],
    }
    lines = [f"{one.name} {one.now.version}: {'pinned again' if one.changed else 'unchanged'}" for one in found]
    out.emit(document, lambda: [*lines, *(["next: interlock trust"] if changed else [])])


@capsule.command("list")
@click.pass_obj
def list_command(out: Output) -> int:
    """Load every capsule, which compiles new builds, and list them with their tools. Exit code 1 if one cannot be loaded."""

    async def load() -> list[CapsuleState]:
        return [*[await opened.capsules.load(name) for name in opened.capsules.names], *opened.capsules.absent]

    with runtime(out) as opened:
        found = asyncio.run(load())
    out.emit({"capsules": found}, lambda: _lines(found) if found else ["no capsules"])
    return int(any(one.problem for one in found))


@capsule.command("connectors")
@click.pass_obj
def connectors(out: Output) -> None:
    """List the uplinks that capsules declare, but not those that a capsule registers while it runs."""
    with runtime(out) as opened:
        found = opened.capsules.connectors
    rows = [(f"{one.capsule}/{one.name}", clean(one.platform), clean(one.profile)) for one in found]
    out.emit(
        {"connectors": found}, lambda: out.table(("UPLINK", "PLATFORM", "PROFILE"), rows) if rows else ["no uplinks"]
    )


@capsule.command("run")
@click.argument("name")
@click.argument("tool")
@click.argument("parameters", default="{}")
@click.pass_context
def run(ctx: click.Context, name: str, tool: str, parameters: str) -> Any:
    """Call one TOOL of the capsule NAME through the gate: `interlock call NAME/TOOL`."""
    return ctx.invoke(call, tool=f"{name}/{tool}", parameters=parameters)


@capsule.group("config", cls=Group)
def config() -> None:
    """Manage the configured values of a capsule."""


@config.command("list")
@click.argument("name")
@click.pass_obj
def list_config(out: Output, name: str) -> None:
    """List the values of a capsule. Secrets are not shown."""
    rows = capsule_files.list_config(Path(), os.environ, name)
    out.emit(
        {"config": rows},
        lambda: out.table(
            ("KEY", "TYPE", "VALUE", "SOURCE"), ((r.key, r.type, clean(r.value or "-"), r.source) for r in rows)
        ),
    )


@config.command("set")
@click.argument("name")
@click.argument("key")
@click.argument("value", required=False)
@click.pass_obj
def set_config(out: Output, name: str, key: str, value: str | None) -> None:
    """Set a value of a capsule. Without VALUE, a secret say, it is read from standard input (a line end is dropped).

    It takes effect when the capsule is loaded next.
    """
    data = value.encode() if value is not None else sys.stdin.buffer.read(_VALUE_BYTES_MAX).removesuffix(b"\n")
    capsule_files.set_config(Path(), os.environ, name, key, data)
    out.emit({"set": key}, lambda: [f"set `{clean(key)}` of `{clean(name)}`"])


@config.command("unset")
@click.argument("name")
@click.argument("key")
@click.pass_obj
def unset_config(out: Output, name: str, key: str) -> None:
    """Remove a value of a capsule, so that its default applies again."""
    capsule_files.set_config(Path(), os.environ, name, key, None)
    out.emit({"unset": key}, lambda: [f"removed `{clean(key)}` from `{clean(name)}`"])


def _lines(found: Iterable[CapsuleState]) -> Iterable[str]:
    for one in found:
        yield f"{one.name} {one.version}: " + (clean(one.problem) if one.problem else "loaded")
        yield from (f"  {clean(tool)}" for tool in one.tools)
