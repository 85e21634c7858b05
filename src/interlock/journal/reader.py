"""Reads a journal: events in order up to the last valid seal, with one batch in memory at a time.

If no intact batch follows the last valid seal, the rest is a *torn tail*: a writer died there. If an intact batch
follows, something in between was damaged: *corruption*. The distinction matters because nothing may be written after
corruption.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from interlock.disk import open_regular, store_error
from interlock.journal.sealing import (
    BATCH_BYTES_MAX,
    JOURNAL_NAME,
    SEAL_PREFIX,
    Head,
    genesis,
    seal_digest,
    seal_line,
)
from interlock.model import typed
from interlock.model.errors import IntegrityError, UsageError
from interlock.model.events import FORMAT_VERSION, READABLE_VERSIONS, AnyEvent, Event, Seal, Unknown

_seal_decoder = typed.json_decoder(Seal)
KINDS: Final = frozenset(str(kind.__struct_config__.tag) for kind in AnyEvent.__args__)


@functools.cache
def _event_decoder() -> msgspec.json.Decoder[Event]:
    """The event decoder. Built on first use, because that takes milliseconds and a new run reads no events."""
    return typed.json_decoder(AnyEvent)


class Torn(msgspec.Struct, frozen=True):
    """The bytes after the last valid seal: their offset and length."""

    offset: int
    bytes: int


class Corruption(msgspec.Struct, frozen=True):
    """Damage before a later intact batch: the byte offset and line number (from 1) of the first batch that cannot be trusted."""

    offset: int
    line: int
    reason: str


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `scan`."""

    head: Head
    seals: int
    bytes: int
    """Length up to the last valid seal."""
    torn: Torn | None = None
    corruption: Corruption | None = None
    unknown_kinds: tuple[str, ...] = ()
    """Event kinds that this version does not know."""
    seal_at: str | None = None
    """Digest of the seal whose last event is number `at` (see `scan`), if there is one."""

    @property
    def events(self) -> int:
        """The number of sealed events."""
        return self.head.seq + 1

    @property
    def refuse_resume(self) -> bool:
        """True if the run must not be resumed, because its journal has events that this version does not understand."""
        return bool(self.unknown_kinds) or self.corruption is not None


class Place(NamedTuple):
    """A position between two batches of a journal, whose beginning was verified up to there."""

    head: Head
    seals: int
    offset: int
    """Bytes before it."""
    line: int
    """Lines before it."""


class Batch(msgspec.Struct, frozen=True):
    """A batch whose seal is valid."""

    seal: Seal
    lines: list[bytes]
    place: Place
    """Where it begins."""


class Chain:
    """Walks the batches of a journal and checks each seal. Afterwards, its fields say where and why the walk stopped."""

    def __init__(self, run_id: str, place: Place | None = None) -> None:
        """Start before the first batch, or at `place`."""
        if place is None:
            place = Place(Head(run=run_id, seq=-1, seal=genesis(run_id), epoch=0), 0, 0, 0)
        self.head, self.seals, self.offset, self.line = place
        self._older = [genesis(run_id, version) for version in READABLE_VERSIONS if version != FORMAT_VERSION]
        self.problem: str | None = None
        """Why the next bytes are not a valid batch; None at the end of the file."""

    def batches(self, file: BinaryIO) -> Iterator[Batch]:
        """Yield each valid batch, until the end or the first bytes that do not continue the chain.

        The file must be positioned at `offset`.
        """
        lines: list[bytes] = []
        size = 0
        self.problem = None
        read_line, seal_prefix, most = file.readline, SEAL_PREFIX, BATCH_BYTES_MAX
        while line := read_line(most + 1):
            if line[-1:] != b"\n":
                self.problem = "the journal ends inside a line"
                return
            if not line.startswith(seal_prefix):
                lines.append(line)
                size += len(line)
                if size > most:
                    self.problem = "a seal is missing"
                    return
                continue
            seal = self._check(line, lines, size)
            if seal is None:
                return
            place = Place(self.head, self.seals, self.offset, self.line)
            self.head = Head(run=self.head.run, seq=seal.last, seal=seal.digest, epoch=seal.epoch)
            self.seals += 1
            self.offset += size + len(line)
            self.line += len(lines) + 1
            yield Batch(seal, lines, place)
            lines, size = [], 0
        if lines:
            self.problem = "the journal ends inside a batch"

    def _check(self, line: bytes, lines: list[bytes], size: int) -> Seal | None:
        seal = _decode_seal(line)
        if seal is None:
            self.problem = "a seal cannot be read"
        elif seal.prev != self.head.seal and not (self.seals == 0 and seal.prev in self._older):
            self.problem = "a seal does not continue the previous one"
        elif not lines or seal.first != self.head.seq + 1 or seal.last - seal.first + 1 != len(lines):
            self.problem = "a seal has the wrong number of events"
        elif seal.epoch not in (self.head.epoch, self.head.epoch + 1) or seal.epoch < 1:
            self.problem = "a seal has the wrong writer count"
        elif seal.bytes != size or seal.digest != seal_digest(
            seal.prev, seal.first, seal.last, seal.epoch, b"".join(lines)
        ):
            self.problem = "a batch does not match its seal"
        else:
            return seal
        return None


def read(run_dir: Path, *, start: int = 0, wants: Callable[[str], bool] | None = None) -> Iterator[Event | Unknown]:
    """Yield the sealed events from sequence number `start` on, of the kinds that the caller `wants`.

    Other events are verified but not decoded.

    Ends without an error at a torn tail (`scan` reports it). Raises: UsageError `not_found` if there is no such run;
    IntegrityError `journal_corrupt` after the last trustworthy event if the journal is damaged; StoreError.
    """
    for batch in read_batches(run_dir):
        if batch.seal.last >= start:
            for number, line in enumerate(batch.lines):
                if batch.seal.first + number >= start and (wants is None or wants(kind_of(line))):
                    yield decode_event(batch, number, run_dir)


def read_batches(run_dir: Path, start: Place | None = None) -> Iterator[Batch]:
    """Yield the sealed lines of a journal as they are on disk, batch by batch, without decoding them; from a batch's `place` on.

    Raises as `read`.
    """
    chain = Chain(run_dir.name, start)
    with _open(run_dir) as file:
        file.seek(chain.offset)
        yield from chain.batches(file)
        if chain.problem is not None and _whole_batch_after(file, chain.offset):
            raise corrupt(run_dir, Corruption(chain.offset, chain.line + 1, chain.problem))


class Tail:
    """Reads a journal while it grows: each `read_new` verifies and yields the events sealed since the previous call."""

    def __init__(self, run_dir: Path) -> None:
        """Start before the first event. No file is opened yet."""
        self._run_dir = run_dir
        self._chain = Chain(run_dir.name)
        self._size = 0

    def read_new(self) -> Iterator[Event | Unknown]:
        """Yield the newly sealed events. Raises as `read`."""
        chain = self._chain
        with _open(self._run_dir) as file:
            size = file.seek(0, 2)
            if size == self._size:
                return
            file.seek(chain.offset)
            for batch in chain.batches(file):
                for number in range(len(batch.lines)):
                    yield decode_event(batch, number, self._run_dir)
            if chain.problem is not None and _whole_batch_after(file, chain.offset):
                raise corrupt(self._run_dir, Corruption(chain.offset, chain.line + 1, chain.problem))
            self._size = size


def scan(run_dir: Path, *, at: int | None = None) -> JournalStatus:
    """Check every seal and return the journal's status, without decoding events. Raises: UsageError, StoreError.

    With `at`, the status also holds the digest of the seal whose last event has that sequence number.
    """
    chain = Chain(run_dir.name)
    unknown: set[str] = set()
    seal_at: str | None = chain.head.seal if at == -1 else None
    with _open(run_dir) as file:
        for batch in chain.batches(file):
            unknown.update(kind for kind in map(kind_of, batch.lines) if kind not in KINDS)
            if batch.seal.last == at:
                seal_at = batch.seal.digest
        size = file.seek(0, 2)
        torn = corruption = None
        if chain.problem is not None:
            if _whole_batch_after(file, chain.offset):
                corruption = Corruption(chain.offset, chain.line + 1, chain.problem)
            else:
                torn = Torn(chain.offset, size - chain.offset)
    return JournalStatus(
        head=chain.head,
        seals=chain.seals,
        bytes=chain.offset,
        torn=torn,
        corruption=corruption,
        unknown_kinds=tuple(sorted(unknown)),
        seal_at=seal_at,
    )


def corrupt(run_dir: Path, damage: Corruption) -> IntegrityError:
    """The error for a damaged journal."""
    return IntegrityError(
        f"the journal of run `{run_dir.name}` is damaged at byte {damage.offset}: {damage.reason}",
        code="journal_corrupt",
        path=f"{run_dir / JOURNAL_NAME}:{damage.line}",
        hint="everything before that byte can be read; restore the file from a backup, or start a new run",
    )


def decode_line(line: bytes) -> Event | Unknown:
    """Decode one event line. Raises: msgspec.MsgspecError or UnicodeDecodeError if it is not an event."""
    try:
        return _event_decoder().decode(line)
    except msgspec.ValidationError:
        fields = typed.decode(line, dict[str, Any])
        kind, seq = fields.pop("kind", None), fields.pop("seq", None)
        if not isinstance(kind, str) or not isinstance(seq, int) or kind in KINDS:
            raise
        return Unknown(kind=kind, seq=seq, fields=fields)


def decode_event(batch: Batch, number: int, run_dir: Path) -> Event | Unknown:
    """Decode the event of a batch with this number, counted from 0. Raises: IntegrityError `journal_corrupt`."""
    seq = batch.seal.first + number
    try:
        event = decode_line(batch.lines[number])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        reason = "a sealed line is not an event"
    else:
        if event.seq == seq:
            return event
        reason = f"event {seq} claims to be number {event.seq}"
    raise IntegrityError(
        f"the journal of run `{run_dir.name}` was not written by Interlock: {reason}",
        code="journal_corrupt",
        path=f"{run_dir / JOURNAL_NAME}:{batch.place.line + 1 + number}",
    )


def _whole_batch_after(file: BinaryIO, start: int) -> bool:
    """True if a seal at or after `start` matches the bytes before it, which shows that a writer continued after this point."""
    offset = start
    while True:
        file.seek(offset)
        line = file.readline(BATCH_BYTES_MAX)
        if not line:
            return False
        seal = _decode_seal(line) if line.startswith(SEAL_PREFIX) else None
        if seal is not None and 0 < seal.bytes <= min(offset - start, BATCH_BYTES_MAX):
            file.seek(offset - seal.bytes)
            lines = file.read(seal.bytes)
            if seal.digest == seal_digest(seal.prev, seal.first, seal.last, seal.epoch, lines):
                return True
        offset += len(line)


def _decode_seal(line: bytes) -> Seal | None:
    try:
        seal = _seal_decoder.decode(line)
        return seal if seal_line(seal) == line else None
    except (msgspec.MsgspecError, UnicodeError):
        return None


def kind_of(line: bytes) -> str:
    """The kind of a sealed event line. The writer puts this field first."""
    return _text(line[9 : line.find(b'"', 9)])


@functools.lru_cache(maxsize=1024)
def _text(kind: bytes) -> str:
    return kind.decode("utf-8", "replace")


@contextmanager
def _open(run_dir: Path) -> Iterator[BinaryIO]:
    path = run_dir / JOURNAL_NAME
    try:
        with open_regular(path) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"there is no run `{run_dir.name}`", code="not_found", hint="`interlock runs list` shows them"
        ) from None
    except OSError as error:
        raise store_error(error, f"read {path}") from error
