"""One held call at a terminal: shown, and answered with a key. Another surface may answer it first.

People approve what they saw: a hold cannot be approved before all of it was shown, and is shown again if it was edited
meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec

from interlock.engine.people.answers import Choice, Hold, Outcome, Standing
from interlock.engine.people.identity import require
from interlock.lazy import lazy
from interlock.model.decode import decode_value
from interlock.model.errors import InterlockError
from interlock.surfaces.cli.answer_words import how_to_answer, standing_terms
from interlock.surfaces.cli.holds import hidden, hold_lines, is_cut
from interlock.surfaces.cli.key_input import ENDED, NOTHING, PASTED, KeyInput
from interlock.surfaces.cli.output import Output, clean

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

End = Literal["answered", "ended"]
"""`ended`: standard input has ended, so no answer can be given here."""
_SCOPES: Final[dict[str, Any]] = {"a": "once", "t": "session", "w": "always"}
_PATCH: Final = "the changes as JSON, such as {{{}: ...}} (null removes; an empty line goes back): "


class Answerer(Protocol):
    """Reads and answers holds as the person at this terminal."""

    def hold(self, hold_id: str) -> Hold | None:
        """The present state of a hold."""

    def answer(
        self, hold: Hold, choice: Choice, *, reason: str, patch: dict[str, Any] | None, standing: Standing
    ) -> Outcome:
        """Answer a hold in the version that was shown. Raises: InterlockError."""

    def original(self, hold: Hold) -> tuple[Outcome, Any]:
        """The parameters without redaction. The view is recorded. Raises: InterlockError."""


class Dialogue:
    """Shows holds one by one, and reads the answers."""

    def __init__(self, out: Output, answerer: Answerer, keys: KeyInput) -> None:
        """Answers are given through `answerer`."""
        self._out = out
        self._answerer = answerer
        self._keys = keys
        self._cut = False
        """True until all of the hold has been shown."""

    def ask(self, hold_id: str) -> End:
        """Show a hold until it is answered, here or elsewhere. Raises: InterlockError."""
        with self._keys.keys():
            shown = self._show(self._current(hold_id))
            width = _columns()
            self._offer(shown)
            while True:
                key = self._keys.key()
                hold = self._current(hold_id)
                if hold.status != "pending":
                    _say(f"\nanswered elsewhere: {hold.status}")
                    return "answered"
                if hold.digest != shown.digest:
                    _say("\nthe call was edited; it is now:")
                    shown = self._show(hold)
                elif key == ENDED:
                    _say("\nit cannot be answered here; " + how_to_answer(hold))
                    return "ended"
                elif key == NOTHING and _columns() == width:
                    continue
                elif key != NOTHING and self._take(hold, key):
                    return "answered"
                width = _columns()
                self._offer(shown)

    def _show(self, hold: Hold) -> Hold:
        """Show a hold. Keys typed before do not count as an answer."""
        for line in hold_lines(self._out, hold, stream=sys.stderr):
            _say(line)
        self._cut = is_cut(hold)
        self._keys.settle()
        return hold

    def _offer(self, hold: Hold) -> None:
        """Print the line that names the keys, which shows that keys count from now on."""
        approve = "[a]pprove once"
        if hold.kind != "unknown_outcome":
            approve += (", [t]his session" if hold.session else "") + ", al[w]ays"
        more = ", [o]riginal" if hidden(hold) else ""
        line = f"{approve}; [d]eny, deny with a [r]eason; [e]dit, [s]how all{more}? "
        _say("\r\x1b[K" * (not self._out.dumb) + line, end="")

    def _take(self, hold: Hold, key: str) -> bool:
        """Act on a key. True if the hold is answered."""
        match key:
            case "a" | "t" | "w" | "A" | "T" | "W":
                return self._approve(hold, _SCOPES[key.lower()])
            case "d" | "D":
                _say("deny")
                return self._answer(hold, "deny")
            case "r" | "R":
                reason = self._line(hold, "\nthe reason, shown to the agent (an empty line goes back): ")
                return bool(reason) and self._answer(hold, "deny", reason=reason or "")
            case "e" | "E":
                return self._edit(hold)
            case "s" | "S":
                _say("show")
                self._show_full(hold)
            case "o" | "O":
                _say("original")
                self._show_original(hold)
            case _ if key == PASTED:
                _say("\nseveral keys at once do not count as an answer; press one key")
            case "\n":
                _say("")
            case _:
                _say("\nunknown key")
        return False

    def _seen(self) -> bool:
        if self._cut:
            _say("\nnot accepted: part of the call has not been shown; press `s` to see all of it, then answer")
        return not self._cut

    def _approve(self, hold: Hold, scope: Any) -> bool:
        if scope != "once" and (hold.kind == "unknown_outcome" or (scope == "session" and not hold.session)):
            _say("\nunknown key")
            return False
        if not self._seen():
            return False
        terms = Standing(scope=scope)
        if scope == "once":
            _say("approve")
        elif not self._confirm(hold, terms):
            return False
        return self._answer(hold, "approve", standing=terms)

    def _confirm(self, hold: Hold, terms: Standing) -> bool:
        """Ask again before an answer that also covers later calls."""
        _say(f"\n{standing_terms(hold, terms)}")
        self._keys.settle()
        _say("[y]es, [n]o? ", end="")
        while self._is_open(hold):
            key = self._keys.key()
            if key in ("y", "Y"):
                _say("yes")
                return True
            if key not in (NOTHING, PASTED):
                break
        _say("no")
        return False

    def _edit(self, hold: Hold) -> bool:
        if not self._seen():
            return False
        names = hold.parameters if isinstance(hold.parameters, dict) else {}
        example = "command" if "command" in names else next(iter(names), "path")
        text = self._line(hold, "\n" + _PATCH.format(clean(msgspec.json.encode(example).decode())))
        if not text:
            return False
        try:
            patch = decode_value(text.encode("utf-8", "surrogateescape"))
        except InterlockError as error:
            _say(f"the text is not JSON: {clean(error.message)}")
            return False
        if not isinstance(patch, dict) or not patch:
            _say("nothing changed: give an object with the changes")
            return False
        return self._answer(hold, "edit", patch=patch)

    def _line(self, hold: Hold, prompt: str) -> str | None:
        return self._keys.line(prompt, lambda: self._is_open(hold))

    def _is_open(self, hold: Hold) -> bool:
        now = self._current(hold.id)
        return now.status == "pending" and now.digest == hold.digest

    def _answer(
        self,
        hold: Hold,
        choice: Choice,
        *,
        reason: str = "",
        patch: dict[str, Any] | None = None,
        standing: Standing | None = None,
    ) -> bool:
        try:
            with self._keys.lines():  # a PIN may be requested
                outcome = self._answerer.answer(
                    hold, choice, reason=reason, patch=patch, standing=standing or Standing()
                )
            if outcome.code != "already_resolved":
                require(outcome, hold.id)
        except InterlockError as error:
            where = f"{clean(error.path)}: " if error.path else ""
            _say(f"not accepted: {where}{clean(error.message)}")
            return False
        if outcome.code == "recorded":
            _say("counted; more approvals are needed")
            return False
        status = outcome.hold.status if outcome.hold else "answered"
        _say(status if outcome.code == "resolved" else f"answered elsewhere: {status}")
        return True

    def _show_full(self, hold: Hold) -> None:
        for text in hold_lines(self._out, hold, full=True, stream=sys.stderr):
            _say(text)
        self._cut = False

    def _show_original(self, hold: Hold) -> None:
        """Show the hold with its hidden values, after recording that they are shown."""
        try:
            with self._keys.lines():
                outcome, parameters = self._answerer.original(hold)
            require(outcome, hold.id)
        except InterlockError as error:
            _say(f"not shown: {clean(error.message)}")
            return
        self._show_full(msgspec.structs.replace(hold, parameters=parameters))

    def _current(self, hold_id: str) -> Hold:
        hold = self._answerer.hold(hold_id)
        assert hold is not None, "holds are never deleted"
        return hold


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _say(text: str, end: str = "\n") -> None:
    with contextlib.suppress(OSError):  # the terminal is gone: an answer that was given still counts
        sys.stderr.write(text + end)
        sys.stderr.flush()
