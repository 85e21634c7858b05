"""`interlock install`. The command tree refers to this module by name, and passes the output functions in click's context."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import click

from interlock.disk import Disk
from interlock.model.errors import ConfigurationError, ProposalError
from interlock.model.values import parse_json
from interlock.settings.load import load
from interlock.settings.trust import TrustStore
from interlock.surfaces.clients.client import SERVER, Client, Mode, Scope
from interlock.surfaces.clients.installation import FileChange, Installation
from interlock.surfaces.clients.known import CLIENTS, find_client
from interlock.surfaces.clients.versions import found_version, untested
from interlock.workspace.registry import state_directory


class Speaks(Protocol):
    """The output functions that the command line passes in."""

    def emit(self, document: Any, text: Callable[[], Iterable[str]] | None = None) -> None:
        """Print the answer: one document with `--json`, else lines."""

    def warn(self, text: str) -> None:
        """Print a warning, which is not part of the answer."""


def _clients(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The clients whose name has this prefix, for completion."""
    return [name for name in CLIENTS if name.startswith(incomplete)]


@click.command("install")
@click.argument("client", metavar="CLIENT", shell_complete=_clients)
@click.option(
    "--mode",
    type=click.Choice(["replace", "guard"]),
    help="Turn its own tools off, or check them with hooks. [default: replace]",
)
@click.option(
    "--scope",
    type=click.Choice(["project", "user", "managed"]),
    default="project",
    show_default=True,
    help="Whose settings: this project's, yours, or the machine's.",
)
@click.option("--agent", metavar="NAME", help="The client's agent name. [default: the configuration's]")
@click.option("--dry-run", is_flag=True, help="Show the differences without writing.")
@click.option("--remove", is_flag=True, help="Remove Interlock from the client.")
@click.pass_obj
def install(
    out: Speaks, client: str, mode: str | None, scope: str, agent: str | None, *, dry_run: bool, remove: bool
) -> None:
    """Set up a coding agent to work through Interlock.

    CLIENT is claude-code, codex, copilot, cursor, gemini, opencode or vscode. In replace mode its own tools are off and
    Interlock's are offered; in guard mode hooks check its own tools. Its files are edited, and --remove restores their
    previous bytes.
    """
    known = find_client(client)
    installation = Installation(client, Path(), os.environ, cast("Scope", scope))
    chosen = cast("Mode | None", mode)
    changes = installation.plan_remove() if remove else installation.plan_install(chosen, agent)
    version = None if remove else found_version(known, os.environ)
    if not dry_run and remove:
        installation.apply_removal(changes)
    elif not dry_run:
        installation.apply(changes, chosen, agent, version)
    if not remove and scope == "project":
        for warning in _project_warnings(chosen or known.modes[0], agent, changes):
            out.warn(warning)
    if version is not None and (untried := untested(known, version)) is not None:
        out.warn(untried)
    chosen = chosen or known.modes[0]
    document = {
        "client": client,
        "mode": None if remove else chosen,
        "written": not dry_run,
        "files": [{"path": str(c.path), "outcome": c.outcome, "diff": list(c.difference())} for c in changes],
    }
    out.emit(document, lambda: _text(changes, known, chosen, cast("Scope", scope), dry_run=dry_run, remove=remove))


def _project_warnings(mode: Mode, agent: str | None, changes: list[FileChange]) -> Iterator[str]:
    """Properties of this project's configuration that may surprise a user of the client."""
    trust = TrustStore(state_directory(os.environ, disk := Disk()), disk)
    try:
        loaded = load(Path(), env=os.environ, flags={}, trust=trust, direct=True)
    except ConfigurationError as error:
        todo = f"; {error.hint}" if error.hint else ""
        yield f"Interlock refuses the client's calls until this is fixed: {error.message}{todo}"
        return
    name = agent or loaded.settings.agent
    groups = (f"group:{group}" for group in loaded.settings.groups_by_agent().get(name, ()))
    if not {name, *groups} & loaded.settings.grants.keys():
        yield f"`{name}` has no grant, so no call is allowed: add `[grants.{name}]` to interlock.toml"
    if mode == "replace":
        for path, servers in _started_by_client(changes):
            yield (
                f"{path.name} also starts {', '.join(f'`{server}`' for server in servers)}, whose calls do not go through"
                " Interlock: move them to a file that `[mcp] files` names, and the gateway starts them"
            )
    if mode == "replace" and loaded.settings.workspace.mode == "direct":
        yield (
            "the gateway works on the files themselves, and undo does not cover what commands do; `[workspace]"
            ' mode = "layer"` in interlock.toml covers them'
        )


def _started_by_client(changes: list[FileChange]) -> Iterator[tuple[Path, list[str]]]:
    """The MCP servers besides the gateway in the files of the client."""
    for change in changes:
        try:
            document = parse_json(change.data or b"{}")
        except ProposalError:  # not JSON: this client keeps its servers in another form
            continue
        tables = [document.get(key) for key in ("mcpServers", "servers", "mcp")] if isinstance(document, dict) else []
        servers = [name for table in tables if isinstance(table, dict) for name in table if name != SERVER]
        if servers:
            yield change.path, servers


def _text(
    changes: list[FileChange], client: Client, mode: Mode, scope: Scope, *, dry_run: bool, remove: bool
) -> Iterator[str]:
    for change in changes:
        yield f"{change.outcome}: {change.path}"
        yield from change.difference()
    if dry_run:
        yield "nothing was written (--dry-run)"
        return
    if remove:
        return
    if mode == "replace":
        yield f"{client.name} starts `interlock gateway` in this project from now on; its own file tools and shell are off."
        yield "It may ask once whether to trust the project's servers. Held calls: `interlock approvals watch`."
    else:
        yield f"{client.name} asks Interlock before each of its own tool calls from now on."
        yield "Held calls: `interlock approvals watch`."
    yield from (f"Not closed: {door}" for door in client.left_open(mode, scope))
