"""`interlock learn`: proposes the smallest rules and grants that recent calls needed, as a change of the configuration."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from interlock.model.errors import UsageError
from interlock.surfaces.cli.app import Command
from interlock.surfaces.cli.looking import choice
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output, clean

if TYPE_CHECKING:
    from interlock.engine.inspect.needed import Needed

_REFUSED_SHOWN = 20


@click.command(cls=Command)
@click.option(
    "--since", metavar="WHEN", default="7d", show_default=True, help="Calls since then: 12h (ago), 2d, 2026-11-26."
)
@click.option("--agent", metavar="NAME", help="Only this agent's grant.")
@click.option("--diff", "only_diff", is_flag=True, help="Print only the change, for `git apply`.")
@click.pass_obj
def learn(out: Output, since: str, agent: str | None, only_diff: bool) -> None:
    """Propose the smallest rules and grants that recent calls needed, and show which calls they would have refused.

    Nothing is changed: the proposal is a change of `interlock.toml` for review. It only narrows what is allowed now.
    """
    from interlock.engine.inspect.needed import read_needed  # noqa: PLC0415 - start-up
    from interlock.engine.inspect.policy_check import read_policies  # noqa: PLC0415 - start-up

    policies = read_policies(Path(), os.environ)
    since_us = choice(since, None, None, None).since_us
    assert since_us is not None
    with history() as past:
        found = read_needed(policies, past, since_us, agent)
    change = _change(policies.path, found)
    document = {**msgspec.to_builtins(found), "change": change}
    del document["wanted"]
    if only_diff and not out.json:
        out.raw(change)
        return
    out.emit(document, lambda: _lines(out, found, change))


def _change(path: Path, found: Needed) -> str:
    """The proposed change of the file, as a patch for `git apply`."""
    import tomllib  # noqa: PLC0415 - start-up, as below

    import tomlkit  # noqa: PLC0415

    before = path.read_text(encoding="utf-8")
    document = tomlkit.parse(before)
    _put(document, found.wanted)
    after = tomlkit.dumps(document)
    if tomllib.loads(after) != found.wanted:
        raise UsageError(f"`{path.name}` has a layout that cannot be edited without changing more", path=str(path))
    lines = (before.splitlines(keepends=True), after.splitlines(keepends=True))
    return "".join(difflib.unified_diff(*lines, f"a/{path.name}", f"b/{path.name}"))


def _put(document: Any, wanted: dict[str, Any]) -> None:
    """Edit a TOML document so that it has the wanted values. Comments and layout are kept where nothing changes."""
    import tomlkit  # noqa: PLC0415 - start-up

    for name, value in wanted.items():
        if isinstance(value, dict) and isinstance(document.get(name), dict):
            _put(document[name], value)
        elif document.get(name) != value:
            new: Any = value
            if isinstance(value, dict):
                new = tomlkit.inline_table()
                new.update(value)
            document[name] = new


def _lines(out: Output, found: Needed, change: str) -> Iterable[str]:
    if not found.calls:
        yield "no call succeeded in this period, so nothing is proposed"
        return
    rows = [
        (
            use.agent,
            use.tool,
            use.calls,
            use.asked or "",
            "" if use.covered else "a temporary grant",
            " ".join(use.examples),
        )
        for use in found.uses
    ]
    yield from out.table(("AGENT", "TOOL", "CALLS", "ASKED", "ALLOWED BY", "SUCH AS"), rows)
    yield from (f"not used: {clean(one)}" for one in found.unused)
    yield from (f"unchanged: {clean(one)}" for one in found.notes)
    yield ""
    if change:
        yield from (clean(line) for line in change.splitlines())
    else:
        yield "the configuration allows no more than was needed"
    yield ""
    yield f"of {found.replayed} stored calls it would have refused {len(found.refused)}"
    if found.refused:
        yield from out.table(
            ("RUN", "ACTION", "AGENT", "TOOL", "WAS", "WOULD BE"),
            ((r.run, r.action, r.agent, r.tool, r.was, r.would_be) for r in found.refused[:_REFUSED_SHOWN]),
        )
    if len(found.refused) > _REFUSED_SHOWN:
        yield f"and {len(found.refused) - _REFUSED_SHOWN} more (`--json` shows all)"
    if any(one.needed for one in found.refused):
        yield out.paint("some of them are from this period: the proposal alone is not sufficient", "red")
