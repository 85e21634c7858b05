"""Recovers the journal of a dead writer: moves the torn tail aside, and reports the intents in it.

`journal.torn` is a sequence of records: one header line `{"kind":"torn","offset","bytes","digest"}` (the offset in the
journal; digest of what = `torn`), the bytes, and a newline. The file is replaced as a whole before the journal is
truncated, so that a crash at any point leaves either the old state or the tail in both places; a second recovery then
only truncates. The report is always computed from the file: an intent is reported until the journal holds its outcome.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from interlock.disk import Disk, open_regular, store_error
from interlock.journal import lock
from interlock.journal.reader import JournalStatus, Torn, corrupt, decode_line, read, scan
from interlock.journal.sealing import JOURNAL_NAME, SEAL_PREFIX, TORN_NAME
from interlock.model import typed
from interlock.model.canonical import digest_bytes
from interlock.model.errors import IntegrityError
from interlock.model.events import (
    ActionCancelled,
    ActionFailed,
    ActionIntent,
    ActionSucceeded,
    ActionUnknown,
    Event,
    Unknown,
)

_OUTCOMES: Final = (ActionSucceeded, ActionFailed, ActionUnknown, ActionCancelled)


class TornIntent(msgspec.Struct, frozen=True):
    """An intent that was never sealed. Whether its action ran is unknown."""

    proposal: str | None
    action: str | None
    attempt: int


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `recover`."""

    status: JournalStatus
    """The status of the recovered journal."""
    moved_bytes: int
    """Length of the torn tail that this call moved to `journal.torn`; 0 if there was none."""
    intents: tuple[TornIntent, ...]
    """Intents in `journal.torn` without an outcome in the journal: each counts as `unknown_outcome`."""
    unreadable_lines: int
    """Lines in `journal.torn` that this version cannot decode as events. Each of them may have been an intent."""


class _Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="torn"):
    offset: int
    bytes: int
    digest: str


def recover(run_dir: Path, disk: Disk, *, at: int | None = None) -> RecoveryReport:
    """Move the torn tail of a run's journal to `journal.torn`, and report. A second call changes nothing.

    `at` as in `scan`, for the report's status. Raises: UsageError `not_found`; StoreError (`run_locked` if the writer
    is alive); IntegrityError (`journal_corrupt`; then nothing is changed).
    """
    with lock.held(run_dir, disk):
        status = scan(run_dir, at=at)
        if status.corruption is not None:
            raise corrupt(run_dir, status.corruption)
        moved = 0
        if status.torn is not None:
            moved = status.torn.bytes
            _move(run_dir, status.torn, disk)
            status = scan(run_dir, at=at)
        intents, unreadable = _torn_intents(run_dir)
    return RecoveryReport(status=status, moved_bytes=moved, intents=intents, unreadable_lines=unreadable)


def intents_in_torn_tail(run_dir: Path) -> tuple[TornIntent, ...]:
    """The intents after the last valid seal of a journal that is not recovered yet. Changes nothing."""
    torn = scan(run_dir).torn
    if torn is None:
        return ()
    return tuple(_intents(_events(_read_at(run_dir / JOURNAL_NAME, torn))))


def _move(run_dir: Path, torn: Torn, disk: Disk) -> None:
    tail = _read_at(run_dir / JOURNAL_NAME, torn)
    header = _Header(offset=torn.offset, bytes=torn.bytes, digest=digest_bytes("torn", tail))
    path = run_dir / TORN_NAME
    old = _read_all(path)
    record = msgspec.json.encode(header) + b"\n" + tail + b"\n"
    if not old.endswith(record):
        disk.write_atomic(path, old + record)
    fd = disk.open_append(run_dir / JOURNAL_NAME)
    try:
        disk.truncate(fd, torn.offset)
        disk.sync_data(fd)
    finally:
        os.close(fd)


def _torn_intents(run_dir: Path) -> tuple[tuple[TornIntent, ...], int]:
    events = [event for tail in _tails(run_dir) for event in _events(tail)]
    open_intents = dict.fromkeys(_intents(iter(events)))
    if open_intents:
        for event in read(run_dir):
            if isinstance(event, _OUTCOMES):
                open_intents.pop(TornIntent(event.proposal, event.action, event.attempt), None)
    return tuple(open_intents), sum(not isinstance(event, Event) for event in events)


def _tails(run_dir: Path) -> Iterator[bytes]:
    data = _read_all(run_dir / TORN_NAME)
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1
        try:
            header = typed.decode(data[start:end], _Header)
        except msgspec.MsgspecError:
            header = None
        tail = data[end : end + header.bytes] if header is not None else b""
        if header is None or digest_bytes("torn", tail) != header.digest:
            raise IntegrityError(
                f"`{TORN_NAME}` of run `{run_dir.name}` is damaged at byte {start}",
                code="journal_corrupt",
                path=str(run_dir / TORN_NAME),
                hint="restore the file from a backup, or move it away if you know what the run's last actions did",
            )
        yield tail
        start = end + header.bytes + 1


def _events(tail: bytes) -> Iterator[Event | Unknown | None]:
    """The events in a torn tail; None for a line that is not an event. Seals are ignored."""
    for line in tail.split(b"\n"):
        if not line or line.startswith(SEAL_PREFIX):
            continue
        try:
            yield decode_line(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            yield None


def _intents(events: Iterator[Event | Unknown | None]) -> Iterator[TornIntent]:
    for event in events:
        if isinstance(event, ActionIntent):
            yield TornIntent(event.proposal, event.action, event.attempt)


def _read_at(path: Path, torn: Torn) -> bytes:
    try:
        with open_regular(path) as file:
            file.seek(torn.offset)
            return file.read(torn.bytes)
    except OSError as error:
        raise store_error(error, f"read {path}") from error


def _read_all(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise store_error(error, f"read {path}") from error
