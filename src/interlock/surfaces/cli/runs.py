"""`interlock runs`: list and show runs, check journals, save checkpoints, prune."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Final, get_args

import click
import msgspec

from interlock.engine.inspect.history import Check
from interlock.model.errors import IntegrityError, UsageError
from interlock.model.result import RunStatus
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.ids import RUN, TOOL
from interlock.surfaces.cli.looking import choice, choosing
from interlock.surfaces.cli.open_project import history, prepare, undoing_runtime
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.report import report
from interlock.surfaces.cli.run_views import ShownRun, described_runs, run_table

SHOWN: Final = 1000
"""Maximum number of actions that `show` prints for people by default."""


@click.group(cls=Group)
def runs() -> None:
    """List, show, check and prune the runs of this project. Needs no trusted configuration."""


@runs.command("list")
@click.option("--session", metavar="NAME", help="Only runs of this session.")
@click.option("--status", type=click.Choice(["running", *get_args(RunStatus)]), help="Only runs with this status.")
@choosing
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1_000, show_default=True, help="Maximum number to show."
)
@click.pass_obj
def list_runs(
    out: Output,
    session: str | None,
    status: str | None,
    since: str | None,
    agent: str | None,
    tool: str | None,
    grep: str | None,
    limit: int,
) -> None:
    """List runs, newest first, each with its first action. With --tool or --grep: only runs with such an action."""
    chosen = choice(since, agent, tool, grep)
    with history() as past:
        rows = past.runs(
            session=session, status=status, agent=agent, since_us=chosen.since_us,
            limit=None if chosen.needs_actions else limit + 1,
        )  # fmt: skip
        found = list(islice(described_runs(past, rows, chosen), limit + 1))
    out.emit([one.as_dict() for one in found[:limit]], lambda: run_table(out, found[:limit]))
    if len(found) > limit:
        out.note(f"these are the newest {limit}; there are more, which `--limit` shows")


@runs.command("show")
@click.argument("run_id", metavar="RUN", type=RUN)
@click.option("--action", metavar="ID", help="Only this action, with its parameters and all of its output.")
@click.option("--tool", metavar="TOOL", type=TOOL, help="Only actions of this tool or pattern, such as `git.*`.")
@click.option("--grep", metavar="PATTERN", help="Only actions whose tool, parameters or error match.")
@click.option(
    "--limit", type=click.IntRange(1), help=f"Maximum number of actions to show.  [default: {SHOWN}; with --json all]"
)
@click.pass_obj
def show_run(
    out: Output, run_id: str, action: str | None, tool: str | None, grep: str | None, limit: int | None
) -> int:
    """Show a run: each proposal with the result of each action, and whether it was undone.

    Parameters are redacted, as in the journal; outputs are shown unredacted while the originals are kept.
    """
    chosen = choice(None, None, tool, grep)
    with history() as past:
        shown = ShownRun(past, past.run(run_id), action, chosen, limit or (None if out.json else SHOWN))
        found = shown.proposals()
        first = next(found, None)
        if action is not None and first is None and shown.problem is None:
            raise UsageError(
                f"run `{run_id}` has no action `{action}`",
                code="not_found",
                hint=f"`interlock runs show {run_id}` lists them",
            )
        proposals = found if first is None else chain([first], found)
        out.emit_object(shown.as_object(proposals), lambda: shown.text(out, proposals))
    if shown.left_out is not None:
        more = "" if action or chosen.needs_actions else "; `--action`, `--tool` and `--grep` choose"
        out.note(f"these are the first {limit or SHOWN} actions, and {shown.left_out}: `--limit` shows more{more}")
    if shown.problem is None:
        return 0
    if out.quiet:
        out.emit(None, lambda: shown.tail_lines(out))
    return IntegrityError.exit_code


@runs.command("log")
@click.argument("run_id", metavar="RUN", type=RUN)
@click.option("--from", "start", type=click.IntRange(0), default=0, help="Start at this event.")
@click.pass_obj
def log(out: Output, run_id: str, start: int) -> int:
    """Show the events of a run's journal, in order, and what recorded actions touched.

    With --json: one list of all events with all fields. Otherwise without fields that are only for programs.
    """
    from interlock.surfaces.cli.events import EventLines, as_builtins  # noqa: PLC0415 - start-up
    from interlock.surfaces.cli.touched_lines import RecordedActions  # noqa: PLC0415 - start-up

    with history() as past:
        recorded, shown = RecordedActions(past, run_id), EventLines(out)
        if out.json:  # one document: an error has to be known before the list begins
            deque(past.events(run_id, start), maxlen=0)
        try:
            for event in past.events(run_id, start) if not out.json else ():
                out.emit(None, lambda event=event: [*shown.lines(event), *recorded.lines(out, event)])  # type: ignore[misc]
        except IntegrityError as error:
            out.error(error)
            return error.exit_code
        if out.json:
            out.emit_list(map(as_builtins, past.events(run_id, start)), str)
    return 0


@runs.command("check")
@click.argument("run_id", metavar="RUN", type=RUN)
@click.pass_obj
def check(out: Output, run_id: str) -> int:
    """Check every seal of a run's journal, and compare it with the database and its signed head.

    Exit code: 0 if the journal is intact, 4 if it is damaged, truncated or rewritten.
    """
    with history() as past:
        found = past.check(run_id)
    out.emit(found, lambda: _check(out, found))
    return 0 if found.ok else IntegrityError.exit_code


@runs.command("head")
@click.argument("run_id", metavar="RUN", type=RUN)
@click.pass_obj
def head(out: Output, run_id: str) -> None:
    """Print the signed head of a run's journal (a DSSE envelope), to be kept elsewhere."""
    with history() as past:
        envelope = past.head(run_id)
    if out.json:
        out.emit(msgspec.Raw(envelope))
    else:
        out.raw(envelope.decode())


@runs.command("checkpoint")
@click.argument("run_id", metavar="RUN", type=RUN)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The file to write."
)
@click.option("--metadata", "notes", multiple=True, metavar="KEY=TEXT", help="Metadata to save; `restore` shows it.")
@click.option("--events", is_flag=True, help="Include the run's journal, with its redacted values.")
@click.pass_obj
def checkpoint(out: Output, run_id: str, output: Path, notes: tuple[str, ...], events: bool) -> None:
    """Save the state, the tools and the head of a run's journal. The file holds unredacted values (mode 0600)."""
    if any("=" not in note for note in notes):
        raise UsageError("`--metadata` needs KEY=TEXT", hint="such as `--metadata note='before the migration'`")
    metadata = {key: text for key, _, text in (note.partition("=") for note in notes)}
    with undoing_runtime(out) as opened:
        prepare(out, opened)
        saved = opened.checkpoints.save(output, run=run_id, metadata=metadata, events=events)
    out.emit(saved, lambda: [f"wrote {clean(str(output))}: {saved.keys} keys, {saved.tools} tools"])


@runs.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--merge", is_flag=True, help="Keep state keys that the checkpoint lacks.")
@click.option("--accept-tools", is_flag=True, help="Restore even if tools are missing or have another definition.")
@click.pass_obj
def restore(out: Output, file: Path, merge: bool, accept_tools: bool) -> None:
    """Restore the state of a checkpoint, exactly or merged. The restore is itself a run.

    Refused if tools that the checkpoint names are missing or have another definition, because the state may have
    another meaning for them.
    """
    with undoing_runtime(out) as opened:
        prepare(out, opened)
        done = opened.checkpoints.restore(file, merge=merge, accept_tools=accept_tools)
    out.emit(
        done,
        lambda: [
            f"{done.written} keys written, {done.removed} removed; run {done.run_id}",
            *(f"{clean(key)}: {brief(value)}" for key, value in done.metadata.items()),
            *(f"tool {clean(name)} is missing" for name in done.tools_missing),
            *(f"tool {clean(name)} has another definition than in the checkpoint" for name in done.tools_changed),
        ],
    )


@runs.command("prune")
@click.argument("run_ids", nargs=-1, metavar="[RUN]...", type=RUN)
@click.option("--older-than", metavar="DURATION", help="Delete every run that ended longer ago than this, such as 30d.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def prune(out: Output, run_ids: tuple[str, ...], older_than: str | None, yes: bool) -> None:
    """Delete runs entirely: journal, originals, backups. They can no longer be shown or undone."""
    from interlock.engine.local.clock import SystemClock  # noqa: PLC0415 - start-up
    from interlock.model.units import duration_ms  # noqa: PLC0415 - start-up

    if bool(run_ids) == (older_than is not None):
        raise UsageError("give either run ids or `--older-than`", hint="such as `--older-than 30d`")
    with history() as past:
        chosen = list(run_ids)
        if older_than is not None:
            try:
                age_ms = duration_ms(older_than)
            except ValueError as error:
                raise UsageError(f"`--older-than` is not a duration: {error}", hint="such as `30d`") from None
            chosen = past.finished_before(SystemClock().now_us() - age_ms * 1000)
        if chosen and not yes:
            from interlock.surfaces.cli.confirm import confirm  # noqa: PLC0415 - start-up

            confirm(f"Remove {len(chosen)} run{'s' if len(chosen) != 1 else ''} permanently?")
        past.prune(chosen)
    out.emit({"pruned": chosen}, lambda: [f"{len(chosen)} runs removed"])


def _check(out: Output, found: Check) -> Iterable[str]:
    word = out.paint("whole", "green") if found.ok else out.paint("damaged", "red")
    yield f"{word}: {found.events} events under {found.seals} seals, {found.bytes} bytes"
    if found.torn_bytes:
        yield f"  {found.torn_bytes} bytes after the last seal, left by a dead process; run `interlock recover`"
    if found.signed_up_to is not None:
        yield f"  signed up to event {found.signed_up_to} by {clean(found.signed_by or '')}"
    for problem in found.problems:
        yield f"  {out.paint(problem['code'], 'red')}: {clean(problem['message'])}"
        yield from (f"    {clean(problem[key])}" for key in ("path", "hint") if key in problem)


runs.add_command(report)
