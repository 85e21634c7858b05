"""Finds what changed in a layer, in time proportional to the number of changes.

An overlay's upper directory holds every path of the view that was created, changed or deleted (a whiteout: a character
device 0/0), and the directories above them. An opaque directory hides the lower directory at its path. So does every
directory below it, and every directory that was not copied up, neither of which the kernel marks. These hints only
select the paths to compare; the comparison uses the two views, merged and lower. So a forged hint can only cause a
needless comparison.

A person may rename a directory into the place of another one; its files keep their times, which may be older than the
layer. So an overlay has a list of the uppermost directories' inodes.

A copy has no such hints: the identities of its files are compared with a list made when it was copied, which takes time
proportional to the tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from interlock.model.errors import ToolError
from interlock.workspace.beneath import Beneath, best
from interlock.workspace.names import NameJson, Rel, link_stored, stored, to_json
from interlock.workspace.nodes import ABSENT, Identity, Node, identity
from interlock.workspace.protect import is_reserved
from interlock.workspace.tree import Workspace, hash_file

_ORIGIN_HEADER: Final = 21
_AT_EMPTY_PATH: Final = 0x1000
_DEPTH_MAX: Final = 256
"""Maximum depth of compared paths, because the time grows with the cube of the depth."""
_HANDLE_BYTES: Final = 128  # MAX_HANDLE_SZ
_LISTED_MAX: Final = 16
_NAMES_MAX: Final = 512
"""Maximum number of listed directories and of names in all lists: opening a layer does not take longer in a large tree."""
_NOT_ENTERED: Final = frozenset({b"node_modules"})
Directories = dict[Rel, dict[bytes, int]]
"""For each listed directory: the directories in it, with their inodes."""

_libc = ctypes.CDLL(None, use_errno=True)

Kind = Literal["added", "changed", "deleted", "mode", "attributes", "times"]
"""`mode`: only the permissions differ; `attributes`: only extended attributes or access control lists; `times`: only
the modification time of a file. A symbolic link with another target is `changed`.
"""


class Difference(NamedTuple):
    """One path whose state in the layer differs from the lower one."""

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
        if same != (self.after.kind, self.after.sha256, self.after.target):
            return "changed"
        if self.before.mode != self.after.mode:
            return "mode"
        return "times" if self.before.same_attributes(self.after) else "attributes"

    @property
    def leaves_workspace(self) -> bool:
        """True for a symbolic link whose target, as written, is absolute or above the workspace."""
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
    """A path in the layer that cannot be committed, with the reason for people."""

    path: Rel
    why: str
    kind: Kind = "changed"


class Upper:
    """The upper directory of an overlay.

    Walked by descriptors, because a process may have nested directories deeper than a path can name.
    """

    def __init__(self, path: bytes) -> None:
        """`path` is absolute."""
        self.path = path
        self._access: Beneath | None = None
        self.unreadable: list[Rel] = []
        """Directories that `walk` could not enter, because a process removed their permissions."""

    def walk(self) -> Iterator[tuple[Rel, os.stat_result, bool]]:
        """Each path, a directory before its contents, and whether it is a directory that hides the lower one."""
        pending: list[Rel] = [()]
        while pending:
            here = pending.pop()
            try:
                fd = self._open(here)
            except PermissionError:
                self.unreadable.append(here)
                continue
            try:
                with os.scandir(fd) as entries:
                    found = sorted((os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries)
                listed = []
                for name, seen in found:
                    directory = stat.S_ISDIR(seen.st_mode)
                    listed.append(((*here, name), seen, directory and _hides(_at(fd, name))))
            finally:
                os.close(fd)
            for one in listed:
                yield one
                if stat.S_ISDIR(one[1].st_mode) and len(one[0]) <= _DEPTH_MAX:
                    pending.append(one[0])

    def origin(self, path: Rel) -> bytes | None:
        """The file handle of the lower file from which this one was copied up, whatever its name; None for a new file.

        Source: struct ovl_fb, fs/overlayfs/overlayfs.h: version, magic, length, flags, type, a uuid, the handle.
        """
        try:
            fd = self._open(path[:-1])
        except OSError:
            return None
        try:
            data = _attribute(_at(fd, path[-1]), b"origin")
        finally:
            os.close(fd)
        return None if data is None else data[_ORIGIN_HEADER:]

    def _open(self, directory: Rel) -> int:
        root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._access = self._access or best(root)
            return self._access.open(root, directory, os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(root)


def _at(directory: int, name: bytes) -> bytes:
    """A path for a name in an open directory, for calls that accept only paths."""
    return b"/proc/self/fd/%d/%b" % (directory, name)


def _hides(directory: bytes) -> bool:
    """True for an opaque directory, and for one created in the layer, which may have been moved over a lower one."""
    return _attribute(directory, b"opaque") == b"y" or _attribute(directory, b"origin") is None


def _attribute(path: bytes, name: bytes) -> bytes | None:
    try:
        return os.getxattr(path, b"user.overlay." + name, follow_symlinks=False)
    except OSError:
        return None


def handle_of(tree: Workspace, path: Rel) -> bytes | None:
    """The file handle of a path, in the form that overlayfs stores; None if there is none. Source: name_to_handle_at(2)."""
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
    """True for a whiteout, the mark of a deleted name."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def overlay_candidates(entries: Iterable[tuple[Rel, os.stat_result, bool]], below: Workspace) -> Iterator[Rel]:
    """The paths that may differ, according to an upper directory. A path may occur twice."""
    hiding: set[Rel] = set()
    for path, found, hides in entries:
        yield path
        if path[:-1] in hiding:  # everything beneath it was included already
            if stat.S_ISDIR(found.st_mode):
                hiding.add(path)
            continue
        if is_whiteout(found) or not stat.S_ISDIR(found.st_mode):
            yield from beneath(below, path)
        elif hides:
            hiding.add(path)
            yield from beneath(below, path)


def beneath(tree: Workspace, path: Rel, closed: Collection[Rel] = ()) -> Iterator[Rel]:
    """The paths beneath a directory of a tree; empty if it is not a directory."""
    found = _lstat(tree, path)
    if found is None or not stat.S_ISDIR(found.st_mode):
        return
    for inside, _ in tree.walk(path, lenient=True, closed=closed):
        if inside != path:
            yield inside


def copy_candidates(
    known: dict[Rel, Identity], below: Workspace, merged: Workspace, closed: Collection[Rel]
) -> Iterator[Rel]:
    """The paths of a copy that are new, missing, or have another identity than the list.

    `closed` are directories whose contents were not copied.
    """
    seen: set[Rel] = set()
    for path, found in merged.walk((), lenient=True):
        if path == ():
            continue
        seen.add(path)
        if known.get(path) != identity(found):
            yield path
            if not stat.S_ISDIR(found.st_mode):
                yield from beneath(below, path, closed)  # the directory was replaced
    for path in known:
        if path not in seen:
            yield path
            yield from beneath(below, path, closed)  # created by others since


def compare(paths: Iterable[Rel], below: Workspace, merged: Workspace) -> tuple[list[Difference], list[Uncommittable]]:
    """The paths whose states differ, sorted, and those that cannot be compared."""
    found: list[Difference] = []
    left: list[Uncommittable] = []
    for path in sorted(set(paths)):
        if path == () or len(path) > _DEPTH_MAX + 1:
            continue
        if len(path) > _DEPTH_MAX:
            kind = _kind_of_special(_lstat(below, path), _lstat(merged, path))
            left.append(Uncommittable(path, f"it is more than {_DEPTH_MAX} directories deep", kind or "changed"))
            continue
        try:
            after = node_at(merged, path)
            before = node_at(below, path)
        except ToolError as error:
            kind = _kind_of_special(_lstat(below, path), _lstat(merged, path))
            if kind is not None:
                left.append(Uncommittable(path, error.message.partition(": ")[2] or error.message, kind))
            continue
        if after.kind == "absent" and is_reserved(path[-1]):
            continue  # left by an interrupted commit
        after = to_commit(before, after)
        if is_different(before, after):
            found.append(Difference(path, before, after))
    return found, left


def is_different(before: Node, after: Node) -> bool:
    """True if a commit has something to do to turn one state into the other."""
    if not after.same(before):
        return True
    if before.kind == after.kind == "dir" and before.mode != after.mode:
        return True
    if before.kind == after.kind == "file" and before.mtime_ns != after.mtime_ns:
        return True
    return not before.same_attributes(after)


def _kind_of_special(before: os.stat_result | None, after: os.stat_result | None) -> Kind | None:
    """The change of a path that cannot be compared; None if it is the same FIFO, socket or device."""
    if before is None or after is None:
        return "added" if before is None else "deleted"
    special = not (stat.S_ISREG(after.st_mode) or stat.S_ISDIR(after.st_mode))
    if special and (before.st_mode, before.st_rdev) == (after.st_mode, after.st_rdev):
        return None
    return "changed"


def to_commit(before: Node, after: Node) -> Node:
    """The state to commit: without set-id bits, unless the same content had them before."""
    if after.kind != "file" or not (after.mode or 0) & 0o6000:
        return after
    kept = (before.mode or 0) & 0o6000 if before.sha256 == after.sha256 else 0
    return msgspec.structs.replace(after, mode=(after.mode or 0) & (0o1777 | kept))


def node_at(tree: Workspace, path: Rel) -> Node:
    """The state at a path; absent beneath anything that is not a directory. Raises: ToolError."""
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


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """A directory, and the names and inodes of all directories in it."""

    path: NameJson
    inside: list[tuple[NameJson, int]]


def list_directories(base: Workspace) -> list[Listed]:
    """The uppermost directories of a workspace, level by level. Hidden ones are in the lists, but not listed themselves."""
    device = os.fstat(base.fd).st_dev
    pending: list[Rel] = [()]
    found: list[Listed] = []
    names = 0
    for path in pending:  # grows meanwhile
        if len(found) == _LISTED_MAX:
            break
        inside: list[tuple[bytes, int]] = []
        with contextlib.suppress(ToolError, OSError):
            fd = base.open_directory(path)
            try:
                with os.scandir(fd) as entries:
                    inside = [
                        (os.fsencode(entry.name), inode(entry.stat(follow_symlinks=False), device))
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                    ]
            finally:
                os.close(fd)
            names += len(inside)
            if names > _NAMES_MAX:
                break
            found.append(Listed(to_json(path), [(to_json((name,)), number) for name, number in inside]))
            pending.extend((*path, name) for name, _ in sorted(inside) if _is_entered(name))
    return found


def known_directories(listed: list[Listed]) -> Directories:
    """The stored lists by path."""
    return {stored(one.path): {stored(name)[0]: number for name, number in one.inside} for one in listed}


def inode(found: os.stat_result, device: int) -> int:
    """The inode of a directory on the workspace's `device`, whose number may be another after a restart; else -1."""
    return found.st_ino if found.st_dev == device else -1


def _is_entered(name: bytes) -> bool:
    return not name.startswith(b".") and name not in _NOT_ENTERED
