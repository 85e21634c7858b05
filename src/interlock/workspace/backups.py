"""What undo needs, written durably before each change: `runs/<run id>/backups/`.

`index.ndjson` has one line per changed path: `{"v": 1, "digest": ..., "entry": {...}}`, the digest being over the bytes of
`entry` (domain `backup`). An entry says what was there and what the change is going to leave there, which is known beforehand
because changes are atomic. Contents lie beside it, named by their SHA-256. A line counts once it is complete: a torn last one
belongs to a change that never began, and is cut off when the run goes on.

Format version history:
1 (2026-11): first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from interlock.disk import Disk, store_error
from interlock.model.canonical import digest_bytes
from interlock.model.clock import Clock
from interlock.model.errors import IntegrityError
from interlock.workspace.names import NameJson, Rel, stored, to_json
from interlock.workspace.nodes import Node
from interlock.workspace.tree import hash_file, read_chunks, write_chunks

_FICLONE: Final = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_SINGLE_SYNCS_MAX: Final = 8  # above this many new contents, one syncfs is cheaper


class Origin(msgspec.Struct, frozen=True):
    """Whose change it is."""

    proposal: str
    action: str
    attempt: int = 1


class Change(msgspec.Struct, frozen=True):
    """What is about to happen at a path. A content in `before` must have gone through `Backups.keep`."""

    path: Rel
    before: Node
    after: Node


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One recorded change."""

    seq: int
    ts: int
    """Wall clock, microseconds."""
    proposal: str
    action: str
    attempt: int
    path: NameJson
    before: Node
    after: Node

    @property
    def rel(self) -> Rel:
        """The path beneath the root, free of links when it was recorded."""
        return stored(self.path)


class _Line(msgspec.Struct):
    v: int
    digest: str
    entry: msgspec.Raw


class Backups:
    """The backups of one run, for its one writer. Safe for threads."""

    def __init__(self, run: Path, disk: Disk, clock: Clock) -> None:
        """`run` is the run's directory; nothing is made before the first change."""
        self.run = run
        self.directory = run / "backups"
        self._disk = disk
        self._clock = clock
        self._lock = threading.RLock()
        self._index: int | None = None
        self._next = 0
        self._kept: dict[str, Path] = {}
        self._counter = 0

    def keep(self, fd: int, go_on: Callable[[], None] | None = None) -> tuple[str, int]:
        """Copy the content of an open file (a reflink where that is possible). SHA-256 in hex, and size in bytes.

        The copy becomes part of the backups with the next `record`. `go_on` is called now and then, and may raise to stop a
        long copy. Raises: StoreError.
        """
        with self._lock:
            self._open()
            self._counter += 1
            incoming = self.directory / f"incoming-{self._counter}"
            with _machine(f"back up into {self.directory}"):
                out = os.open(incoming, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                with _machine(f"back up into {self.directory}"):
                    sha256, size = hash_file(out, go_on) if _cloned(out, fd) else self._copy(fd, out, go_on)
            except BaseException:
                incoming.unlink(missing_ok=True)  # it may be large
                raise
            finally:
                os.close(out)
            if sha256 in self._kept or self.content(sha256).exists():
                incoming.unlink()
            else:
                self._kept[sha256] = incoming
            return sha256, size

    def record(self, origin: Origin, changes: Sequence[Change]) -> list[Entry]:
        """Write the changes down; on disk once this returns, and only then may they be made. Raises: StoreError."""
        with self._lock:
            index = self._open()
            self._store_kept()
            entries = [
                Entry(
                    seq=self._next + i,
                    ts=self._clock.now_us(),
                    proposal=origin.proposal,
                    action=origin.action,
                    attempt=origin.attempt,
                    path=to_json(change.path),
                    before=change.before,
                    after=change.after,
                )
                for i, change in enumerate(changes)
            ]
            for entry in entries:
                assert entry.before.sha256 is None or self.content(entry.before.sha256).exists()
            self._disk.write(index, b"".join(_encode(entry) for entry in entries))
            self._disk.sync_data(index)
            self._next += len(entries)
            return entries

    def content(self, sha256: str) -> Path:
        """Where a content lies."""
        return self.directory / sha256

    def temporary(self, entry: Entry) -> bytes:
        """The name of the temporary file through which the change of `entry` is made."""
        return temporary_name(self.run, entry)

    def close(self) -> None:
        """Let go of the index."""
        with self._lock:
            if self._index is not None:
                os.close(self._index)
                self._index = None

    def _open(self) -> int:
        """The index, open for appending behind its last complete line."""
        if self._index is not None:
            return self._index
        self._disk.make_directory(self.directory)
        path = self.directory / "index.ndjson"
        index = self._disk.open_append(path)
        try:
            whole = 0
            for entry, end in _read(path):
                self._next, whole = entry.seq + 1, end
            if whole < os.fstat(index).st_size:
                self._disk.truncate(index, whole)
                self._disk.sync_data(index)
            self._disk.sync_directory(self.directory)
            with _machine(f"clean {self.directory}"):
                for left in self.directory.glob("incoming-*"):
                    left.unlink()
        except BaseException:
            os.close(index)
            raise
        self._index = index
        return index

    def _copy(self, fd: int, out: int, go_on: Callable[[], None] | None) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0

        def read() -> Iterator[bytes]:
            nonlocal size
            for chunk in read_chunks(fd, go_on):
                digest.update(chunk)
                size += len(chunk)
                yield chunk

        write_chunks(self._disk, out, read())
        return digest.hexdigest(), size

    def _store_kept(self) -> None:
        """Sync the new contents, and only then give them their names: a name always means a whole content."""
        if not self._kept:
            return
        together = len(self._kept) > _SINGLE_SYNCS_MAX
        for path in self._kept.values():
            with _machine(f"sync {path}"):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                (self._disk.sync_filesystem if together else self._disk.sync)(fd)
            finally:
                os.close(fd)
            if together:
                break
        for sha256, path in self._kept.items():
            self._disk.rename(path, self.content(sha256))
        self._kept.clear()
        self._disk.sync_directory(self.directory)


def read_entries(run: Path, *, proposal: str | None = None, action: str | None = None) -> list[Entry]:
    """The entries of a run, or of a proposal or an action of it, oldest first. A torn last line is left out.

    Lines of other actions are passed over unread, so this is quick on a long index.
    Raises: IntegrityError `backup_damaged`, StoreError.
    """
    wanted = {"proposal": proposal, "action": action}
    needles = [f'"{key}":'.encode() + msgspec.json.encode(value) for key, value in wanted.items() if value is not None]
    return [
        entry
        for entry, _ in _read(run / "backups" / "index.ndjson", needles)
        if proposal in (None, entry.proposal) and action in (None, entry.action)
    ]


def temporary_name(run: Path, entry: Entry) -> bytes:
    """See `Backups.temporary`."""
    return b".interlock-%b-%d.tmp" % (os.fsencode(run.name), entry.seq)


def _encode(entry: Entry) -> bytes:
    raw = msgspec.json.encode(entry)
    return msgspec.json.encode(_Line(1, digest_bytes("backup", raw), msgspec.Raw(raw))) + b"\n"


def _read(path: Path, needles: Sequence[bytes] = ()) -> Iterator[tuple[Entry, int]]:
    """Each entry whose line holds all `needles`, and the offset behind its line."""
    offset = number = 0
    with contextlib.suppress(FileNotFoundError), _machine(f"read {path}"), path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            number += 1
            if all(needle in line for needle in needles):
                yield _decode(line, f"{path}:{number}"), offset


def _decode(line: bytes, place: str) -> Entry:
    try:
        outer = msgspec.json.decode(line, type=_Line)
        if outer.v == 1 and digest_bytes("backup", bytes(outer.entry)) == outer.digest:
            return msgspec.json.decode(outer.entry, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    raise IntegrityError(
        "the index of a run's backups is damaged", code="backup_damaged", path=place, hint="undo by hand from that run"
    )


def _cloned(out: int, fd: int) -> bool:
    """Share the blocks of `fd` with `out` (btrfs, XFS, bcachefs); False where that cannot be."""
    try:
        fcntl.ioctl(out, _FICLONE, fd)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _machine(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise store_error(error, what) from error
