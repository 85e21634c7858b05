"""A directory tree that is accessed only beneath its root.

Every access starts at the root's descriptor and goes through `beneath.py`, which follows no symbolic link. Links that
stay inside are followed by `resolve`, which turns a path into one without links; that path is then opened. So a race
with `resolve` can cause at most an error.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

from interlock.disk import Disk
from interlock.model.errors import StoreError, ToolError, UsageError
from interlock.workspace import beneath, protect
from interlock.workspace.layer_size import LayerSize
from interlock.workspace.names import NameJson, Rel, link_to_json, parse, parts, refusal
from interlock.workspace.nodes import ABSENT, Node, Seen, attributes, identity, kind_of

LINKS_MAX: Final = 40  # the kernel's own limit (MAXSYMLINKS)
CHUNK_BYTES: Final = 1024 * 1024
_ZEROS: Final = bytes(CHUNK_BYTES)
Access = Literal["read", "write", "write_alone"]
"""`write_alone`: only the path itself; what is beneath it is checked separately."""
_LEFT_OUT: Final = frozenset(("not_found", "not_a_directory", "path_changed", "access_denied"))


class View(Protocol):
    """The methods of a layer that its processes, and the search for their changes, need."""

    namespaces: tuple[int, int] | None
    """Descriptors of the user and mount namespaces in which the layer is at the workspace's path; None if it is not mounted."""
    size: LayerSize

    @property
    def copy(self) -> Path | None:
        """The directory of a layer that is a copy; None for an overlay."""
        ...

    def stack(self) -> list[Path]:
        """The directories that the layer consists of, topmost first. Another layer is stacked on these."""
        ...

    @property
    def posture(self) -> str:
        """How the layer is made, for the action's posture."""
        ...

    def changed_since_look(self) -> list[Rel]:
        """The paths that may have changed in the layer since the last call. Raises: ToolError."""
        ...

    def lower_node(self, path: Rel) -> Node:
        """The state of a path beneath the layer. Raises: ToolError."""
        ...

    def sync(self) -> None:
        """Sync the contents of the layer. Raises: StoreError."""
        ...


class Workspace:
    """Files beneath one root. Paths are `Rel`s, made from parameters by `locate`. Thread-safe."""

    def __init__(
        self,
        root: Path,
        *,
        protected: Iterable[NameJson] = (),
        disk: Disk | None = None,
        access: beneath.Beneath | None = None,
        fd: int | None = None,
    ) -> None:
        """Open the root; `access` is for tests. Agents may not change `protected` and paths that are always protected.

        Raises: UsageError `workspace_missing`, ToolError for a bad `protected`. `fd` is a descriptor of another tree
        that is shown at `root`, such as a layer over it; it is closed with this object.
        """
        self.root = root.resolve()
        self.protected = (*protect.LOADED, *(self.parse(p, "protected") for p in protected))
        self.disk = disk or Disk()
        self.layer: View | None = None
        """Set if this is the view of a layer, whose changes are not in the tree at `root` yet."""
        try:
            self.fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if fd is None else fd
        except OSError as error:
            raise UsageError(
                f"the workspace `{root}` cannot be opened: {os.strerror(error.errno or 0)}", code="workspace_missing"
            ) from error
        self._beneath = access or beneath.best(self.fd)
        self._changing = threading.RLock()
        self.umask = _umask()

    @property
    def written(self) -> tuple[str, ...]:
        """Globs of the files that a process of an action with this workspace may write."""
        return ("**",)

    @property
    def readable(self) -> tuple[str, ...]:
        """Globs of the files that such a process may read."""
        return ("**",)

    def close(self) -> None:
        """Close the root."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """A lock around the examination before a change and the change, so that this process makes one change at a time."""
        with self._changing:
            yield

    def parse(self, value: Any, field: str = "path") -> Rel:
        """The path that a parameter names, without resolving links. Raises: ToolError."""
        return parse(value, os.fspath(self.root), field)

    def locate(self, value: Any, field: str = "path", *, follow: bool = True) -> Rel:
        """The path without links to which a parameter leads; see `resolve`."""
        return self.resolve(self.parse(value, field), field, follow=follow)

    def resolve(self, path: Rel, field: str = "path", *, follow: bool = True) -> Rel:
        """The same place as a path without symbolic links. The last name is followed only if `follow`.

        Missing names are kept. Raises: ToolError `path_outside_workspace`, `symlink_loop`, `not_a_directory`.
        """
        pending = list(reversed(path))
        real: list[bytes] = []
        links = 0
        while pending:
            name = pending.pop()
            if name == b"..":  # comes only from a link's target
                if not real:
                    raise _outside(field)
                real.pop()
                continue
            real.append(name)
            found = self.lstat(tuple(real), field)
            if found is None:
                continue
            if stat.S_ISLNK(found.st_mode) and (pending or follow):
                links += 1
                if links > LINKS_MAX:
                    raise ToolError(
                        f"{field}: too many symbolic links", code="symlink_loop", path=f"$.parameters.{field}"
                    )
                text = self.read_link(tuple(real), field)
                real.pop()
                if text.startswith(b"/"):
                    names, real = self._inside(text, field), []
                else:
                    names = parts(text)
                pending.extend(reversed(names))
            elif pending and not stat.S_ISDIR(found.st_mode):
                raise refusal(OSError(errno.ENOTDIR, ""), field)
        return tuple(real)

    def permit(self, path: Rel, field: str = "path", access: Access | None = None) -> None:
        """Raises ToolError `path_denied` if the agent may not reach the path. This base class allows every path.

        For paths that a tool finds by itself. The default of `access` is the access for which the parameter `field` is
        marked.
        """

    def guard(self) -> protect.Guard:
        """The guard of the protected paths. Check it before each change."""
        return protect.Guard(self, self.protected)

    def open(self, path: Rel, flags: int, field: str = "path") -> int:
        """Open a path without links. Raises: ToolError."""
        with refused(field):
            return self._beneath.open(self.fd, path, flags)

    def open_directory(self, path: Rel, field: str = "path") -> int:
        """Open a directory, to list it, to access its entries, and for `Disk.sync`."""
        return self.open(path, os.O_RDONLY | os.O_DIRECTORY, field)

    def open_file(self, path: Rel, field: str = "path") -> int:
        """Open a regular file for reading; never blocks on a FIFO. Raises: ToolError."""
        found = self.lstat(path, field)
        if found is None:
            raise refusal(OSError(errno.ENOENT, ""), field)
        _need_file(found, field)
        fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, field)
        try:
            _need_file(os.fstat(fd), field)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def lstat(self, path: Rel, field: str = "path") -> os.stat_result | None:
        """The lstat of a path whose parents are no links; None if nothing exists. Raises: ToolError."""
        try:
            if len(path) == 1:  # has no parents, and each change looks at a dozen of these
                return os.stat(path[0], dir_fd=self.fd, follow_symlinks=False)
            fd = self._beneath.open(self.fd, path, os.O_PATH)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(error, field) from error
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def examine(self, path: Rel, field: str = "path", read: Callable[[int], tuple[str, int]] | None = None) -> Seen:
        """The state of a path without links, including its content digest.

        `read` takes a descriptor and returns digest and size; by default it only hashes. Raises: ToolError:
        `file_changed` if the file changed while it was read, `backup_failed` if `read` could not store the content.
        """
        found = self.lstat(path, field)
        if found is None:
            return Seen(ABSENT, None)
        kind = kind_of(found, field)
        owner = (found.st_uid, found.st_gid)
        mode = stat.S_IMODE(found.st_mode)
        if kind == "dir":
            kept = None
            with contextlib.suppress(ToolError):  # not accessible: then only its mode can be restored
                fd = self.open_directory(path, field)
                try:
                    kept = attributes(fd)
                finally:
                    os.close(fd)
            node = Node("dir", mode=mode, mtime_ns=found.st_mtime_ns, owner=owner, attributes=kept)
            return Seen(node, identity(found))
        if kind == "symlink":
            target = link_to_json(self.read_link(path, field))
            return Seen(Node("symlink", target=target, mtime_ns=found.st_mtime_ns, owner=owner), identity(found))
        fd = self.open_file(path, field)
        try:
            with refused(field), _kept(field):
                sha256, size = (read or hash_file)(fd)
            kept = attributes(fd)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if identity(after) != identity(found):
            raise changed(field)
        node = Node("file", mode, size, sha256, mtime_ns=found.st_mtime_ns, owner=owner, attributes=kept)
        return Seen(node, identity(found))

    def read_link(self, path: Rel, field: str = "path") -> bytes:
        """The target of a symbolic link."""
        fd = self.open(path, os.O_PATH, field)
        try:
            with refused(field):
                return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)

    def names(self, path: Rel, field: str = "path", *, most: int | None = None) -> list[bytes]:
        """The first `most` names in a directory, sorted. Keeps only that many in memory."""
        fd = self.open_directory(path, field)
        try:
            with refused(field), os.scandir(fd) as entries:
                found = (os.fsencode(entry.name) for entry in entries)
                return sorted(found) if most is None else heapq.nsmallest(most, found)
        finally:
            os.close(fd)

    def walk(
        self,
        path: Rel,
        field: str = "path",
        *,
        most: int | None = None,
        lenient: bool = False,
        skip: frozenset[bytes] = frozenset(),
        closed: Collection[Rel] = (),
    ) -> Iterator[tuple[Rel, os.stat_result]]:
        """Walk a path and everything beneath it, a directory before its contents, names sorted; links are not followed.

        Only the first `most` names of each directory are visited, without those in `skip`, and no directory in
        `closed`. `lenient` skips unreadable directories and files that vanish meanwhile. Raises: ToolError.
        """
        pending = [path]
        while pending:
            here = pending.pop()
            mild = lenient and here != path
            with _left_out(mild):
                found = self.lstat(here, field)
                if found is None:
                    raise refusal(OSError(errno.ENOENT, ""), field)
                yield here, found
                if stat.S_ISDIR(found.st_mode) and here not in closed:
                    names = self.names(here, field, most=most)
                    pending.extend((*here, name) for name in reversed(names) if name not in skip)

    def may_write(self, path: Rel) -> bool:
        """True if the file's own permissions allow writing. A replacement by rename would check only the directory's."""
        directory = self.open_directory(path[:-1])
        try:
            return os.access(path[-1], os.W_OK, dir_fd=directory, effective_ids=True, follow_symlinks=False)
        finally:
            os.close(directory)

    def _inside(self, text: bytes, field: str) -> tuple[bytes, ...]:
        """The names beneath the root of an absolute link target."""
        names, top = parts(text), parts(os.fsencode(self.root))
        if names[: len(top)] != top:
            raise _outside(field)
        return names[len(top) :]


def is_in_place(workspace: Workspace) -> bool:
    """False if another directory, or none, is at a workspace's root since it was opened. Processes start there.

    True for the view of a layer, which is never there itself.
    """
    if workspace.layer is not None:
        return True
    try:
        found, own = os.lstat(workspace.root), os.fstat(workspace.fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _need_file(found: os.stat_result, field: str) -> None:
    kind = kind_of(found, field)
    if kind == "dir":
        raise refusal(OSError(errno.EISDIR, ""), field)
    if kind == "symlink":
        raise refusal(OSError(errno.ELOOP, ""), field)


@contextlib.contextmanager
def refused(field: str) -> Iterator[None]:
    """Turn a file system error in the block into a ToolError."""
    try:
        yield
    except OSError as error:
        raise refusal(error, field) from error
    except StoreError as error:
        # Disk errors are worded for the state directory, but this is the user's tree.
        if isinstance(error.__cause__, OSError):
            raise refusal(error.__cause__, field) from error
        raise


@contextlib.contextmanager
def _kept(field: str) -> Iterator[None]:
    """Turn an error of the state directory, where a backup is stored, into a ToolError."""
    try:
        yield
    except StoreError as error:
        raise ToolError(
            f"{field}: its backup could not be stored: {error.message}",
            code="backup_failed",
            path=f"$.parameters.{field}",
            hint=error.hint,
        ) from error


@contextlib.contextmanager
def _left_out(mild: bool) -> Iterator[None]:
    try:
        yield
    except ToolError as error:
        if not mild or error.code not in _LEFT_OUT:
            raise


def changed(field: str) -> ToolError:
    """The ToolError for a file that another program changed meanwhile."""
    return ToolError(
        f"{field}: another program changed the file meanwhile", code="file_changed", path=f"$.parameters.{field}"
    )


def read_chunks(fd: int, go_on: Callable[[], None] | None = None) -> Iterator[bytes]:
    """A file's content from its start, in chunks. `go_on` is called before each, and may raise."""
    offset = 0
    while True:
        if go_on is not None:
            go_on()
        chunk = os.pread(fd, CHUNK_BYTES, offset)
        if not chunk:
            return
        offset += len(chunk)
        yield chunk


def write_chunks(disk: Disk, fd: int, content: Iterable[bytes]) -> None:
    """Write a file from its start. Long runs of zeros become holes, so that the copy of a sparse file is sparse too."""
    size = 0
    for chunk in content:
        size += len(chunk)
        if chunk == _ZEROS:
            os.lseek(fd, len(chunk), os.SEEK_CUR)
        else:
            disk.write(fd, chunk)
    if os.fstat(fd).st_size != size:
        os.ftruncate(fd, size)


def hash_file(fd: int, go_on: Callable[[], None] | None = None) -> tuple[str, int]:
    """SHA-256 (hex) and size of a file's content."""
    digest, size = hashlib.sha256(), 0
    for chunk in read_chunks(fd, go_on):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _outside(field: str) -> ToolError:
    return ToolError(
        f"{field}: a symbolic link on the way leads out of the workspace",
        code="path_outside_workspace",
        path=f"$.parameters.{field}",
        retryable=False,
    )


def _umask() -> int:
    """The process's umask, read without changing it (umask(2) is shared by all threads). Source: proc(5), Linux 4.7."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o077
