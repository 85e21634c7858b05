"""A disk that fails or crashes at a chosen operation, and then loses what was never synced.

Run the code once with a `CrashingDisk()` to see how many operations it makes (`operations`), then once for each of
them:

    for at in range(count):
        disk = CrashingDisk(at=at)                    # a fresh directory each time
        with contextlib.suppress(SimulatedCrash):
            work(disk)
        disk.power_loss(survives=lambda unsynced: unsynced // 2)
        ...                                           # recover with a plain Disk(), and check the guarantees

It works on real files in a real directory. Synced content is copied, so keep the files small.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from interlock.disk import Disk, store_error

Fault = Literal["crash", "full", "failed"]
"""`crash`: the process dies there. `full`: ENOSPC, once. `failed`: EIO, once; a failed sync loses its data permanently."""

_ERRNO = {"full": errno.ENOSPC, "failed": errno.EIO}


class SimulatedCrash(BaseException):
    """The process is dead: nothing that the code does after this counts. Not an Exception, so that nobody handles it."""


class CrashingDisk(Disk):
    """A `Disk` whose operation number `at` (from 0) has a fault. A write with a fault still writes half of its bytes."""

    def __init__(self, *, at: int | None = None, fault: Fault = "crash") -> None:
        """Without `at` nothing fails, and `power_loss` still works."""
        self.at = at
        self.fault: Fault = fault
        self.operations: list[str] = []
        """Names of the operations so far, in order."""
        self.crashed = False
        self._synced: dict[int, bytes] = {}  # by inode: content that survives a power loss
        self._doomed: set[int] = set()  # inodes with a failed sync: the kernel considers their pages clean now
        self._roots: set[Path] = set()  # directories with files that were touched
        self._names: list[tuple[Path, Callable[[], None]]] = []  # directory, and how to revert the unsynced change

    def power_loss(self, *, survives: Callable[[int], int] = lambda _unsynced: 0, names: bool = False) -> None:
        """Lose what was not synced: of n unsynced bytes of a file, `survives(n)` stay; new names only with `names`.

        A file that was truncated but not synced has its old size again, unless `names`.
        """
        places = {path.stat().st_ino: path for path in self._files()}
        for inode, synced in self._synced.items():
            path = places.get(inode)
            if path is None:
                continue
            data = path.read_bytes()
            if data.startswith(synced):
                path.write_bytes(data[: len(synced) + survives(len(data) - len(synced))])
            elif not names:
                path.write_bytes(synced)
        if not names:
            for _, undo in reversed(self._names):
                undo()
        self._names.clear()

    def open_append(self, path: Path, mode: int = 0o600) -> int:
        """As `Disk`. A power loss removes a new file's name until its directory is synced."""
        self._step("open_append")
        new = not path.exists()
        fd = super().open_append(path, mode)
        self._remember(fd, path)
        if new:
            self._names.append((path.parent, lambda: path.unlink(missing_ok=True)))
        return fd

    def write(self, fd: int, data: bytes) -> None:
        """As `Disk`. With a fault, half of the bytes are written."""
        self._remember(fd, Path(f"/proc/self/fd/{fd}").readlink())
        self._step("write", lambda: super(CrashingDisk, self).write(fd, data[: len(data) // 2]))
        super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """As `Disk`."""
        self._step("truncate")
        self._remember(fd, Path(f"/proc/self/fd/{fd}").readlink())
        super().truncate(fd, size)

    def sync_data(self, fd: int) -> None:
        """As `Disk`. Synced data survives a power loss."""
        inode = os.fstat(fd).st_ino
        self._step("sync_data", lambda: self._doomed.add(inode) if self.fault == "failed" else None)
        super().sync_data(fd)
        if inode not in self._doomed:
            self._synced[inode] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def sync_directory(self, path: Path) -> None:
        """As `Disk`. Names in the directory are durable afterwards."""
        self._step("sync_directory")
        super().sync_directory(path)
        self._names = [(directory, undo) for directory, undo in self._names if directory != path]

    def make_directory(self, path: Path, mode: int = 0o700, *, durable: bool = True) -> None:
        """As `Disk`."""
        self._step("make_directory")
        missing = [p for p in (path, *path.parents) if not p.exists()]
        self._names += [(p.parent, partial(shutil.rmtree, p, ignore_errors=True)) for p in reversed(missing)]
        super().make_directory(path, mode, durable=durable)

    def remove_tree(self, path: Path) -> None:
        """As `Disk`. With a fault, half of the files are removed."""
        files = sorted(p for p in path.rglob("*") if not p.is_dir())

        def half() -> None:
            for file in files[: len(files) // 2]:
                file.unlink()

        self._step("remove_tree", half)
        super().remove_tree(path)

    def rename(self, source: Path, destination: Path) -> None:
        """As `Disk`. A power loss reverts it until the directory is synced."""
        self._step("rename")
        old = destination.read_bytes() if destination.is_file() else None
        super().rename(source, destination)

        def undo() -> None:
            destination.rename(source)
            if old is not None:
                destination.write_bytes(old)

        self._names.append((destination.parent, undo))

    def lock(self, path: Path, *, wait: bool = False) -> int | None:
        """As `Disk`."""
        self._step("lock")
        return super().lock(path, wait=wait)

    def _step(self, name: str, halfway: Callable[[], object] = lambda: None) -> None:
        if self.crashed:
            raise SimulatedCrash
        self.operations.append(name)
        if len(self.operations) - 1 != self.at:
            return
        halfway()
        if self.fault == "crash":
            self.crashed = True
            raise SimulatedCrash
        raise store_error(OSError(_ERRNO[self.fault], name), name)

    def _remember(self, fd: int, path: Path) -> None:
        """Treat the content of a file as durable when it is first touched."""
        inode = os.fstat(fd).st_ino
        if inode not in self._synced:
            self._synced[inode] = Path(f"/proc/self/fd/{fd}").read_bytes()
        self._roots.add(path.parent)

    def _files(self) -> list[Path]:
        return [path for root in self._roots if root.is_dir() for path in root.iterdir() if path.is_file()]
