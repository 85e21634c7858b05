r"""The journal's format: file names, the encoding of a batch, and the coverage of a seal. Shared by writer and reader.

A journal is a sequence of batches. A batch is a number of event lines and one seal line. The digest of a seal is

    sha256("interlock.seal.v1\n" + PREV + " " + FIRST + " " + LAST + " " + BYTES + " " + EPOCH + "\n" + the event lines)

with the four numbers in decimal and PREV as written in the line (`sha256:` + hex), so that no byte of a batch and no
field of its seal can change unnoticed. PREV of the first seal is `digest("genesis", {"run": RUN ID, "version":
VERSION})`; the run's directory is named by its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from interlock.model.canonical import digest, digest_bytes
from interlock.model.errors import StoreError
from interlock.model.events import FORMAT_VERSION, Event, Seal

JOURNAL_NAME: Final = "journal.ndjson"
TORN_NAME: Final = "journal.torn"
PRIVATE_NAME: Final = "private"
BACKUPS_NAME: Final = "backups"
HEAD_NAME: Final = "head.dsse.json"
"""The signed head; empty, or without its last newline, if none was written completely yet."""
SEAL_PREFIX: Final = b'{"kind":"seal",'
BATCH_EVENTS_MAX: Final = 1024
"""Maximum number of events in a batch. Readers hold one batch in memory, so this bounds their memory."""
BATCH_BYTES_MAX: Final = 32 * 1024 * 1024
"""Maximum size of a batch. Readers treat a longer one as damage."""
SAMPLES_KEPT: Final = 8
"""The number of machine readings that are remembered as written. An action that runs longer has its first reading written
again: an event names one of the last `SAMPLES_KEPT`, or the one before them if its second reading was just written."""

_encoder = msgspec.json.Encoder()


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A journal's position. Signed heads and database commits refer to it."""

    run: str
    seq: int
    """Number of the last sealed event; -1 if there is none."""
    seal: str
    """Digest of the last seal; the genesis digest if there is none."""
    epoch: int
    """The number of processes that have written so far; 0 if none has."""
    version: int = FORMAT_VERSION


def genesis(run_id: str, version: int = FORMAT_VERSION) -> str:
    """The `prev` of a run's first seal."""
    return digest("genesis", {"run": run_id, "version": version})


def seal_digest(prev: str, first: int, last: int, epoch: int, lines: bytes) -> str:
    """The digest of the seal over `lines`, the batch's event lines with their newlines."""
    return digest_bytes("seal", f"{prev} {first} {last} {len(lines)} {epoch}\n".encode() + lines)


def seal_line(seal: Seal) -> bytes:
    """The canonical encoding of a seal. A reader accepts no other."""
    return _encoder.encode(seal) + b"\n"


def encode_batches(events: Sequence[Event], first: int) -> Iterable[tuple[int, bytes]]:
    """Split events, numbered from `first`, into batches within the limits. Yields event count and lines. Raises: StoreError."""
    if events and (events[0].seq, events[-1].seq) != (first, first + len(events) - 1):
        raise StoreError(f"event {first} was lost on the way to the journal", code="internal")
    if len(events) <= BATCH_EVENTS_MAX:
        lines = _encode(events)
        return ((len(events), lines),) if len(lines) <= BATCH_BYTES_MAX else _bounded(events)
    return _split(events)


def _split(events: Sequence[Event]) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(events), BATCH_EVENTS_MAX):
        yield from _bounded(events[start : start + BATCH_EVENTS_MAX])


def _bounded(events: Sequence[Event]) -> Iterator[tuple[int, bytes]]:
    lines = _encode(events)
    if len(lines) <= BATCH_BYTES_MAX:
        yield len(events), lines
    elif len(events) > 1:
        half = len(events) // 2
        yield from _bounded(events[:half])
        yield from _bounded(events[half:])
    else:
        raise StoreError(f"event {events[0].seq} has {len(lines)} bytes, more than a journal can hold", code="internal")


def _encode(events: Sequence[Event]) -> bytes:
    try:
        return _encoder.encode_lines(events)
    except UnicodeEncodeError:
        # A tool's text can contain lone surrogates (from undecodable file names). They must not stop the run.
        return _encoder.encode_lines([_well_formed(event) for event in events])


def _well_formed(value: Any) -> Any:
    """The same value with `?` for each lone surrogate."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_well_formed(k): _well_formed(v) for k, v in value.items()}
        case list() | tuple():
            return type(value)(_well_formed(v) for v in value)
        case msgspec.Struct():
            return type(value)(**{k: _well_formed(getattr(value, k)) for k in value.__struct_fields__})
        case _:
            return value
