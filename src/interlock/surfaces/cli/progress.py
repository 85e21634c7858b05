"""Shows progress while a run works: one line on standard error, redrawn in place; only at a terminal."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Final

from interlock.engine.local.clock import SystemClock
from interlock.lazy import lazy
from interlock.model.events import (
    ActionCancelled,
    ActionDeduplicated,
    ActionFailed,
    ActionHeld,
    ActionIntent,
    ActionRejected,
    ActionSkipped,
    ActionSucceeded,
    ActionUnknown,
    Event,
    ProposalReceived,
    UndoIntent,
)
from interlock.model.waiting import Waiting
from interlock.surfaces.cli.output import Output, clean

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

_ENDS: Final = (ActionSucceeded, ActionRejected, ActionSkipped, ActionDeduplicated, ActionUnknown, ActionCancelled)
_TICK_S: Final = 0.2
_ERASE: Final = "\r\x1b[K"


class Progress:
    """Counts a run's events. A prompt hides the line while it asks."""

    def __init__(self, out: Output) -> None:
        """Nothing is drawn unless standard error is a terminal."""
        self._active = sys.stderr.isatty() and not out.quiet
        self._clock = SystemClock()
        self._began = self._clock.mono_ns()
        self._total = self._done = 0
        self._now: dict[str, str] = {}
        self._hidden = 0
        self._drawn = False
        self._lock = threading.RLock()

    def on_event(self, _run_id: str, event: Event) -> None:
        """The engine's event listener."""
        if not self._active:
            return
        action = event.action or ""
        match event:
            case ProposalReceived():
                self._total += event.action_count
            case ActionIntent():
                self._now[action] = event.tool or "state"
            case UndoIntent():
                self._now[action] = "undo"
            case ActionHeld():
                self._now[action] = "waiting for an approval"
            case ActionFailed(final=True):
                self._ended(action)
            case _ if isinstance(event, _ENDS):
                self._ended(action)
            case _:
                pass

    def on_progress(self, action: str, done: float, total: float | None) -> None:
        """The engine's progress listener, for progress that tools report."""
        share = f"{done:g}" if not total else f"{100 * done / total:.0f} %"
        self._now[action] = f"{self._now.get(action, '').partition(': ')[0]}: {share}"

    def on_waiting(self, waiting: Waiting) -> None:
        """Show the action as waiting until it continues."""
        if waiting.action_id is not None:
            self._now[waiting.action_id] = f"waiting for {waiting.what}"

    async def draw(self) -> None:
        """Draw until cancelled."""
        if not self._active:
            return
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                with self._lock:
                    if not self._hidden:
                        self._line()
        finally:
            self.hide()
            self.show()

    def hide(self) -> None:
        """Erase the line until `show` is called."""
        with self._lock:
            self._hidden += 1
            if self._drawn:
                sys.stderr.write(_ERASE)
                sys.stderr.flush()
                self._drawn = False

    def show(self) -> None:
        """Allow drawing again."""
        with self._lock:
            self._hidden -= 1

    def _ended(self, action: str) -> None:
        self._done += 1
        self._now.pop(action, None)

    def _line(self) -> None:
        seconds = (self._clock.mono_ns() - self._began) / 1e9
        doing = ", ".join(f"{action} {what}" for action, what in list(self._now.items())[:3])
        text = clean(f"[{min(self._done, self._total)}/{self._total}] {seconds:.0f} s  {doing}")
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(_ERASE + text[:width])
        sys.stderr.flush()
        self._drawn = True
