"""The data that undo needs, written durably before each change: `runs/<run id>/backups/`.

`index.ndjson` has one line per changed path: `{"v": 1, "digest": ..., "entry": {...}}`; the digest covers the bytes of
`entry` (domain `backup`). An entry holds the states before and after the change; the latter is known beforehand because
changes are atomic. Contents are stored beside the index, named by their SHA-256. Only complete lines count: a torn last
line belongs to a change that never began, and is cut off when the run resumes.

A process does not record its changes. So lines with `"v": 2` mark the start and end of each process, and differences
found afterwards become entries `by` the process. Entries recorded in between have `during`, because the process may
have changed the path first.

Format version history:
  1 (2026-11): first.
  2 (2026-11): lines for the start and end of processes; `by` and `during` in entries, whose lines stay version 1.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, NamedTuple

import msgspec

from interlock.disk import Disk, open_regular, store_error
from interlock.lazy import lazy
from interlock.model import typed
from interlock.model.canonical import digest_bytes
from interlock.model.clock import Clock
from interlock.model.errors import IntegrityError, StoreError
from interlock.workspace.names import NameJson, Rel, stored, to_json
from interlock.workspace.nodes import Node, Seen
from interlock.workspace.tree import hash_file, read_chunks, write_chunks

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

_FICLONE: Final = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_PROCESS_VERSION: Final = 2  # of lines about processes
_SINGLE_SYNCS_MAX: Final = 8  # above this number of new contents, one syncfs is cheaper


class Origin(msgspec.Struct, frozen=True):
    """The origin of a change."""

    proposal: str
    action: str
    attempt: int = 1


class Change(msgspec.Struct, frozen=True):
    """A planned change of a path. The content of `before` must have been stored with `Backups.keep`."""

    path: Rel
    before: Node
    after: Node


By = Literal["action", "process", "other"]
"""Who made a recorded change: an action, a process that an action started, or someone outside the run."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One recorded change."""

    seq: int
    ts: int
    """Wall-clock time in microseconds."""
    proposal: str
    action: str
    attempt: int
    path: NameJson
    before: Node
    after: Node
    by: By = "action"
    during: bool = False
    """True if a process of the run was running when this was recorded: the process may have made the state `before`."""

    @property
    def rel(self) -> Rel:
        """The path beneath the root, without links at the time it was recorded."""
        return stored(self.path)


class ProcessMark(msgspec.Struct, frozen=True):
    """The start or end of an action's process. If the end is missing, Interlock died meanwhile."""

    seq: int
    ts: int
    proposal: str
    action: str
    attempt: int
    process: Literal["began", "ended"]

    @property
    def origin(self) -> Origin:
        """The action that started the process."""
        return Origin(self.proposal, self.action, self.attempt)


class Committed(NamedTuple):
    """One change of a path between its state in the workspace and the committed one, with its author."""

    origin: Origin
    by: By
    change: Change


class LastState(NamedTuple):
    """The last recorded state of a path, and the number of its entry."""

    seq: int
    node: Node


class Touched(msgspec.Struct):
    """What a run and its processes have touched: the last state of each path, and the directories that they created."""

    states: dict[Rel, LastState] = {}
    made: set[Rel] = set()

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        self.states[entry.rel] = LastState(entry.seq, entry.after)
        if entry.before.kind != "dir" and entry.after.kind == "dir":
            self.made.add(entry.rel)


class _Running(msgspec.Struct):
    """A running process, and whether its start mark is in the index already. The mark must precede every later line."""

    origin: Origin
    marked: bool = False


class _Line(msgspec.Struct):
    v: int
    digest: str
    entry: msgspec.Raw


class Backups:
    """The backups of one run, for its only writer. Thread-safe."""

    def __init__(self, run: Path, disk: Disk, clock: Clock) -> None:
        """`run` is the run's directory. Nothing is created before the first change."""
        self.run = run
        self.directory = run / "backups"
        self._disk = disk
        self._clock = clock
        self._lock = threading.RLock()
        self._index: int | None = None
        self._next = 0
        self._kept: dict[str, Path] = {}
        self._counter = 0
        self._new_names: list[Path] = []
        """Directories that the first record syncs: since the index was opened, it may have a new name."""
        self._touched: Touched | None = None
        self._running: dict[int, _Running] = {}
        self._left: list[Origin] = []
        self.looks: dict[Rel, Seen] = {}
        """States of paths by identity, so that `ProcessWatch` need not read unchanged files again."""

    def keep(self, fd: int, go_on: Callable[[], None] | None = None) -> tuple[str, int]:
        """Copy the content of an open file (a reflink if possible). Returns SHA-256 in hex, and size in bytes.

        The copy becomes part of the backups with the next `record`. `go_on` is called regularly, and may raise to stop a long
        copy. Raises: StoreError.
        """
        with self._lock:
            self._open()
            self._counter += 1
            incoming = self.directory / f"incoming-{self._counter}"
            with _machine(f"back up into {self.directory}"):
                out = os.open(incoming, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                with _machine(f"back up into {self.directory}"):
                    sha256, size = hash_file(out, go_on) if _cloned(out, fd) else _copy(self._disk, fd, out, go_on)
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

    def record(self, origin: Origin, changes: Sequence[Change], *, by: By = "action") -> list[Entry]:
        """Record changes durably. The changes may be made only after this returns. Raises: StoreError."""
        with self._lock:
            index = self._open()
            self._store_kept()
            entries = self._append(index, origin, changes, by)
            self._sync(index)
            return entries

    def record_commit(self, rows: Sequence[Committed], contents: Path) -> list[Entry]:
        """Record, durably and in order, the changes that a layer is about to commit.

        Contents that are stored only in the layer (in the directory `contents`) are moved to the backups. Raises:
        StoreError.
        """
        with self._lock:
            index = self._open()
            for sha256 in {row.change.before.sha256 for row in rows}:
                if sha256 is not None and not self.has(sha256) and (contents / sha256).exists():
                    self._counter += 1
                    self._kept[sha256] = _linked(contents / sha256, self.directory / f"incoming-{self._counter}")
            self._store_kept()
            entries: list[Entry] = []
            for (origin, by), group in itertools.groupby(rows, key=lambda row: (row.origin, row.by)):
                entries += self._append(index, origin, [row.change for row in group], by)
            self._sync(index)
            return entries

    def touched(self) -> Touched:
        """What this run has touched so far. Read from the index once, then kept up to date. Raises: IntegrityError."""
        with self._lock:
            if self._touched is None:
                self._touched = Touched()
                for line, _ in _read(self.directory / "index.ndjson"):
                    if isinstance(line, Entry):
                        self._touched.add(line)
            return self._touched

    def begin_process(self, origin: Origin, edited: Sequence[Change]) -> int:
        """Record the start of an action's process, durably; `edited` are changes by others before it.

        If the run has touched nothing yet, the mark is written with the next record. Returns a number for
        `end_process`, which is greater than that of every entry so far. Raises: StoreError, IntegrityError.
        """
        with self._lock:
            if edited or self.touched().states:
                index = self._open()
                self._store_kept()
                self._append(index, origin, edited, "other")
                self._write(index, [self._mark(origin, "began")])
                self._sync(index)
                self._running[self._next - 1] = _Running(origin, marked=True)
                return self._next - 1
            number = self._next
            while number in self._running:
                number -= 1
            self._running[number] = _Running(origin)
            return number

    def end_process(self, number: int, changes: Sequence[Change]) -> None:
        """Record the end of a process, and its changes. Raises: StoreError."""
        with self._lock:
            running = self._running[number]
            if not running.marked and not changes:
                del self._running[number]
                return
            index = self._open()
            self._mark_running(index)
            del self._running[number]
            self._append(index, running.origin, changes, "process")
            # A mark alone is not synced: if it is lost in a crash, the process counts as interrupted.
            self._write(index, [self._mark(running.origin, "ended")])
            if changes:
                self._sync(index)

    def end_left_process(self, origin: Origin) -> None:
        """Record that one of `left_processes` has ended. Raises: StoreError."""
        with self._lock:
            index = self._open()
            self._left.remove(origin)
            self._write(index, [self._mark(origin, "ended")])
            self._sync(index)

    def left_processes(self) -> list[Origin]:
        """Processes without a recorded end, because Interlock died first. Raises: IntegrityError, StoreError."""
        with self._lock:
            if self._index is None and (self.directory / "index.ndjson").exists():
                self._open()
            return list(self._left)

    def has(self, sha256: str) -> bool:
        """True if the content is stored."""
        return sha256 in self._kept or self.content(sha256).exists()

    def now_ns(self) -> int:
        """Wall-clock time in nanoseconds."""
        return self._clock.now_us() * 1000

    def content(self, sha256: str) -> Path:
        """The path of a stored content."""
        return self.directory / sha256

    def temporary(self, entry: Entry) -> bytes:
        """The name of the temporary file through which the change of `entry` is made."""
        return temporary_name(self.run, entry)

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            if self._index is not None:
                os.close(self._index)
                self._index = None

    def _append(self, index: int, origin: Origin, changes: Sequence[Change], by: By) -> list[Entry]:
        """Write the lines of changes, without syncing."""
        if not changes:
            return []
        self._mark_running(index)
        during = bool(self._left or self._running)
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
                by=by,
                during=during,
            )
            for i, change in enumerate(changes)
        ]
        for entry in entries:
            assert by == "process" or entry.before.sha256 is None or self.content(entry.before.sha256).exists()
        self._write(index, entries)
        return entries

    def _mark_running(self, index: int) -> None:
        for running in self._running.values():
            if not running.marked:
                self._write(index, [self._mark(running.origin, "began")])
                running.marked = True

    def _mark(self, origin: Origin, process: Literal["began", "ended"]) -> ProcessMark:
        return ProcessMark(self._next, self._clock.now_us(), origin.proposal, origin.action, origin.attempt, process)

    def _write(self, index: int, lines: Sequence[Entry | ProcessMark]) -> None:
        self._disk.write(index, b"".join(_encode(line) for line in lines))
        self._next += len(lines)
        if self._touched is not None:
            for line in lines:
                if isinstance(line, Entry):
                    self._touched.add(line)

    def _open(self) -> int:
        """Open the index for appending after its last complete line."""
        if self._index is not None:
            return self._index
        self._disk.make_directory(self.directory, durable=False)
        path = self.directory / "index.ndjson"
        index = self._disk.open_append(path)
        try:
            whole = 0
            open_processes: dict[Origin, int] = {}
            for line, end in _read(path):
                self._next, whole = line.seq + 1, end
                if isinstance(line, ProcessMark):
                    _count(open_processes, line)
            self._left = list(open_processes)
            if whole < os.fstat(index).st_size:
                self._disk.truncate(index, whole)
                self._disk.sync_data(index)
            with _machine(f"clean {self.directory}"):
                for left in self.directory.glob("incoming-*"):
                    left.unlink()
        except BaseException:
            os.close(index)
            raise
        self._index = index
        self._new_names = [self.directory, self.run]
        return index

    def _sync(self, index: int) -> None:
        """Make the written lines durable, with the names of the index and of its directory."""
        self._disk.sync_data(index)
        while self._new_names:
            self._disk.sync_directory(self._new_names[0])
            del self._new_names[0]

    def _store_kept(self) -> None:
        """Sync the new contents before renaming them, so that a name always means a complete content."""
        if not self._kept:
            return
        _sync_contents(self._disk, list(self._kept.values()))
        for sha256, path in self._kept.items():
            self._disk.rename(path, self.content(sha256))
        self._kept.clear()
        self._disk.sync_directory(self.directory)
        self._new_names = [one for one in self._new_names if one != self.directory]


def read_entries(
    run: Path, *, proposal: str | None = None, action: str | None = None, after_bytes: int = 0
) -> list[Entry]:
    """The entries of a run, or of a proposal or an action of it, oldest first. A torn last line is ignored.

    With `after_bytes`, only those that were recorded when the index was at least that long (`index_bytes`). Lines of
    other actions are skipped without decoding, so this is fast on a long index.
    Raises: IntegrityError `backup_damaged`, StoreError.
    """
    wanted = {"proposal": proposal, "action": action}
    needles = [f'"{key}":'.encode() + msgspec.json.encode(value) for key, value in wanted.items() if value is not None]
    return [
        line
        for line, end in _read(run / "backups" / "index.ndjson", needles)
        if isinstance(line, Entry)
        and end > after_bytes
        and proposal in (None, line.proposal)
        and action in (None, line.action)
    ]


def index_bytes(run: Path) -> int:
    """The present length of a run's index. Raises: OSError."""
    try:
        return (run / "backups" / "index.ndjson").stat().st_size
    except FileNotFoundError:
        return 0


def read_left_processes(run: Path) -> list[Origin]:
    """Processes of a run without a recorded end. Raises: IntegrityError `backup_damaged`, StoreError."""
    left: dict[Origin, int] = {}
    for line, _ in _read(run / "backups" / "index.ndjson", [b'"process":']):
        if isinstance(line, ProcessMark):
            _count(left, line)
    return list(left)


def _count(left: dict[Origin, int], mark: ProcessMark) -> None:
    """Count each action's processes that have started and not ended."""
    number = left.get(mark.origin, 0) + (1 if mark.process == "began" else -1)
    if number > 0:
        left[mark.origin] = number
    else:
        left.pop(mark.origin, None)


def temporary_name(run: Path, entry: Entry) -> bytes:
    """See `Backups.temporary`."""
    return b".interlock-%b-%d.tmp" % (os.fsencode(run.name), entry.seq)


def _encode(line: Entry | ProcessMark) -> bytes:
    raw = msgspec.json.encode(line)
    version = 1 if isinstance(line, Entry) else _PROCESS_VERSION
    return msgspec.json.encode(_Line(version, digest_bytes("backup", raw), msgspec.Raw(raw))) + b"\n"


def _read(path: Path, needles: Sequence[bytes] = ()) -> Iterator[tuple[Entry | ProcessMark, int]]:
    """Each entry or mark whose line contains all `needles`, and the offset after its line."""
    offset = number = 0
    with contextlib.suppress(FileNotFoundError), _machine(f"read {path}"), _opened(path) as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            number += 1
            if all(needle in line for needle in needles):
                yield _decode(line, f"{path}:{number}"), offset


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except StoreError as error:
        raise IntegrityError(error.message, code="backup_damaged", path=str(path), hint=error.hint) from error


def _decode(line: bytes, place: str) -> Entry | ProcessMark:
    try:
        outer = typed.decode(line, _Line)
        if digest_bytes("backup", bytes(outer.entry)) == outer.digest:
            if outer.v == 1:
                return typed.decode(outer.entry, Entry)
            if outer.v == _PROCESS_VERSION:
                return typed.decode(outer.entry, ProcessMark)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    raise IntegrityError(
        "the index of a run's backups is damaged", code="backup_damaged", path=place, hint="undo by hand from that run"
    )


def _sync_contents(disk: Disk, paths: Sequence[Path]) -> None:
    together = len(paths) > _SINGLE_SYNCS_MAX
    for path in paths:
        with _machine(f"sync {path}"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            (disk.sync_filesystem if together else disk.sync)(fd)
        finally:
            os.close(fd)
        if together:
            break


def _linked(content: Path, to: Path) -> Path:
    """Another name for a stored content, or a copy where hard links are not possible."""
    with _machine(f"back up into {to.parent}"):
        try:
            os.link(content, to)
        except OSError:
            shutil.copyfile(content, to)
    return to


def _copy(disk: Disk, fd: int, out: int, go_on: Callable[[], None] | None) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0

    def read() -> Iterator[bytes]:
        nonlocal size
        for chunk in read_chunks(fd, go_on):
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    write_chunks(disk, out, read())
    return digest.hexdigest(), size


def _cloned(out: int, fd: int) -> bool:
    """Share the blocks of `fd` with `out` (btrfs, XFS, bcachefs). False if that is not possible."""
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
    except StoreError as error:  # add the path
        if isinstance(error.__cause__, OSError):
            raise store_error(error.__cause__, what) from error
        raise
