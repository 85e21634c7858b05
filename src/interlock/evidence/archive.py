"""Writes the file: a gzip stream of a USTAR archive, whose bytes depend only on its members."""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from interlock.evidence.format import (
    ARCHIVE_BYTES_MAX,
    DOCUMENT_BYTES_MAX,
    JSON_TYPE,
    LINE_BYTES_MAX,
    LINES_TYPE,
    Member,
)
from interlock.model.canonical import canonical
from interlock.model.errors import IntegrityError

_BLOCK: Final = 512
_RECORD: Final = 10_240
_CHUNK: Final = 1024 * 1024
_LEVEL: Final = 6
_GZIP: Final = 31
"""zlib's `wbits` for a gzip stream, whose header then has no name and no time."""


class Spool:
    """A member while it is written: an unnamed temporary file, and its hash."""

    def __init__(self, path: str, directory: Path) -> None:
        """`path` is the member's path; `directory` has space for its bytes. Raises: OSError."""
        self.path = path
        self.bytes = 0
        self._file: BinaryIO = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by `close`
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append bytes. Raises: OSError."""
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    def document(self, value: msgspec.Struct) -> None:
        """Write a document in canonical JSON. Raises: IntegrityError `archive_too_large`; OSError."""
        data = canonical(msgspec.to_builtins(value)) + b"\n"
        if len(data) > DOCUMENT_BYTES_MAX:
            raise _too_large(self.path, len(data), DOCUMENT_BYTES_MAX)
        self.write(data)

    def lines(self, lines: list[bytes]) -> None:
        """Append lines. Raises: IntegrityError `archive_too_large`; OSError."""
        longest = max(map(len, lines), default=0)
        if longest > LINE_BYTES_MAX:
            raise _too_large(f"a line of {self.path}", longest, LINE_BYTES_MAX)
        self.write(b"".join(lines))

    def member(self) -> Member:
        """Returns the member's entry in the manifest."""
        media = LINES_TYPE if self.path.endswith(".ndjson") else JSON_TYPE
        return Member(path=self.path, sha256=self._hash.hexdigest(), bytes=self.bytes, media_type=media)  # type: ignore[arg-type]

    def chunks(self) -> Iterator[list[bytes]]:
        """Read the lines again, about a megabyte at a time."""
        self._file.seek(0)
        while lines := self._file.readlines(_CHUNK):
            yield lines

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def write_archive(
    members: list[Spool], write: Callable[[bytes], None], sweep: Callable[[str, list[bytes], int], None]
) -> None:
    """Write members in the given order. `sweep` is called with a member's path, lines to be written, and the first's number.

    Raises: IntegrityError `archive_too_large`; what `write` and `sweep` raise.
    """
    total = sum(_BLOCK + _padded(member.bytes) for member in members)
    if total + _RECORD > ARCHIVE_BYTES_MAX:
        raise _too_large("the archive", total, ARCHIVE_BYTES_MAX)
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    for member in members:
        write(stream.compress(_header(member.path, member.bytes)))
        number = 1
        for lines in member.chunks():
            sweep(member.path, lines, number)
            number += len(lines)
            write(stream.compress(b"".join(lines)))
        write(stream.compress(b"\0" * (_padded(member.bytes) - member.bytes)))
    write(stream.compress(b"\0" * (-(total + 2 * _BLOCK) % _RECORD + 2 * _BLOCK)) + stream.flush())


def _padded(size: int) -> int:
    return size + -size % _BLOCK


def _header(path: str, size: int) -> bytes:
    """Returns the header block of a regular file (POSIX.1-1988): numbers in octal, terminated by a NUL."""
    name = path.encode().ljust(100, b"\0")
    before = name + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"0" * 11 + b"\0"
    after = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\0 " % checksum + after


def _too_large(what: str, size: int, limit: int) -> IntegrityError:
    return IntegrityError(f"{what} has {size} bytes; an archive may have at most {limit}", code="archive_too_large")
