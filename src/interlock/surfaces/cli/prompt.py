"""Shows holds at the terminal that started the run, one after the other, on a separate thread while the run continues."""

from __future__ import annotations

import queue
import threading
from typing import Any

from interlock.engine.people.answers import Answering, Choice, Hold, Outcome, Standing
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.identity import at_own_terminal
from interlock.model.errors import InterlockError
from interlock.surfaces.cli.dialogue import Dialogue
from interlock.surfaces.cli.key_input import KeyInput
from interlock.surfaces.cli.output import Output
from interlock.surfaces.cli.progress import Progress


class Prompt:
    """Asks about the desk's holds. `close` it when the run is over, or the terminal stays without echo."""

    def __init__(self, out: Output, desk: Desk, progress: Progress) -> None:
        """Start to listen to the desk."""
        self._out = out
        self._keys = KeyInput()
        self._dialogue = Dialogue(out, _OwnTerminal(desk), self._keys)
        self._progress = progress
        self._queue: queue.SimpleQueue[Hold] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        desk.listeners.append(self._ask)

    def close(self) -> None:
        """Restore the terminal."""
        self._keys.close()

    def _ask(self, hold: Hold) -> None:
        self._queue.put(hold)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="interlock-prompt", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            hold = self._queue.get()
            self._progress.hide()
            try:
                if self._dialogue.ask(hold.id) == "ended":
                    return  # standard input has ended, so nobody can answer here
            except InterlockError as error:
                self._out.error(error)
            finally:
                self._progress.show()


class _OwnTerminal:
    """Answers as the person who started the run, at their terminal, which needs no proof."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._answering = Answering(desk, "tty")

    def hold(self, hold_id: str) -> Hold | None:
        return self._answering.hold(hold_id)

    def answer(
        self, hold: Hold, choice: Choice, *, reason: str, patch: dict[str, Any] | None, standing: Standing
    ) -> Outcome:
        return self._answering.answer(
            hold.id,
            at_own_terminal(self._desk),
            choice,
            digest=hold.digest,
            reason=reason,
            patch=patch,
            standing=standing,
        )

    def original(self, hold: Hold) -> tuple[Outcome, Any]:
        return self._answering.original(hold.id, at_own_terminal(self._desk), digest=hold.digest)
