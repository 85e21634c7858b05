"""Ids as people type them: the full id of a run or hold, any unambiguous prefix of it, or `last`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interlock.lazy import lazy
from interlock.model.errors import InterlockError
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import clean

if TYPE_CHECKING:
    from click import shell_completion
else:
    shell_completion = lazy("click.shell_completion")

_LAST = "last"
_DESCRIPTION = 72
"""Maximum characters of a description beside an id."""
_OFFERED = 50
"""How many ids a completion offers, newest first."""


class RunId(click.ParamType[str]):
    """The id of a run of this project. Raises: UsageError `not_found`, `ambiguous_id`."""

    name = "run"

    def __init__(self, statuses: tuple[str, ...] = ()) -> None:
        """`statuses` limits the runs that completion offers; by default all."""
        self._statuses = statuses

    def convert(self, value: str, _parameter: click.Parameter | None, ctx: click.Context | None) -> str:
        """The full id."""
        if ctx is not None and ctx.resilient_parsing:
            return value
        _require_text(self, value)
        with history() as past:
            return past.find(value)

    def shell_complete(
        self, _ctx: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[shell_completion.CompletionItem]:
        """The newest runs whose id has this prefix; none outside a project, because a completion must not print errors."""
        try:
            with history() as past:
                rows = past.runs(limit=1_000)
        except InterlockError:
            return []
        wanted = [row for row in rows if not self._statuses or row.status in self._statuses]
        found = [row for row in wanted if row.run_id.startswith(incomplete)][:_OFFERED]
        shown = [described(row.run_id, f"{row.status}, {row.agent}") for row in found]
        return [*_newest(incomplete, "run", any_there=bool(rows)), *shown]


class HoldId(click.ParamType[str]):
    """The id of a hold. Raises: UsageError `not_found`, `ambiguous_id`."""

    name = "approval"

    def convert(self, value: str, _parameter: click.Parameter | None, ctx: click.Context | None) -> str:
        """The full id."""
        if ctx is not None and ctx.resilient_parsing:
            return value
        _require_text(self, value)
        from interlock.engine.people.identity import open_desk  # noqa: PLC0415 - start-up

        with open_desk(Path(), os.environ, trusted=False) as desk:
            return desk.store.find(value)

    def shell_complete(
        self, _ctx: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[shell_completion.CompletionItem]:
        """The open holds whose id has this prefix."""
        from interlock.engine.people.identity import open_desk  # noqa: PLC0415 - start-up

        try:
            with open_desk(Path(), os.environ, trusted=False) as desk:
                holds = desk.store.list_holds("pending", limit=1_000)
        except InterlockError:
            return []
        found = [hold for hold in holds if hold.id.startswith(incomplete)][-_OFFERED:]
        shown = [described(hold.id, hold.summary) for hold in found]
        return [*_newest(incomplete, "hold", any_there=bool(holds)), *shown]


class ToolName(click.ParamType[str]):
    """The name of a tool. Any text is accepted, because a rule can name a tool that does not exist yet."""

    name = "tool"

    def shell_complete(
        self, _ctx: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[shell_completion.CompletionItem]:
        """The built-in tools whose name has this prefix."""
        from interlock.engine.runtime import Runtime  # noqa: PLC0415 - start-up

        try:
            with Runtime.open(settings={}, workspace=Path()) as runtime:
                names = sorted(tool.name for tool in runtime.tools())
        except InterlockError:
            return []
        return [shell_completion.CompletionItem(name) for name in names if name.startswith(incomplete)]


def _newest(incomplete: str, what: str, *, any_there: bool) -> list[shell_completion.CompletionItem]:
    """The completion `last`, once it is begun. Where there are two kinds of names, people look for ids."""
    begun = any_there and incomplete and _LAST.startswith(incomplete)
    return [shell_completion.CompletionItem(_LAST, help=f"the newest {what}")] if begun else []


def described(value: str, text: str) -> shell_completion.CompletionItem:
    """A completion with a description, which an agent may have written: one line, as shells print it unchanged."""
    line = clean(text)
    shown = line if len(line) <= _DESCRIPTION else line[: _DESCRIPTION - 3] + "..."
    return shell_completion.CompletionItem(value, help=shown or None)


def _require_text(kind: click.ParamType[str], value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        kind.fail("the argument is not UTF-8")


RUN = RunId()
ACTIVE_RUN = RunId(("running", "held", "interrupted"))
HOLD = HoldId()
TOOL = ToolName()
