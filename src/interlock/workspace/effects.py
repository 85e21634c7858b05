"""The changes themselves: each is one atomic step at a path without links, and durable once it returns.

Every change says what it expects to find (an `Identity`, or None for nothing). If something else lies there by then, the
change is refused with `file_changed`, so that what a backup holds is what was replaced. Set-id bits are never given to new
content; undo gives back what was there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from interlock.model.errors import ToolError
from interlock.workspace.names import Rel
from interlock.workspace.nodes import Identity, identity
from interlock.workspace.tree import Workspace, changed, refused


def put_file(
    workspace: Workspace,
    path: Rel,
    content: Iterable[bytes],
    *,
    mode: int,
    expect: Identity | None,
    temporary: bytes,
    owner: tuple[int, int] | None = None,
    mtime_ns: int | None = None,
    field: str = "path",
) -> None:
    """Make or replace a file: `temporary` beside it, fsync, rename. `owner` is kept if it is not ours (or refused)."""

    def make(directory: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            for chunk in content:
                workspace.disk.write(fd, chunk)
            made = os.fstat(fd)
            if owner is not None and owner != (made.st_uid, made.st_gid):
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            workspace.disk.sync(fd)
        finally:
            os.close(fd)

    _put(workspace, path, make, expect, temporary, field)


def put_link(
    workspace: Workspace, path: Rel, target: bytes, *, expect: Identity | None, temporary: bytes, field: str = "path"
) -> None:
    """Make or replace a symbolic link."""

    def make(directory: int) -> None:
        os.symlink(target, temporary, dir_fd=directory)

    _put(workspace, path, make, expect, temporary, field)


def put_directory(workspace: Workspace, path: Rel, *, mode: int, field: str = "path") -> None:
    """Make a directory where nothing is, usable by us until `set_mode`."""
    with _parent(workspace, path, field) as directory:
        os.mkdir(path[-1], 0o700, dir_fd=directory)
        fd = os.open(path[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fchmod(fd, mode | 0o700)
        finally:
            os.close(fd)
        workspace.disk.sync(directory)


def set_mode(workspace: Workspace, path: Rel, mode: int, *, field: str = "path") -> None:
    """Give a directory its permissions."""
    fd = workspace.open_directory(path, field)
    try:
        with refused(field):
            os.fchmod(fd, mode)
            workspace.disk.sync(fd)
    finally:
        os.close(fd)


def remove(workspace: Workspace, path: Rel, *, expect: Identity, field: str = "path") -> None:
    """Remove a file or link as it was seen, or an empty directory (whatever became of its times)."""
    with _parent(workspace, path, field) as directory:
        if stat.S_ISDIR(os.stat(path[-1], dir_fd=directory, follow_symlinks=False).st_mode):
            os.rmdir(path[-1], dir_fd=directory)
        else:
            _check(directory, path[-1], expect, field)
            os.unlink(path[-1], dir_fd=directory)
        workspace.disk.sync(directory)


def move(workspace: Workspace, source: Rel, destination: Rel, *, expect: Identity, fields: tuple[str, str]) -> None:
    """Rename what was seen at `source` to `destination`, where nothing may be. A directory takes along what is in it."""
    with _parent(workspace, source, fields[0]) as before, _parent(workspace, destination, fields[1]) as after:
        _check(before, source[-1], expect, fields[0])
        workspace.disk.rename_at(before, source[-1], after, destination[-1], replace=False)
        workspace.disk.sync(after)
        workspace.disk.sync(before)


def discard_temporary(workspace: Workspace, path: Rel, temporary: bytes) -> None:
    """Remove what an interrupted `put_file` or `put_link` left beside `path`, if anything."""
    beside = (*path[:-1], temporary)
    try:
        found = workspace.lstat(beside)
    except ToolError:
        return  # where it lay is no directory any more
    if found is not None and not stat.S_ISDIR(found.st_mode):
        remove(workspace, beside, expect=identity(found))


def _put(
    workspace: Workspace, path: Rel, make: Callable[[int], None], expect: Identity | None, temporary: bytes, field: str
) -> None:
    with _parent(workspace, path, field) as directory:
        try:
            make(directory)
            if expect is not None:
                _check(directory, path[-1], expect, field)
            workspace.disk.rename_at(directory, temporary, directory, path[-1], replace=expect is not None)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        workspace.disk.sync(directory)


@contextlib.contextmanager
def _parent(workspace: Workspace, path: Rel, field: str) -> Iterator[int]:
    """The directory that holds `path`, open; what the file system refuses in the block becomes a ToolError."""
    fd = workspace.open_directory(path[:-1], field)
    try:
        with refused(field):
            yield fd
    finally:
        os.close(fd)


def _check(directory: int, name: bytes, expect: Identity, field: str) -> None:
    if identity(os.stat(name, dir_fd=directory, follow_symlinks=False)) != expect:
        raise changed(field)
