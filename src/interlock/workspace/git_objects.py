"""Reads git's objects and index in a tree, without running git: just enough to list the files of a commit.

Source: gitformat-index(5), gitformat-pack(5), git-repository-layout(5). Everything that cannot be read raises
UnreadableError, because a layer's repository may have been made to look harmless.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import weakref
import zlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from interlock.model.errors import ToolError
from interlock.workspace.names import Rel
from interlock.workspace.tree import Workspace

_OBJECT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Also of all the deltas of an object."""
_FILE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of the index, and of other files that are read whole. An index of a million files has about 100 MB."""
_CHUNK_BYTES: Final = 16 * 1024
_HEAD_BYTES_MAX: Final = 64  # of an object in a pack: two numbers, and the name of an object
_CHAIN_MAX: Final = 100  # deltas on deltas; git makes at most 50 by default
_KINDS: Final = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}
_OFFSET_DELTA, _REFERENCE_DELTA = 6, 7
_INDEX_VERSIONS: Final = (2, 3, 4)
_WITH_PREFIXES: Final = 4
"""The version of the index in which a path omits what it shares with the one before it."""
_HEADER_BYTES, _MODE_AT, _ID_AT = 12, 24, 40
_EXTENDED: Final = 0x40
_HASHES: Final = {20: "sha1", 32: "sha256"}
_SHA256: Final = re.compile(rb"objectformat[ \t]*=[ \t]*sha256", re.IGNORECASE)
DIRECTORY, LINK, REPOSITORY = 0o040000, 0o120000, 0o160000
"""Modes of entries that are no regular files."""


class UnreadableError(Exception):
    """The repository is damaged, or has a form that is not known here."""


class Entry(NamedTuple):
    """What a tree or the index has at a path."""

    mode: int
    id: bytes


class _Pack:
    """A file that is read in parts. It is not mapped, because a program that shortens a mapped file kills who reads it."""

    def __init__(self, fd: int) -> None:
        """Takes over `fd`."""
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def part(self, start: int, size: int) -> bytes:
        """At most so many bytes. Raises: UnreadableError."""
        try:
            return os.pread(self._fd, size, start)
        except (OSError, OverflowError) as error:
            raise UnreadableError from error


class Objects:
    """The objects of one repository, as a tree shows them."""

    def __init__(self, tree: Workspace, directory: Rel) -> None:
        """`directory` is the git directory with `objects`."""
        self._tree = tree
        self._directory = directory
        self._packs: list[tuple[_Pack, _Pack]] | None = None
        """The index and the objects of each pack."""
        self.hash_bytes = 20 if _SHA256.search(self.file((b"config",)) or b"") is None else 32

    def file(self, path: Rel) -> bytes | None:
        """The content of a file beneath the git directory; None if there is none. Raises: UnreadableError."""
        fd = self._open(path)
        if fd is None:
            return None
        with os.fdopen(fd, "rb") as file:
            if os.fstat(fd).st_size > _FILE_BYTES_MAX:
                raise UnreadableError
            return file.read(_FILE_BYTES_MAX)

    def _open(self, path: Rel) -> int | None:
        try:
            if self._tree.lstat((*self._directory, *path)) is None:
                return None
            return self._tree.open_file((*self._directory, *path))
        except ToolError as error:
            if error.code in ("not_found", "not_a_directory"):
                return None
            raise UnreadableError from error

    def read(self, object_id: bytes) -> tuple[bytes, bytes]:
        """The kind and the content of an object. Raises: UnreadableError."""
        name = object_id.hex().encode()
        stored = self.file((b"objects", name[:2], name[2:]))
        if stored is None:
            kind, data = self._read_packed(object_id)
        else:
            head, _, data = _inflate(stored).partition(b"\0")
            kind = head.split(b" ")[0]
        digest = hashlib.new(_HASHES[self.hash_bytes], usedforsecurity=False)
        digest.update(b"%b %d\0" % (kind, len(data)))
        digest.update(data)
        if digest.digest() != object_id:
            raise UnreadableError
        return kind, data

    def tree_of(self, object_id: bytes) -> bytes | None:
        """The tree of a commit, or of the commit of a tag; None for a tag of something else. Raises: UnreadableError."""
        for _ in range(_CHAIN_MAX):
            kind, data = self.read(object_id)
            if kind == b"tree":
                return object_id
            key = {b"commit": b"tree ", b"tag": b"object "}.get(kind)
            if key is None:
                return None
            if not data.startswith(key):
                raise UnreadableError
            object_id = object_name(data[len(key) :].split(b"\n")[0])
        raise UnreadableError

    def parents(self, object_id: bytes) -> list[bytes]:
        """The parents of a commit. Raises: UnreadableError."""
        kind, data = self.read(object_id)
        head = data.partition(b"\n\n")[0].split(b"\n")
        return [object_name(line[7:]) for line in head if line.startswith(b"parent ")] if kind == b"commit" else []

    def entries(self, tree_id: bytes) -> dict[bytes, Entry]:
        """The entries of a tree by name. Raises: UnreadableError."""
        kind, data = self.read(tree_id)
        if kind != b"tree":
            raise UnreadableError
        found, at = {}, 0
        while at < len(data):
            space, end = data.find(b" ", at), data.find(b"\0", at)
            next_at = end + 1 + self.hash_bytes
            if not at < space < end or next_at > len(data) or not data[at:space].isdigit():
                raise UnreadableError
            found[data[space + 1 : end]] = Entry(int(data[at:space], 8), data[end + 1 : next_at])
            at = next_at
        return found

    def _read_packed(self, object_id: bytes) -> tuple[bytes, bytes]:
        if self._packs is None:
            place = (*self._directory, b"objects", b"pack")
            try:
                names = self._tree.names(place) if self._tree.lstat(place) is not None else []
            except ToolError as error:
                raise UnreadableError from error
            stems = [name[:-4] for name in names if name.endswith(b".idx")]
            self._packs = [(self._pack(stem + b".idx"), self._pack(stem + b".pack")) for stem in stems]
        for index, pack in self._packs:
            offset = _offset_in(index, object_id)
            if offset is not None:
                return self._unpack(index, pack, offset)
        raise UnreadableError

    def _pack(self, name: bytes) -> _Pack:
        fd = self._open((b"objects", b"pack", name))
        if fd is None:
            raise UnreadableError
        return _Pack(fd)

    def _unpack(self, index: _Pack, pack: _Pack, offset: int) -> tuple[bytes, bytes]:
        deltas: list[bytes] = []
        left = _OBJECT_BYTES_MAX
        while len(deltas) < _CHAIN_MAX:
            head = pack.part(offset, _HEAD_BYTES_MAX)
            try:
                number, at = (head[0] >> 4) & 7, _skip_size(head, 0)
                if number in _KINDS:
                    data = _inflate(pack, offset + at)
                    for delta in reversed(deltas):
                        data = _apply(data, delta)
                    return _KINDS[number], data
                if number == _OFFSET_DELTA:
                    distance, at = _varint(head, at)
                    base: int | None = offset - distance
                elif number == _REFERENCE_DELTA:
                    base = _offset_in(index, head[at : at + self.hash_bytes])
                    at += self.hash_bytes
                else:
                    break
            except IndexError as error:
                raise UnreadableError from error
            if base is None or base < 0 or base == offset:
                break
            deltas.append(_inflate(pack, offset + at, left))
            left -= len(deltas[-1])
            offset = base
        raise UnreadableError


def blob_name(content: bytes, hash_bytes: int) -> bytes:
    """The name of the object with this content of a file."""
    digest = hashlib.new(_HASHES[hash_bytes], b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.digest()


class Index(NamedTuple):
    """An index file."""

    entries: set[tuple[bytes, bytes]]
    """The path of each entry, and what `entry_of` reads."""
    trees: dict[bytes, bytes]
    """Trees that git takes for its next commit in place of the entries beneath a path."""


def read_index(data: bytes | None, hash_bytes: int) -> Index:
    """Read an index file; None for no file. Raises: UnreadableError."""
    found = Index(set(), {})
    if data is None:
        return found
    at, starts = _HEADER_BYTES, list[int]()
    for start, path, stored, end in _entries(data, hash_bytes):
        starts.append(start)
        found.entries.add((path, stored))
        at = end
    for name, body in _extensions(data, at, hash_bytes):
        if name in (b"link", b"sdir"):
            raise UnreadableError  # entries are elsewhere: in a shared index, or in directories that have one entry
        if name == b"TREE":
            found.trees.update(_cached_trees(body, hash_bytes))
        elif name == b"IEOT":
            _check_offsets(body, starts)
    return found


def _entries(data: bytes, hash_bytes: int) -> Iterator[tuple[int, bytes, bytes, int]]:
    """The offset, path and content (see `entry_of`) of each entry, and the offset after it."""
    if len(data) < _HEADER_BYTES or data[:4] != b"DIRC":
        raise UnreadableError
    version, count = struct.unpack_from(">II", data, 4)
    if version not in _INDEX_VERSIONS:
        raise UnreadableError
    at, path = _HEADER_BYTES, b""
    for _ in range(count):
        start, id_at = at, at + _ID_AT
        at = id_at + hash_bytes + 2
        if at > len(data):
            raise UnreadableError
        if data[at - 2] & _EXTENDED:
            at += 2
        cut = len(path)
        if version == _WITH_PREFIXES:
            cut, at = _varint(data, at)
        end = data.find(b"\0", at)
        if end < 0 or cut > len(path):
            raise UnreadableError
        path = path[: len(path) - cut] + data[at:end]
        at = end + 1 if version == _WITH_PREFIXES else start + ((end - start) // 8 + 1) * 8
        yield start, path, data[start + _MODE_AT : start + _MODE_AT + 4] + data[id_at : id_at + hash_bytes], at


def _extensions(data: bytes, at: int, hash_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= len(data) - hash_bytes:
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
        if end > len(data) - hash_bytes:
            raise UnreadableError
        yield data[at : at + 4], data[at + 8 : end]
        at = end


def _cached_trees(body: bytes, hash_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """The valid trees of a cache, by path: the directory's before those in it."""
    pending, at = [(b"", 1)], 0
    while pending:
        above, left = pending.pop()
        if not left:
            continue
        pending.append((above, left - 1))
        end, line = body.find(b"\0", at), body.find(b"\n", at)
        try:
            entries, inside = map(int, body[end + 1 : line].split(b" "))
        except ValueError as error:
            raise UnreadableError from error
        if not 0 <= end - at < line - at or inside < 0:
            raise UnreadableError
        path = b"/".join(filter(None, (above, body[at:end])))
        at = line + 1
        if entries >= 0:
            yield path, body[at : at + hash_bytes]
            at += hash_bytes
        pending.append((path, inside))


def _check_offsets(body: bytes, starts: Sequence[int]) -> None:
    """Git may read the entries from the offsets of a table. Raises: UnreadableError if these are other ones."""
    number = 0
    for offset, count in struct.iter_unpack(">II", body[4 : len(body) - (len(body) - 4) % 8]):
        if number >= len(starts) or starts[number] != offset:
            raise UnreadableError
        number += count
    if number != len(starts):
        raise UnreadableError


def entry_of(stored: bytes) -> Entry:
    """The mode and object of an entry of `read_index`."""
    return Entry(int.from_bytes(stored[:4], "big"), stored[4:])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in the encoding of offsets in packs, and the position after it."""
    try:
        value = data[at] & 0x7F
        while data[at] & 0x80:
            at += 1
            value = ((value + 1) << 7) | (data[at] & 0x7F)
    except IndexError as error:
        raise UnreadableError from error
    return value, at + 1


def _offset_in(index: _Pack, object_id: bytes) -> int | None:
    """The offset of an object in the pack with this index (version 2); None if it is not there. Raises: UnreadableError."""
    size, names = len(object_id), 8 + 1024
    head = index.part(0, names)
    if head[:8] != b"\xfftOc\0\0\0\2" or len(head) < names:
        raise UnreadableError
    upto = struct.unpack(">256I", head[8:])
    first, total = object_id[0], upto[255]
    low, high = upto[first - 1] if first else 0, upto[first]
    while low < high:
        middle = (low + high) // 2
        found = index.part(names + size * middle, size)
        if found == object_id:
            offset = int.from_bytes(index.part(names + total * (size + 4) + 4 * middle, 4), "big")
            if offset & 0x80000000:
                place = names + total * (size + 8) + 8 * (offset & 0x7FFFFFFF)
                offset = int.from_bytes(index.part(place, 8), "big")
            return offset
        low, high = (middle + 1, high) if found < object_id else (low, middle)
    return None


def _inflate(data: bytes | _Pack, at: int = 0, most: int = _OBJECT_BYTES_MAX) -> bytes:
    """Decompress what begins at a position. Raises: UnreadableError, also if it is more than `most`."""
    unpacking, found = zlib.decompressobj(), bytearray()
    try:
        while not unpacking.eof:
            part = data.part(at, _CHUNK_BYTES) if isinstance(data, _Pack) else data[at : at + _CHUNK_BYTES]
            found += unpacking.decompress(part)
            at += len(part)
            if not part or len(found) > most:
                raise UnreadableError
    except zlib.error as error:
        raise UnreadableError from error
    return bytes(found)


def _apply(base: bytes, delta: bytes) -> bytes:
    """The result of a delta. Raises: UnreadableError."""
    try:
        at = _skip_size(delta, _skip_size(delta, 0))
        made = bytearray()
        while at < len(delta):
            code = delta[at]
            at += 1
            if not code & 0x80:
                made += delta[at : at + code]
                at += code
                continue
            offset = size = 0
            for bit in range(4):
                if code & (1 << bit):
                    offset |= delta[at] << (8 * bit)
                    at += 1
            for bit in range(3):
                if code & (0x10 << bit):
                    size |= delta[at] << (8 * bit)
                    at += 1
            made += base[offset : offset + (size or 0x10000)]
            if len(made) > _OBJECT_BYTES_MAX:
                raise UnreadableError
    except IndexError as error:
        raise UnreadableError from error
    return bytes(made)


def _skip_size(delta: bytes, at: int) -> int:
    while delta[at] & 0x80:
        at += 1
    return at + 1


def object_name(text: bytes) -> bytes:
    """The name of an object, written in hexadecimal. Raises: UnreadableError."""
    try:
        name = bytes.fromhex(text.decode("ascii").strip())
    except ValueError as error:  # includes UnicodeDecodeError
        raise UnreadableError from error
    if len(name) not in _HASHES:
        raise UnreadableError
    return name
