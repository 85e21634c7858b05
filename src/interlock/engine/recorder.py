"""What the engine tells the journal: values redacted and kept, events stamped.

With durability `off` there is no recorder, and the engine builds no event at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypedDict

from interlock.detect import Redactor
from interlock.journal import JournalWriter
from interlock.model.canonical import canonical
from interlock.model.clock import Clock
from interlock.model.events import Event, Kept, MachineSampled
from interlock.telemetry import Snapshot

if TYPE_CHECKING:
    from interlock.engine.execution import Execution

SAMPLES_KEPT: Final = 8
"""Actions that run longer than so many readings have theirs written once more: an event names one of the last so
many, or the one before these if its own second reading was written just now."""


class Stamp(TypedDict):
    """The fields that every event has."""

    ts: int
    mono: int
    proposal: str | None
    action: str | None
    step: int | None


class Recorder:
    """Appends to one journal, and tells listeners (progress, spans) about each event."""

    __slots__ = ("_listeners", "_redactor", "_sampled", "clock", "writer")

    def __init__(
        self, writer: JournalWriter, redactor: Redactor, clock: Clock, listeners: Sequence[Callable[[Event], None]]
    ) -> None:
        """`listeners` are called on the loop with every event; they must be quick and must not raise."""
        self.writer = writer
        self.clock = clock
        self._redactor = redactor
        self._listeners = listeners
        self._sampled: list[tuple[Snapshot, int]] = []

    def append(self, event: Event) -> int:
        """Append an event; returns its sequence number. On disk only after `writer.durable()`."""
        seq = self.writer.append(event)
        for listener in self._listeners:
            listener(event)
        return seq

    def sampled(self, sample: Snapshot) -> int:
        """The number of the event that has a reading of the machine: it is written once, however many actions it is for."""
        for known, seq in self._sampled:
            if known is sample:
                return seq
        event = MachineSampled(ts=self.clock.now_us(), mono=self.clock.mono_ns(), sample=sample.view)
        seq = self.append(event)
        self._sampled = [*self._sampled[-SAMPLES_KEPT + 1 :], (sample, seq)]
        return seq

    def keep(self, value: Any, secrets: Sequence[str] = (), data: bytes | None = None) -> Kept:
        """The redacted view and the digest of a value; `secrets` are pointer patterns marked secret by a schema.

        `data` is the value's canonical JSON where the caller has it. Raises: CanonicalError if the value is not JSON.
        """
        if data is None:
            data = canonical(value)
        return self.writer.keep(data, self._redactor.redact(value, secrets, data), value)

    def shown(self, value: Any, secrets: Sequence[str] = ()) -> Any:
        """The redacted view of a value that is written as it is. Raises: CanonicalError."""
        return self._redactor.redact(value, secrets, canonical(value))

    def text(self, text: str) -> str:
        """Text for people, with secret shapes replaced and cut to what a journal line should hold."""
        return self._redactor.redact_text(text if len(text) <= 8192 else text[:8192] + "...")

    def stamp(self, x: Execution | None, index: int | None = None, step: int | None = None) -> Stamp:
        """The common fields of an event, for those that are written rarely."""
        return {
            "ts": self.clock.now_us(),
            "mono": self.clock.mono_ns(),
            "proposal": x.proposal.id if x is not None else None,
            "action": x.proposal.actions[index].id if x is not None and index is not None else None,
            "step": step,
        }
