"""Renders results for people: one line per action, and the overall status."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from interlock.model.result import ActionResult, HostUse, ProposalResult, advice
from interlock.surfaces.cli.outcome_words import Call, Calls, outcome
from interlock.surfaces.cli.outcome_words import described as call_of
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.workspace.names import show, stored

if TYPE_CHECKING:
    from interlock.engine.inspect.actions import ActionLine

MARKS = {
    "succeeded": ("ok", "green"),
    "failed": ("failed", "red"),
    "rejected": ("rejected", "red"),
    "skipped": ("skipped", "dim"),
    "held": ("held", "yellow"),
    "rolled_back": ("undone", "yellow"),
    "compensated": ("compensated", "yellow"),
    "not_undone": ("not undone", "red"),
    "unknown_outcome": ("unknown", "red"),
    "cancelled": ("cancelled", "yellow"),
    "interrupted": ("interrupted", "yellow"),
    "running": ("running", "cyan"),
}
_LAST_LINES = 3
_PATHS_MAX = 5  # in one line, or one per line
WAIT_SHOWN_MS = 1000
"""Shorter waits are in the row, but do not get a line."""
UNDONE_SHOWN = 1000
"""Maximum number of undone items of each kind that are named."""
EXIT_CODES = {"succeeded": 0, "held": 3}
"""Exit code by proposal status; 1 for every other status."""


def proposal_lines(
    out: Output,
    result: ProposalResult,
    *,
    calls: Calls | None = None,
    rows: Iterable[tuple[ActionResult, ActionLine | None]] | None = None,
    running: bool = False,
    outputs: bool = True,
    more: Callable[[str], Iterable[str]] | None = None,
) -> Iterator[str]:
    """The lines of a proposal: its actions, what could not be undone, and the status.

    `calls` has the calls. `rows` are those to show (default: all of the result), each with what it was about and what
    happened to it since; `running` is True if an action still runs. Without `outputs`, outputs are left out; `more` returns
    further lines for an action id.
    """
    for row, line in ((row, None) for row in result.results) if rows is None else rows:
        call = None if calls is None else calls.of(result.proposal_id, row.action_id)
        if line is not None:
            call = call_of(line.tool, line.parameters)
        yield from _row(out, row, line, call, outputs=outputs)
        if more is not None:
            yield from more(row.action_id)
    for left in result.not_undone:
        yield _left(out, left.action_id, left.reason, left.detail)
    yield _summary(out, result, running=running)


def layer_lines(result: ProposalResult) -> Iterator[str]:
    """The part of the proposal's layer that waits for a commit and why, and how to commit or discard it."""
    layer, run_id = result.workspace, result.run_id
    if layer is None or layer.status != "kept":
        return
    for path, why in list(layer.not_restored.items())[:_PATHS_MAX]:
        left = f"`{clean(path)}` may still have the committed state: {clean(why)}"
        yield f"{left}; check it: `interlock undo {run_id}` leaves what others changed"
    names = ", ".join(f"`{clean(path)}` ({why})" for path, why in list(layer.blocked.items())[:_PATHS_MAX])
    waits = "1 change waits" if layer.changes == 1 else f"{layer.changes} changes wait"
    if layer.reason is not None:
        detail = layer.detail or f"{names} changed outside the layer meanwhile: nothing was committed"
        yield f"{layer.reason}: {clean(detail)}"
        what = "commits the rest" if layer.reason == "workspace_conflict" else "commits them"
        yield (
            f"{waits}: {advice(layer.reason)} (`interlock diff {run_id}`), then `interlock commit {run_id}` {what}, "
            f"or `interlock discard {run_id}` discards them"
        )
    elif layer.blocked:
        later = "runs_later" in layer.blocked.values()
        hint = (
            f"`interlock commit {run_id} PATH` commits a file that runs later"
            if later
            else f"`interlock diff {run_id}`"
        )
        yield f"not committed: {names}; {hint}"
    else:
        yield (
            f"{waits} in the layer for a commit: `interlock diff {run_id}` shows what differs; then"
            f" `interlock commit {run_id}` or `interlock discard {run_id}`"
        )


def undo_lines(out: Output, result: ProposalResult) -> Iterator[str]:
    """The lines of an undo: what was undone, what could not be, and the status."""

    def mark(word: str) -> str:
        return out.paint(word.ljust(12), "green")

    for row in result.results:
        if row.status != "succeeded":
            yield from _row(out, row)
    for done in undo_outputs(result):
        said = {
            "restored": lambda one: f"{mark(one['how'])} {_path(one['path'])}  ({clean(one['action'])})",
            "compensated": lambda one: f"{mark('compensated')} {clean(one['action'])}  {clean(one['tool'])}",
            "state": lambda key: f"{mark('restored')} state {clean(key)}",
            "learnt": lambda one: f"{mark(one['how'])} {clean(one['kind'])} {clean(one['id'])}",
            "not_undone": lambda left: _left(out, left["action"], left["reason"], left["detail"]),
        }
        for kind, line in said.items():
            listed = done.get(kind, ())  # undos of earlier versions do not have this field
            yield from map(line, listed[:UNDONE_SHOWN])
            if (more := len(listed) - UNDONE_SHOWN) > 0:
                yield f"and {more} more: `interlock runs show {clean(result.run_id)} --action undo` shows all"
        yield from _kept_lines(done)
        if not any(done.get(kind) for kind in said):
            yield "nothing was left to undo; the run has ended"
    yield _undo_summary(out, result) if result.status == "succeeded" else _summary(out, result)


def _kept_lines(done: dict[str, Any]) -> Iterator[str]:
    """Files of processes that undo removed or overwrote. Their content is kept in one place."""
    kept = [one["kept"] for one in done["restored"] if one.get("kept")]
    if kept:
        files = "1 file" if len(kept) == 1 else f"{len(kept)} files"
        yield f"what processes left in {files} is kept: {clean(kept[0].rpartition('/')[0])}"


def undo_exit_code(result: ProposalResult) -> int:
    """The exit code: 0 only if everything was undone. What could not be undone is not a success, even if it never can be."""
    return 1 if result.not_undone else EXIT_CODES.get(result.status, 1)


def _undo_summary(out: Output, result: ProposalResult) -> str:
    """The status of a completed undo. It is not `ok` if something could not be undone."""
    if not result.not_undone:
        return _summary(out, result)
    left = len(result.not_undone)
    kinds = ("restored", "compensated", "state", "learnt")
    anything = any(done.get(kind) for done in undo_outputs(result) for kind in kinds)
    summary = "partly undone" if anything else "nothing was undone"
    return f"{out.paint(summary, 'yellow' if anything else 'red')}: {left} not undone; run {clean(result.run_id)}"


def _path(path: Any) -> str:
    """A path in an output; a name that is not UTF-8 is an object, `{"b64": ...}`."""
    return clean(path) if isinstance(path, str) else clean(show(stored(path)))


def undo_outputs(result: ProposalResult) -> list[dict[str, Any]]:
    """The outputs of the tool `undo` (`restored`, `compensated`, `state`, `not_undone`), also of a partly failed undo."""
    return [row.output for row in result.results if isinstance(row.output, dict) and "restored" in row.output]


def _left(out: Output, action: str, reason: str, detail: str) -> str:
    return out.paint("not undone: ", "red") + clean(": ".join(filter(None, (action, reason, detail))))


def _summary(out: Output, result: ProposalResult, *, running: bool = False) -> str:
    cost = result.cost
    counted = f"{cost.actions_executed} executed, {cost.actions_rejected} rejected, {cost.actions_skipped} skipped"
    mark = out.paint(*_mark("running" if running else result.status))
    return f"{mark}: {counted}, {cost.total_duration_ms:.0f} ms; run {clean(result.run_id)}"


def _row(
    out: Output,
    row: ActionResult,
    described: ActionLine | None = None,
    call: Call | None = None,
    *,
    outputs: bool = True,
) -> Iterator[str]:
    undone = None if described is None else described.undone
    running = described is not None and described.status == "running"
    word, color = _mark(undone or ("running" if running else row.status))
    line = f"{out.paint(f'{word:12}', color)} {clean(row.action_id)}"
    if described is not None:
        line += f"  {brief(f'{described.tool} {described.about}'.strip(), 80)}"
    if row.deduplicated_from:
        line += f"  (stored result of {clean(row.deduplicated_from)})"
    elif row.duration_ms >= 1:
        line += f"  {row.duration_ms:.0f} ms"
    if row.attempts > 1:
        line += f"  {row.attempts} attempts"
    if row.reason and not running:
        line += f"  {clean(row.reason)}"
    if undone:
        assert described is not None
        line += f"  {'tried ' if undone == 'not_undone' else ''}by {clean(described.undone_by or '')}"
    yield line
    if row.waited_for and (row.status == "skipped" or row.waited_ms >= WAIT_SHOWN_MS):
        waited = "was waiting" if row.status == "skipped" else f"waited {row.waited_ms / 1000:.0f} s"
        said = f"{waited} for {'; '.join(row.waited_for)}"
        yield out.paint(f"{'':12} {brief(said, 200)}", "dim")
    if row.error:
        yield f"{'':12} {brief(with_path(row.error, '' if call is None else call.about), 200)}"
        yield from (out.paint(f"{'':12} | {brief(line, 200)}", "dim") for line in last_lines(row.output))
    elif outputs and row.status == "succeeded" and row.output is not None:
        summary = outcome(call, row.output)
        yield out.paint(f"{'':12} {brief(row.output if summary is None else summary)}", "dim")
    yield from host_lines(out, row)


def host_lines(out: Output, row: ActionResult) -> Iterator[str]:
    """The hosts to which processes connected, and those that they were refused, by name."""
    for use in row.hosts or ():
        yield out.paint(f"{'':12} {host_words(use)}", "dim" if use.outcome == "connected" else "yellow")


def host_words(use: HostUse) -> str:
    """The use of a host in words."""
    times = f" ({use.count} times)" if use.count > 1 else ""
    if use.outcome == "connected":
        sizes = f"{use.sent_bytes} bytes sent, {use.received_bytes} received"
        return f"connected to {brief(str(use), 120)} ({sizes}){times}"
    word = "refused" if use.outcome == "refused" else "could not reach"
    return f"{word} {brief(str(use), 120)}: {clean(use.reason or '')}{times}"


def with_path(error: str, about: str) -> str:
    """The error of a file tool with its path, which results leave out because it is in the parameters."""
    return f"{about}: {error.removeprefix('path: ')}" if about and error.startswith("path: ") else error


def last_lines(output: Any) -> list[str]:
    """The last lines that a failed process wrote, because they usually explain the failure."""
    if not isinstance(output, dict):
        return []
    for name in ("stderr", "stdout"):
        text = output.get(name)
        if isinstance(text, str) and text.strip() and output.get(f"{name}_encoding", "utf-8") == "utf-8":
            return [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    return []


def _mark(status: str) -> tuple[str, str]:
    return MARKS.get(status, (status, "dim"))


def when(us: int | None, *, short: bool = False) -> str:
    """A time in this machine's time zone; if `short`, without the year."""
    if us is None:
        return ""
    moment = dt.datetime.fromtimestamp(us / 1e6, tz=dt.UTC).astimezone()
    return moment.strftime("%m-%d %H:%M:%S" if short else "%Y-%m-%d %H:%M:%S")
