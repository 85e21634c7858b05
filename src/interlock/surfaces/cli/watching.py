"""`interlock approvals watch`: shows the holds of all runs as they arrive, and at a terminal reads the answers."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from interlock.engine.people.answers import Answering, Approver, Choice, Hold, Outcome, Standing
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.identity import Proof, identify, open_desk, watch_holds
from interlock.surfaces.cli.answer_words import how_it_continues
from interlock.surfaces.cli.dialogue import Dialogue
from interlock.surfaces.cli.holds import hold_lines
from interlock.surfaces.cli.key_input import KeyInput
from interlock.surfaces.cli.output import Output

_LOOK_S: Final = 1.0
_TERMINATED: Final = 128 + signal.SIGTERM


def show_questions(out: Output, count: int | None) -> None:
    """Print holds as they arrive, `count` at most; with `--json` as one list at the end."""
    seen: list[Hold] = []
    try:
        for hold in _questions(count):
            if out.json:
                seen.append(hold)
            else:
                out.emit(None, lambda hold=hold: hold_lines(out, hold))  # type: ignore[misc]
    except KeyboardInterrupt:
        return
    out.emit(seen)


def answer_questions(out: Output, count: int | None, prove: Callable[[bool], Proof]) -> None:
    """Show holds at this terminal, one after the other. `prove` returns a proof for each answer, if `needed`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that the terminal is restored
    keys = KeyInput()
    dialogue = Dialogue(out, _AnyTerminal(out, prove), keys)
    out.note("waiting for held calls; stop with Ctrl-C")
    try:
        for hold in _questions(count):
            if dialogue.ask(hold.id) == "ended":
                return
            if note := how_it_continues(hold.run):
                out.note(note)
    except KeyboardInterrupt:
        out.note("")
    finally:
        keys.close()


def _questions(count: int | None) -> Iterator[Hold]:
    """Open holds in order as they arrive, without those that are already answered."""
    after = given = 0
    with open_desk(Path(), os.environ, trusted=False) as desk:
        answering, changes = Answering(desk, "cli"), watch_holds(desk)
        try:
            while count is None or given < count:
                found = answering.holds("pending", after=after, limit=1)
                if not found:
                    wait_for_change(changes)
                for hold in found:
                    after = hold.seq
                    given += 1
                    yield hold
        finally:
            if changes is not None:
                os.close(changes)


def wait_for_change(changes: int | None) -> None:
    """Wait for a change, at most a second: notification is not reliable on every file system."""
    ready, _, _ = select.select([] if changes is None else [changes], [], [], _LOOK_S)
    if ready and changes is not None:
        os.read(changes, 65_536)


class _AnyTerminal:
    """Answers from a terminal that started none of the runs. Each answer needs the same proof as `approvals approve`.

    The desk is opened again for each, so that approvers and groups are current.
    """

    def __init__(self, out: Output, prove: Callable[[bool], Proof]) -> None:
        self._out = out
        self._prove = prove

    def hold(self, hold_id: str) -> Hold | None:
        with open_desk(Path(), os.environ, trusted=False) as desk:
            return Answering(desk, "cli").hold(hold_id)

    def answer(
        self, hold: Hold, choice: Choice, *, reason: str, patch: dict[str, Any] | None, standing: Standing
    ) -> Outcome:
        with self._desk() as desk:
            who = self._who(desk)
            return Answering(desk, "cli").answer(
                hold.id, who, choice, digest=hold.digest, reason=reason, patch=patch, standing=standing
            )

    def original(self, hold: Hold) -> tuple[Outcome, Any]:
        with self._desk() as desk:
            return Answering(desk, "cli").original(hold.id, self._who(desk), digest=hold.digest)

    @contextmanager
    def _desk(self) -> Iterator[Desk]:
        with open_desk(Path(), os.environ, warn=self._out.warn) as desk:
            yield desk

    def _who(self, desk: Desk) -> Approver:
        return identify(desk, self._prove(bool(desk.approvers.all())))
