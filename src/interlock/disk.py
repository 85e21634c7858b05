"""The only module that may fsync, rename, lock a file, or open SQLite.

All durable I/O goes through a `Disk`, so that tests can pass one that fails or tears at the nth operation
(`interlock.testing.CrashingDisk`). Every OSError and every SQLite error becomes a `StoreError` with a stable code for what
the machine refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn

import apsw

from interlock.lazy import lazy
from interlock.model.errors import StoreError, UsageError

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

_CODES: Final[dict[int, tuple[str, str]]] = {
    errno.ENOSPC: ("disk_full", "free some space on that file system, then run `interlock recover`"),
    errno.EDQUOT: ("disk_full", "raise the quota or free some space, then run `interlock recover`"),
    errno.EROFS: ("read_only", "the file system is read-only: set INTERLOCK_STATE_DIR to a writable directory"),
    errno.EACCES: (
        "permission_denied",
        "change the directory's owner, or set INTERLOCK_STATE_DIR to a directory of your own",
    ),
    errno.EPERM: (
        "permission_denied",
        "change the directory's owner, or set INTERLOCK_STATE_DIR to a directory of your own",
    ),
    errno.EMFILE: ("too_many_files", "raise the limit of open files (ulimit -n)"),
    errno.ENFILE: ("too_many_files", "the machine has no file handles left"),
    errno.EIO: ("disk_failed", "the device reports an error: check it before anything else"),
}


def store_error(error: OSError, what: str) -> StoreError:
    """The StoreError for an OSError; `what` names the operation and the file, for people."""
    code, hint = _CODES.get(error.errno or 0, ("store", None))
    return StoreError(f"{what}: {os.strerror(error.errno or 0)}", code=code, hint=hint)


def write_new(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file of the user's that must not exist, whole or not at all. Raises: UsageError `already_exists`; StoreError."""
    try:
        with path.open("xb") as file:
            try:
                file.writelines(pieces)
            except BaseException:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise
    except FileExistsError:
        raise UsageError(
            "the file exists", code="already_exists", path=str(path), hint="name another one with `--output`"
        ) from None
    except OSError as error:
        raise store_error(error, f"write {path}") from error


_FULL_OR_FAILING: Final = "check whether the disk is full or failing; `interlock doctor` shows the free space"


def open_regular(path: Path) -> BinaryIO:
    """Open a file of ours for reading. What is not a regular file (a FIFO, which would be waited for) is refused.

    Raises: OSError as `open` does; StoreError for the refusal.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreError(
            f"`{path}` is not a regular file",
            code="store",
            hint="something else than Interlock has put it there; restore the file from a backup, or remove it",
        )
    return os.fdopen(fd, "rb")


class Disk:
    """The real disk. Each method is one operation that can fail, so a test can make the nth one fail."""

    def open_append(self, path: Path, mode: int = 0o600) -> int:
        """Open a file for appending; it is created if absent. A symbolic link, and a FIFO without a reader, are refused."""
        flags = os.O_NONBLOCK | os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return int(self._do(f"open {path}", os.open, path, flags, mode))

    def write(self, fd: int, data: bytes) -> None:
        """Write all of `data`. If it fails, any part of it may have been written."""
        written = self._do("write", os.write, fd, data)
        if written == len(data):  # the usual case
            return
        view = memoryview(data)[written:]
        while view:
            view = view[self._do("write", os.write, fd, view) :]

    def truncate(self, fd: int, size: int) -> None:
        """Cut an open file to `size` bytes. Not durable before `sync_data`."""
        self._do("truncate", os.ftruncate, fd, size)

    def sync_data(self, fd: int) -> None:
        """Make a file's data durable (fdatasync). A failure is final: the kernel may have dropped the dirty pages."""
        self._do("fdatasync", os.fdatasync, fd)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        fd = self._do(f"open {path}", os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._do(f"fsync {path}", os.fsync, fd)
        finally:
            os.close(fd)

    def make_directory(self, path: Path, mode: int = 0o700, *, durable: bool = True) -> None:
        """Make a directory and its parents; durable once this returns, unless the caller is to sync the parents later."""
        above = itertools.chain((path,), path.parents)
        missing = list(itertools.takewhile(lambda p: not self._do(f"stat {p}", p.exists), above))
        for p in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self._do(f"mkdir {p}", os.mkdir, p, mode)
            if durable:
                self.sync_directory(p.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and everything in it, following no symbolic link; nothing if it is absent. Durable.

        Directories that their owner may not enter go too: those of a layer are as processes, and overlayfs, left them.
        """
        if not self._do(f"stat {path}", os.path.lexists, path):
            return
        try:
            shutil.rmtree(path)
        except PermissionError:
            self._do(f"remove {path}", _open_up, path)
            self._do(f"remove {path}", shutil.rmtree, path)
        except OSError as error:
            raise store_error(error, f"remove {path}") from error
        self.sync_directory(path.parent)

    def write_atomic(self, path: Path, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
        """Replace a file as a whole: temporary file, sync, rename, sync of the directory. Not `durable`: without the syncs, so
        that the file may be empty or gone after a crash.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = self._do(f"open {temporary}", os.open, temporary, flags, mode)
        try:
            try:
                os.fchmod(fd, mode)
                self.write(fd, data)
                if durable:
                    self.sync_data(fd)
            finally:
                os.close(fd)
            self.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        if durable:
            self.sync_directory(path.parent)

    def rename(self, source: Path, destination: Path) -> None:
        """Rename, replacing the destination. Not durable before `sync_directory`."""
        self._do(f"rename {source} to {destination}", os.rename, source, destination)

    def sync(self, fd: int) -> None:
        """Make a file's data and attributes, or an open directory's names, durable (fsync). A failure is final."""
        self._do("fsync", os.fsync, fd)

    def sync_filesystem(self, fd: int) -> None:
        """Make everything on the file system of `fd` durable (syncfs): cheaper than many single files."""
        self._do("syncfs", _libc_call, "syncfs", fd)

    def rename_at(
        self, source_directory: int, source: bytes, directory: int, name: bytes, *, replace: bool = True
    ) -> None:
        """Rename between open directories. Without `replace`, raises FileExistsError if the new name is taken."""
        if not replace:
            with contextlib.suppress(_FlagUnknownError):
                self._do("rename", _rename, source_directory, source, directory, name, _RENAME_NOREPLACE)
                return
            # Some network file systems do not know the flag; checking first leaves a small race there.
            if _is_taken(directory, name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._do("rename", lambda: os.rename(source, name, src_dir_fd=source_directory, dst_dir_fd=directory))

    def swap_at(self, directory: int, one: bytes, other: bytes) -> bool:
        """Atomically swap two names in an open directory. False if the file system cannot do that."""
        try:
            self._do("rename", _rename, directory, one, directory, other, _RENAME_EXCHANGE)
        except _FlagUnknownError:
            return False
        return True

    def lock(self, path: Path, *, wait: bool = False) -> int | None:
        """Take an exclusive lock on a file for as long as the descriptor is open. None if another process has it."""
        fd: int = self._do(f"open {path}", os.open, path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError as error:
            os.close(fd)
            raise store_error(error, f"lock {path}") from error
        return fd

    @staticmethod
    def _do(what: str, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except FileExistsError:
            raise
        except OSError as error:
            raise store_error(error, what) from error


def _open_up(top: Path) -> None:
    """Let the owner list and change every directory of a tree, as far as they are the owner's."""
    waiting = [str(top)]
    while waiting:
        place = waiting.pop()
        fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(f"/proc/self/fd/{fd}", mode | stat.S_IRWXU)  # noqa: PTH101 - of the descriptor, not of a path
        finally:
            os.close(fd)
        with os.scandir(place) as found:
            waiting += [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]


_RENAME_NOREPLACE: Final = 1  # linux/fs.h
_RENAME_EXCHANGE: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


class _FlagUnknownError(Exception):
    """The file system, or the C library, does not know RENAME_NOREPLACE or RENAME_EXCHANGE."""


def _libc_call(name: str, *arguments: int | bytes) -> None:
    while getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _rename(source_directory: int, source: bytes, directory: int, name: bytes, flag: int) -> None:
    try:
        _libc_call("renameat2", source_directory, source, directory, name, flag)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            raise _FlagUnknownError from error
        raise
    except AttributeError as error:
        raise _FlagUnknownError from error


def _is_taken(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


_BUSY_S: Final = (0.0002, 0.0005, 0.001, 0.001, 0.002)
"""How long to sleep before each further try; the last one from then on. A transaction takes a fraction of a millisecond."""


class Database:
    """One SQLite file (WAL), shared by processes; one connection, shared by threads under a lock.

    Each room owns its tables, and calls `migrate` with its own name. SQL stays in the subset that SQLite and Postgres share.
    """

    def __init__(self, path: Path, *, read_only: bool = False, busy_ms: int = 5_000, synchronous: str = "FULL") -> None:
        """Open the file, making it (0600) unless `read_only`; `:memory:` exists only in this object. Raises StoreError."""
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        self._synchronous = synchronous
        self._rooms: dict[str, int] = {}
        self._busy_s = busy_ms / 1000
        self._busy_since = 0.0
        flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with _sqlite(f"open {path}"):
            if not read_only and str(path) != ":memory:" and not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._connection = apsw.Connection(str(path), flags=flags)
            try:
                self._connection.set_busy_handler(self._wait_while_busy)
                if not read_only:
                    self._to_wal(busy_ms)
                self._connection.execute(f"pragma synchronous = {synchronous}")
                self._connection.execute("pragma foreign_keys = on")
            except BaseException:
                self._connection.close()
                raise

    def _wait_while_busy(self, tries: int) -> bool:
        """What SQLite calls while another process writes; False gives up.

        SQLite's own handler sleeps for up to 0.1 s between two tries: of many processes, those that have waited longest would
        look most rarely, and starve.
        """
        if not tries:
            self._busy_since = time.monotonic()
        elif time.monotonic() - self._busy_since >= self._busy_s:
            return False
        time.sleep(_BUSY_S[min(tries, len(_BUSY_S) - 1)])
        return True

    def _to_wal(self, busy_ms: int) -> None:
        # SQLite does not call its busy handler here, so of two processes that open a new file together one would fail.
        give_up = time.monotonic() + busy_ms / 1000
        while True:
            try:
                self._connection.execute("pragma journal_mode = wal")
            except apsw.BusyError:
                if time.monotonic() >= give_up:
                    raise
                time.sleep(0.002)
            else:
                return

    def migrate(self, room: str, steps: Sequence[str]) -> None:
        """Bring a room's tables up to date: each step (SQL script) runs once, in order, and is never edited afterwards."""
        if self._rooms.get(room) == len(steps):
            return
        with self.transaction():
            self.execute("create table if not exists schema_versions (room text primary key, version integer not null)")
            rows = self.execute("select version from schema_versions where room = ?", (room,))
            done = int(rows[0][0]) if rows else 0
            if done > len(steps):
                raise StoreError(
                    f"the database was written by a newer Interlock ({room} {done} > {len(steps)})",
                    code="newer_database",
                    hint="use the newer Interlock",
                )
            for step in steps[done:]:
                self.execute(step)
            if done < len(steps):
                self.execute(
                    "insert into schema_versions values (?, ?) on conflict (room) do update set version = excluded.version",
                    (room, len(steps)),
                )
        if not self._depth:
            self._rooms[room] = len(steps)

    @contextlib.contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[None]:
        """`begin immediate` ... `commit`; rolled back if the block raises. Nested blocks join the outer one.

        With `lasting=False`, for data that need not survive a power failure (such as a lease, whose holder does not either),
        other processes see the change at once, and it is on disk with the next lasting transaction. Never `await` inside:
        another task of the same thread would join a transaction that is not its own.
        """
        with self._lock:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            try:
                with _sqlite("begin"):
                    if not lasting:
                        self._connection.execute("pragma synchronous = normal")
                    self._depth = 1  # set before it begins, so that Ctrl-C in between also rolls it back
                    self._connection.execute("begin immediate")
                yield
                with _sqlite("commit"):
                    self._connection.execute("commit")
            except BaseException:
                if self._depth:
                    with contextlib.suppress(apsw.Error):
                        self._connection.execute("rollback")
                raise
            finally:
                self._depth = 0
                if not lasting:
                    self._connection.execute(f"pragma synchronous = {self._synchronous}")

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement (or a script) and return all its rows."""
        with self._lock:
            try:
                return list(self._connection.execute(sql, parameters))
            except (apsw.Error, OSError) as error:  # not `_sqlite`: each call through the gate runs some statements
                _raise(error, sql)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement once per row of parameters."""
        with self._lock, _sqlite(sql):
            self._connection.executemany(sql, rows)

    @property
    def changes(self) -> int:
        """How many rows the last statement changed: what a compare-and-set looks at."""
        return self._connection.changes()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()


@contextlib.contextmanager
def _sqlite(what: str) -> Iterator[None]:
    try:
        yield
    except (apsw.Error, OSError) as error:
        _raise(error, what)


def _raise(error: Exception, what: str) -> NoReturn:
    """Raise Interlock's error in place of SQLite's or the system's; a mistake in a statement remains what it is."""
    translated = _translated(error, what)
    if translated is None:
        raise error
    raise translated from error


def _translated(error: Exception, what: str) -> Exception | None:
    match error:
        case apsw.BusyError():
            hint = "try again; `fuser` on the database file names the process"
            return StoreError("the database is locked by another process", code="database_locked", hint=hint)
        case apsw.IOError() if getattr(error, "extendedresult", 0) != apsw.SQLITE_IOERR_SHMSIZE:
            return StoreError(f"{what}: {error}", code="store", hint=_FULL_OR_FAILING)
        case (
            apsw.FullError() | apsw.IOError()
        ):  # there may be no space even for the WAL's index, which readers need as well
            return StoreError(f"{what}: disk full", code="disk_full", hint=_CODES[errno.ENOSPC][1])
        case apsw.ConnectionClosedError():
            return UsageError("the runtime that opened this database was closed", hint="open it again")
        case apsw.ReadOnlyError():
            return StoreError(f"{what}: the database cannot be written", code="read_only")
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreError(f"{what}: the database is damaged: {error}", code="database_damaged")
        case apsw.CantOpenError() | apsw.PermissionsError() | apsw.AuthError():
            return StoreError(f"{what}: {error}", code="store", hint=_FULL_OR_FAILING)
        case OSError():
            return store_error(error, what)
        case _:
            return None
