"""Reads the file, a gzip stream of a USTAR archive of the nine members, in one pass and with bounded memory.

Never writes to a path that an archive names.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from interlock.verification.findings import DamageError, Findings

ATTESTATION: Final = "attestation.dsse.json"
SURFACE: Final = "capability-surface.json"
CORRELATION: Final = "correlation-report.json"
EVENTS: Final = "events.ndjson"
KERNEL: Final = "layers/kernel.ndjson"
POLICY: Final = "layers/policy.ndjson"
SDK: Final = "layers/sdk.ndjson"
MANIFEST: Final = "manifest.json"
HEALTH: Final = "observation-health.json"
MEMBERS: Final = (ATTESTATION, SURFACE, CORRELATION, EVENTS, KERNEL, POLICY, SDK, MANIFEST, HEALTH)

ARCHIVE_BYTES_MAX: Final = 8 * 1024**3
DOCUMENT_BYTES_MAX: Final = 64 * 1024**2
LINE_BYTES_MAX: Final = 32 * 1024**2

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_PIECE: Final = 1024 * 1024
_GZIP_START: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
"""Deflate, no flags (so no name), time 0. The next two bytes identify the zlib that wrote it."""
_SIZE: Final = re.compile(rb"[0-7]{11}\0")
_WITHOUT_CONTENT: Final = b"123456"
"""Types of members without content: links, devices, directories and pipes."""
_SHOWN_CHARS: Final = 120


class Inflater:
    """Decompresses a gzip file in pieces."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises: DamageError `not_an_archive` if the file does not start like an archive."""
        self._file = file
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._waiting = b""
        self._piece = memoryview(b"")
        self.taken = 0
        start = file.read(10)
        if not start.startswith(_GZIP_START[:2]):
            raise DamageError("not_an_archive", "", "the file is not a gzip file")
        if len(start) < 10 or not start.startswith(_GZIP_START):
            raise DamageError("not_an_archive", "", "its gzip header is cut off, or has a name, a time or flags")
        self._waiting = start

    def up_to(self, size: int) -> memoryview:
        """Returns the next bytes, at least one and at most `size`.

        Raises: DamageError (`archive_truncated`, `archive_damaged`).
        """
        if not self._piece:
            self._piece = memoryview(self._next())
            if not self._piece:
                raise DamageError(
                    "archive_truncated", "", f"the archive is incomplete: it ends after {self.taken} bytes"
                )
        taken, self._piece = self._piece[:size], self._piece[size:]
        self.taken += len(taken)
        return taken

    def exactly(self, size: int) -> bytes:
        """Exactly `size` bytes; for small sizes. Raises: DamageError, as `up_to` does."""
        parts = [self.up_to(size)]
        missing = size - len(parts[0])
        while missing:
            parts.append(self.up_to(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def at_end(self) -> bool:
        """Returns True if the archive has no more bytes, and nothing follows it in the file.

        Raises: DamageError, as `up_to` does.
        """
        if not self._piece:
            self._piece = memoryview(self._next())
        return not self._piece and not self._stream.unused_data and not self._file.read(1)

    def _next(self) -> bytes:
        """Up to a megabyte; empty at the end of the stream."""
        try:
            while not self._stream.eof:
                waiting = self._waiting or self._file.read(_PIECE)
                piece = self._stream.decompress(waiting, _PIECE)
                self._waiting = self._stream.unconsumed_tail
                if piece:
                    return piece
                if not waiting:
                    raise DamageError(
                        "archive_truncated",
                        "",
                        f"the file is incomplete: it ends after {self.taken} bytes of the archive",
                    )
        except zlib.error as error:
            raise DamageError("archive_damaged", "", f"the gzip stream is damaged: {error}") from None
        return b""


class Content:
    """The content of a member, which can be read once."""

    def __init__(self, path: str, size: int, source: Inflater) -> None:
        """`source` is positioned at the member's `size` bytes."""
        self.path, self.size = path, size
        self._source, self._left = source, size

    def pieces(self) -> Iterator[bytes]:
        """Yields the whole content, in pieces. Raises: DamageError."""
        while self._left:
            piece = bytes(self._source.up_to(self._left))
            self._left -= len(piece)
            yield piece

    def drain(self) -> None:
        """Skip the rest. Raises: DamageError."""
        for _ in self.pieces():
            pass


def lines_of(path: str, pieces: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yields the lines of a member with their newlines, in blocks; the last line may lack its newline. Raises: DamageError."""
    begun: list[bytes] = []
    size = 0
    for piece in pieces:
        lines = piece.split(b"\n")
        rest = lines.pop()
        if lines:
            lines[0] = b"".join((*begun, lines[0]))
            if max(map(len, lines)) >= LINE_BYTES_MAX:
                raise _too_large(path, "a line", LINE_BYTES_MAX)
            yield [line + b"\n" for line in lines]
            begun, size = [], 0
        if rest:
            begun.append(rest)
            size += len(rest)
            if size >= LINE_BYTES_MAX:
                raise _too_large(path, "a line", LINE_BYTES_MAX)
    if begun:
        yield [b"".join(begun)]


def members(file: BinaryIO, findings: Findings) -> Iterator[Content]:
    """Yield the well-formed members, in order; the unread rest of a member is skipped.

    All other members are reported to `findings`. Raises: DamageError if the archive cannot be read any further.
    """
    source = Inflater(file)
    seen: list[str] = []
    while True:
        block = source.exactly(_BLOCK)
        if not any(block):
            break
        name, size, sound = _header(block, source.taken, findings)
        if name in MEMBERS or sound:
            sound = _is_expected(name, seen, findings) and sound
        if not name.endswith(".ndjson") and size > DOCUMENT_BYTES_MAX:
            raise _too_large(name, "the document", DOCUMENT_BYTES_MAX)
        if source.taken + size > ARCHIVE_BYTES_MAX:
            raise _too_large("", "the archive", ARCHIVE_BYTES_MAX)
        content = Content(name, size, source)
        if sound and tuple(seen) == MEMBERS[: len(seen)]:
            yield content
        content.drain()
        if size % _BLOCK and any(source.exactly(_BLOCK - size % _BLOCK)):
            findings.add("member_header", name, "its last block is not padded with zeros")
    for path in MEMBERS:
        if path not in seen:
            findings.add("member_missing", path, "the archive does not have this member")
    _end(source, findings)


def _end(source: Inflater, findings: Findings) -> None:
    """Check what follows the first block of zeros: another one, and zeros up to the end of the record."""
    size = _BLOCK + -(source.taken + _BLOCK) % _RECORD
    if any(source.exactly(size)):
        findings.add("trailing_data", "", "there is data after the last member")
    elif not source.at_end():
        findings.add("trailing_data", "", "there is data after the end of the archive")


# -- headers


def _header(block: bytes, taken: int, findings: Findings) -> tuple[str, int, bool]:
    """Name and size of the member, and whether its header is valid. Raises: DamageError if its size is unknown."""
    if block[257:262] != b"ustar":
        if taken == _BLOCK:
            raise DamageError("not_an_archive", "", "the gzip file does not hold a tar archive")
        raise DamageError("member_header", "", f"no member begins at byte {taken - _BLOCK}")
    raw, _, after = block[:100].partition(b"\0")
    prefix = block[345:500].rstrip(b"\0")
    if prefix:
        raw = prefix + b"/" + raw
    name = raw.decode("utf-8", "backslashreplace")[:_SHOWN_CHARS]
    if _checksum(block) != block[148:156]:
        raise DamageError("member_header", name, "the checksum of its header is wrong")
    if not _SIZE.fullmatch(block[124:136]):
        raise DamageError("member_header", name, "its size is not eleven octal digits and a NUL")
    size = int(block[124:135], 8)
    kind = block[156:157]
    if not _is_safe(raw) or any(after):
        findings.add("member_unsafe_path", name, "its path is absolute, leads upwards, or is not portable")
        return name, 0 if kind in _WITHOUT_CONTENT else size, False
    if kind not in b"0\0":
        findings.add("member_type", name, "it is not a regular file")
        return name, 0 if kind in _WITHOUT_CONTENT else size, False
    if block != _expected(raw, size):
        findings.add("member_header", name, "its mode, owner, time or format is not that of an evidence archive")
        return name, size, False
    return name, size, True


def _is_safe(raw: bytes) -> bool:
    try:
        parts = raw.decode().split("/")
    except UnicodeDecodeError:
        return False
    return b"\\" not in raw and not {"", ".", ".."} & set(parts)


def _is_expected(name: str, seen: list[str], findings: Findings) -> bool:
    """Returns True if this member is allowed here; `seen` are the previous members."""
    if name not in MEMBERS:
        findings.add("member_extra", name, "an evidence archive does not have this member")
        return False
    if name in seen:
        findings.add("member_duplicate", name, "the archive has this member twice")
        return False
    late = any(MEMBERS.index(other) > MEMBERS.index(name) for other in seen)
    seen.append(name)
    if late:
        findings.add("member_order", name, "the members are not in order")
    return not late


def _expected(raw: bytes, size: int) -> bytes:
    """Returns the only valid header for a member with this name and size."""
    zero = b"0000000\0"
    fields = (
        (raw, 100), (b"0000644\0", 8), (zero, 8), (zero, 8), (b"%011o\0" % size, 12), (b"00000000000\0", 12), (b" " * 8, 8),
        (b"0", 1), (b"", 100), (b"ustar\0", 6), (b"00", 2), (b"", 32), (b"", 32), (zero, 8), (zero, 8), (b"", 155), (b"", 12),
    )  # fmt: skip
    block = b"".join(value.ljust(length, b"\0") for value, length in fields)
    return block[:148] + _checksum(block) + block[156:]


def _checksum(block: bytes) -> bytes:
    """Returns the checksum of a header: the sum of its bytes, with its own field counted as spaces."""
    return b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 0x20)


def _too_large(where: str, what: str, limit: int) -> DamageError:
    return DamageError("archive_too_large", where, f"{what} is larger than the maximum of {limit} bytes")
