"""The kernel recorder of process actions: reads what a recorder reports, and writes it to the run's layer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from interlock.isolation.client import Outcome
from interlock.isolation.wire import RECORD
from interlock.model.errors import StoreError, ToolError
from interlock.model.tool import Context

_READ_BYTES: Final = 256 * 1024
_ENDED: Final = b'{"kind":"recorder_ended"'
_SIGNALS: Final = signal.valid_signals()
NO_LAYER: Final = "absent(this run keeps nothing on disk, so there is no place for a record)"


class Lines(Protocol):
    """The destination of one recorder's lines."""

    calls: int
    dropped: int

    def add(self, bodies: list[bytes], *, always: bool = False) -> None:
        """Write records, JSON objects. Raises: StoreError."""
        ...


class Summary:
    """How a recorder ended."""

    def __init__(self, lines: Lines, refused: int, *, lost: bool) -> None:
        """`refused` counts calls whose arguments could not be read; `lost` means that it ended before the program did."""
        self.lines = lines
        self.refused = refused
        self.lost = lost


OpenLines = Callable[[Context], Lines | None]
"""Opens the lines of a new recorder for an action; None if the run keeps nothing on disk."""
Tell = Callable[[Context, Summary], None]


class ProcessRecording:
    """The recorders of a runtime, and where the engine stores their reports."""

    def __init__(self, open_lines: OpenLines = lambda _: None, tell: Tell = lambda _, __: None) -> None:
        """Starts nothing. By default, nothing is recorded."""
        self._open_lines = open_lines
        self._tell = tell

    @contextlib.asynccontextmanager
    async def open(
        self, ctx: Context, posture: Mapping[str, str], require: Sequence[str]
    ) -> AsyncIterator[dict[str, int]]:
        """Run the action's program inside the block, with the yielded descriptors; its record is complete at the end.

        A recorder exists only if the entry `record` of the action's posture is `active`; the entry is updated at the
        end.

        Raises: ToolError `isolation_failed` if `require` names `record` and the run keeps nothing on disk; StoreError
        if the record cannot be written.
        """
        record = self.start(ctx, posture, require)
        if record is None:
            try:
                yield {}
            finally:
                if posture["record"].startswith("active"):
                    ctx.posture(record=NO_LAYER)
            return
        try:
            yield record.descriptors
        finally:
            record.begun()
            await record.to_its_end()
            summary = record.finish()
            ctx.posture(record=_state(summary) or posture["record"])
        if summary is not None:
            self._tell(ctx, summary)
        record.check()

    async def close(self, ctx: Context, record: Record) -> None:
        """Close the record of a program that could not be started."""
        record.begun()
        await record.to_its_end()
        if (summary := record.finish()) is not None:
            self._tell(ctx, summary)

    def start(self, ctx: Context, posture: Mapping[str, str], require: Sequence[str]) -> Record | None:
        """Returns a record of a program that is about to start; None without a recorder. Raises: ToolError, as `open` does."""
        if not posture["record"].startswith("active"):
            return None
        lines = self._open_lines(ctx)
        if lines is not None:
            return Record(lines)
        if "record" in require:
            raise ToolError(
                "`isolation.require` names `record`, but this run keeps nothing on disk",
                code="isolation_failed",
                retryable=False,
                hint="nothing has run; record runs with `journal.durability` `full` or `batch`",
            )
        return None


class Record:
    """Reads what the recorder of one program writes, until the program's processes have ended."""

    def __init__(self, lines: Lines) -> None:
        """Starts reading immediately."""
        reader, self._writer = os.pipe()
        self._stream = _Stream(reader, lines)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the caller's threads handle signals
        try:
            self._stream.start()
        except RuntimeError:
            os.close(reader)
            self.begun()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def descriptors(self) -> dict[str, int]:
        """Descriptors to send with the request."""
        return {RECORD: self._writer}

    def begun(self) -> None:
        """Close our end of the pipe once the request was sent or dropped. Can be called again.

        The recorder then has the only writing end.
        """
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    async def to_its_end(self) -> None:
        """Wait until everything was read, which is soon after the processes have ended. A second cancellation does not wait."""
        if self._stream.is_alive():
            await asyncio.shield(asyncio.to_thread(self._stream.join))

    def finish(self) -> Summary | None:
        """Returns how the recorder ended; None if none was started. Waits for the program's processes to end."""
        self.begun()
        self._stream.join()
        return self._stream.summary

    def check(self) -> None:
        """Raises: StoreError if it could not be written."""
        if self._stream.failure is not None:
            raise self._stream.failure


def _state(summary: Summary | None) -> str | None:
    """Returns the posture of an incomplete record; None if it is complete."""
    if summary is not None and summary.lost:
        return "absent(the recorder was killed, and the program with it: the record may lack its end)"
    if summary is not None and summary.lines.dropped:
        return f"active({summary.lines.dropped} calls are not in the record, whose size is bounded)"
    return None


class _Stream(threading.Thread):
    """Reads a recorder's output to its end."""

    def __init__(self, reader: int, lines: Lines) -> None:
        super().__init__(name="interlock-recorder", daemon=True)
        self._reader = reader
        self._lines = lines
        self._begun = False
        self._times = {"ts": 0, "mono": 0}
        self.summary: Summary | None = None
        """None if no recorder was started."""
        self.failure: StoreError | None = None

    def run(self) -> None:
        try:
            self._take_all()
        finally:
            os.close(self._reader)

    def _take_all(self) -> None:
        rest = b""
        while data := os.read(self._reader, _READ_BYTES):
            *whole, rest = (rest + data).split(b"\n")
            if self.failure is None:  # after a failure, keep reading so that the program never blocks
                try:
                    self._take(whole)
                except StoreError as error:
                    self.failure = error
        if self._begun and self.summary is None:
            with contextlib.suppress(StoreError):
                self._end({"refused": 0}, lost=True)

    def _take(self, bodies: list[bytes]) -> None:
        self._begun = self._begun or bool(bodies)
        ended = [body for body in bodies if body.startswith(_ENDED)]
        others = [body for body in bodies if not body.startswith(_ENDED)]
        if others:
            self._lines.add(others)
            last = json.loads(others[-1])
            self._times = {"ts": last["ts"], "mono": last["mono"]}
        for body in ended:
            self._end(json.loads(body), lost=False)

    def _end(self, ending: dict[str, Any], *, lost: bool) -> None:
        times = self._times if lost else {"ts": ending["ts"], "mono": ending["mono"]}
        line = {
            "kind": "recorder_ended",
            **times,
            "calls": self._lines.calls,
            "dropped": self._lines.dropped,
            "refused": ending["refused"],
        }
        if lost:
            line["lost"] = True
        self._lines.add([json.dumps(line, separators=(",", ":")).encode()], always=True)
        self.summary = Summary(self._lines, ending["refused"], lost=lost)


def check_recorded(outcome: Outcome) -> None:
    """Raises: ToolError `recorder_lost` if the tree was ended because its recorder was gone."""
    if outcome.report["failure"] is None and outcome.report["stopped"] == "recorder_lost":
        raise ToolError(
            "the recorder of this action was killed, so its processes were ended: nothing runs unrecorded",
            code="recorder_lost",
            retryable=False,
            hint="the record may lack the last things that the program did",
        )
