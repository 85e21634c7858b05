"""The home directory of a process without a /tmp of its own: new for each action, and removed with everything in it.

Its supervisor holds a lock on the directory. If the supervisor is killed, the lock ends, and the fork server, or the next
one of this user, removes the directory. Uses only the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import Final

from interlock.isolation import root

_DIRECTORY: Final = "/tmp"  # noqa: S108 - names are created exclusively, with 64 random bits
_PREFIX: Final = "interlock-action-home-"
_FILE_BYTES_MAX: Final = 1024 * 1024


class Home:
    """A new, private home directory with copies of the named files of the user, and nothing left over from earlier actions."""

    def __init__(self, files: dict[str, str]) -> None:
        """`files` as `home_files` of a request. Missing files, and anything but regular files, are skipped. Raises: OSError."""
        lock = None
        while lock is None:
            self.path = f"{_DIRECTORY}/{_PREFIX}{os.urandom(8).hex()}"
            os.mkdir(self.path, 0o700)
            lock = _locked(self.path)
        self._lock = lock
        try:
            root.write_files(self.path, read_files(files))
        except OSError:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove it."""
        _remove(self.path)
        os.close(self._lock)


def remove_left() -> None:
    """Remove the homes of this user whose supervisors were killed. Other users' homes, and those in use, are left."""
    with contextlib.suppress(OSError):
        for name in os.listdir(_DIRECTORY):
            if name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_left(f"{_DIRECTORY}/{name}")


def _remove_if_left(path: str) -> None:
    """Raises: OSError if it is another user's, or no directory."""
    lock = _locked(path)
    if lock is not None:
        if os.fstat(lock).st_uid == os.getuid():
            _remove(path)
        os.close(lock)


def _locked(path: str) -> int | None:
    """Lock a home. Returns a descriptor that holds the lock; None if another process has it or has removed the home.

    Raises: OSError.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def read_files(files: dict[str, str]) -> dict[str, bytes]:
    """Returns the contents of the files that exist, by their names in the home. Raises: OSError."""
    found = {}
    for name, source in files.items():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found[name] = _read_file(source)
    return found


def _read_file(source: str) -> bytes:
    """Read a regular file of at most 1 MiB without blocking on a FIFO. Raises: OSError."""
    fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", source)
        data = file.read(_FILE_BYTES_MAX + 1)
    if len(data) > _FILE_BYTES_MAX:
        raise OSError(errno.EFBIG, "larger than 1 MiB", source)
    return data


def _remove(path: str) -> None:
    """Remove the directory with everything in it, without following links; directories without permissions are opened first.

    What cannot be removed (another user's files) stays in the temporary directory, which is not a failure of the action.
    """
    with contextlib.suppress(OSError):
        if os.path.islink(path):
            os.unlink(path)
            return
        os.chmod(path, 0o700)
        for directory, names, _ in os.walk(path):
            for name in names:
                inner = os.path.join(directory, name)
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
        for _, names, files, opened in os.fwalk(path, topdown=False):
            for name in files:
                os.unlink(name, dir_fd=opened)
            for name in names:
                if stat.S_ISLNK(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=opened)
                else:
                    os.rmdir(name, dir_fd=opened)
        os.rmdir(path)
