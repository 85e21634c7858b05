"""Originals that must not stand in the journal: too large, or redacted there. 0600, never exported, gone after `keep`.

Each writer of a run appends to a pack of its own, `private/originals-EPOCH.pack`; a record is one header line
`{"digest":"sha256:...","bytes":N}`, N bytes, a newline. A pack of a writer that died may end in half a record: nobody ever
appends to it again, so there is nothing to repair. An original is written and synced before the event that names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from interlock.disk import Disk, store_error
from interlock.journal.sealing import PRIVATE_NAME
from interlock.model.canonical import digest_bytes
from interlock.model.errors import IntegrityError

_HEADER_BYTES_MAX: Final = 200


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    bytes: int


class Pack:
    """The pack that one writer appends to; the file is made when the first original comes."""

    def __init__(self, run_dir: Path, epoch: int, disk: Disk) -> None:
        """Nothing is touched yet."""
        self._path = run_dir / PRIVATE_NAME / f"originals-{epoch:04d}.pack"
        self._disk = disk
        self._fd = -1

    def write(self, originals: Sequence[tuple[str, bytes]]) -> None:
        """Append originals (digest, canonical bytes) in one write; an original that is there twice is written once."""
        if self._fd < 0:
            self._disk.make_directory(self._path.parent)
            self._fd = self._disk.open_append(self._path)
            self._disk.sync_directory(self._path.parent)
        records = (
            b"%b\n%b\n" % (msgspec.json.encode(_Header(key, len(data))), data) for key, data in dict(originals).items()
        )
        self._disk.write(self._fd, b"".join(records))

    def sync(self) -> None:
        """Make what was written durable."""
        if self._fd >= 0:
            self._disk.sync_data(self._fd)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_private(run_dir: Path, digest: str) -> bytes | None:
    """The canonical bytes of an original by its digest (what = `value`); None if it is not there (any more).

    Raises: IntegrityError `private_damaged` if it is there but damaged, or may lie behind damage; StoreError.
    """
    packs = sorted((run_dir / PRIVATE_NAME).glob("originals-*.pack"))
    for path in packs:
        for key, data in _records(path):
            if key == digest and data is not None and digest_bytes("value", data) == digest:
                return data
    if not all(
        data is not None and digest_bytes("value", data) == key for path in packs for key, data in _records(path)
    ):
        raise IntegrityError(
            f"the original `{digest}` of run `{run_dir.name}` is not there, and what is there is damaged",
            code="private_damaged",
            hint="the journal itself is not affected: it holds the digest and the redacted view",
        )
    return None


def delete_private(run_dir: Path, disk: Disk) -> None:
    """Delete all originals of a run; the journal stays whole, since it holds only their digests."""
    disk.remove_tree(run_dir / PRIVATE_NAME)


def _records(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Digest and bytes of each record; the last one has None for bytes if the rest of the pack cannot be read."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_HEADER_BYTES_MAX):
                try:
                    header = msgspec.json.decode(line, type=_Header)
                except msgspec.MsgspecError:
                    yield "", None
                    return
                data = file.read(max(header.bytes, 0) + 1)
                if len(data) != header.bytes + 1 or not data.endswith(b"\n"):
                    yield header.digest, None
                    return
                yield header.digest, data[:-1]
    except OSError as error:
        raise store_error(error, f"read {path}") from error
