"""Writes a client's files, with a record of their previous content (`setup_records.py`), and undoes the changes from it.

Two set-ups can share a file and an entry in it, such as those of two projects in the settings of their user. What another
one still needs stays.
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
from interlock.model.difference import compare
from interlock.model.errors import UsageError
from interlock.surfaces.clients.client import Client, Mode, Scope, Setup
from interlock.surfaces.clients.documents import read_document, rewrite_document, unusable
from interlock.surfaces.clients.entries import Entry, add, take_out
from interlock.surfaces.clients.known import find_client
from interlock.surfaces.clients.setup_records import (
    VERSION,
    Record,
    SavedFile,
    other_records,
    read_record,
    whole_text,
    write_record,
)
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
        """The record of the set-up; None if there is none. Raises: UsageError `client_file`; StoreError."""
        record = read_record(self._record_path)
        return None if record is None else record.at(self._root)

    def plan_install(self, mode: Mode | None, agent: str | None) -> list[FileChange]:
        """The changes for `apply`. Raises: UsageError `client_file`, `client_mode`."""
        setup = self._setup(mode or self._client.modes[0], agent)
        base = self._client.scopes[setup.mode, self._scope](setup)
        wanted = {base / name: entries for name, entries in self._client.files(setup).items()}
        saved = self._known()
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
        return [self._removing(Path(saved.path), saved) for saved in record.files]

    def apply(self, changes: list[FileChange], mode: Mode | None, agent: str | None, version: str | None) -> None:
        """Write the record, then the files. `version` is the client's. Raises: StoreError."""
        known, root = self._known(), str(self._root) if self._scope == "project" else ""
        after = {change.path: self._saved(change, known.get(change.path)) for change in changes if change.entries}
        # Until all files are written, the record also has what they may hold from before.
        meanwhile = {path: _either(known.get(path), saved) for path, saved in {**known, **after}.items()}
        for files in (meanwhile, after):
            record = Record(VERSION, tuple(files.values()), mode or self._client.modes[0], agent, version, root)
            write_record(self._disk, self._record_path, record)
            if files is meanwhile:
                for change in changes:
                    self._write(change)

    def apply_removal(self, changes: list[FileChange]) -> None:
        """Write the files, then delete the record. Raises: StoreError."""
        known = self._known()
        for change in changes:
            self._write(change)
        for path, other in self._others():
            files = tuple(self._handed_over(each, known, changes) for each in other.files)
            if files != other.files:
                write_record(self._disk, path, msgspec.structs.replace(other, files=files))
        for saved in known.values():
            for directory in list(Path(saved.path).parents)[: saved.directories]:
                with contextlib.suppress(OSError):  # others have put something there, or it is gone
                    directory.rmdir()
        self._record_path.unlink(missing_ok=True)

    def _known(self) -> dict[Path, SavedFile]:
        """The files of the record."""
        record = self.record
        return {} if record is None else {Path(each.path): each for each in record.files}

    def _others(self) -> list[tuple[Path, Record]]:
        return list(other_records(state_directory(self._env, self._disk), self._client.name, self._record_path))

    def _handed_over(self, other: SavedFile, known: Mapping[Path, SavedFile], changes: list[FileChange]) -> SavedFile:
        """Another set-up's file after this one is removed: what it found before no longer has the entries of this one."""
        mine = known.get(Path(other.path))
        change = next((each for each in changes if str(each.path) == other.path), None)
        if mine is None or change is None or mine.text is not None:
            return other
        before = other.before
        if before is not None and _sha256(before) == mine.after_sha256:
            before = mine.before
        elif before is not None:
            with contextlib.suppress(UsageError):  # it is not to be read any more: then it stays as it is
                left = take_out(self._values(before, change.path), mine.entries, self._values(mine.before, change.path))
                before = self._rewritten(before, left, change.path) if left or mine.before is not None else None
        same = change.old is not None and _sha256(change.old) == other.after_sha256
        after = _sha256(change.data or b"") if same else other.after_sha256
        return msgspec.structs.replace(other, before=before, after_sha256=after)

    def _setup(self, mode: Mode, agent: str | None) -> Setup:
        if (mode, self._scope) not in self._client.scopes:
            known = ", ".join(f"--mode {one} --scope {scope}" for one, scope in self._client.scopes)
            raise UsageError(
                f"`{self._client.name}` cannot be set up in mode `{mode}` and scope `{self._scope}`",
                code="client_mode",
                hint=f"there is {known}",
            )
        return Setup(mode, self._scope, agent, self._root, self._env)

    def _adding(self, path: Path, entries: tuple[Entry, ...], saved: SavedFile | None) -> FileChange:
        old = _read(path)
        text = whole_text(entries)
        if text is not None:
            _check_own(path, old, text, saved)
            data = text.encode()
            return FileChange(path, old, data, "unchanged" if data == old else "changed", entries)
        base = old if saved is None else self._removing(path, saved).data
        after = add(self._values(base, path), entries, path)
        if old is not None and after == self._values(old, path):
            return FileChange(path, old, old, "unchanged", entries)
        return FileChange(path, old, self._rewritten(base, after, path), "changed", entries)

    def _removing(self, path: Path, saved: SavedFile) -> FileChange:
        current = _read(path)
        if current is None or current == saved.before:
            return FileChange(path, current, current, "unchanged")
        shared = [
            entry
            for _, other in self._others()
            for each in other.files
            if each.path == str(path)
            for entry in each.entries
        ]
        entries = tuple(entry for entry in saved.entries if entry not in shared)
        if _sha256(current) == saved.after_sha256 and entries == saved.entries:
            return FileChange(path, current, saved.before, "restored")
        if saved.text is not None:
            _check_own(path, current, saved.text, saved)
        left = take_out(self._values(current, path), entries, self._values(saved.before, path))
        emptied = not left and saved.before is None
        return FileChange(path, current, None if emptied else self._rewritten(current, left, path), "edited")

    def _values(self, data: bytes | None, path: Path) -> dict[str, Any]:
        return {} if data is None else read_document(data, path, comments=self._client.comments)

    def _rewritten(self, data: bytes | None, wanted: dict[str, Any], path: Path) -> bytes:
        return rewrite_document(data, wanted, path, comments=self._client.comments)

    def _saved(self, change: FileChange, known: SavedFile | None) -> SavedFile:
        """What the record has of a file that is written."""
        # Content that we wrote ourselves is not the previous content.
        before = change.old if known is None else self._removing(change.path, known).data
        if whole_text(change.entries) is not None:
            before = None
        made = sum(not each.is_dir() for each in change.path.parents) if known is None else known.directories
        return SavedFile(str(change.path), before, _sha256(change.data or b""), change.entries, made)

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


def _either(known: SavedFile | None, saved: SavedFile) -> SavedFile:
    """What the record has of a file that is being rewritten: it may still be as it was."""
    if known is None or saved is known:
        return saved
    old = () if saved.text is not None else tuple(entry for entry in known.entries if entry not in saved.entries)
    return msgspec.structs.replace(saved, after_sha256=known.after_sha256, entries=(*saved.entries, *old))


def _check_own(path: Path, data: bytes | None, text: str, saved: SavedFile | None) -> None:
    """Raises: UsageError `client_file` if a person wrote the file, or edited what Interlock had written."""
    written = data is None or data == text.encode() or (saved is not None and _sha256(data) == saved.after_sha256)
    if not written:
        raise unusable(path, "Interlock did not write its present content, and does not overwrite it")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
