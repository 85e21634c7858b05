"""Copies a workspace for a layer where overlayfs is not available: with reflinks if the file system supports them.

File systems mounted inside the workspace are copied too, except those of the kernel (/proc and the like).

`copied.ndjson` of the layer lists each copied path with the identities of copy and original. Comparing identities finds
both what the proposal changed and what others changed meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from interlock.model import typed
from interlock.model.errors import IntegrityError, StoreError, ToolError
from interlock.workspace.layer_mounts import nested_mounts
from interlock.workspace.names import NameJson, Rel, stored, to_json
from interlock.workspace.nodes import Identity, attributes, identity, set_attributes
from interlock.workspace.tree import Workspace

FILES_MAX: Final = 100_000
BYTES_MAX: Final = 2 * 1024**3
"""Maximum number of bytes copied for one proposal, not counting reflinks."""
LIST: Final = "copied.ndjson"
_OF_THE_KERNEL: Final = frozenset(
    b"autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs mqueue nsfs proc pstore"
    b" rpc_pipefs securityfs sysfs tracefs".split()
)
"""Types of kernel file systems, which hold no user files."""
_FICLONE: Final = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h


class Copied(msgspec.Struct, frozen=True, array_like=True):
    """A line of `copied.ndjson`."""

    path: NameJson
    copy: tuple[int, ...]
    original: tuple[int, ...]


def copy_workspace(
    source: Workspace, layer: Path, original: Callable[[Rel, Identity], Identity] = lambda _path, found: found
) -> None:
    """Copy a workspace into the directory `tree` of a layer, with its list. Raises: StoreError `layer_unavailable`.

    If the source is the view of another layer, `original` returns the identity of the lower file instead of the view's.
    """
    tree = layer / "tree"
    tree.mkdir(mode=0o700)
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in _Copying(source, os.fsencode(tree)).rows(original))
    source.disk.write_atomic(layer / LIST, lines)


def left_out(workspace: Workspace) -> frozenset[Rel]:
    """The directories whose contents are not copied, because a kernel file system is mounted there."""
    if workspace.layer is not None:  # the source is itself a copy
        return frozenset()
    return frozenset(path for path, kind in nested_mounts(workspace.root).items() if kind in _OF_THE_KERNEL)


def read_copied(layer: Path) -> dict[Rel, tuple[Identity, Identity]]:
    """Each copied path with the identities of copy and original. Raises: IntegrityError `layer_damaged`."""
    try:
        rows = [typed.decode(line, Copied) for line in (layer / LIST).read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise IntegrityError(
            "a layer's list of copied files is damaged", code="layer_damaged", path=str(layer)
        ) from error
    return {stored(row.path): (Identity(*row.copy), Identity(*row.original)) for row in rows}


class _Copying:
    """Makes one copy, within the limits. Sockets and devices are skipped."""

    def __init__(self, source: Workspace, tree: bytes) -> None:
        self._source = source
        self._tree = tree
        self._count = 0
        self._bytes = 0

    def rows(self, original: Callable[[Rel, Identity], Identity]) -> Iterator[Copied]:
        """Copy everything with permissions and times, then yield the list of copied paths. Raises: StoreError."""
        try:
            files = self._copy_all()
        except (OSError, ToolError) as error:
            raise StoreError(
                f"the workspace cannot be copied: {error}",
                code="layer_unavailable",
                hint="free some space, or use mode `direct`",
            ) from error
        for path, found in files:
            yield Copied(to_json(path), tuple(identity(os.lstat(self._at(path)))), tuple(original(path, found)))

    def _copy_all(self) -> list[tuple[Rel, Identity]]:
        source = self._source
        directories: list[tuple[bytes, os.stat_result, Rel]] = []
        files: list[tuple[Rel, Identity]] = []
        for path, found in source.walk((), lenient=True, closed=left_out(source)):
            self._count += 1
            if self._count > FILES_MAX:
                raise _too_large(f"more than {FILES_MAX} files")
            to = self._at(path)
            if stat.S_ISDIR(found.st_mode):
                if path:
                    os.mkdir(to, 0o700)  # noqa: PTH102 - bytes
                directories.append((to, found, path))
            elif stat.S_ISLNK(found.st_mode):
                os.symlink(source.read_link(path), to)  # noqa: PTH211 - bytes
                files.append((path, identity(found)))
            elif stat.S_ISFIFO(found.st_mode):
                os.mkfifo(to, 0o600)
                os.chmod(to, stat.S_IMODE(found.st_mode))  # noqa: PTH101 - bytes
                files.append((path, identity(found)))
            elif stat.S_ISREG(found.st_mode) and self._copy_file(path, to, found):
                files.append((path, identity(found)))
        for to, found, path in reversed(directories):
            self._finish_directory(path, to, found)
            if path:
                files.append((path, identity(found)))
        return files

    def _finish_directory(self, path: Rel, to: bytes, found: os.stat_result) -> None:
        """Set a directory's permissions, attributes (default access control lists) and times, after copying its contents."""
        fd = self._source.open_directory(path)
        try:
            wanted = attributes(fd)
        finally:
            os.close(fd)
        out = os.open(to, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(out, stat.S_IMODE(found.st_mode))
            set_attributes(out, wanted or {})
            os.utime(out, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(out)

    def _copy_file(self, path: Rel, to: bytes, found: os.stat_result) -> bool:
        """Copy a file. Returns False if this user may not read it; it is then missing in the layer."""
        try:
            fd = self._source.open_file(path)
        except ToolError as error:
            if error.code in ("access_denied", "not_found", "path_changed"):
                return False
            raise
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, fd)
            out = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            opened.callback(os.close, out)
            try:
                fcntl.ioctl(out, _FICLONE, fd)
            except OSError:
                self._bytes += min(found.st_size, found.st_blocks * 512)
                if self._bytes > BYTES_MAX:
                    raise _too_large(f"more than {BYTES_MAX >> 30} GiB") from None
                _copy_data(fd, out, found.st_size)
            os.fchmod(out, stat.S_IMODE(found.st_mode))
            set_attributes(out, attributes(fd) or {})
            os.utime(out, ns=(found.st_atime_ns, found.st_mtime_ns))
        return True

    def _at(self, path: Rel) -> bytes:
        return os.path.join(self._tree, *path)  # noqa: PTH118 - bytes


def _copy_data(fd: int, out: int, size: int) -> None:
    """Copy only data, so that holes stay holes."""
    os.ftruncate(out, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError:  # only a hole follows
            return
        os.lseek(out, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(out, fd, start, end - start)
            if not sent:
                return
            start += sent
        at = end


def _too_large(what: str) -> StoreError:
    return StoreError(
        f"the workspace is too large to be copied for each proposal: {what}",
        code="layer_unavailable",
        hint="`interlock doctor` shows why this machine cannot use overlayfs, which copies nothing",
    )
