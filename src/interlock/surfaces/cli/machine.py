"""`interlock doctor` and `interlock telemetry`: the state of this machine, and the gaps around Interlock."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.surfaces.cli.app import FAILED, Command
from interlock.surfaces.cli.output import Output, brief, clean

if TYPE_CHECKING:
    from interlock.engine.inspect.doctor import Fact

_MARKS = {
    "problem": ("problem", "red"),
    "warning": ("warning", "yellow"),
    "ok": ("ok", "green"),
    "limit": ("limit", "yellow"),
    "absent": ("absent", "dim"),
}
_HEADINGS = {
    "problem": "no proposal runs until this is fixed",
    "warning": "warnings, and what to do about them",
    "ok": "in order",
    "limit": "limits of this version on every machine",
}
_INDENT = 11
"""Columns before the text of a fact."""


@click.command(cls=Command)
@click.option("--config", is_flag=True, help="Print each setting with its value and source.")
@click.option("--attack", is_flag=True, help="Try some 120 escapes from the walls, harmlessly, and print the results.")
@click.option(
    "--clients",
    is_flag=True,
    help="Start the installed coding agents with a scripted model and the project's settings, and try their doors.",
)
@click.pass_obj
def doctor(out: Output, config: bool, attack: bool, clients: bool) -> int:
    """Show what prevents runs, the gaps around Interlock, and what this machine offers, with remedies.

    Exit code: 1 if a problem prevents runs from starting, or an attack succeeded, else 0.
    """
    from interlock.engine.inspect import doctor as engine  # noqa: PLC0415 - start-up

    if attack:
        out.note("trying some 120 attacks, without walls and behind them: this takes about a minute")
        rows = engine.attacks(os.environ)
        documents = [
            {
                "attack": row.attack,
                "layer": row.layer,
                "profile": row.leg,
                "native": row.native,
                "result": row.result,
                "ok": row.ok,
            }
            for row in rows
        ]
        out.emit({"ok": all(row.ok for row in rows), "attacks": documents}, lambda: _attacks(out, rows))
        return 0 if all(row.ok for row in rows) else FAILED
    if config:
        settings = engine.settings(Path(), os.environ)
        out.emit(settings, lambda: _settings(out, settings))
        return 0
    # loaded by name: surfaces do not import each other
    doors = import_module("interlock.surfaces.clients.doors")
    facts = [
        *engine.examine(Path(), os.environ, clients_tried=clients),
        *doors.examine_clients(Path(), os.environ, run=clients),
    ]
    if clients and not any(fact.section == "clients" for fact in facts):
        out.note("none of the coding agents that Interlock knows is installed or set up here")
    out.emit({"ok": all(f.status != "problem" for f in facts), "facts": facts}, lambda: _facts(out, facts))
    return FAILED if any(fact.status == "problem" for fact in facts) else 0


@click.command(cls=Command)
@click.pass_obj
def telemetry(out: Output) -> None:
    """Take a snapshot of this machine: CPU, memory, load, disk, pressure, accelerators, processes."""
    from interlock.engine.inspect.doctor import snapshot  # noqa: PLC0415 - start-up

    view = snapshot(Path())
    out.emit(view, lambda: _view(view))


def _attacks(out: Output, rows: list[Any]) -> Iterable[str]:
    """One line per attack, with its result in each profile."""
    legs = list(dict.fromkeys(row.leg for row in rows))
    width = max(len(row.attack) for row in rows)
    yield f"  {'attack':{width}} {'layer':12} " + " ".join(f"{leg:24}" for leg in legs)
    for name in dict.fromkeys(row.attack for row in rows):
        own = [row for row in rows if row.attack == name]
        cells = " ".join(out.paint(f"{row.result:24}", "green" if row.ok else "red") for row in own)
        yield f"  {name:{width}} {own[0].layer:12} {cells}".rstrip()
    bad = sum(not row.ok for row in rows)
    yield f"{len(rows)} tried, {bad} escaped; void: does not even succeed here without walls"
    if any(row.native is None for row in rows):
        yield "none was shown to succeed without walls, because that needs namespaces in which it is harmless"
    for leg in {"ns", "nons"} - set(legs):
        yield f"`{leg}` was not tried: this machine does not allow it (`interlock doctor` says why)"


def _settings(out: Output, settings: list[dict[str, Any]]) -> Iterable[str]:
    return out.table(("SETTING", "VALUE", "FROM"), ((s["path"], brief(s["value"], 60), s["source"]) for s in settings))


def _facts(out: Output, facts: list[Fact]) -> Iterable[str]:
    """Sorted by importance, each with its remedy. What this version or machine lacks is on one line."""
    by_status = {status: [fact for fact in facts if _mark(fact) == status] for status in _MARKS}
    for status, heading in _HEADINGS.items():
        if by_status[status]:
            yield out.paint(heading, "bold")
            for fact in by_status[status]:
                yield from _fact(out, fact)
    if by_status["absent"]:
        names = ", ".join(fact.name for fact in by_status["absent"])
        yield from _marked(out, "absent", f"{names}  (`interlock doctor --json` describes each)")


def _mark(fact: Fact) -> str:
    return "limit" if fact.standing else fact.status


def _fact(out: Output, fact: Fact) -> Iterable[str]:
    yield from _marked(out, _mark(fact), f"{fact.section}: {fact.name}: {fact.detail}")
    if fact.hint:
        yield from (" " * _INDENT + line for line in out.folded(f"-> {clean(fact.hint)}", _INDENT, 3))


def _marked(out: Output, mark: str, text: str) -> Iterable[str]:
    word, color = _MARKS[mark]
    first, *rest = out.folded(clean(text), _INDENT)
    yield f"  {out.paint(f'{word:{_INDENT - 3}}', color)} {first}"
    yield from (" " * _INDENT + line for line in rest)


def _view(view: dict[str, Any]) -> Iterable[str]:
    for key, value in view.items():
        if isinstance(value, dict):
            yield f"{key}:"
            yield from (f"  {clean(str(name))}: {brief(item, 160)}" for name, item in value.items())
        else:
            yield f"{key}: {brief(value, 160)}"
