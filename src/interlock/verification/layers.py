"""Checks the three layers: well-formed lines in order, which match what the journal recorded."""

from __future__ import annotations

import hashlib
from typing import Any

from interlock.verification import schemas
from interlock.verification.container import KERNEL, POLICY, SDK
from interlock.verification.effects import take_effect
from interlock.verification.events import DecisionLines
from interlock.verification.facts import Facts, Line
from interlock.verification.lines import read_line
from interlock.verification.strict_json import StrictJsonError, canonical


class LayerReader:
    """Reads and checks the lines of a layer."""

    path = ""
    schema = ""

    def __init__(self, facts: Facts) -> None:
        """`facts` receives the content of the lines."""
        self.facts, self.findings = facts, facts.findings
        self._check = schemas.line(self.schema)
        self._next = self._line = 0

    def take(self, lines: list[bytes]) -> None:
        """Check lines of the member."""
        for line in lines:
            self._line += 1
            where = f"{self.path}:{self._line}"
            value = read_line(line, self._check, where, self.facts)
            if value is None:
                self._next += 1
                continue
            seq = value["seq"]
            if seq != self._next:
                self.findings.add("sequence_gap", where, f"`seq` is {seq}, but should be {self._next}")
            self._next = seq + 1
            self.line(value, line, where)

    def line(self, value: Line, line: bytes, where: str) -> None:
        """Check one line that fits its schema and belongs to this run."""
        raise NotImplementedError

    def end(self) -> None:
        """Check the layer as a whole after its last line."""


class KernelReader(LayerReader):
    """`layers/kernel.ndjson`."""

    path, schema = KERNEL, "kernel-line"

    def __init__(self, facts: Facts) -> None:
        """Must be created after the events were read, which name the recorders that the journal closed."""
        super().__init__(facts)
        self._hashes: dict[str, Any] = {name: hashlib.sha256() for name in facts.recorders_closed}
        self._counts = dict.fromkeys(facts.recorders_closed, 0)
        self._redacted: set[str] = set()

    def line(self, value: Line, line: bytes, where: str) -> None:
        """Check a line of a recorder."""
        recorder = value["recorder"]
        hashed = self._hashes.get(recorder)
        if hashed is not None:
            hashed.update(line)
            self._counts[recorder] += 1
        if "redacted" in value:
            self.facts.redacted = True
            self._redacted.add(recorder)
        if self.facts.take_kernel(value, where):
            take_effect(self.facts, value)

    def end(self) -> None:
        """Compare each recorder with its entry in the journal."""
        for name, event in self.facts.recorders_closed.items():
            if self._counts[name] != event.get("lines", 0):
                wrong = f"{self._counts[name]} lines, not {event.get('lines', 0)} as in event {event['seq']}"
            elif name in self._redacted or not self._counts[name]:
                continue
            elif "sha256:" + self._hashes[name].hexdigest() != event.get("digest"):
                wrong = f"different lines from those of event {event['seq']}"
            else:
                continue
            self.findings.add("recorder_mismatch", KERNEL, f"recorder `{name[:80]}` has {wrong}")


class PolicyReader(LayerReader):
    """`layers/policy.ndjson`, which is derived from the events."""

    path, schema = POLICY, "policy-line"

    def __init__(self, facts: Facts, expected: DecisionLines) -> None:
        """`expected` is the required content."""
        super().__init__(facts)
        self._expected = expected

    def line(self, value: Line, line: bytes, where: str) -> None:
        """Check a decision."""
        if not self._expected.expects(self._line - 1, line):
            self.findings.add("policy_mismatch", where, f"it does not match the events for decision {value['seq']}")

    def end(self) -> None:
        """Compare the number of decisions."""
        if self._line != self.facts.decisions:
            self.findings.add(
                "policy_mismatch", POLICY, f"it has {self._line} lines for {self.facts.decisions} decisions"
            )


class SdkReader(LayerReader):
    """`layers/sdk.ndjson`."""

    path, schema = SDK, "sdk-line"

    def __init__(self, facts: Facts) -> None:
        """Must be created after the events were read, which record how the layer was closed."""
        super().__init__(facts)
        self._hash = hashlib.sha256()
        self._writers: dict[str, int] = {}
        self._before: tuple[int, str, int] | None = None
        self._redacted = False

    def line(self, value: Line, line: bytes, where: str) -> None:
        """Check a report of a process."""
        self._hash.update(line)
        self._redacted = self._redacted or value.get("redacted") is True
        self.facts.redacted = self.facts.redacted or self._redacted
        try:
            if canonical(value) + b"\n" != line:
                self.findings.add("json_invalid", where, "it is not canonical")
        except StrictJsonError as error:
            self.findings.add(error.code, where, str(error))
        writer, number = value["writer"], value["writer_seq"]
        if number != self._writers.get(writer, 0):
            self.findings.add("sequence_gap", where, f"`writer_seq` is {number}, not {self._writers.get(writer, 0)}")
        self._writers[writer] = number + 1
        place = (value["ts"], writer, number)
        if self._before is not None and place < self._before:
            self.findings.add("sdk_mismatch", where, "it should come before the line above it")
        self._before = place
        self.facts.take_sdk(value)

    def end(self) -> None:
        """Compare the layer with its entry in the journal."""
        closed = self.facts.sdk_recorded
        if closed is None:
            return
        same = self._redacted or "sha256:" + self._hash.hexdigest() == closed["digest"]
        if self._line != closed.get("records", 0) or not same:
            self.findings.add("sdk_mismatch", SDK, f"it does not match the layer that event {closed['seq']} recorded")
