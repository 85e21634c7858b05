"""Writes a client's files, with a record of their previous content, and undoes the changes from the record.

The record is in the state directory, where no agent can write, and is on disk before any file is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from interlock.disk import Disk, store_error
from interlock.engine.local.location import locate
from interlock.model import typed
from interlock.model.difference import compare
from interlock.model.errors import UsageError
from interlock.surfaces.clients.client import Client, Mode, Scope, Setup
from interlock.surfaces.clients.documents import read_document, rewrite_document, unusable
from interlock.surfaces.clients.entries import Entry, add, take_out
from interlock.surfaces.clients.known import find_client
from interlock.workspace.registry import state_directory

Outcome = Literal["changed", "unchanged", "restored", "edited"]
"""`edited`: the file was edited since, so only our entries were removed."""


class FileChange(NamedTuple):
    """A change of a file. `data` is its new content; None deletes it."""

    path: Path
    old: bytes | None
    data: bytes | None
    outcome: Outcome
    entries: tuple[Entry, ...] = ()
    """The added entries."""

    def difference(self) -> tuple[str, ...]:
        """The unified difference, line by line."""
        old, new = ((data or b"").decode("utf-8", "replace") for data in (self.old, self.data))
        return compare(old, new).lines


class _Saved(msgspec.Struct, frozen=True):
    path: str
    before: bytes | None
    after_sha256: str
    entries: tuple[Entry, ...] = ()
    directories: int = 0
    """How many of the directories above the file did not exist before."""

    @property
    def text(self) -> str | None:
        """The whole file, if it belongs to Interlock alone."""
        return _whole(self.entries)


class Record(msgspec.Struct, frozen=True):
    """What was set up.

    Version history: 1: first; 2: absolute paths, entries, mode, version of the client; 3: counts directories, whole
    files.
    """

    version: int
    files: tuple[_Saved, ...]
    mode: Mode = "replace"
    agent: str | None = None
    client_version: str | None = None
    """The client's version at set-up; None if it was not found."""


class Installation:
    """One client in one scope; for the scope `project`, that of the directory `start`."""

    def __init__(self, client: str, start: Path, env: Mapping[str, str], scope: Scope = "project") -> None:
        """Raises: UsageError `client_unknown`; ConfigurationError if there is no project; StoreError."""
        self._client: Client = find_client(client)
        self._env = env
        self._scope: Scope = scope
        self._disk = Disk()
        if scope == "project":
            place = locate(start, env, self._disk)
            self._root = place.root
            self._record_path = place.home / "clients" / f"{client}.json"
        else:
            self._root = start.resolve()
            self._record_path = state_directory(env, self._disk) / "clients" / f"{client}-{scope}.json"

    @property
    def record(self) -> Record | None:
        """The record of the set-up; None if there is none. Raises: StoreError."""
        try:
            data = self._record_path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_error(error, f"read {self._record_path}") from error
        try:
            return typed.decode(data, Record)
        except msgspec.DecodeError:
            raise UsageError(
                f"the set-up record `{self._record_path}` is damaged",
                code="client_file",
                hint="remove Interlock's entries from the client's files by hand, and delete the record",
            ) from None

    def plan_install(self, mode: Mode | None, agent: str | None) -> list[FileChange]:
        """The changes for `apply`. Raises: UsageError `client_file`, `client_mode`."""
        setup = self._setup(mode or self._client.modes[0], agent)
        base = self._client.scopes[setup.mode, self._scope](setup)
        wanted = {base / name: entries for name, entries in self._client.files(setup).items()}
        saved = {self._path(each): each for each in (() if self.record is None else self.record.files)}
        if self._client.more is not None:
            planned = {path: self._adding(path, entries, saved.get(path)).data for path, entries in wanted.items()}
            for name, entries in self._client.more(setup, planned).items():
                wanted[base / name] = (*wanted.get(base / name, ()), *entries)
        changes = [self._adding(path, entries, saved.get(path)) for path, entries in wanted.items()]
        # Entries of another mode in other files are removed.
        return changes + [self._removing(path, each) for path, each in saved.items() if path not in wanted]

    def plan_remove(self) -> list[FileChange]:
        """The changes that remove Interlock from the client. Raises: UsageError `not_found`, `client_file`."""
        record = self.record
        if record is None:
            raise UsageError(f"`{self._client.name}` is not set up here", code="not_found")
        return [self._removing(self._path(saved), saved) for saved in record.files]

    def apply(self, changes: list[FileChange], mode: Mode | None, agent: str | None, version: str | None) -> None:
        """Write the record, then the files. `version` is the client's. Raises: StoreError."""
        self._save(changes, mode or self._client.modes[0], agent, version)
        for change in changes:
            self._write(change)

    def apply_removal(self, changes: list[FileChange]) -> None:
        """Write the files, then delete the record. Raises: StoreError."""
        record = self.record
        for change in changes:
            self._write(change)
        for saved in () if record is None else record.files:
            for directory in list(self._path(saved).parents)[: saved.directories]:
                with contextlib.suppress(OSError):  # others have put something there, or it is gone
                    directory.rmdir()
        self._record_path.unlink(missing_ok=True)

    def _setup(self, mode: Mode, agent: str | None) -> Setup:
        if (mode, self._scope) not in self._client.scopes:
            known = ", ".join(f"--mode {one} --scope {scope}" for one, scope in self._client.scopes)
            raise UsageError(
                f"`{self._client.name}` cannot be set up in mode `{mode}` and scope `{self._scope}`",
                code="client_mode",
                hint=f"there is {known}",
            )
        return Setup(mode, self._scope, agent, self._root, self._env)

    def _path(self, saved: _Saved) -> Path:
        return self._root / saved.path  # version 1 has relative paths

    def _adding(self, path: Path, entries: tuple[Entry, ...], saved: _Saved | None) -> FileChange:
        old = _read(path)
        text = _whole(entries)
        if text is not None:
            _check_own(path, old, text, saved)
            data = text.encode()
            return FileChange(path, old, data, "unchanged" if data == old else "changed", entries)
        base = old if saved is None else self._removing(path, saved).data
        after = add(self._values(base, path), entries, path)
        if old is not None and after == self._values(old, path):
            return FileChange(path, old, old, "unchanged", entries)
        return FileChange(path, old, self._rewritten(base, after, path), "changed", entries)

    def _removing(self, path: Path, saved: _Saved) -> FileChange:
        current = _read(path)
        if current is None or current == saved.before:
            return FileChange(path, current, current, "unchanged")
        if _sha256(current) == saved.after_sha256:
            return FileChange(path, current, saved.before, "restored")
        if saved.text is not None:
            _check_own(path, current, saved.text, saved)
        left = take_out(self._values(current, path), saved.entries, self._values(saved.before, path))
        emptied = not left and saved.before is None
        return FileChange(path, current, None if emptied else self._rewritten(current, left, path), "edited")

    def _values(self, data: bytes | None, path: Path) -> dict[str, Any]:
        return {} if data is None else read_document(data, path, comments=self._client.comments)

    def _rewritten(self, data: bytes | None, wanted: dict[str, Any], path: Path) -> bytes:
        return rewrite_document(data, wanted, path, comments=self._client.comments)

    def _save(self, changes: list[FileChange], mode: Mode, agent: str | None, version: str | None) -> None:
        known = {} if (record := self.record) is None else {self._path(saved): saved for saved in record.files}
        files = []
        for change in changes:
            if not change.entries:
                continue  # removed
            saved = known.get(change.path)
            # Content that we wrote ourselves is not the previous content.
            before = change.old if saved is None else self._removing(change.path, saved).data
            if _whole(change.entries) is not None:
                before = None
            made = sum(not each.is_dir() for each in change.path.parents) if saved is None else saved.directories
            files.append(_Saved(str(change.path), before, _sha256(change.data or b""), change.entries, made))
        self._disk.make_directory(self._record_path.parent)
        written = Record(3, tuple(files), mode, agent, version)
        self._disk.write_atomic(self._record_path, msgspec.json.encode(written))

    def _write(self, change: FileChange) -> None:
        if change.data == change.old:
            return
        if change.data is None:
            change.path.unlink(missing_ok=True)
            return
        try:
            if not change.path.parent.is_dir():
                self._disk.make_directory(change.path.parent, 0o755)
            mode = 0o644 if change.old is None else stat.S_IMODE(change.path.stat().st_mode)
            self._disk.write_atomic(change.path, change.data, mode)
        except PermissionError as error:
            raise store_error(error, f"write {change.path}") from error


def _read(path: Path) -> bytes | None:
    """The content; None if there is no file. Raises: UsageError `client_file` for a link, or anything that is not a file."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UsageError(
            f"`{path.parent.name}` is a file, but the client needs a directory",
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
            hint="add the entries to the target of the link by hand: `--dry-run` in a new directory shows them",
        )
    return path.read_bytes()


def _whole(entries: tuple[Entry, ...]) -> str | None:
    """The text of a file that belongs to Interlock alone; None for entries in someone else's file."""
    return str(entries[0].value) if entries and not entries[0].keys else None


def _check_own(path: Path, data: bytes | None, text: str, saved: _Saved | None) -> None:
    """Raises: UsageError `client_file` if a person wrote the file, or edited what Interlock had written."""
    written = data is None or data == text.encode() or (saved is not None and _sha256(data) == saved.after_sha256)
    if not written:
        raise unusable(path, "Interlock did not write its present content, and does not overwrite it")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
