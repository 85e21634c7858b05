"""What completion offers for parameters that are plain names: agents, sessions, actions, keys, capsules and servers.

Imported only to answer a shell. The parameters are found by their names, so that every command has the same completion.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from interlock.disk import Disk
from interlock.engine.inspect.actions import run_lines
from interlock.engine.local.location import locate
from interlock.engine.people.identity import open_desk
from interlock.model.errors import InterlockError
from interlock.settings.source import parse_toml
from interlock.signing import key_names
from interlock.surfaces.cli.ids import RUN, described
from interlock.surfaces.cli.open_project import history

_RUNS_READ: Final = 1_000
Names = Callable[[click.Context], Iterable[tuple[str, str]]]
"""Names with a description each, from the command line so far."""


class _Name(click.ParamType[str]):
    name = "text"

    def __init__(self, names: Names) -> None:
        self._names = names

    def convert(self, value: str, _parameter: click.Parameter | None, _ctx: click.Context | None) -> str:
        return value

    def shell_complete(self, ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = dict(self._names(ctx))
        except (InterlockError, OSError):  # a completion must not print errors
            return []
        return [described(name, text) for name, text in found.items() if name.startswith(incomplete)]


def complete_names(command: click.Command) -> None:
    """Give the parameters of a command, and of its subcommands, the completion of their kind of name."""
    _complete(command, "")


def _complete(command: click.Command, group: str) -> None:
    for parameter in command.params:
        name = parameter.name or ""
        names = _BY_GROUP.get((group, name)) or _BY_PARAMETER.get(name)
        if parameter.type is click.STRING and name == "run_id" and isinstance(parameter, click.Argument):
            parameter.type = RUN
        elif parameter.type is click.STRING and names is not None:
            parameter.type = _Name(names)
    if isinstance(command, click.Group):
        for one in command.commands.values():
            _complete(one, command.name or "")


def _configuration() -> dict[str, Any]:
    path = locate(Path(), os.environ, Disk()).configuration
    return parse_toml(path.read_bytes(), path.name)


def _table(*place: str) -> Mapping[str, Any]:
    found: Any = _configuration()
    for name in place:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _agents(_ctx: click.Context) -> Iterable[tuple[str, str]]:
    yield from ((name, "has a grant") for name in _table("grants"))
    with history() as past:
        yield from ((row.agent, "has runs") for row in past.runs(limit=_RUNS_READ))


def _sessions(_ctx: click.Context) -> Iterable[tuple[str, str]]:
    with history() as past:
        return [(row.session, f"{row.runs} runs") for row in past.sessions()]


def _actions(ctx: click.Context) -> Iterable[tuple[str, str]]:
    # Click has not read the arguments yet if the option is the last word.
    run = ctx.params.get("run_id") or next(iter(ctx.args), None)
    if not isinstance(run, str):
        return []
    with history() as past:
        row = past.run(past.find(run))
        return [(line.action_id, f"{line.tool} {line.about}") for line in run_lines(past.place.runs / row.run_id, row)]


def _keys(_ctx: click.Context) -> Iterable[tuple[str, str]]:
    return [(name, "") for name in key_names(locate(Path(), os.environ, Disk()).state / "keys")]


def _capsules(_ctx: click.Context) -> Iterable[tuple[str, str]]:
    return [(name, "") for name in _table("capsules")]


def _servers(_ctx: click.Context) -> Iterable[tuple[str, str]]:
    return [(name, "") for name in _table("mcp", "servers")]


def _approvers(_ctx: click.Context) -> Iterable[tuple[str, str]]:
    with open_desk(Path(), os.environ, trusted=False) as desk:
        return [(one.name, " ".join(one.groups)) for one in desk.approvers.all()]


_BY_PARAMETER: Final[dict[str, Names]] = {
    "agent": _agents, "session": _sessions, "action": _actions, "keys": _keys, "servers": _servers,
}  # fmt: skip
_BY_GROUP: Final[dict[tuple[str, str], Names]] = {
    ("sessions", "name"): _sessions, ("keys", "name"): _keys, ("capsule", "name"): _capsules,
    ("capsule", "names"): _capsules, ("config", "name"): _capsules, ("approvers", "name"): _approvers,
}  # fmt: skip
"""By the group of the command and the parameter."""
