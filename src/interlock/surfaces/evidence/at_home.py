"""Compares an archive with the original run if it is still stored here, event by event, including redacted ones."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Final

import msgspec

from interlock import journal
from interlock.engine.inspect.history import History
from interlock.engine.local.machine import redaction_key
from interlock.evidence.format import EVENTS
from interlock.evidence.redaction import Redaction
from interlock.model import typed
from interlock.verification.findings import ArchiveFinding

CODE: Final = "home_mismatch"
_SEAL: Final = "seal"


class _Front(msgspec.Struct, frozen=True):
    """The fields that tell whether a line is an event, and which."""

    kind: str
    seq: int
    sealed: str | None = None


def compare(past: History, run_id: str, archive: BinaryIO) -> ArchiveFinding | None:
    """The first event of a valid archive that differs from the journal; None if there is none.

    Later journal events are ignored. Raises: UsageError `not_found` if this project has no such run; IntegrityError if
    its journal is damaged.
    """
    directory = past.directory(run_id)
    redaction = Redaction(redaction_key(past.place.state, past.disk))
    sealed_at_home = (line for batch in journal.read_batches(directory) for line in batch.lines)
    for number, (line, front) in enumerate(_events(archive)):
        at_home = next(sealed_at_home, None)
        where = f"{EVENTS}: event {number}"
        if at_home is None:
            return ArchiveFinding(code=CODE, where=where, message="the local journal ends before it")
        same = (
            b'{"schema":"interlock.evidence.event.v1","run_id":"%b",%b' % (run_id.encode(), at_home[1:]) == line
            if front.sealed is None
            else redaction.sealed(at_home[:-1]) == front.sealed
        )
        if not same:
            return ArchiveFinding(code=CODE, where=where, message="the local journal has another event there")
    return None


def _events(archive: BinaryIO) -> Iterator[tuple[bytes, _Front]]:
    """The event lines of a valid archive."""
    archive.seek(0)
    decode = typed.json_decoder(_Front).decode
    with gzip.open(archive) as inflated, tarfile.open(fileobj=inflated, mode="r|") as members:
        for member in members:
            content = members.extractfile(member) if member.name == EVENTS else None
            if content is None:
                continue
            for line in content:
                front = decode(line)
                if front.kind != _SEAL:
                    yield line, front
            return
