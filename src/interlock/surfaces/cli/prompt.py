"""Questions at the terminal that started the run: approve, deny, edit, show. Another surface may answer first.

The prompt has its own thread, so that the run continues; while it waits for a line it checks twice a second whether the
question has been answered elsewhere.
"""

from __future__ import annotations

import contextlib
import queue
import select
import sys
import termios
import threading
from typing import Any, Final

import msgspec

from interlock.engine.people.answers import Answering, Hold
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.identity import at_own_terminal, require
from interlock.model.decode import decode_value
from interlock.model.errors import InterlockError, UsageError
from interlock.surfaces.cli.holds import hidden, hold_lines, is_cut
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.progress import Progress

_LOOK_S: Final = 0.5
_HELP: Final = "[a]pprove, [d]eny, [e]dit, %s[s]how? "


class Prompt:
    """Asks the desk's questions one after the other."""

    def __init__(self, out: Output, desk: Desk, progress: Progress) -> None:
        """Start to listen to the desk."""
        self._out = out
        self._desk = desk
        self._answering = Answering(desk, "tty")
        self._progress = progress
        self._queue: queue.SimpleQueue[Hold] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._cut = False
        """True until all of the question has been shown."""
        desk.listeners.append(self._ask)

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
                if not self._one(hold.id):
                    return  # standard input has ended, so no one can answer here
            except InterlockError as error:
                self._out.error(error)
            finally:
                self._progress.show()

    def _one(self, hold_id: str) -> bool:
        """Ask until the question is answered, here or elsewhere. False if standard input has ended."""
        shown = self._show(self._current(hold_id))
        while True:
            self._say(_HELP % ("[o]riginal, " if hidden(shown) else ""), end="")
            hold, line = self._read(shown)
            if hold.status != "pending":
                self._say(f"\nanswered elsewhere: {hold.status}")
                return True
            if hold.digest != shown.digest:
                self._say("\nthe question was edited; it now reads:")
                shown = self._show(hold)
                continue
            if not line:
                self._say("\nno answer can be given here; " + how_to_answer(hold))
                return False
            if self._take(hold, line.strip()):
                return True

    def _show(self, hold: Hold) -> Hold:
        """Show a question. Discard what was typed before: it cannot be an answer to it."""
        for line in hold_lines(self._out, hold):
            self._say(line)
        self._cut = is_cut(hold)
        with contextlib.suppress(termios.error):
            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        return hold

    def _take(self, hold: Hold, line: str) -> bool:
        """Act on a typed line. True if the question is answered."""
        word, _, rest = line.partition(" ")
        patch: dict[str, Any] | None = None
        match word.lower():
            case "a" | "approve" | "y" | "yes":
                choice: Any = "approve"
            case "d" | "deny" | "n" | "no":
                choice = "deny"
            case "e" | "edit":
                choice, patch = "edit", self._patch(rest)
                if patch is None:
                    return False
            case shown:
                self._show_more(hold, shown)
                return False
        if choice != "deny" and self._cut:
            self._say("not accepted: part of the question has not been shown; type `s` to see all of it, then answer")
            return False
        try:
            outcome = self._answering.answer(
                hold.id,
                at_own_terminal(self._desk),
                choice,
                digest=hold.digest,
                reason=rest if patch is None else "",
                patch=patch,
            )
        except UsageError as error:
            where = f"{clean(error.path)}: " if error.path else ""
            self._say(f"not accepted: {where}{clean(error.message)}")
            return False
        if outcome.code == "resolved":
            self._say(f"{outcome.hold.status if outcome.hold else 'answered'}")
            return True
        if outcome.code == "recorded":
            self._say("counted; more answers are needed")
            return False
        try:
            require(outcome, hold.id)
        except InterlockError as error:
            self._say(f"not accepted: {clean(error.message)}")
        return outcome.code == "already_resolved"

    def _show_more(self, hold: Hold, word: str) -> None:
        if word in ("o", "original"):
            self._show_original(hold)
        elif word in ("s", "show"):
            for text in hold_lines(self._out, hold, full=True):
                self._say(text)
            self._cut = False

    def _show_original(self, hold: Hold) -> None:
        """Show the question with hidden values, after recording that they are shown."""
        try:
            outcome, parameters = self._answering.original(hold.id, at_own_terminal(self._desk), digest=hold.digest)
            require(outcome, hold.id)
        except InterlockError as error:
            self._say(f"not shown: {clean(error.message)}")
            return
        for text in hold_lines(self._out, msgspec.structs.replace(hold, parameters=parameters), full=True):
            self._say(text)
        self._cut = False

    def _patch(self, text: str) -> dict[str, Any] | None:
        """The merge patch on this line, or on the next one."""
        if not text:
            self._say('the changes as JSON, such as {"path": "b.txt"} (null removes): ', end="")
            text = _line()
        try:
            patch = decode_value(text.encode("utf-8", "surrogateescape"))
        except InterlockError as error:
            self._say(f"this is not JSON: {clean(error.message)}")
            return None
        if not isinstance(patch, dict) or not patch:
            self._say("this changes nothing: give an object with the changes")
            return None
        return patch

    def _read(self, shown: Hold) -> tuple[Hold, str]:
        """The next line (empty at the end of input), or the question if it was answered or edited elsewhere."""
        while True:
            ready, _, _ = select.select([sys.stdin], [], [], _LOOK_S)
            hold = self._current(shown.id)
            if hold.status != "pending" or hold.digest != shown.digest:
                return hold, ""
            if ready:
                return hold, _line()

    def _current(self, hold_id: str) -> Hold:
        hold = self._answering.hold(hold_id)
        assert hold is not None, "questions are never deleted"
        return hold

    @staticmethod
    def _say(text: str, end: str = "\n") -> None:
        sys.stderr.write(text + end)
        sys.stderr.flush()


def _line() -> str:
    """A line of standard input. A typing error, such as bytes that are not UTF-8, must not end the prompt."""
    return sys.stdin.buffer.readline().decode(errors="backslashreplace")


def how_to_answer(hold: Hold) -> str:
    """The command that answers a question from elsewhere."""
    return f"answer with `interlock approvals approve {hold.id}` (or deny, edit, show)"
