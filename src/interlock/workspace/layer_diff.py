"""Finds what changed in a layer, in time proportional to what changed.

An overlay's upper directory holds every path that was created, changed or deleted (a whiteout: a character device 0/0) in the
view, and directories on the way to them. An opaque directory hides what lay there before, and so does each one beneath it and
each one that was not copied up, which the kernel does not mark. What these hints name is then compared through the two views,
the merged one and the one beneath it, so a forged hint can only cause a needless comparison.

A copy has no such hints: its files are compared by identity with a list made when it was copied, which takes time proportional
to the tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from interlock.model.errors import ToolError
from interlock.workspace.names import Rel, link_stored
from interlock.workspace.nodes import ABSENT, Identity, Node, identity
from interlock.workspace.tree import Workspace, hash_file

_ORIGIN_HEADER: Final = 21
_AT_EMPTY_PATH: Final = 0x1000
_HANDLE_BYTES: Final = 128  # MAX_HANDLE_SZ

_libc = ctypes.CDLL(None, use_errno=True)

Kind = Literal["added", "changed", "deleted", "mode"]
"""`mode`: only the permissions differ. A symbolic link that leads elsewhere is `changed`."""


class Difference(NamedTuple):
    """One path whose state in the layer is not the one beneath it."""

    path: Rel
    before: Node
    after: Node

    @property
    def kind(self) -> Kind:
        """See `Kind`."""
        if self.before.kind == "absent":
            return "added"
        if self.after.kind == "absent":
            return "deleted"
        same = (self.before.kind, self.before.sha256, self.before.target)
        return "mode" if same == (self.after.kind, self.after.sha256, self.after.target) else "changed"

    @property
    def leaves_workspace(self) -> bool:
        """True for a symbolic link whose target, as written, is absolute or lies above the workspace."""
        if self.after.kind != "symlink" or self.after.target is None:
            return False
        target = link_stored(self.after.target)
        depth = len(self.path) - 1
        if target.startswith(b"/"):
            return True
        for name in target.split(b"/"):
            depth += -1 if name == b".." else 0 if name in (b"", b".") else 1
            if depth < 0:
                return True
        return False


class Uncommittable(NamedTuple):
    """A path in the layer that cannot be committed, and why, for people."""

    path: Rel
    why: str


class Upper:
    """The upper directory of an overlay; belongs to us, so it is walked by path with no privilege."""

    def __init__(self, path: bytes) -> None:
        """`path` is absolute."""
        self.path = path
        self.unreadable: list[Rel] = []
        """Directories that `walk` could not enter, because a process took their permissions away."""

    def walk(self) -> Iterator[tuple[Rel, os.stat_result, bool]]:
        """Each path in it, a directory before its contents, and whether it is a directory that hides what lies beneath it."""
        pending: list[Rel] = [()]
        while pending:
            here = pending.pop()
            where = os.path.join(self.path, *here)  # noqa: PTH118 - bytes
            try:
                with os.scandir(where) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except PermissionError:
                self.unreadable.append(here)
                continue
            for entry in found:
                rel = (*here, entry.name)
                seen = entry.stat(follow_symlinks=False)
                directory = stat.S_ISDIR(seen.st_mode)
                yield rel, seen, directory and _hides(entry.path)
                if directory:
                    pending.append(rel)

    def origin(self, path: Rel) -> bytes | None:
        """The file handle of the file beneath that this one was copied up from, wherever it was named then; None if it is new.

        Source: struct ovl_fb, fs/overlayfs/overlayfs.h: version, magic, length, flags, type, a uuid, the handle.
        """
        data = _attribute(os.path.join(self.path, *path), b"origin")  # noqa: PTH118 - bytes
        return None if data is None else data[_ORIGIN_HEADER:]


def _hides(directory: bytes) -> bool:
    """True for an opaque directory, and for one that was made in the layer: it may have been moved over one that lay beneath."""
    return _attribute(directory, b"opaque") == b"y" or _attribute(directory, b"origin") is None


def _attribute(path: bytes, name: bytes) -> bytes | None:
    try:
        return os.getxattr(path, b"user.overlay." + name, follow_symlinks=False)
    except OSError:
        return None


def handle_of(tree: Workspace, path: Rel) -> bytes | None:
    """The file handle of what lies at a path, as overlayfs notes it; None if there is none. Source: name_to_handle_at(2)."""
    try:
        fd = tree.open(path, os.O_PATH)
    except ToolError:
        return None
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", _HANDLE_BYTES, 0) + bytes(_HANDLE_BYTES))
    try:
        if _libc.name_to_handle_at(fd, b"", buffer, ctypes.byref(ctypes.c_int()), _AT_EMPTY_PATH):
            return None
    finally:
        os.close(fd)
    size = struct.unpack_from("=I", buffer)[0]
    return buffer.raw[8 : 8 + size]


def is_whiteout(found: os.stat_result) -> bool:
    """True for the mark of a deleted name."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def overlay_candidates(entries: Iterable[tuple[Rel, os.stat_result, bool]], below: Workspace) -> Iterator[Rel]:
    """The paths that may differ, by the hints of an upper directory. A path may come twice."""
    hiding: set[Rel] = set()
    for path, found, hides in entries:
        yield path
        if path[:-1] in hiding:  # all beneath that one was named
            if stat.S_ISDIR(found.st_mode):
                hiding.add(path)
            continue
        if is_whiteout(found) or not stat.S_ISDIR(found.st_mode):
            yield from beneath(below, path)
        elif hides:
            hiding.add(path)
            yield from beneath(below, path)


def beneath(tree: Workspace, path: Rel) -> Iterator[Rel]:
    """The paths beneath a directory of a tree; nothing if there is no directory."""
    found = _lstat(tree, path)
    if found is None or not stat.S_ISDIR(found.st_mode):
        return
    for inside, _ in tree.walk(path, lenient=True):
        if inside != path:
            yield inside


def copy_candidates(known: dict[Rel, Identity], below: Workspace, merged: Workspace) -> Iterator[Rel]:
    """The paths of a copy whose identity is not the one that was noted, or that are new or gone."""
    seen: set[Rel] = set()
    for path, found in merged.walk((), lenient=True):
        if path == ():
            continue
        seen.add(path)
        if known.get(path) != identity(found):
            yield path
            if not stat.S_ISDIR(found.st_mode):
                yield from beneath(below, path)  # a directory that was replaced
    for path in known:
        if path not in seen:
            yield path
            yield from beneath(below, path)  # what others have put there since


def compare(paths: Iterable[Rel], below: Workspace, merged: Workspace) -> tuple[list[Difference], list[Uncommittable]]:
    """The paths whose states differ, sorted, and those that cannot be compared."""
    found: list[Difference] = []
    left: list[Uncommittable] = []
    for path in sorted(set(paths)):
        if path == ():
            continue
        try:
            after = node_at(merged, path)
            before = node_at(below, path)
        except ToolError as error:
            left.append(Uncommittable(path, error.message.partition(": ")[2] or error.message))
            continue
        after = to_commit(before, after)
        if after.mode != before.mode if after.kind == before.kind == "dir" else not after.same(before):
            found.append(Difference(path, before, after))
    return found, left


def to_commit(before: Node, after: Node) -> Node:
    """The state to commit: without set-id bits, unless they were there on the same content."""
    if after.kind != "file" or not (after.mode or 0) & 0o6000:
        return after
    kept = (before.mode or 0) & 0o6000 if before.sha256 == after.sha256 else 0
    return msgspec.structs.replace(after, mode=(after.mode or 0) & (0o1777 | kept))


def node_at(tree: Workspace, path: Rel) -> Node:
    """The state at a path; beneath something that is not a directory lies nothing. Raises: ToolError."""
    try:
        node = tree.examine(path, read=hash_file).node
    except ToolError as error:
        if error.code in ("not_a_directory", "path_changed", "not_found"):
            return ABSENT
        raise
    return node


def _lstat(tree: Workspace, path: Rel) -> os.stat_result | None:
    with contextlib.suppress(ToolError):
        return tree.lstat(path)
    return None
