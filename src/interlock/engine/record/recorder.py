"""Writes the events of one run into its journal, with values redacted and their originals kept. No other code records events.

With durability `off` there is no recorder, and no event is built: `ProposalRun.record` takes a function that builds one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from interlock.detect import Redactor
from interlock.disk import Disk
from interlock.journal import JournalWriter, MemoryJournal
from interlock.journal.sealing import SAMPLES_KEPT
from interlock.model.canonical import canonical, digest_bytes
from interlock.model.clock import Clock
from interlock.model.events import APART, Event, Kept, MachineSampled
from interlock.model.limits import DEFAULT_LIMITS
from interlock.telemetry import Snapshot

LARGE_BYTES: Final = DEFAULT_LIMITS.inline_value_bytes
"""A value with longer canonical JSON is not in an event: the event has its digest, and the original is next to the journal."""
_NOTHING: Final = Kept(digest=digest_bytes("value", b"null"), bytes=4, view=msgspec.Raw(b"null"))
"""The kept value null, such as that of a tool that returned nothing, or of a removed key."""

Listener = Callable[[str, Event], None]
"""Called with the id of the run and the event, on the loop; must be quick and must not raise."""


class Recorder:
    """Appends to one journal, and tells listeners (progress, spans) about each event."""

    __slots__ = ("_listeners", "_redactor", "_sampled", "run_id", "writer")

    def __init__(
        self, run_id: str, writer: JournalWriter | MemoryJournal, redactor: Redactor, listeners: Sequence[Listener]
    ) -> None:
        """Keeps the list `listeners` itself, to which listeners may be added later."""
        self.run_id = run_id
        self.writer = writer
        self._redactor = redactor
        self._listeners = listeners
        self._sampled: list[tuple[Snapshot, int]] = []

    @classmethod
    def reopen(cls, directory: Path, disk: Disk, clock: Clock, redactor: Redactor) -> Self:
        """Continue the journal of a run whose process has ended; the caller closes the writer. Raises as `JournalWriter.open`."""
        run_id = directory.name
        return cls(
            run_id, JournalWriter.open(directory, run_id=run_id, disk=disk, clock=clock, create=False), redactor, ()
        )

    def record(
        self, event: Event, proposal: str | None = None, action: str | None = None, step: int | None = None
    ) -> int:
        """Append an event about a proposal, an action and a step of the gate (None: about the run as a whole).

        Returns its sequence number. On disk only after `writer.durable()`. Raises: StoreError.
        """
        event.proposal, event.action, event.step = proposal, action, step
        seq = self.writer.append(event)
        for listener in self._listeners:
            listener(self.run_id, event)
        return seq

    def sampled(self, sample: Snapshot) -> int:
        """The number of the event with a reading of the machine, which is written once, even if many actions refer to it."""
        for known, seq in self._sampled:  # the newest is first, and almost always the wanted one
            if known is sample:
                return seq
        seq = self.record(MachineSampled(sample=sample.view))
        self._sampled = [(sample, seq), *self._sampled[: SAMPLES_KEPT - 1]]
        return seq

    def keep(self, value: Any, secrets: Sequence[str] = (), data: bytes | None = None) -> Kept:
        """The redacted view and the digest of a value; `secrets` are pointer patterns marked secret by a schema.

        A value over `LARGE_BYTES` has no view in the journal, so it is not searched for secrets (ADR 51). `data` is the value's
        canonical JSON where the caller has it. Raises: CanonicalError if the value is not JSON.
        """
        if value is None:
            return _NOTHING
        if data is None:
            data = canonical(value)
        if len(data) > LARGE_BYTES:
            return self.writer.keep(data, APART, value)
        return self.writer.keep(data, self._redactor.redact(value, secrets, data), value)

    def keep_output(
        self,
        value: Any,
        parameters: Any,
        secrets: Sequence[str] = (),
        data: bytes | None = None,
        parameters_data: bytes | None = None,
    ) -> Kept:
        """As `keep`, for the output of an action with these parameters; if either may contain a secret, without hashes.

        `data` and `parameters_data` are the canonical JSON of both, where the caller has it.

        The hash of a file in the output of `fs.write` would let a reader of the journal confirm guesses of a redacted value.
        """
        if value is None:
            return _NOTHING
        if data is None:
            data = canonical(value)
        if len(data) > LARGE_BYTES:
            return self.writer.keep(data, APART, value)
        view = self._redactor.redact(value, (), data)
        if self._redactor.may_hold_hash(data) and (
            view is not value or self._may_hold_secret(parameters, secrets, parameters_data)
        ):
            view = self._redactor.hide_hashes(view)
        return self.writer.keep(data, view, value)

    def _may_hold_secret(self, parameters: Any, secrets: Sequence[str], data: bytes | None) -> bool:
        """True if the journal has these parameters redacted, or not at all."""
        if data is None:
            data = canonical(parameters)
        return len(data) > LARGE_BYTES or self._redactor.redact(parameters, secrets, data) is not parameters

    def shown(self, value: Any, secrets: Sequence[str] = ()) -> Any:
        """The redacted view of a value that is written as it is. Raises: CanonicalError."""
        return self._redactor.redact(value, secrets, canonical(value))

    def text(self, text: str) -> str:
        """Text for people, with secrets in known formats replaced, and cut to the length of a journal line."""
        return self._redactor.redact_text(text if len(text) <= 8192 else text[:8192] + "...")
