"""Trust: compares the files that the loader read with the copies that the user trusted.

`trust.json` in the state directory keeps, for each project, the trusted text of each file, so that the difference can
be shown. The comparison uses the bytes that the loader passes on; nothing is read a second time. A missing trusted file
is also a change, because it may have held a forbidding rule.

Format version history of trust.json:
  1 (2026-11): first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from interlock.disk import Disk
from interlock.lazy import lazy
from interlock.model import typed
from interlock.model.canonical import digest_bytes
from interlock.model.errors import ConfigurationError, IntegrityError, StoreError

if TYPE_CHECKING:
    import difflib
else:
    difflib = lazy("difflib")

FILE: Final = "trust.json"
FORMAT_VERSION: Final = 1
LINES_MATCHED_MAX: Final = 20_000
"""Files with more lines are not diffed line by line, because that takes quadratic time."""

Status = Literal["new", "changed", "removed"]


class SourceFile(msgspec.Struct, frozen=True):
    """A file that the loader read, with its content."""

    name: str
    """Relative to the project's root; absolute if it is outside."""
    data: bytes

    @property
    def digest(self) -> str:
        """`sha256:...` of the bytes."""
        return digest_bytes("configuration_file", self.data)


class Change(msgspec.Struct, frozen=True):
    """The difference of a file from its trusted copy."""

    name: str
    status: Status
    diff: str
    """A unified diff from the trusted text to the present one, for people."""


class _Trusted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    text: str


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int = FORMAT_VERSION
    projects: dict[str, dict[str, _Trusted]] = {}


class TrustStore:
    """The trust record in one state directory."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        """`directory` is the state directory. It is created with the first record."""
        self._path = directory / FILE
        self._disk = disk

    def check(self, root: Path, files: Sequence[SourceFile]) -> list[Change]:
        """The differences from the trusted files of the project at `root`; empty if there are none. Raises: IntegrityError."""
        return [
            Change(name, status, _diff(name, before, after))
            for name, status, before, after in self._compared(root, files)
        ]

    def require(self, root: Path, files: Sequence[SourceFile]) -> None:
        """Raises ConfigurationError `untrusted_configuration` unless every file is trusted."""
        what = ", ".join(f"{name} ({status})" for name, status, _, _ in self._compared(root, files))
        if what:
            raise ConfigurationError(
                f"the configuration is not trusted: {what}",
                code="untrusted_configuration",
                path=str(root),
                hint="review it and run `interlock trust`",
            )

    def last_trusted(self, root: Path) -> tuple[SourceFile, ...]:
        """The files last trusted for the project at `root`, in order. Raises: IntegrityError, StoreError."""
        trusted = self._read().projects.get(_project(root), {})
        files = (SourceFile(name, one.text.encode()) for name, one in trusted.items())
        # The stored text of a file that was not UTF-8 is only for display.
        return tuple(file for file in files if file.digest == trusted[file.name].digest)

    def record(self, root: Path, files: Sequence[SourceFile]) -> None:
        """Trust exactly these files for the project at `root`. Durable once it returns. Raises: StoreError."""
        self._write(root, {file.name: _Trusted(file.digest, _text(file.data)) for file in files})

    def forget(self, root: Path) -> None:
        """Remove all trust for the project at `root`. Durable once it returns. Raises: StoreError."""
        self._write(root, {})

    def _write(self, root: Path, trusted: dict[str, _Trusted]) -> None:
        self._disk.make_directory(self._path.parent)
        lock = self._disk.lock(self._path.with_name(FILE + ".lock"), wait=True)
        assert lock is not None
        try:
            projects = dict(self._read().projects)
            if trusted:
                projects[_project(root)] = trusted
            else:
                projects.pop(_project(root), None)
            self._disk.write_atomic(self._path, msgspec.json.encode(_Document(projects=projects)))
        finally:
            os.close(lock)

    def _compared(self, root: Path, files: Sequence[SourceFile]) -> Iterator[tuple[str, Status, str, str]]:
        """Name, status, trusted text and present text of each file that differs."""
        trusted = self._read().projects.get(_project(root), {})
        for file in files:
            before = trusted.get(file.name)
            if before is None:
                yield file.name, "new", "", _text(file.data)
            elif before.digest != file.digest:
                yield file.name, "changed", before.text, _text(file.data)
        present = {file.name for file in files}
        for name, before in trusted.items():
            if name not in present:
                yield name, "removed", before.text, ""

    def _read(self) -> _Document:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return _Document()
        except OSError as error:
            raise StoreError(f"{FILE} cannot be read: {os.strerror(error.errno or 0)}", path=str(self._path)) from None
        try:
            document = typed.decode(data, _Document)
        except (msgspec.DecodeError, UnicodeDecodeError):
            document = None
        if document is None or document.version != FORMAT_VERSION:
            raise IntegrityError(
                f"{FILE} is damaged or has another version",
                path=str(self._path),
                hint="move it away; `interlock trust` then creates a new one",
            )
        return document


def _project(root: Path) -> str:
    return os.fsencode(root).decode("utf-8", "backslashreplace")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _diff(name: str, before: str, after: str) -> str:
    old, new = (text.split("\n") if text else [] for text in (before, after))
    heads = f"{name} (trusted)" if before else "/dev/null", name if after else "/dev/null"
    if len(old) + len(new) <= LINES_MATCHED_MAX:
        lines: Iterable[str] = difflib.unified_diff(old, new, *heads, lineterm="")
    else:
        lines = _replaced(old, new, *heads)
    return "\n".join(map(_visible, lines))


def _replaced(old: list[str], new: list[str], old_head: str, new_head: str) -> Iterator[str]:
    """One hunk: all lines between the first and the last that differ."""
    both = list(zip(old, new, strict=False))
    first = next((at for at, (a, b) in enumerate(both) if a != b), len(both))
    backwards = zip(reversed(old[first:]), reversed(new[first:]), strict=False)
    last = next((at for at, (a, b) in enumerate(backwards) if a != b), min(len(old), len(new)) - first)
    gone, come = old[first : len(old) - last], new[first : len(new) - last]
    yield from (f"--- {old_head}", f"+++ {new_head}")
    yield f"@@ -{first + 1},{len(gone)} +{first + 1},{len(come)} @@"
    yield from (f"-{line}" for line in gone)
    yield from (f"+{line}" for line in come)


def _visible(line: str) -> str:
    """Escape control and invisible characters, so that a file cannot control the terminal or hide text from the reviewer."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)
