"""`interlock run`, `resume` and `undo`: run proposals through the gate."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from interlock.lazy import lazy
from interlock.model.errors import UsageError
from interlock.model.events import RunStarted
from interlock.model.result import ProposalResult
from interlock.model.waiting import UNLIMITED_MS
from interlock.surfaces.cli.app import FAILED, Command
from interlock.surfaces.cli.ids import RUN
from interlock.surfaces.cli.open_project import at_terminal, runtime, undoing_runtime
from interlock.surfaces.cli.outcome_words import Calls
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.plan_file import read_plan
from interlock.surfaces.cli.results import (
    EXIT_CODES,
    layer_lines,
    proposal_lines,
    undo_exit_code,
    undo_lines,
    undo_outputs,
)
from interlock.surfaces.cli.signals import interrupted, run_interruptibly
from interlock.surfaces.cli.token_files import read_grant_token

if TYPE_CHECKING:
    from interlock.surfaces.cli import layers
else:
    layers = lazy("interlock.surfaces.cli.layers")

if TYPE_CHECKING:
    from interlock.engine.people.answers import Hold
    from interlock.engine.runs.unknown_outcomes import Answer
    from interlock.engine.runtime import Runtime
    from interlock.model.waiting import Waiting
    from interlock.surfaces.cli.progress import Progress

T = TypeVar("T")
WAIT_SAID_MS: Final = 1000
"""Waits that can be longer than this get a separate line."""


@click.command(cls=Command)
@click.argument("plan", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Only steps 1 to 7: nothing runs, nobody is asked, no budget is spent.")
@click.option("--session", metavar="NAME", help="The session that the run belongs to.")
@click.option("--agent", metavar="NAME", help="The proposing agent; overrides the plan.")
@click.option(
    "--grant-token",
    "token_file",
    type=click.Path(path_type=Path),
    help="A file with a grant token, which limits the run to what it allows.",
)
@click.option(
    "--no-wait", is_flag=True, help="Do not wait for approvals; exit with code 3. `interlock resume` continues."
)
@click.option(
    "--commit",
    "how",
    type=click.Choice(["ask", "never"]),
    help="After success, keep the layer for `interlock diff`, `commit` or `discard`; `ask` also shows the differences.",
)
@click.option(
    "--recorder",
    type=click.Choice(["notify", "none"]),
    help="Record the files, programs and hosts that processes touch, in the kernel; `runs show` lists them.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Tighten a setting for this run, such as budget.actions=10. Loosening is refused.",
)
@click.pass_obj
def run(
    out: Output,
    plan: str,
    dry_run: bool,
    session: str | None,
    agent: str | None,
    token_file: Path | None,
    no_wait: bool,
    how: str | None,
    recorder: str | None,
    settings: Sequence[str],
) -> int:
    """Run a proposal through the gate. PLAN is a file in JSON or YAML, or - for standard input.

    Exit code: 0 if every action succeeded, 1 if one did not, 2 if the proposal or the configuration is invalid, 3 if an
    action waits for an approval.
    """
    flags = _flags(settings)
    if how is not None:
        flags |= {"workspace.mode": "layer", "workspace.commit": how}
    if recorder is not None:
        flags["isolation.recorder"] = recorder
    proposal = read_plan(plan, agent=agent, session=session)
    token = None if token_file is None else read_grant_token(token_file)
    with runtime(out, flags, offer_trust=plan != "-") as opened:
        _note_unfinished(out, opened)
        calls = Calls()
        opened.subscribe(events=calls.on_event)
        result = run_at_terminal(
            out, opened, lambda: opened.execute(proposal, dry_run=dry_run, grant_token=token), no_wait=no_wait
        )
        kept = result.workspace is not None and result.workspace.status == "kept"
        changes = opened.runs.diff(result.run_id) if kept and how == "ask" and not out.json else []
    out.emit(
        result, lambda: [*proposal_lines(out, result, calls=calls), *(layers.diff_lines(changes) if changes else [])]
    )
    _note_held(out, [result])
    _note_layers(out, [result])
    return EXIT_CODES.get(result.status, FAILED)


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN", type=RUN)
@click.option("--no-wait", is_flag=True, help="Do not wait for approvals; exit with code 3.")
@click.pass_obj
def resume(out: Output, run_id: str, no_wait: bool) -> int:
    """Finish a run that was interrupted, or that waited for an approval. Finished actions are not run again."""
    with runtime(out, offer_trust=True) as opened:
        results, calls = resume_run(out, opened, run_id, {}, no_wait=no_wait)
    return show_resumed(out, run_id, results, calls)


@click.command(cls=Command)
@click.argument("run_id", metavar="[RUN]", required=False, type=RUN)
@click.option("--action", metavar="ID", help="Undo only this action of the run.")
@click.option("--force", is_flag=True, help="Also overwrite files that were changed since; their content is backed up.")
@click.option("--skip-changed", is_flag=True, help="Skip files that were changed since, and undo the rest.")
@click.pass_obj
def undo(out: Output, run_id: str | None, action: str | None, force: bool, skip_changed: bool) -> int:
    """Undo the effects of a run: files, state, and actions with a compensation.

    An undo is itself a run, and can be undone.

    Without RUN, at a terminal: shows what undoing the newest run with something to undo would change, and asks for
    confirmation.

    Exit code: 0 if everything was undone, 1 if something was not: it cannot be undone, or was changed since.
    """
    if force and skip_changed:
        raise UsageError(
            "`--force` and `--skip-changed` cannot be combined: one overwrites changed files, the other skips them"
        )
    if run_id is None:
        from interlock.surfaces.cli.undo_preview import choose_run  # noqa: PLC0415 - needed only here

        run_id = choose_run(out, action)
        if run_id is None:
            return FAILED
    chosen = run_id
    with undoing_runtime(out) as opened:
        opened.runs.get(chosen)
        result = run_at_terminal(
            out, opened, lambda: opened.runs.undo(chosen, action, force=force, skip_changed=skip_changed)
        )
    out.emit(result, lambda: undo_lines(out, result))
    reasons = {left["reason"] for output in undo_outputs(result) for left in output["not_undone"]}
    if not force and {"undo_conflict", "state_conflict"} & {*reasons, *(row.reason for row in result.results)}:
        others = "" if skip_changed else "`--skip-changed` skips what was changed since and undoes the rest; "
        out.note(f"{others}`--force` overwrites it with a backup, so that the undo can be undone")
    return undo_exit_code(result)


# -- shared with `recover`


def resume_run(
    out: Output, opened: Runtime, run_id: str, answers: Mapping[str, Answer], *, no_wait: bool, by: str = ""
) -> tuple[list[ProposalResult], Calls]:
    """Resume a run, with answers to unknown outcomes. Returns the results, and the calls."""
    calls = Calls()
    opened.subscribe(events=calls.on_event)
    results = run_at_terminal(
        out, opened, lambda: opened.runs.resume(run_id, answers, by=by), no_wait=no_wait, run_id=run_id
    )
    return results, calls


def show_resumed(out: Output, run_id: str, results: list[ProposalResult], calls: Calls) -> int:
    """Print the results of a resumed run. Returns the exit code."""
    statuses = [result.status for result in results]
    status = next((s for s in statuses if s != "succeeded"), "succeeded")
    if "held" in statuses:
        status = "held"

    out.emit(
        {"run_id": run_id, "status": status, "proposals": results},
        lambda: (
            [line for result in results for line in proposal_lines(out, result, calls=calls)]
            or ["nothing was left to do"]
        ),
    )
    _note_held(out, results)
    _note_layers(out, results)
    return EXIT_CODES.get(status, FAILED)


# -- internals


def run_at_terminal(
    out: Output, opened: Runtime, work: Callable[[], Awaitable[T]], *, no_wait: bool = False, run_id: str | None = None
) -> T:
    """Run with progress, prompts at the terminal, and Ctrl-C handling."""
    from interlock.surfaces.cli.progress import Progress  # noqa: PLC0415 - start-up

    progress = Progress(out)
    started = [] if run_id is None else [run_id]
    opened.subscribe(
        events=progress.on_event,
        progress=progress.on_progress,
        waits=lambda waiting: _note_waiting(out, progress, waiting),
    )
    opened.subscribe(events=lambda run_id, event: started.append(run_id) if isinstance(event, RunStarted) else None)
    close_prompt = _ask_here(out, opened, progress, no_wait=no_wait)

    async def watched() -> T:
        drawing = asyncio.create_task(progress.draw())
        try:
            return await work()
        finally:
            drawing.cancel()
            await asyncio.wait([drawing])

    try:
        return run_interruptibly(out, watched())
    except asyncio.CancelledError:
        if not started:
            raise KeyboardInterrupt from None
        raise interrupted(started[0]) from None
    finally:
        close_prompt()


def _ask_here(out: Output, opened: Runtime, progress: Progress, *, no_wait: bool) -> Callable[[], None]:
    """Show holds at the terminal, or print a note for each. Returns a function that stops this."""
    desk = opened.approvals.desk
    desk.wait = not no_wait
    if no_wait:
        return lambda: None
    if at_terminal():
        from interlock.surfaces.cli.prompt import Prompt  # noqa: PLC0415 - start-up

        return Prompt(out, desk, progress).close
    opened.subscribe(questions=lambda hold: _note_question(out, hold))
    return lambda: None


def _note_question(out: Output, hold: Hold) -> None:
    from interlock.surfaces.cli.answer_words import how_to_answer  # noqa: PLC0415 - start-up

    out.note(f"waiting: {clean(hold.summary)}; {how_to_answer(hold)}")


def _note_waiting(out: Output, progress: Progress, waiting: Waiting) -> None:
    """Print a line for a long wait. The prompt covers holds, and the progress line covers short waits."""
    progress.on_waiting(waiting)
    if waiting.cause != "approval" and waiting.wait_max_ms >= WAIT_SAID_MS:
        who = "" if waiting.action_id is None else f"`{waiting.action_id}` "
        limit = f"; at most {waiting.wait_max_ms / 1000:.0f} s" if waiting.wait_max_ms < UNLIMITED_MS else ""
        progress.hide()
        out.note(clean(f"{who}waiting for {waiting.what}{limit}"))
        progress.show()


def _flags(settings: Sequence[str]) -> dict[str, str]:
    flags = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError("`--set` needs KEY=VALUE", hint="such as `--set budget.actions=10`")
        flags[key.strip()] = value
    return flags


def _note_unfinished(out: Output, opened: Runtime) -> None:
    """Recover the journals of dead runs before a new run, and print one line about them."""
    unfinished = [one for one in opened.runs.recover() if one.need != "nothing"]
    if len(unfinished) == 1:
        (one,) = unfinished
        steps = ", then ".join(f"`{clean(step)}`" for step in (one.command, one.then) if step)
        out.note(f"unfinished: {clean(one.run_id)}: {clean(one.detail)}" + (f"; {steps}" if steps else ""))
    elif unfinished:
        counts = Counter(one.status for one in unfinished)
        parts = ", ".join(f"{number} {clean(status)}" for status, number in counts.items())
        out.note(f"unfinished: {len(unfinished)} runs ({parts}); `interlock recover` shows what each needs")


def _note_layers(out: Output, results: Iterable[ProposalResult]) -> None:
    for result in results:
        for line in layer_lines(result):
            out.note(line)


def _note_held(out: Output, results: list[ProposalResult]) -> None:
    for result in results:
        if result.status == "held" and any(
            row.status == "succeeded" and (row.posture or {}).get("layer", "").startswith("active")
            for row in result.results
        ):
            out.note("changes so far are in the proposal's layer, and are committed when the run succeeds")
        for row in result.results:
            if row.status != "held":
                continue
            if row.reason != "unknown_outcome" and isinstance(row.output, dict) and "approval" in row.output:
                out.note(f"`interlock approvals approve {row.output['approval']}` (or deny, edit, show)")
            else:
                out.note(
                    f"`interlock recover {result.run_id} --action {clean(row.action_id)} --as again|succeeded|failed|undo`"
                )
        if any(
            row.status == "held" and row.reason == "held" for row in result.results
        ):  # `recover` continues the run itself
            out.note(f"then `interlock resume {result.run_id}`")
    sys.stderr.flush()
