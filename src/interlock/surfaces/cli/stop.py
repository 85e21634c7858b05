"""`interlock stop`: the emergency stop for runs, from any terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from interlock.model.errors import UsageError
from interlock.surfaces.cli.app import FAILED, Command
from interlock.surfaces.cli.ids import ACTIVE_RUN
from interlock.surfaces.cli.open_project import history, undoing_runtime
from interlock.surfaces.cli.output import Output, clean

if TYPE_CHECKING:
    from interlock.engine.runs.stop import StopReport


class _Seconds(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, _parameter: click.Parameter | None, _ctx: click.Context | None) -> float:
        from interlock.model.units import duration_ms  # noqa: PLC0415 - start-up

        try:
            return duration_ms(value) / 1000
        except ValueError as error:
            self.fail(str(error))


@click.command(cls=Command)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1, type=ACTIVE_RUN)
@click.option("--all", "everything", is_flag=True, help="All runs of this project that work or wait for an approval.")
@click.option("--reason", default="", metavar="TEXT", help="The reason, for the rows of the run and its journal.")
@click.option(
    "--wait",
    "wait_s",
    type=_Seconds(),
    default="10s",
    metavar="TIME",
    help="How long to wait for the processes.  [default: 10s]",
)
@click.option("--kill", is_flag=True, help="Kill processes that have not stopped their runs by then (SIGKILL).")
@click.pass_obj
def stop(out: Output, run_ids: Sequence[str], everything: bool, reason: str, wait_s: float, kill: bool) -> int:
    """Stop runs in any process: their actions, processes and waits, and the calls they hold.

    Effects so far remain; `interlock undo RUN` undoes them. A stopped run has ended: it is not resumed, and no further proposal
    starts in it. Needs no trusted configuration.

    Exit code: 0 if the runs were stopped, 1 if something could not be stopped, 2 if a named run has ended or is unknown.
    """  # fmt: skip
    if everything == bool(run_ids):
        raise UsageError("name the runs to stop, or `--all`", hint="`interlock runs list --status running` shows them")
    reports = _stop(out, list(dict.fromkeys(run_ids)), reason, wait_s, kill=kill)
    out.emit(reports, lambda: [_line(out, one) for one in reports] or ["nothing is running"])
    if any(one.outcome in ("stopped", "no_process", "killed") for one in reports):
        out.note("`interlock undo RUN` undoes its effects")
    return 0 if all(one.ok for one in reports) else FAILED


def _stop(out: Output, run_ids: list[str], reason: str, wait_s: float, *, kill: bool) -> list[StopReport]:
    from interlock.engine.local.clock import SystemClock  # noqa: PLC0415 - start-up
    from interlock.engine.local.machine import user_name  # noqa: PLC0415 - start-up
    from interlock.engine.runs.stop import Stopper  # noqa: PLC0415 - start-up

    with history() as past:
        stopper = Stopper(past.db, past.place.home, past.disk, SystemClock(), by=user_name(), surface="cli")
        reports = asyncio.run(stopper.stop(run_ids or stopper.active(), reason, wait_s=wait_s, kill=kill))
    if all(one.outcome not in ("no_process", "killed") for one in reports):
        return reports
    with undoing_runtime(out) as opened:
        return asyncio.run(opened.runs.end_left(reports))


def _line(out: Output, one: StopReport) -> str:
    word, color = ("stopped", "green") if one.ok else ("not stopped", "red")
    word = {"ended": "ended", "killed": "killed"}.get(one.outcome, word)
    return f"{clean(one.run_id)}  {out.paint(word, color)}: {clean(one.detail)}"
