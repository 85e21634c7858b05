"""Stores originals that the journal does not hold because they are too large or redacted. Mode 0600, never exported.

Each writer of a run appends to its own pack, `private/originals-EPOCH.pack`. A record is one header line
`{"digest":"sha256:...","bytes":N}`, N bytes, and a newline. The first record of a pack is
`{"digest":"key","bytes":32}`: the run's HMAC key for the digests of redacted values (`hmac-sha256:...`). Originals and
key are deleted together, after the retention time (`keep`). The pack of a dead writer may end in a partial record, but
nothing is appended to it again, so it needs no repair. An original is written and synced before the event that refers
to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from interlock.disk import Disk, open_regular, store_error
from interlock.journal.sealing import PRIVATE_NAME
from interlock.model import typed
from interlock.model.canonical import digest_bytes, keyed_digest
from interlock.model.errors import IntegrityError

_HEADER_BYTES_MAX: Final = 200
_KEY: Final = "key"
_KEY_BYTES: Final = 32


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    bytes: int


class _Record(NamedTuple):
    digest: str
    path: Path
    key: bytes | None
    """The HMAC key of the record's pack."""
    offset: int
    bytes: int
    whole: bool


class Pack:
    """The pack that one writer appends to. The file is created with the first original."""

    def __init__(self, run_dir: Path, epoch: int, disk: Disk) -> None:
        """Store the arguments. No file is touched yet."""
        self._run_dir = run_dir
        self._key: bytes | None = None
        self._path = run_dir / PRIVATE_NAME / f"originals-{epoch:04d}.pack"
        self._disk = disk
        self._fd = -1

    @property
    def key(self) -> bytes:
        """The HMAC key of the run: the one in its earlier packs, or a new one. Raises: StoreError."""
        if self._key is None:
            self._key = run_key(self._run_dir) or os.urandom(_KEY_BYTES)
        return self._key

    def write(self, originals: Sequence[tuple[str, bytes]]) -> None:
        """Append originals (digest, canonical bytes) in one write. A repeated original is written once."""
        if self._fd < 0:
            self._disk.make_directory(self._path.parent)
            self._fd = self._disk.open_append(self._path)
            self._disk.sync_directory(self._path.parent)
            originals = [(_KEY, self.key), *originals]
        records = (
            b"%b\n%b\n" % (msgspec.json.encode(_Header(key, len(data))), data) for key, data in dict(originals).items()
        )
        self._disk.write(self._fd, b"".join(records))

    def sync(self) -> None:
        """Sync the written originals to disk."""
        if self._fd >= 0:
            self._disk.sync_data(self._fd)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Originals:
    """Finds the originals of one run. Caches their positions, so that many look-ups need one pass over the packs."""

    def __init__(self, run_dir: Path) -> None:
        """Store the directory. Nothing is read yet."""
        self._run_dir = run_dir
        self._sizes: dict[Path, int] = {}
        self._places: dict[str, list[_Record]] = {}
        self._damaged: bool | None = None

    def get(self, digest: str) -> bytes | None:
        """The canonical bytes of an original by its digest (what = `value`); None if it is missing or was deleted.

        Raises: IntegrityError `private_damaged` if the original is damaged, or missing while a pack is damaged;
        StoreError.
        """
        data = self._find(digest)
        if data is None and self._look():  # a live writer may have appended since
            data = self._find(digest)
        if data is None and self._any_damage():
            raise IntegrityError(
                f"the original `{digest}` of run `{self._run_dir.name}` is missing, and the stored originals are damaged",
                code="private_damaged",
                hint="the journal itself is not affected: it holds the digest and the redacted view",
            )
        return data

    def _find(self, digest: str) -> bytes | None:
        return next((data for record in self._places.get(digest, ()) if (data := _content(record)) is not None), None)

    def _look(self) -> bool:
        """Scan the packs if they have changed since the last scan. Returns whether they had."""
        packs = sorted((self._run_dir / PRIVATE_NAME).glob("originals-*.pack"))
        sizes = {path: _size(path) for path in packs}
        if sizes == self._sizes:
            return False
        places: dict[str, list[_Record]] = {}
        for path in packs:
            for record in _records(path):
                places.setdefault(record.digest, []).append(record)
        self._sizes, self._places, self._damaged = sizes, places, None  # set last: a scan that fails is repeated
        return True

    def _any_damage(self) -> bool:
        if self._damaged is None:
            self._damaged = any(_content(record) is None for found in self._places.values() for record in found)
        return self._damaged


def read_private(run_dir: Path, digest: str) -> bytes | None:
    """Read one original. Raises as `Originals.get` does."""
    return Originals(run_dir).get(digest)


def run_key(run_dir: Path) -> bytes | None:
    """The HMAC key of a run for digests of redacted values; None if there is none or it was deleted. Raises: StoreError."""
    for path in sorted((run_dir / PRIVATE_NAME).glob("originals-*.pack")):
        first = next(_records(path), None)
        if first is not None and first.whole and first.key is not None:
            return first.key
    return None


def delete_private(run_dir: Path, disk: Disk) -> None:
    """Delete all originals of a run; the journal stays valid, because it holds only their digests."""
    disk.remove_tree(run_dir / PRIVATE_NAME)


def _records(path: Path) -> Iterator[_Record]:
    """The position of each record. If the rest of the pack cannot be read, the last record is not `whole`."""
    try:
        with open_regular(path) as file:
            key: bytes | None = None
            end = os.fstat(file.fileno()).st_size
            while line := file.readline(_HEADER_BYTES_MAX):
                offset = file.tell()
                try:
                    header = typed.decode(line, _Header)
                except msgspec.MsgspecError:
                    header = _Header("", -1)
                whole = 0 <= header.bytes < end - offset
                if whole and header.digest == _KEY and header.bytes == _KEY_BYTES:
                    key = file.read(_KEY_BYTES)
                    whole = file.read(1) == b"\n"
                elif whole:
                    file.seek(header.bytes, os.SEEK_CUR)
                    whole = file.read(1) == b"\n"
                yield _Record(header.digest, path, key, offset, header.bytes, whole)
                if not whole:
                    return
    except FileNotFoundError:
        return  # deleted in the meantime
    except OSError as error:
        raise store_error(error, f"read {path}") from error


def _content(record: _Record) -> bytes | None:
    """The bytes of a record; None if they do not match the header."""
    data = _bytes(record)
    if data is None or record.digest == _KEY:
        return data if data is not None and len(data) == _KEY_BYTES else None
    if record.digest.startswith("sha256:"):
        return data if digest_bytes("value", data) == record.digest else None
    return data if record.key is not None and keyed_digest(record.key, "value", data) == record.digest else None


def _bytes(record: _Record) -> bytes | None:
    if not record.whole:
        return None
    try:
        with open_regular(record.path) as file:
            file.seek(record.offset)
            return file.read(record.bytes)
    except FileNotFoundError:
        return None  # deleted in the meantime
    except OSError as error:
        raise store_error(error, f"read {record.path}") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise store_error(error, f"read {path}") from error
