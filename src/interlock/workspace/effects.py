"""File changes: each is one atomic step at a path without links, and durable once it returns.

A caller that makes thousands of changes passes a set, `later`, which collects the directories to sync;
`sync_directories` then syncs them together, and `put_files` syncs contents together. A sync costs more than the rest of
a change.

Every change states what it expects at the path (an `Identity`, or None for nothing). If something else is there, the
change is refused with `file_changed`, so that the backup holds exactly what was replaced. New content never gets set-id
bits; undo restores them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from interlock.model.errors import StoreError, ToolError
from interlock.workspace.names import Rel
from interlock.workspace.nodes import Identity, Node, identity, set_attributes
from interlock.workspace.tree import Workspace, changed, read_chunks, refused, write_chunks


class NewFile(NamedTuple):
    """A file to create or replace, through `temporary` next to it.

    The file gets `owner` where the system permits it. `expect` is the expected state; None for no file. Without
    `attributes` the file gets the defaults of its directory.
    """

    path: Rel
    content: Iterable[bytes]
    mode: int
    expect: Identity | None
    temporary: bytes
    owner: tuple[int, int] | None = None
    mtime_ns: int | None = None
    attributes: dict[str, str] | None = None


def put_file(workspace: Workspace, file: NewFile, *, field: str = "path") -> None:
    """Create or replace a file: fsync, then rename."""

    def make(directory: int) -> None:
        fd = _written(workspace, directory, file)
        try:
            workspace.disk.sync(fd)
        finally:
            os.close(fd)

    _put(workspace, file.path, make, file.expect, file.temporary, field)


def put_files(workspace: Workspace, files: Sequence[NewFile], later: set[Rel]) -> None:
    """Create or replace files: one syncfs per file system makes all contents durable, and only then are they renamed."""
    devices: dict[int, int] = {}
    staged: list[NewFile] = []
    try:
        for file in files:
            with named(file.path), _parent(workspace, file.path, "path") as directory:
                staged.append(file)
                fd = _written(workspace, directory, file)
                devices.setdefault(os.fstat(fd).st_dev, fd)
                if fd not in devices.values():
                    os.close(fd)
        with refused("path"):
            for fd in devices.values():
                workspace.disk.sync_filesystem(fd)
        for file in files:
            with named(file.path):
                _put(workspace, file.path, None, file.expect, file.temporary, "path", later)
            staged.remove(file)
    finally:
        for fd in devices.values():
            os.close(fd)
        for file in staged:
            discard_temporary(workspace, file.path, file.temporary)


def _written(workspace: Workspace, directory: int, file: NewFile) -> int:
    """Write the temporary file. Returns its open descriptor; the content is not synced yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(file.temporary, flags, 0o600, dir_fd=directory)
    try:
        write_chunks(workspace.disk, fd, file.content)
        made = os.fstat(fd)
        if file.owner is not None and file.owner != (made.st_uid, made.st_gid):
            _give(fd, file.owner, in_layer=workspace.layer is not None)
        os.fchmod(fd, file.mode)
        if file.attributes is not None:
            set_attributes(fd, file.attributes)
        if file.mtime_ns is not None:
            os.utime(fd, ns=(file.mtime_ns, file.mtime_ns))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _give(fd: int, owner: tuple[int, int], *, in_layer: bool) -> None:
    """Set a file's owner. A layer of an ordinary user cannot represent other groups; there the commit restores the owner."""
    try:
        os.fchown(fd, *owner)
    except OSError as error:
        if not in_layer or error.errno not in (errno.EOVERFLOW, errno.EINVAL):
            raise


def put_link(
    workspace: Workspace, path: Rel, target: bytes, *, expect: Identity | None, temporary: bytes, field: str = "path"
) -> None:
    """Create or replace a symbolic link."""

    def make(directory: int) -> None:
        os.symlink(target, temporary, dir_fd=directory)

    _put(workspace, path, make, expect, temporary, field)


def put_directory(
    workspace: Workspace, path: Rel, *, mode: int, field: str = "path", later: set[Rel] | None = None
) -> None:
    """Create a directory where nothing exists. Only this user can access it until `set_mode`.

    It gets its permissions before its name, so that a crash in between leaves nothing that is not recorded.
    """
    made = made_name(path[-1])
    with _parent(workspace, path, field) as directory:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(made, dir_fd=directory)  # left by a process that died
        os.mkdir(made, 0o700, dir_fd=directory)
        try:
            fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.fchmod(fd, mode | 0o700)
            finally:
                os.close(fd)
            workspace.disk.rename_at(directory, made, directory, path[-1], replace=False)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rmdir(made, dir_fd=directory)
            raise
        _sync(workspace, directory, path[:-1], later)


def set_mode(
    workspace: Workspace, path: Rel, mode: int, attributes: dict[str, str] | None, *, field: str = "path"
) -> None:
    """Set the permissions and extended attributes of a directory."""
    fd = workspace.open_directory(path, field)
    try:
        with refused(field):
            os.fchmod(fd, mode)
            if attributes is not None:
                set_attributes(fd, attributes)
            workspace.disk.sync(fd)
    finally:
        os.close(fd)


def widen(workspace: Workspace, path: Rel) -> None:
    """Let this user list and change the names in a directory of theirs. Works even if it cannot be opened for reading."""
    with refused("path"):
        fd = workspace.open(path, os.O_PATH | os.O_DIRECTORY)
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            os.chmod(f"/proc/self/fd/{fd}", mode | 0o700)  # noqa: PTH101 - fchmod refuses O_PATH
        finally:
            os.close(fd)


@contextlib.contextmanager
def named(path: Rel) -> Iterator[None]:
    """Set the path of a ToolError in the block, unless it has one."""
    try:
        yield
    except ToolError as error:
        if error.at is None:
            error.at = path
        raise


def set_file_mode(workspace: Workspace, path: Rel, want: Node, *, expect: Identity, field: str = "path") -> None:
    """Set the permissions and modification time of a file, if it is unchanged. Raises: ToolError `file_changed`."""
    fd = workspace.open_file(path, field)
    try:
        with refused(field):
            if identity(os.fstat(fd)) != expect:
                raise changed(field)
            os.fchmod(fd, want.mode or 0)
            if want.mtime_ns is not None:
                os.utime(fd, ns=(os.fstat(fd).st_atime_ns, want.mtime_ns))
            workspace.disk.sync(fd)
    finally:
        os.close(fd)


def remove(
    workspace: Workspace, path: Rel, *, expect: Identity, field: str = "path", later: set[Rel] | None = None
) -> None:
    """Remove a file or link if it is unchanged, or an empty directory (whatever its times are).

    A file is renamed aside, checked again there, and only then removed, so that a concurrent save is kept. In a layer,
    where no one else writes, it is removed directly, because a rename would copy it up.
    """
    with _parent(workspace, path, field) as directory:
        if stat.S_ISDIR(os.stat(path[-1], dir_fd=directory, follow_symlinks=False).st_mode):
            os.rmdir(path[-1], dir_fd=directory)
        else:
            _check(directory, path[-1], expect, field)
            if workspace.layer is None:
                _remove_aside(workspace, directory, path[-1], expect, field)
            else:
                os.unlink(path[-1], dir_fd=directory)
        _sync(workspace, directory, path[:-1], later)


def aside_name(name: bytes) -> bytes:
    """The name next to a file under which `remove` checks it again."""
    return b".interlock-remove-%b.tmp" % hashlib.sha256(name).hexdigest()[:16].encode()


def made_name(name: bytes) -> bytes:
    """The name next to a directory under which `put_directory` creates it."""
    return b".interlock-make-%b.tmp" % hashlib.sha256(name).hexdigest()[:16].encode()


def _remove_aside(workspace: Workspace, directory: int, name: bytes, expect: Identity, field: str) -> None:
    """Remove the expected file, and nothing else."""
    aside = aside_name(name)
    workspace.disk.rename_at(directory, name, directory, aside, replace=False)
    # The rename changes the ctime.
    if identity(os.stat(aside, dir_fd=directory, follow_symlinks=False))[:4] != expect[:4]:
        with contextlib.suppress(FileExistsError):  # replaced again meanwhile: keep both
            workspace.disk.rename_at(directory, aside, directory, name, replace=False)
        raise changed(field)
    os.unlink(aside, dir_fd=directory)


def remove_empty_directory(workspace: Workspace, path: Rel) -> None:
    """Remove a directory if it is empty and the system allows it; otherwise leave it."""
    with contextlib.suppress(ToolError, OSError), _parent(workspace, path, "path") as directory:
        os.rmdir(path[-1], dir_fd=directory)
        workspace.disk.sync(directory)


def sync_directories(workspace: Workspace, later: set[Rel]) -> None:
    """Make the names in these directories durable. Removed directories are skipped."""
    for path in sorted(later):
        try:
            fd = workspace.open_directory(path)
        except ToolError as error:
            if error.code in ("not_found", "not_a_directory", "path_changed"):
                continue
            raise
        try:
            with refused("path"):
                workspace.disk.sync(fd)
        finally:
            os.close(fd)
    later.clear()


def move(workspace: Workspace, source: Rel, destination: Rel, *, expect: Identity, fields: tuple[str, str]) -> None:
    """Rename the unchanged `source` to `destination`, which must not exist. A directory moves with its contents.

    In a layer, a directory from the workspace cannot be renamed (EXDEV), so it is copied and then removed.
    """
    with _parent(workspace, source, fields[0]) as before, _parent(workspace, destination, fields[1]) as after:
        _check(before, source[-1], expect, fields[0])
        try:
            workspace.disk.rename_at(before, source[-1], after, destination[-1], replace=False)
        except (OSError, StoreError) as error:
            number = error.errno if isinstance(error, OSError) else getattr(error.__cause__, "errno", None)
            if number != errno.EXDEV or workspace.layer is None:
                raise
        else:
            workspace.disk.sync(after)
            workspace.disk.sync(before)
            return
    _move_by_copy(workspace, source, destination)


def _move_by_copy(workspace: Workspace, source: Rel, destination: Rel) -> None:
    """Copy a tree, setting directory modes last, and remove the original from the bottom up."""
    seen = [(path, workspace.examine(path)) for path, _ in workspace.walk(source)]
    later: set[Rel] = set()
    try:
        for number, (path, found) in enumerate(seen):
            to, node, temporary = (*destination, *path[len(source) :]), found.node, b".interlock-move-%d.tmp" % number
            if node.kind == "dir":
                put_directory(workspace, to, mode=node.mode or 0, later=later)
            elif node.kind == "symlink":
                put_link(workspace, to, workspace.read_link(path), expect=None, temporary=temporary)
            else:
                _copy(workspace, path, to, node, temporary)
        for path, found in reversed(seen):
            if found.node.kind == "dir":
                to = (*destination, *path[len(source) :])
                set_mode(workspace, to, found.node.mode or 0, found.node.attributes or {})
            assert found.identity is not None
            remove(workspace, path, expect=found.identity, later=later)
    finally:
        sync_directories(workspace, later)


def _copy(workspace: Workspace, path: Rel, to: Rel, node: Node, temporary: bytes) -> None:
    fd = workspace.open_file(path)
    try:
        mode, attributes = node.mode or 0, node.attributes or {}
        put_file(workspace, NewFile(to, read_chunks(fd), mode, None, temporary, node.owner, node.mtime_ns, attributes))
    finally:
        os.close(fd)


def discard_temporary(
    workspace: Workspace, path: Rel, temporary: bytes, *, change: tuple[Node, Node] | None = None
) -> None:
    """Remove any temporary file that an interrupted `put_file` or `put_link` left next to `path`.

    With `change` (the state before and after), also the files of an interrupted `remove` or `put_directory`. If a
    person saved the file at that moment, the saved file is restored to `path`.
    """
    if change is not None and change[0].kind in ("file", "symlink"):
        _finish_remove(workspace, path, change[0])
    if change is not None and "dir" in (change[0].kind, change[1].kind) and path:
        remove_empty_directory(workspace, (*path[:-1], made_name(path[-1])))
    beside = (*path[:-1], temporary)
    try:
        found = workspace.lstat(beside)
        if found is None or stat.S_ISDIR(found.st_mode):
            return
        if change is not None and _is_saved_by_others(workspace, path, beside, *change):
            with _parent(workspace, path, "path") as directory:
                workspace.disk.swap_at(directory, temporary, path[-1])
            found = workspace.lstat(beside)
    except ToolError:
        return  # the directory no longer exists, or the file cannot be read: leave it
    if found is not None:
        remove(workspace, beside, expect=identity(found))


def _is_saved_by_others(workspace: Workspace, path: Rel, beside: Rel, before: Node, after: Node) -> bool:
    """True if `path` has the temporary file, and the file that was swapped out for it is not `before`."""
    if before.kind not in ("file", "symlink") or not workspace.examine(path).node.same(after):
        return False
    held = workspace.examine(beside).node
    return not held.same(before) and not held.same(after)


def _finish_remove(workspace: Workspace, path: Rel, removed: Node) -> None:
    aside = (*path[:-1], aside_name(path[-1]))
    try:
        if workspace.lstat(aside) is None:
            return
        is_ours = workspace.examine(aside).node.same(removed)
    except ToolError:
        return  # the directory no longer exists, or the file cannot be read: leave it
    with _parent(workspace, path, "path") as directory:
        if is_ours:
            os.unlink(aside[-1], dir_fd=directory)
        else:
            with contextlib.suppress(FileExistsError):
                workspace.disk.rename_at(directory, aside[-1], directory, path[-1], replace=False)
        workspace.disk.sync(directory)


def _put(
    workspace: Workspace,
    path: Rel,
    make: Callable[[int], None] | None,
    expect: Identity | None,
    temporary: bytes,
    field: str,
    later: set[Rel] | None = None,
) -> None:
    with _parent(workspace, path, field) as directory:
        try:
            if make is not None:
                make(directory)
            if expect is None:
                workspace.disk.rename_at(directory, temporary, directory, path[-1], replace=False)
            else:
                _check(directory, path[-1], expect, field)
                _replace(workspace, directory, temporary, path[-1], expect, field)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        _sync(workspace, directory, path[:-1], later)


def _replace(workspace: Workspace, directory: int, temporary: bytes, name: bytes, expect: Identity, field: str) -> None:
    """Replace the expected file, and nothing else, with the temporary one.

    The replaced file is checked again afterwards.

    In a layer, where no one else writes, it is replaced directly: a swap would copy it up, which breaks a hard link.
    """
    disk = workspace.disk
    if workspace.layer is not None:
        disk.rename_at(directory, temporary, directory, name)
        return
    ours = os.stat(temporary, dir_fd=directory, follow_symlinks=False).st_ino
    if not disk.swap_at(directory, temporary, name):
        # this file system cannot swap: a save at this moment is lost
        disk.rename_at(directory, temporary, directory, name)
        return
    # The swap changes the ctime.
    if identity(os.stat(temporary, dir_fd=directory, follow_symlinks=False))[:4] != expect[:4]:
        disk.swap_at(directory, temporary, name)
        if os.stat(temporary, dir_fd=directory, follow_symlinks=False).st_ino != ours:
            disk.swap_at(directory, temporary, name)  # someone else replaced the file meanwhile
        raise changed(field)
    os.unlink(temporary, dir_fd=directory)


def _sync(workspace: Workspace, directory: int, path: Rel, later: set[Rel] | None) -> None:
    if later is None:
        workspace.disk.sync(directory)
    else:
        later.add(path)


@contextlib.contextmanager
def _parent(workspace: Workspace, path: Rel, field: str) -> Iterator[int]:
    """Open the directory that holds `path`. A file system error in the block becomes a ToolError."""
    fd = workspace.open_directory(path[:-1], field)
    try:
        with refused(field):
            yield fd
    finally:
        os.close(fd)


def _check(directory: int, name: bytes, expect: Identity, field: str) -> None:
    if identity(os.stat(name, dir_fd=directory, follow_symlinks=False)) != expect:
        raise changed(field)
