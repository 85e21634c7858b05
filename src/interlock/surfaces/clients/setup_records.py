"""The records of what `interlock install` wrote, in the state directory, where no agent can write.

A record is on disk before any file is changed, and names everything that may have been written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from interlock.disk import Disk, store_error
from interlock.model import typed
from interlock.model.errors import UsageError
from interlock.surfaces.clients.client import Mode
from interlock.surfaces.clients.entries import Entry

VERSION = 4


class SavedFile(msgspec.Struct, frozen=True):
    """A file of a client, as it was before."""

    path: str
    before: bytes | None
    after_sha256: str
    entries: tuple[Entry, ...] = ()
    directories: int = 0
    """How many of the directories above the file did not exist before."""

    @property
    def text(self) -> str | None:
        """The whole file, if it belongs to Interlock alone."""
        return whole_text(self.entries)


class Record(msgspec.Struct, frozen=True):
    """What was set up.

    Version history: 1: first; 2: absolute paths, entries, mode, version of the client; 3: counts directories, whole
    files; 4: the project's root.
    """

    version: int
    files: tuple[SavedFile, ...]
    mode: Mode = "replace"
    agent: str | None = None
    client_version: str | None = None
    """The client's version at set-up; None if it was not found."""
    root: str = ""
    """The project's root at set-up; empty in scopes that cover all projects."""

    def at(self, root: Path) -> Record:
        """The record for a project that is at `root` now: files in the project have moved with it."""
        files = [msgspec.structs.replace(each, path=str(self._moved(each, root))) for each in self.files]
        return msgspec.structs.replace(self, files=tuple(files))

    def _moved(self, file: SavedFile, root: Path) -> Path:
        path = root / file.path  # version 1 has relative paths
        return root / path.relative_to(self.root) if self.root and path.is_relative_to(self.root) else path


def whole_text(entries: tuple[Entry, ...]) -> str | None:
    """The text of a file that belongs to Interlock alone; None for entries in someone else's file."""
    return str(entries[0].value) if entries and not entries[0].keys else None


def read_record(path: Path) -> Record | None:
    """The record at a path; None if there is none. Raises: UsageError `client_file` for a damaged one; StoreError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error(error, f"read {path}") from error
    try:
        return typed.decode(data, Record)
    except msgspec.DecodeError:
        raise UsageError(
            f"the set-up record `{path}` is damaged",
            code="client_file",
            hint="remove Interlock's entries from the client's files by hand, and delete the record",
        ) from None


def write_record(disk: Disk, path: Path, record: Record) -> None:
    """Write a record durably. Raises: StoreError."""
    disk.make_directory(path.parent)
    disk.write_atomic(path, msgspec.json.encode(record))


def other_records(state: Path, client: str, own: Path) -> Iterator[tuple[Path, Record]]:
    """The other set-ups of a client, in other projects and scopes, whose files are all there. Raises: as `read_record`."""
    for path in sorted([*state.glob(f"*/clients/{client}.json"), *state.glob(f"clients/{client}-*.json")]):
        record = None if path == own else read_record(path)
        if record is not None and all(Path(each.path).exists() for each in record.files):
            yield path, record
