"""The undos of earlier runs, found in the journals of the undoing runs.

An undo that was itself undone does not count, and neither does one whose proposal was aborted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.disk import open_regular
from interlock.engine.inspect.actions import ActionLine
from interlock.journal import read
from interlock.journal.index import RunRow
from interlock.journal.private import Originals
from interlock.journal.sealing import JOURNAL_NAME
from interlock.model import events as e
from interlock.model.errors import InterlockError

_TOOL: Final = "undo"
_SIGN: Final = b'"tool":"undo"'
"""The tool of an intent as the journal writes it. A journal without it contains no undo."""
_CHUNK_BYTES: Final = 1 << 20
_EFFECTS: Final = ("restored", "compensated", "state", "learnt")
"""The fields of an undo's output that list what was undone."""


class Undo(msgspec.Struct, kw_only=True):
    """One call of the tool `undo`: the target run (or one action of it), and the actions that it could and could not undo."""

    run_id: str
    action_id: str
    target_run: str
    target_action: str | None
    at_us: int = 0
    complete: bool = False
    """True if it succeeded: everything that can be undone was undone."""
    restored: frozenset[str] = frozenset()
    compensated: frozenset[str] = frozenset()
    effective: bool = False
    """True if it undid something, or nothing was left that it could not undo."""
    left: dict[str, str] = {}
    """Actions that it could not undo, with the reason."""

    def outcome(self, line: ActionLine) -> tuple[str, str | None] | None:
        """Its effect on an action of the target run: a status and a reason; None if it had none."""
        if line.status not in ("succeeded", "failed", "not_undone", "unknown_outcome"):
            return None
        if self.target_action not in (None, line.action_id):
            return None
        if line.action_id in self.left:
            return "not_undone", self.left[line.action_id]
        if line.action_id in self.compensated:
            return "compensated", None
        if line.action_id in self.restored or (self.complete and line.changed and line.status == "succeeded"):
            return "rolled_back", None
        return None


class Undos:
    """The undos that are in force, by the run that they undid."""

    def __init__(self, found: Iterable[Undo]) -> None:
        """`found` in any order."""
        self._by_run: dict[str, list[Undo]] = {}
        for undo in sorted(found, key=lambda one: one.at_us, reverse=True):
            if not any(self._covers(later, undo) for later in self._by_run.get(undo.run_id, ())):
                self._by_run.setdefault(undo.target_run, []).append(undo)

    @staticmethod
    def _covers(later: Undo, undo: Undo) -> bool:
        return later.target_action in (None, undo.action_id) and undo.action_id not in later.left

    def mark(self, line: ActionLine) -> ActionLine:
        """The line, with the effect of later undos."""
        for undo in self._by_run.get(line.run_id, ()):
            outcome = undo.outcome(line)
            if outcome is not None:
                line.undone, reason = outcome
                line.undone_by = undo.run_id
                line.reason = line.reason if reason is None else reason
                break
        return line

    def of_run(self, run_id: str) -> str | None:
        """The run that undid a whole run, as far as possible; None if nothing of it could be undone."""
        return next((undo.run_id for undo in self._whole(run_id) if undo.effective), None)

    def tried(self, run_id: str) -> bool:
        """Returns True if a whole run was undone as far as possible, even if nothing of it could be undone."""
        return any(True for _ in self._whole(run_id))

    def _whole(self, run_id: str) -> Iterator[Undo]:
        return (undo for undo in self._by_run.get(run_id, ()) if undo.target_action is None and undo.complete)


def find_undos(runs: Path, rows: Iterable[RunRow]) -> Undos:
    """The undos in these runs. A journal that cannot be read is treated as having none."""
    found: list[Undo] = []
    for row in rows:
        directory = runs / row.run_id
        try:
            if row.source == _TOOL or _mentions_undo(directory / JOURNAL_NAME):
                found.extend(_undos_of(directory))
        except (InterlockError, OSError):
            continue
    return Undos(found)


def _mentions_undo(path: Path) -> bool:
    before = b""
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if _SIGN in before + chunk:
                return True
            before = chunk[-len(_SIGN) :]
    return False


def _undos_of(directory: Path) -> list[Undo]:
    begun: dict[tuple[str | None, str | None], Undo] = {}
    ended: dict[tuple[str | None, str | None], Undo] = {}
    originals = Originals(directory)
    for event in read(directory):
        if isinstance(event, e.Unknown):
            continue
        key = (event.proposal, event.action)
        match event:
            case e.ActionIntent() if event.tool == _TOOL and event.parameters is not None:
                parameters = _value(originals, event.parameters)
                if isinstance(parameters, dict) and isinstance(parameters.get("run"), str):
                    begun[key] = Undo(
                        run_id=directory.name, action_id=event.action or "", target_run=parameters["run"],
                        target_action=parameters.get("action"),
                    )  # fmt: skip
            case e.ActionSucceeded() | e.ActionFailed() if key in begun and event.output is not None:
                output = _value(originals, event.output)
                if isinstance(output, dict):
                    ended[key] = _with_output(begun[key], event, output)
            case e.UndoDone() if event.problem is None and event.of is None:
                ended.pop(key, None)  # its effects were undone with its proposal
    return list(ended.values())


def _with_output(undo: Undo, event: e.ActionSucceeded | e.ActionFailed, output: dict[str, Any]) -> Undo:
    def named(field: str) -> list[dict[str, Any]]:
        return [one for one in output.get(field) or () if isinstance(one, dict) and "action" in one]

    return msgspec.structs.replace(
        undo,
        at_us=event.ts,
        complete=isinstance(event, e.ActionSucceeded),
        restored=frozenset(str(one["action"]) for one in named("restored")),
        compensated=frozenset(str(one["action"]) for one in named("compensated")),
        effective=not output.get("not_undone") or any(output.get(kind) for kind in _EFFECTS),
        left={str(one["action"]): str(one.get("reason")) for one in named("not_undone")},
    )


def _value(originals: Originals, kept: e.Kept) -> Any:
    """The view, or the original if it was too large for the journal; only its ids and codes are used."""
    if kept.view is not None or not kept.private:
        return kept.view
    data = originals.get(kept.digest)
    return None if data is None else msgspec.json.decode(data)
