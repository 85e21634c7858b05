"""Writes the kernel layer of a run: the numbered lines of all its recorders, in rotated files of limited size.

The format is described in `model.kernel_layer`. Records are redacted before they are written. Thread-safe: the
recorders of actions that run at the same time write through one `KernelLayer`.

Each recorder has its own limit, so that one action cannot use up the space of the others. Files that were only read get
at most three quarters of it; the last quarter is reserved for programs, hosts and written files. Dropped records are
counted.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.detect import Redactor
from interlock.disk import Disk
from interlock.model.kernel_layer import KERNEL_FILE, KERNEL_SCHEMA, LAYERS

FILE_BYTES: Final = 32 * 1024 * 1024
RECORDER_BYTES: Final = 64 * 1024 * 1024
RUN_BYTES: Final = 1024 * 1024 * 1024
_READS: Final = 3
_ROOM: Final = 4
"""Read-only file records may use three quarters of a recorder's limit."""
_KIND: Final = b'{"kind":"'
_CALL: Final = b'{"kind":"call",'
_COUNT: Final = b',"count":'
_READ: Final = b'"access":"read"'
_WORDS: Final = frozenset(("kind", "call", "calls", "grade", "access", "flags", "family", "mechanism", "profile"))
"""Fields whose values are words of the format, even if a secret is the same word."""
_TAIL_BYTES: Final = 1024 * 1024
"""Larger than the longest line."""


class KernelLayer:
    """The kernel layer files of one run. No file is created before the first line."""

    def __init__(
        self,
        run_dir: Path,
        disk: Disk,
        redactor: Redactor,
        *,
        file_bytes: int = FILE_BYTES,
        recorder_bytes: int = RECORDER_BYTES,
        run_bytes: int = RUN_BYTES,
    ) -> None:
        """`run_dir` is the run's directory, named by the run id."""
        self.run_id = run_dir.name
        self.redactor = redactor
        self.recorder_bytes = recorder_bytes
        self._directory = run_dir / LAYERS
        self._disk = disk
        self._file_bytes, self._run_bytes = file_bytes, run_bytes
        self._lock = threading.Lock()
        self._fd = -1
        self._number = 1
        self._seq = 0
        self._size = 0
        self._total = 0

    def writer(self, recorder: str, proposal: str, action: str, attempt: int) -> KernelWriter:
        """A writer for the lines of one recorder. Writes nothing yet."""
        return KernelWriter(self, recorder, proposal, action, attempt)

    def write(self, head: bytes, tail: bytes, bodies: Iterable[bytes], *, always: bool = False) -> list[bytes]:
        """Append lines of the form `head`, number, `tail`, body. Returns the lines that were written. Raises: StoreError."""
        with self._lock:
            if self._fd < 0:
                self._open()
            lines = [b"%s%d%s%s\n" % (head, self._seq + place, tail, body) for place, body in enumerate(bodies)]
            size = sum(map(len, lines))
            if self._total + size > self._run_bytes and not always:
                return []
            if self._size and self._size + size > self._file_bytes:
                os.close(self._fd)
                self._number, self._size = self._number + 1, 0
                self._fd = self._disk.open_append(self._path(self._number))
            self._disk.write(self._fd, b"".join(lines))
            self._seq += len(lines)
            self._size += size
            self._total += size
            return lines

    def sync(self) -> None:
        """Sync the written lines to disk. Raises: StoreError."""
        with self._lock:
            if self._fd >= 0:
                self._disk.sync_data(self._fd)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _path(self, number: int) -> Path:
        return layer_file(self._directory, number)

    def _open(self) -> None:
        """Continue the last file of an earlier process; a partial last line is cut off. Raises: StoreError."""
        self._disk.make_directory(self._directory)
        self._number, self._seq, self._size, self._total = 1, 0, 0, 0
        while self._path(self._number + 1).exists():
            self._total += self._path(self._number).stat().st_size
            self._number += 1
        path = self._path(self._number)
        self._fd = self._disk.open_append(path)
        size = os.fstat(self._fd).st_size
        with path.open("rb") as file:
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            size -= len(tail) - len(whole)
            self._disk.truncate(self._fd, size)
        if whole:
            last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
            self._seq = int(msgspec.json.decode(last)["seq"]) + 1
        elif self._number > 1:  # the process died while it created this file
            last = self._path(self._number - 1).read_bytes()[-_TAIL_BYTES:].rstrip(b"\n").rpartition(b"\n")[2]
            self._seq = int(msgspec.json.decode(last)["seq"]) + 1
        self._size = size
        self._total += size


class KernelWriter:
    """Writes the lines of one recorder. Not thread-safe."""

    def __init__(self, layer: KernelLayer, recorder: str, proposal: str, action: str, attempt: int) -> None:
        """Called by `KernelLayer.writer`."""
        self.recorder = recorder
        self.lines = 0
        self.calls = 0
        """The number of calls received, repeated ones included."""
        self.dropped = 0
        self._layer = layer
        self._bytes = 0
        self._digest = hashlib.sha256()
        ids = {"proposal": proposal, "action": action, "attempt": attempt, "recorder": recorder}
        self._tail = b"," + msgspec.json.encode(ids)[1:-1] + b","

    def sync(self) -> None:
        """Make the lines durable. Raises: StoreError."""
        self._layer.sync()

    @property
    def digest(self) -> str:
        """The digest `sha256:...` of the lines written so far."""
        return "sha256:" + self._digest.hexdigest()

    def add(self, bodies: list[bytes], *, always: bool = False) -> None:
        """Write records from a recorder: JSON objects whose first field is `kind`. Raises: StoreError.

        With `always`, the limit does not apply.
        """
        text = b"\n".join(bodies)
        if self._layer.redactor.may_hold(text):
            bodies = [self._redacted(body) for body in bodies]
            text = b"\n".join(bodies)
        size = len(text) + len(bodies) * len(self._tail)
        if self._bytes + size < self._layer.recorder_bytes * _READS // _ROOM and _only_calls(text, len(bodies)):
            self.calls += sum(map(_count_of, bodies)) if _COUNT in text else len(bodies)
            self._bytes += size
            self._write(b"call", [body[len(_CALL) :] for body in bodies], always=always)
            return
        by_kind: dict[bytes, list[bytes]] = {}
        for body in bodies:
            kind, _, rest = body[len(_KIND) :].partition(b'",')
            if kind == b"call":
                count = _count_of(body)
                self.calls += count
                room = self._layer.recorder_bytes
                if self._bytes >= (room * _READS // _ROOM if _READ in body else room) and not always:
                    self.dropped += count
                    continue
            self._bytes += len(body) + len(self._tail)
            by_kind.setdefault(kind, []).append(rest)
        for kind, rests in by_kind.items():
            self._write(kind, rests, always=always or kind != b"call")

    def _write(self, kind: bytes, rests: list[bytes], *, always: bool) -> None:
        """Write records of the same kind. The records do not contain the kind. Raises: StoreError."""
        run_id = msgspec.json.encode(self._layer.run_id)
        head = b'%s%s","schema":"%s","run_id":%s,"seq":' % (_KIND, kind, KERNEL_SCHEMA.encode(), run_id)
        written = self._layer.write(head, self._tail, rests, always=always)
        if not written:
            self.dropped += sum(map(_count_of, rests))
        self.lines += len(written)
        self._digest.update(b"".join(written))

    def _redacted(self, body: bytes) -> bytes:
        value: dict[str, Any] = msgspec.json.decode(body)
        redact = self._layer.redactor.redact
        clean = {name: old if name in _WORDS else redact(old) for name, old in value.items()}
        return body if clean == value else msgspec.json.encode(clean)


def _only_calls(text: bytes, count: int) -> bool:
    """True if all `count` records, one per line, are calls."""
    return text.startswith(_CALL) and text.count(b"\n" + _CALL) == count - 1


def layer_file(directory: Path, number: int) -> Path:
    """The path of the kernel layer file with this number, counted from 1."""
    name, _, ending = KERNEL_FILE.partition(".")
    return directory / (KERNEL_FILE if number == 1 else f"{name}.{number}.{ending}")


def layer_files(run_dir: Path) -> list[Path]:
    """The files of a run's kernel layer, in order; empty if nothing was recorded."""
    found: list[Path] = []
    while (path := layer_file(run_dir / LAYERS, len(found) + 1)).exists():
        found.append(path)
    return found


def _count_of(body: bytes) -> int:
    at = body.rfind(_COUNT)
    return 1 if at < 0 else int(body[at + 9 :].rstrip(b"}\n"))
