"""Renders what the kernel recorder saw of an action: one line in an overview, lists for a single action."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interlock.model.events import ActionRecorded, Event, Unknown
from interlock.surfaces.cli.output import Output, brief, clean

if TYPE_CHECKING:
    from interlock.engine.inspect.history import History
    from interlock.engine.inspect.touched import Touched

_NAMED: Final = 4
"""Maximum entries of each kind that an overview names."""
_LINE_CHARS: Final = 300


class RecordedActions:
    """The recorded actions of a run, for a reader of its journal."""

    def __init__(self, past: History, run_id: str) -> None:
        """Nothing is read yet."""
        self._past = past
        self._run_id = run_id
        self._found: dict[tuple[str, str], Touched] | None = None

    def lines(self, out: Output, event: Event | Unknown) -> Iterator[str]:
        """What an action touched, if its recorder ended with this event. Raises: IntegrityError `kernel_layer_damaged`."""
        if not isinstance(event, ActionRecorded) or event.proposal is None or event.action is None:
            return
        if self._found is None:
            self._found = self._past.touched(self._run_id)
        found = self._found.pop((event.proposal, event.action), None)
        if found is not None:
            yield from overview(out, found, self._past.place.root)


def overview(out: Output, found: Touched, root: Path) -> Iterator[str]:
    """An overview, and a warning if the record is incomplete. Paths in the workspace `root` are shown relative to it."""
    names = list(dict.fromkeys(program.path.rpartition("/")[2] for program in found.programs))
    parts = [
        _part(names, "program", "programs"),
        _part(_short(found.written, root), "file written", "files written"),
        _part(_short(found.removed, root), "removed", "removed"),
        _part(found.hosts, "host", "hosts"),
        _part(found.listens, "address bound", "addresses bound"),
        f"{len(found.read)} read" if found.read else "",
    ]
    notes = ", ".join(part for part in parts if part)
    yield out.paint(f"{'':12} recorded: {brief(notes or 'nothing', _LINE_CHARS)}", "dim")
    yield from _warnings(out, found)


def full_lists(out: Output, found: Touched, root: Path) -> Iterator[str]:
    """Everything recorded of an action, by kind."""
    yield out.paint(f"recorded by the kernel ({found.calls} calls; these are attempts, which may have failed):", "bold")
    commands = (shlex.join(program.argv) if program.argv else program.path for program in found.programs)
    paths = (program.path for program in found.programs)
    yield from _list("programs", (f"{path}: {command}" for path, command in zip(paths, commands, strict=True)))
    yield from _list("hosts", found.hosts)
    yield from _list("addresses bound", found.listens)
    yield from _list("local sockets", found.sockets)
    yield from _list("written", _short(found.written, root))
    yield from _list("removed", _short(found.removed, root))
    yield from _list("read", _short(found.read, root))
    yield from _warnings(out, found)


def _warnings(out: Output, found: Touched) -> Iterator[str]:
    notes = []
    if found.lost:
        notes.append("the recorder was killed, and the program with it: the end may be missing")
    if found.unfinished:
        notes.append("the record has no end: the action is still running, or the process that wrote it was killed")
    if found.dropped:
        notes.append(f"{found.dropped} of {found.calls} calls are not in the record, because of its size limit")
    if found.refused:
        notes.append(f"{found.refused} calls were refused because their arguments could not be read")
    if found.unlisted:
        notes.append(f"{found.unlisted} more entries are in the record than are listed here")
    yield from (out.paint(f"{'':12} {one}", "yellow") for one in notes)


def _part(names: Sequence[str], one: str, more: str) -> str:
    if not names:
        return ""
    shown = ", ".join(map(clean, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {one if len(names) == 1 else more} ({shown})"


def _list(title: str, entries: Iterable[str]) -> Iterator[str]:
    found = list(entries)
    if found:
        yield f"  {title} ({len(found)}):"
        yield from (f"    {clean(entry)}" for entry in found)


def _short(paths: Sequence[str], root: Path) -> list[str]:
    """Paths, with those in the workspace first and relative to it."""
    top = f"{root}/"
    inside = [path.removeprefix(top) for path in paths if path.startswith(top)]
    return [*inside, *(path for path in paths if not path.startswith(top))]
