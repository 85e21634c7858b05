"""Writes a client's files, with a record of how they were; undoes it from the record.

The record is in the state directory, where no agent writes, and on disk before any file is changed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from interlock.disk import Disk, store_error
from interlock.engine.local.location import locate
from interlock.model.difference import compare
from interlock.model.errors import UsageError
from interlock.surfaces.clients import claude_code
from interlock.surfaces.clients.entries import Entry, add, encode, read_object, take_out

CLIENTS: Final = {"claude-code": claude_code.entries}

Outcome = Literal["changed", "unchanged", "restored", "edited"]
"""`edited`: somebody has edited the file since, so only our entries were taken out."""


class FileChange(NamedTuple):
    """What is done to a file. `data` is its new content, None to delete it."""

    path: Path
    old: bytes | None
    data: bytes | None
    outcome: Outcome

    def difference(self) -> tuple[str, ...]:
        """The unified difference, line by line."""
        old, new = ((data or b"").decode("utf-8", "replace") for data in (self.old, self.data))
        return compare(old, new).lines


class _Saved(msgspec.Struct, frozen=True):
    path: str
    before: bytes | None
    after_sha256: str


class _Record(msgspec.Struct, frozen=True):
    version: int
    files: tuple[_Saved, ...]


class Installation:
    """One client in the project of a directory."""

    def __init__(self, client: str, start: Path, env: Mapping[str, str]) -> None:
        """Raises: UsageError `client_unknown`; ConfigurationError if there is no project; StoreError."""
        if client not in CLIENTS:
            raise UsageError(
                f"`{client}` is not a client that can be set up here",
                code="client_unknown",
                hint=f"one of {', '.join(CLIENTS)}; any other MCP client can start `interlock gateway` by itself",
            )
        self._client = client
        self._env = env
        self._disk = Disk()
        self._place = locate(start, env, self._disk)
        self._record_path = self._place.home / "clients" / f"{client}.json"

    def plan_install(self, agent: str | None) -> list[FileChange]:
        """What `apply` would write. Raises: UsageError `client_file`."""
        return [self._adding(name, entries) for name, entries in CLIENTS[self._client](agent, self._env).items()]

    def plan_remove(self) -> list[FileChange]:
        """What `apply` would write to take the client out again. Raises: UsageError `not_found`, `client_file`."""
        record = self._record()
        if record is None:
            raise UsageError(f"`{self._client}` is not set up in this project", code="not_found")
        wanted = CLIENTS[self._client](None, self._env)
        return [self._removing(saved, wanted.get(saved.path, ())) for saved in record.files]

    def apply(self, changes: list[FileChange], *, remove: bool = False) -> None:
        """Write the files. Raises: StoreError."""
        if not remove:
            self._save(changes)
        for change in changes:
            self._write(change)
        if remove:
            self._record_path.unlink(missing_ok=True)

    def _adding(self, name: str, entries: tuple[Entry, ...]) -> FileChange:
        path = self._place.root / name
        old = _read(path)
        before = {} if old is None else read_object(old, path)
        after = add(before, entries, path)
        if after == before:
            return FileChange(path, old, old, "unchanged")
        return FileChange(path, old, encode(after), "changed")

    def _removing(self, saved: _Saved, entries: tuple[Entry, ...]) -> FileChange:
        path = self._place.root / saved.path
        current = _read(path)
        if current is None or current == saved.before:
            return FileChange(path, current, current, "unchanged")
        if _sha256(current) == saved.after_sha256:
            return FileChange(path, current, saved.before, "restored")
        before = {} if saved.before is None else read_object(saved.before, path)
        document = read_object(current, path)
        # The program or agent may have been another when it was set up: our server is ours whatever it says.
        own = tuple(e if e.listed else Entry(e.keys, _current(document, e)) for e in entries)
        left = take_out(document, own, before)
        return FileChange(path, current, None if not left and saved.before is None else encode(left), "edited")

    def _save(self, changes: list[FileChange]) -> None:
        known = {} if (record := self._record()) is None else {saved.path: saved for saved in record.files}
        files = []
        for change in changes:
            name = change.path.relative_to(self._place.root).as_posix()
            saved, after = known.get(name), _sha256(change.data or b"")
            # What we wrote ourselves is not how it was before.
            ours = saved is not None and change.old is not None and _sha256(change.old) == saved.after_sha256
            files.append(_Saved(name, saved.before if saved is not None and ours else change.old, after))
        self._disk.make_directory(self._record_path.parent)
        self._disk.write_atomic(self._record_path, msgspec.json.encode(_Record(1, tuple(files))))

    def _record(self) -> _Record | None:
        try:
            return msgspec.json.decode(self._record_path.read_bytes(), type=_Record)
        except FileNotFoundError:
            return None

    def _write(self, change: FileChange) -> None:
        if change.data == change.old:
            return
        if change.data is None:
            change.path.unlink(missing_ok=True)
            return
        if not change.path.parent.is_dir():
            self._disk.make_directory(change.path.parent, 0o755)
        mode = 0o644 if change.old is None else stat.S_IMODE(change.path.stat().st_mode)
        self._disk.write_atomic(change.path, change.data, mode)


def _current(document: dict[str, object], entry: Entry) -> object:
    found: object = document
    for key in entry.keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _read(path: Path) -> bytes | None:
    """The content, None if there is no file. Raises: UsageError `client_file` for a link, or anything that is not a file."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UsageError(
            f"`{path.parent.name}` is a file, where the client has a directory",
            code="client_file",
            path=str(path.parent),
            hint="move it away; nothing was changed",
        ) from None
    except OSError as error:
        raise store_error(error, f"read {path}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(
            f"`{path.name}` is a link, or not a file",
            code="client_file",
            path=str(path),
            hint="put the entries into the file that it leads to by hand: `--dry-run` in a fresh directory shows them",
        )
    return path.read_bytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
