"""The kernel recorder of process actions: takes what a recorder reports, and hands it to the run's layer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from interlock.isolation.client import Outcome
from interlock.isolation.wire import RECORD
from interlock.model.errors import StoreError, ToolError
from interlock.model.tool import Context

_READ_BYTES: Final = 256 * 1024
_ENDED: Final = b'{"kind":"recorder_ended"'
NO_LAYER: Final = "absent(this run keeps nothing on disk, so there is no place for a record)"


class Lines(Protocol):
    """Where the lines of one recorder go."""

    calls: int
    dropped: int

    def add(self, bodies: list[bytes], *, always: bool = False) -> None:
        """Write records, JSON objects. Raises: StoreError."""
        ...


class Summary:
    """How a recorder has ended."""

    def __init__(self, lines: Lines, refused: int, *, lost: bool) -> None:
        """`refused` counts the calls whose arguments could not be read; `lost`: it ended before the program."""
        self.lines = lines
        self.refused = refused
        self.lost = lost


OpenLines = Callable[[Context], Lines | None]
"""The lines of a new recorder of an action; None where the run keeps nothing."""
Tell = Callable[[Context, Summary], None]


class ProcessRecording:
    """The recorders of a runtime, with the engine's place for what they report."""

    def __init__(self, open_lines: OpenLines = lambda _: None, tell: Tell = lambda _, __: None) -> None:
        """Starts nothing. By default, nothing is recorded."""
        self._open_lines = open_lines
        self._tell = tell

    @contextlib.asynccontextmanager
    async def open(
        self, ctx: Context, posture: Mapping[str, str], require: Sequence[str]
    ) -> AsyncIterator[dict[str, int]]:
        """Run the action's program inside the block, with these descriptors; at the end its record is complete.

        Only if the entry `record` of the action's posture is `active` there is a recorder. Raises: ToolError `isolation_failed`
        if `record` is among `require` and the run has no place for it; StoreError if it cannot be written.
        """
        active = posture["record"].startswith("active")
        lines = self._open_lines(ctx) if active else None
        if lines is None:
            if active:
                if "record" in require:
                    raise ToolError(
                        "`isolation.require` names `record`, and this run keeps nothing on disk",
                        code="isolation_failed",
                        retryable=False,
                        hint="nothing has run; record runs with `journal.durability` `full` or `batch`",
                    )
                ctx.posture(record=NO_LAYER)
            yield {}
            return
        reader, writer = os.pipe()
        stream = _Stream(reader, lines)
        try:
            stream.start()
            try:
                yield {RECORD: writer}
            finally:
                os.close(writer)
                await _to_its_end(stream)
        finally:
            os.close(reader)
        summary = stream.summary
        if summary is not None:
            self._tell(ctx, summary)
            if summary.lost:
                ctx.posture(
                    record="absent(the recorder was killed, and the program with it: the record may lack its end)"
                )
            elif lines.dropped:
                ctx.posture(record=f"active({lines.dropped} calls are not in the record, whose size is bounded)")
        if stream.failure is not None:
            raise stream.failure


class _Stream(threading.Thread):
    """Reads what a recorder writes, to its end."""

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
        rest = b""
        while data := os.read(self._reader, _READ_BYTES):
            *whole, rest = (rest + data).split(b"\n")
            if self.failure is None:  # else read on all the same: a program must not wait for ever
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

    def _end(self, said: dict[str, Any], *, lost: bool) -> None:
        times = self._times if lost else {"ts": said["ts"], "mono": said["mono"]}
        line = {
            "kind": "recorder_ended",
            **times,
            "calls": self._lines.calls,
            "dropped": self._lines.dropped,
            "refused": said["refused"],
        }
        if lost:
            line["lost"] = True
        self._lines.add([json.dumps(line, separators=(",", ":")).encode()], always=True)
        self.summary = Summary(self._lines, said["refused"], lost=lost)


async def _to_its_end(stream: threading.Thread) -> None:
    """Wait until all was taken: processes are gone, so that is soon. A second cancellation does not wait."""
    await asyncio.shield(asyncio.to_thread(stream.join))


def check_recorded(outcome: Outcome) -> None:
    """Raises: ToolError `recorder_lost` if the tree was ended because its recorder was gone."""
    if outcome.report["failure"] is None and outcome.report["stopped"] == "recorder_lost":
        raise ToolError(
            "the recorder of this action was killed, so its processes were ended: nothing runs unseen",
            code="recorder_lost",
            retryable=False,
            hint="what the program had done until then may be missing from the record",
        )
