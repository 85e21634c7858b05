"""`interlock recover`: recovers unfinished runs, and settles unknown outcomes that only a person can know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interlock.model.errors import ConfigurationError, UsageError
from interlock.surfaces.cli.app import Command
from interlock.surfaces.cli.ids import RUN
from interlock.surfaces.cli.open_project import history, runtime
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.proof import proof, proving
from interlock.surfaces.cli.results import when
from interlock.surfaces.cli.running import resume_run, show_resumed

if TYPE_CHECKING:
    from interlock.engine.people.approval_desk import Desk
    from interlock.engine.runs.recover import Unfinished
    from interlock.engine.runs.unknown_outcomes import Answer


@click.command(cls=Command)
@click.argument("run_id", metavar="[RUN]", required=False, type=RUN)
@click.option("--action", metavar="ID", help="The action whose outcome is unknown.")
@click.option(
    "--as",
    "answer",
    type=click.Choice(["again", "succeeded", "failed", "undo"]),
    help="How to settle it: run it again, count it as succeeded or failed, or undo the proposal.",
)
@click.option("--no-wait", is_flag=True, help="Do not wait for approvals; exit with code 3.")
@proving
@click.pass_obj
def recover(
    out: Output,
    run_id: str | None,
    action: str | None,
    answer: Answer | None,
    no_wait: bool,
    token_file: Path | None,
    approver: str | None,
) -> int:
    """Recover the journals of unfinished runs, and show what each run needs.

    With RUN, --action and --as: settle an unknown outcome (this needs the same proof as an approval), and continue that
    run.
    """
    if run_id is not None and action is not None and answer is not None:
        return _settle(out, run_id, action, answer, token_file, approver, no_wait=no_wait)
    if action is not None or answer is not None:
        raise UsageError(
            "RUN, `--action` and `--as` must be given together",
            hint="`interlock recover RUN --action a2 --as succeeded`",
        )
    from interlock.engine.runs.recover import RecoveryIncompleteError, recover_all  # noqa: PLC0415 - start-up

    with history() as past:
        if run_id is not None:
            past.directory(run_id)
        with _desk() as desk:
            try:
                found = recover_all(past.db, past.index, past.place.runs, past.disk, desk, root=past.place.root)
            except RecoveryIncompleteError as error:
                for line in [line for one in error.found for line in _lines(out, one)]:
                    out.note(line)
                raise
    if run_id is not None:
        found = [one for one in found if one.run_id == run_id]
    out.emit(found, lambda: [line for one in found for line in _lines(out, one)] or ["no unfinished runs"])
    return 4 if any(one.need == "repair" for one in found) else 0


@contextmanager
def _desk() -> Iterator[Desk | None]:
    """The desk for holds about unknown outcomes; None if the configuration, which names the approvers, is unusable."""
    from interlock.engine.people.identity import open_desk  # noqa: PLC0415 - start-up

    with ExitStack() as stack:
        try:
            desk = stack.enter_context(open_desk(Path(), os.environ))
        except ConfigurationError:
            desk = None
        yield desk


def _settle(
    out: Output,
    run_id: str,
    action: str,
    answer: Answer,
    token_file: Path | None,
    approver: str | None,
    *,
    no_wait: bool,
) -> int:
    from interlock.engine.people.identity import identify, require  # noqa: PLC0415 - start-up

    with runtime(out, offer_trust=True) as opened:
        opened.runs.recover()
        desk = opened.approvals.desk
        who = identify(desk, proof(token_file, approver, needed=bool(desk.approvers.all())))
        require(opened.runs.answer_outcome(run_id, action, answer, who, "cli"), run_id)
        results, calls = resume_run(out, opened, run_id, {}, no_wait=no_wait)
    return show_resumed(out, run_id, results, calls)


def _lines(out: Output, one: Unfinished) -> list[str]:
    lines = [
        f"{out.paint(clean(one.run_id), 'bold')}  {one.status}, started {when(one.started_us)}",
        f"  {clean(one.detail)}",
    ]
    if one.moved_bytes:
        lines.append(f"  {one.moved_bytes} bytes without a seal were moved to journal.torn")
    lines += [f"  {clean(step)}" for step in (one.command, one.then) if step]
    return lines
