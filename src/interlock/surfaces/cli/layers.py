"""`interlock diff`, `commit` and `discard`: review and settle the kept layer of a run."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from interlock.surfaces.cli.app import Command
from interlock.surfaces.cli.ids import RUN
from interlock.surfaces.cli.open_project import undoing_runtime
from interlock.surfaces.cli.output import Output, clean
from interlock.workspace.names import NameJson, show, stored

if TYPE_CHECKING:
    from interlock.engine.runs.kept_layers import LayerChange, LayerReport

_SIGNS: Final = {"added": "+", "changed": "~", "deleted": "-", "mode": "m", "attributes": "a", "times": "t"}
_WHY: Final = {
    "conflict": "conflict: changed outside the layer since",
    "protected": "never committed: Interlock's loader reads it, or its name is one of Interlock's temporary files",
    "runs_later": "held: a program may run it later; commit it by name",
    "denied": "never committed: not covered by the grant",
    "unsupported": "never committed: not a readable file, directory or link",
}


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN", type=RUN)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path())
@click.option("--content", is_flag=True, help="Show the differences of files, line by line.")
@click.pass_obj
def diff(out: Output, run_id: str, paths: tuple[str, ...], content: bool) -> int:
    """Show what the kept layer of a run would change in the workspace, or only at or beneath each PATH.

    Changes nothing.

    The signs: + added, ~ changed, - deleted, m permissions, a attributes or access control lists, t modification time.
    With --content, values that are certainly secrets are hidden, as in a hold.
    """
    with undoing_runtime(out) as opened:
        found = opened.runs.diff(run_id, [_name(path) for path in paths], content=content)
        at_work = opened.runs.get(run_id).status == "running"
    out.emit(found, lambda: content_lines(out, found) if content else diff_lines(found))
    if at_work:
        out.note(f"run {run_id} has not ended: these are the changes that its ended proposals have kept so far")
    return 0


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN", type=RUN)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path())
@click.pass_obj
def commit(out: Output, run_id: str, paths: tuple[str, ...]) -> int:
    """Commit the kept layer of a run, or only what is at or beneath each PATH.

    PATH may be written as `interlock diff` shows it. Files that run later (hooks, CI, editor and shell start-up files)
    are committed only if a PATH names them. `interlock undo` undoes a commit.

    Exit code: 0 if everything requested was committed, 1 if some of it stays in the layer.
    """
    with undoing_runtime(out) as opened:
        report = asyncio.run(opened.runs.commit(run_id, [_name(path) for path in paths]))
    out.emit(report, lambda: _report(report))
    if report.left:
        waits = "1 change still waits" if report.left == 1 else f"{report.left} changes still wait"
        out.note(f"{waits}: `interlock diff {run_id}`")
    return 0


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN", type=RUN)
@click.pass_obj
def discard(out: Output, run_id: str) -> int:
    """Discard the kept layer of a run with everything in it. This cannot be undone."""
    with undoing_runtime(out) as opened:
        report = opened.runs.discard(run_id)
    out.emit(report, lambda: [f"discarded {report.discarded} {'layer' if report.discarded == 1 else 'layers'}"])
    if report.in_workspace:
        paths = "1 path is" if report.in_workspace == 1 else f"{report.in_workspace} paths are"
        out.note(f"{paths} already committed: `interlock undo {run_id}` undoes that")
    return 0


def _name(path: str) -> NameJson:
    """A path argument in the form of other surfaces. It may contain bytes that are not UTF-8."""
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(raw).decode()}


def _shown(path: NameJson) -> str:
    return clean(show(stored(path)))


def diff_lines(found: list[LayerChange]) -> list[str]:
    """One line per path, for people."""
    return [_line(one) for one in found] or ["no differences from the workspace"]


def content_lines(out: Output, found: list[LayerChange]) -> Iterator[str]:
    """The same lines, each followed by the difference of its text."""
    from interlock.surfaces.cli.holds import difference_lines  # noqa: PLC0415 - start-up

    for one in found:
        yield _line(one)
        if one.content is not None:
            yield from difference_lines(out, one.content, sys.stdout)
    if not found:
        yield "no differences from the workspace"


def _line(one: LayerChange) -> str:
    notes = [] if one.blocked is None else [_WHY[one.blocked]]
    if one.leaves_workspace:
        notes.append("a link to outside the workspace")
    kind = "" if one.what == "file" else f" ({one.what})"
    return f"{_SIGNS[one.kind]} {_shown(one.path)}{kind}{'  # ' if notes else ''}{'; '.join(notes)}"


def _report(report: LayerReport) -> list[str]:
    return [f"committed {_shown(path)}" for path in report.committed] or ["there was nothing to commit"]
