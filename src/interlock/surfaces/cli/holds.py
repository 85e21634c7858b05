"""Renders a hold for people: the agent, the call and the reasons, the changes it would make, and all its parameters."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TextIO

import msgspec

from interlock.engine.people.answers import ChangeShown, Hold
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.results import when

_WIDTH: Final = 2_000
"""A longer parameter or difference line is cut, unless the hold is shown in full."""
_LINES: Final = 200
"""The number of difference lines shown, unless the hold is shown in full."""
_FILES: Final = 16
"""More files are only counted, unless the hold is shown in full. All of them are still checked for changes."""
_HIDDEN: Final = re.compile(r"\[redacted:[a-z0-9-]+:[0-9a-f]{8}\]")
_IN_DIFFERENCE: Final = {"fs.write": ("content",), "fs.edit": ("old", "new", "edits")}
"""Parameters, by tool, that are shown as a difference instead."""
_STYLES: Final = {"program": "bold", "redirection": "yellow", "assignment": "magenta", "operator": "cyan"}
"""Styles of the parts of a command line."""
_HANGING: Final = 12
"""Columns before the continuation of a long line, further in than any line that Interlock itself begins."""
_STEP_WIDTH: Final = 200
"""A longer step of a skill is cut, unless the hold is shown in full."""


def is_cut(hold: Hold) -> bool:
    """True if `hold_lines` shortens the hold unless asked for all of it."""
    return (
        len(hold.files) > _FILES
        or any(_is_cut_change(change) for change in hold.changes)
        or any(len(text) > _WIDTH for _, text in _parameters(hold, full=False))
        or any(len(step) > _STEP_WIDTH for step in _steps(hold))
    )


def _steps(hold: Hold) -> list[str]:
    """The actions that the call represents (those of a skill)."""
    steps = hold.context.get("steps", ()) if isinstance(hold.context, dict) else ()
    return [clean(f"{step['id']} {step['tool']} {msgspec.json.encode(step['parameters']).decode()}") for step in steps]


def hidden(hold: Hold) -> int:
    """How many values of the hold are redacted."""
    return sum(len(_HIDDEN.findall(f"{name} {text}")) for name, text in _parameters(hold, full=True))


def hold_lines(out: Output, hold: Hold, *, full: bool = False, stream: TextIO | None = None) -> Iterator[str]:
    """The hold for `stream` (standard output): agent, call, reasons, deadline, changes that it would make, every parameter."""
    stream = sys.stdout if stream is None else stream
    return iter(out.fitted(_hold_lines(out, hold, stream, full=full), stream, _HANGING))


def _hold_lines(out: Output, hold: Hold, stream: TextIO, *, full: bool) -> Iterator[str]:
    title = f"{clean(hold.agent)} asks: {brief(hold.summary, 200)}"
    yield out.paint(title, "bold", stream) + f"  ({clean(hold.id)}, {hold.status})"
    if hold.reason:
        yield f"  why:    {clean(hold.reason)}"
    for need in hold.requirements:
        group = f"{need.quorum} of group `{clean(need.group)}`" if need.group else f"{need.quorum} approver"
        yield f"  needs:  {group} (policy `{clean(need.policy)}`)"
    yield f"  until:  {when(hold.expires_at_us)}"
    session = f"  session {clean(hold.session)}" if hold.session else ""
    yield f"  run:    {clean(hold.run)}  action {clean(hold.action)}{session}"
    yield from _parameter_lines(out, hold, stream, full=full)
    if undone_by := hold.context.get("compensation") if isinstance(hold.context, dict) else None:
        yield f"  undo:   by `{clean(str(undone_by))}`, which the approval covers too"
    yield from (f"  step:   {step if full else brief(step, _STEP_WIDTH)}" for step in _steps(hold))
    for file in hold.files if full else hold.files[:_FILES]:
        yield f"  file:   {clean(file.path)} ({'exists; held again if it changes' if file.there else 'does not exist yet'})"
    if not full and len(hold.files) > _FILES:
        yield f"  file:   and {len(hold.files) - _FILES} more (`show` shows all)"
    if full:
        yield f"  tool:   {clean(hold.tool)} {clean(hold.tool_version)}"
        yield f"  digest: {clean(hold.digest)}"
        yield f"  context: {clean(msgspec.json.encode(hold.context).decode())}"
    if count := hidden(hold):
        values = f"{count} value{'s are' if count > 1 else ' is'} hidden, each as `[redacted:...]`"
        yield f"  hidden: {values}; `interlock approvals show {clean(hold.id)} --original` shows them; this is recorded"
    for change in hold.changes:
        yield from _change_lines(out, change, stream, full=full)
    if hold.edits:
        yield "  edited: an approver has changed the parameters above; file differences are not shown for an edited call"
    if not full and is_cut(hold):
        yield (
            out.paint("  NOT ALL of this call is shown", "yellow", stream)
            + "; see all of it (`show`) before you approve"
        )
    for vote in hold.votes:
        shown = f"{vote.decision} by {clean(vote.display)} ({vote.surface}) at {when(vote.at_us)}"
        yield f"  answer: {shown} {clean(vote.reason)}".rstrip()


# -- parameters


def _parameters(hold: Hold, *, full: bool) -> Iterator[tuple[str, str]]:
    """The parameters as text; unless in full, without those shown as a difference."""
    parameters = hold.parameters if isinstance(hold.parameters, dict) else {"parameters": hold.parameters}
    left_out = () if full else _shown_elsewhere(hold)
    for name, value in parameters.items():
        if name not in left_out:
            yield name, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _shown_elsewhere(hold: Hold) -> tuple[str, ...]:
    compared = bool(hold.changes) and all(change.lines and not change.note for change in hold.changes)
    return _IN_DIFFERENCE.get(hold.tool, ()) if compared else ()


def _parameter_lines(out: Output, hold: Hold, stream: TextIO, *, full: bool) -> Iterator[str]:
    for name, text in _parameters(hold, full=full):
        cut = f"... ({len(text)} characters; `show` shows all)"
        shown = text if full or len(text) <= _WIDTH else text[:_WIDTH] + cut
        value = hold.parameters.get(name) if isinstance(hold.parameters, dict) else None
        if name == "command" and isinstance(value, str):
            yield from _command_lines(out, shown, value, stream)
            continue
        first, *rest = clean(shown, lines=True).split("\n")
        yield f"  {clean(name)} = {first}"
        yield from (f"      {line}" for line in rest)
        if name == "argv" and isinstance(value, list):
            yield from _started(value)


def _command_lines(out: Output, shown: str, command: str, stream: TextIO) -> Iterator[str]:
    """A command line with its parts marked, and the simple commands in it."""
    from interlock.detect.command_marks import mark_command, plain_redactions  # noqa: PLC0415 - start-up
    from interlock.detect.commands import parse_shell  # noqa: PLC0415 - start-up

    yield "  command ="
    drawing = out.drawing(stream)
    if drawing is None:
        yield from (f"      {line}" for line in clean(shown, lines=True).split("\n"))
    else:
        yield from drawing.marked(_spans(shown, mark_command(shown)), 6)
    line = parse_shell(plain_redactions(command))
    parts = [part for part in line.commands if part.words or part.redirections or part.assignments]
    if len(parts) > 1 or not line.clear or any(not part.plain for part in parts):
        yield from (f"  runs:   {_part(part)}" for part in parts)
    if not line.clear:
        yield "  runs:   possibly more, which only the shell can determine"


def _spans(text: str, marks: Iterable[Any]) -> list[tuple[str, str]]:
    """The text in pieces with the style of each. Where marks overlap, the inner one applies."""
    styles = [""] * len(text)
    for mark in marks:
        styles[mark.start : mark.end] = [_STYLES[mark.part]] * (min(mark.end, len(text)) - mark.start)
    out: list[tuple[str, str]] = []
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or styles[at] != styles[start]:
            out.append((clean(text[start:at], lines=True), styles[start]))
            start = at
    return out


def _started(argv: list[Any]) -> Iterator[str]:
    """The programs that these arguments start through another program: `env`, `sudo`, `sh -c` ..."""
    from interlock.detect.commands import parse_words  # noqa: PLC0415 - start-up

    if not all(isinstance(word, str) for word in argv):
        return
    line = parse_words(argv)
    if [list(part.words) for part in line.commands] != [argv]:
        yield from (f"  runs:   {_part(part)}" for part in line.commands)
    if not line.clear:
        yield "  runs:   possibly more, which cannot be determined in advance"


def _part(part: Any) -> str:
    shown = [clean(part.line if part.literal else " ".join(part.words))] if part.words else []
    shown += [clean(text) for text in part.redirections]
    if part.assignments:
        shown.append(f"(sets {clean(', '.join(part.assignments))})")
    if not part.literal:
        shown.append("(not certain: only the shell can determine some words)")
    return "  ".join(shown)


# -- differences


def _is_cut_change(change: ChangeShown) -> bool:
    return len(change.lines) > _LINES or any(len(line) > _WIDTH for line in change.lines)


def _change_lines(out: Output, change: ChangeShown, stream: TextIO, *, full: bool) -> Iterator[str]:
    head = clean(change.path)
    also = f"; {clean(change.permissions)}" if change.permissions else ""
    if change.note:
        yield f"  change: {head}: {clean(change.note)}{also}"
        return
    what = "changes" if change.before and change.after else "is made" if change.after else "is deleted"
    counts = f"{change.added} added, {change.removed} removed" if change.before and change.after else ""
    size = counts or _lines(change.added or change.removed)
    yield f"  change: {out.paint(head, 'bold', stream)} {what} ({size}){also}"
    lines = change.lines if full else change.lines[:_LINES]
    yield from _drawn(out, [line if full or len(line) <= _WIDTH else line[:_WIDTH] + " ..." for line in lines], stream)
    if len(lines) < len(change.lines):
        more = f"{len(change.lines) - len(lines)} more lines of this difference; `show` shows them"
        yield out.paint(f"    ... {more}", "yellow", stream)


def difference_lines(out: Output, change: ChangeShown, stream: TextIO) -> Iterator[str]:
    """A whole difference without the name of its file, indented."""
    for note in (change.note, change.permissions):
        if note:
            yield f"    {clean(note)}"
    yield from _drawn(out, change.lines, stream)


def _drawn(out: Output, lines: Sequence[str], stream: TextIO) -> Iterable[str]:
    shown = [clean(line, lines=True) for line in lines]
    drawing = out.drawing(stream)
    return (f"    {line}" for line in shown) if drawing is None else drawing.difference(shown, 4)


def _lines(number: int) -> str:
    return f"{number} line{'' if number == 1 else 's'}"
