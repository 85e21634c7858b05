"""Checks the member `events.ndjson`: the journal's lines and seals, and the two chains over them."""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left
from typing import Any, Final

from interlock.verification import schemas
from interlock.verification.container import EVENTS, LINE_BYTES_MAX
from interlock.verification.facts import Facts, Line
from interlock.verification.findings import DamageError
from interlock.verification.lines import read_line
from interlock.verification.strict_json import canonical

BATCH_EVENTS_MAX: Final = 1024
BATCH_BYTES_MAX: Final = LINE_BYTES_MAX
_VIEW_BYTES_MAX: Final = 2 * BATCH_BYTES_MAX
_SEALED: Final = re.compile(rb'"sealed":"hmac-sha256:[0-9a-f]{64}",')
_SCHEMA: Final = "interlock.evidence.event.v1"


def sha256(what: str, data: bytes) -> str:
    """Returns the digest of an object of the kind `what`, as the journal computes it."""
    return "sha256:" + hashlib.sha256(b"interlock.%b.v1\n" % what.encode() + data).hexdigest()


class Seals:
    """The end, epoch and digest of each seal, in 48 bytes."""

    def __init__(self) -> None:
        """Starts empty."""
        self._lasts, self._epochs, self._digests = array("q"), array("q"), bytearray()

    def add(self, seal: Line) -> None:
        """Add a seal."""
        self._lasts.append(int(seal["last"]))  # 1.0 is an integer to JSON Schema
        self._epochs.append(int(seal["epoch"]))
        self._digests += bytes.fromhex(seal["digest"].removeprefix("sha256:"))

    def at(self, last: int) -> tuple[str, int] | None:
        """Digest and epoch of the seal directly after an event; None if there is none."""
        place = bisect_left(self._lasts, last)
        if place == len(self._lasts) or self._lasts[place] != last:
            return None
        return "sha256:" + self._digests[32 * place : 32 * place + 32].hex(), self._epochs[place]


class DecisionLines:
    """The expected policy layer: its digest, and eight bytes per line to locate a difference."""

    def __init__(self) -> None:
        """Starts empty."""
        self._all = hashlib.sha256()
        self._each = array("Q")

    def add(self, line: bytes) -> None:
        """Add the next expected line."""
        self._all.update(line)
        self._each.append(int.from_bytes(hashlib.sha256(line).digest()[:8]))

    def expects(self, number: int, line: bytes) -> bool:
        """Returns True if this is the expected line for its number, counted from 0."""
        return number < len(self._each) and self._each[number] == int.from_bytes(hashlib.sha256(line).digest()[:8])

    def is_whole(self, sha256_hex: str) -> bool:
        """Returns True if the member with this hash is the expected layer."""
        return self._all.hexdigest() == sha256_hex


class EventsReader:
    """Reads and checks the lines of the member."""

    def __init__(self, facts: Facts) -> None:
        """`facts` receives the content of the events."""
        self.facts, self.findings = facts, facts.findings
        self.seals, self.decisions = Seals(), DecisionLines()
        self.head: Line | None = None
        """The position of the journal after the last seal."""
        self.view = ""
        self.unchecked = 0
        """Number of batches whose seals could not be recomputed."""
        self._check = schemas.line("event-line")
        self._batch: list[bytes] = []
        self._views: list[bytes] = []
        self._bytes = self._view_bytes = 0
        self._redacted = False
        self._next = self._seals = 0
        self._line = 0

    def take(self, lines: list[bytes]) -> None:
        """Check lines of the member. Raises: DamageError `archive_too_large`."""
        for line in lines:
            self._line += 1
            where = f"{EVENTS}:{self._line}"
            value = read_line(line, self._check, where, self.facts)
            if value is None:
                self._hold(line, line)
            elif value["kind"] == "seal":
                self._seal(value, where)
            else:
                self._event(value, line, where)

    def end(self) -> None:
        """Check that the last line was a seal."""
        if self._views:
            self.findings.add("seal_mismatch", f"{EVENTS}:{self._line}", "the last line is not a seal")

    # -- events

    def _event(self, event: Line, line: bytes, where: str) -> None:
        rest = self._without_front(event, line, where)
        self._hold(rest, line)
        if "sealed" in event:
            self._redacted = self.facts.redacted = True
        seq = event["seq"]
        if seq != self._next:
            self.findings.add("sequence_gap", where, f"event {seq} follows event {self._next - 1}")
        self._next = seq + 1
        self.facts.take_event(event, where)
        if event["kind"] == "policy_decided":
            self.decisions.add(canonical(self.facts.take_decision(event)) + b"\n")

    def _without_front(self, event: Line, line: bytes, where: str) -> bytes:
        """Returns the journal's own line, without the members that the export puts first."""
        front = b'{"schema":"%b","run_id":"%b",' % (_SCHEMA.encode(), str(event["run_id"]).encode())
        at = len(front)
        sealed = _SEALED.match(line, at)
        if sealed is not None:
            at = sealed.end()
        if not line.startswith(front) or ("sealed" in event) != (sealed is not None):
            self.findings.add(
                "schema_invalid", where, "the members that the export puts first are missing or out of place"
            )
        return b"{" + line[at:]

    def _hold(self, rest: bytes, line: bytes) -> None:
        self._batch.append(rest)
        self._views.append(line)
        self._bytes += len(rest)
        self._view_bytes += len(line)
        too_many = len(self._batch) > BATCH_EVENTS_MAX or self._view_bytes > _VIEW_BYTES_MAX
        if too_many or (self._bytes > BATCH_BYTES_MAX and not self._redacted):
            raise DamageError("archive_too_large", f"{EVENTS}:{self._line}", "a batch is larger than a journal allows")

    # -- seals

    def _seal(self, seal: Line, where: str) -> None:
        self._sequence(seal, where)
        lines = b"".join(self._batch)
        before = self._before()
        if seal["prev"] != before["seal"]:
            self.findings.add("seal_mismatch", where, "it does not name the previous seal")
        if self._redacted:
            self.unchecked += 1
        else:
            numbers = (seal["first"], seal["last"], seal["bytes"], seal["epoch"])
            start = seal["prev"].encode() + b" %d %d %d %d\n" % numbers
            if seal["bytes"] != len(lines) or seal["digest"] != sha256("seal", start + lines):
                self.findings.add("seal_mismatch", where, "its digest does not match the preceding events")
        self.view = sha256("view", self.view.encode() + b"\n" + b"".join(self._views))
        if seal["view"] != self.view:
            self.findings.add("view_mismatch", where, "its view does not match the preceding lines")
        self.view = seal["view"]
        self.head = {
            "run": self.facts.run_id,
            "seq": seal["last"],
            "seal": seal["digest"],
            "epoch": seal["epoch"],
            "version": before["version"],
        }
        self.seals.add(seal)
        self._batch, self._views, self._bytes, self._view_bytes, self._redacted = [], [], 0, 0, False

    def _sequence(self, seal: Line, where: str) -> None:
        before = self._before()
        if seal["seq"] != self._seals:
            self.findings.add("sequence_gap", where, f"seal {seal['seq']} is at position {self._seals}")
        self._seals = seal["seq"] + 1
        held = len(self._batch)
        if seal["first"] != before["seq"] + 1 or seal["last"] - seal["first"] + 1 != held or not held:
            self.findings.add("sequence_gap", where, "it does not cover the events since the previous seal")
        if seal["epoch"] not in ((1,) if self.head is None else (before["epoch"], before["epoch"] + 1)):
            self.findings.add("sequence_gap", where, f"epoch {seal['epoch']} follows epoch {before['epoch']}")

    def _before(self) -> dict[str, Any]:
        """Returns the position of the journal before this batch."""
        return self.head or start_of_journal(str(self.facts.run_id), self.facts.version)


def start_of_journal(run_id: str, version: int) -> dict[str, Any]:
    """Returns the position of a journal without seals."""
    genesis = sha256("genesis", canonical({"run": run_id, "version": version}))
    return {"run": run_id, "seq": -1, "seal": genesis, "epoch": 0, "version": version}
