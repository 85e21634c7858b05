"""The primitive of all file access: open a path beneath a directory without following any symbolic link.

Two implementations with the same contract and the same tests: `OpenAt2` (one system call, Linux 5.6) and `Walk` (one
name at a time with `O_NOFOLLOW`, if openat2 is missing or filtered). Links that stay inside are followed by `tree.py`,
which expands them into a path without links and opens that. So a link swapped in between check and use makes the open
fail, and never leads elsewhere.

Source: openat2(2), `struct open_how` in linux/openat2.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final, Protocol

from interlock.workspace.names import Rel

_SYS_OPENAT2: Final = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_CALL_BYTES: Final = 4000  # a path argument may have 4095 bytes; longer paths are opened in pieces

_libc = ctypes.CDLL(None, use_errno=True)


class Beneath(Protocol):
    """Opens `names` beneath `directory`, following no symbolic link at all."""

    def open(self, directory: int, names: Rel, flags: int, mode: int = 0) -> int:
        """A descriptor (close-on-exec). `()` is the directory itself.

        With `O_PATH`, a link as the last name returns the link itself; without it, and for any earlier name, a link is an
        error. Raises: OSError (ELOOP or ENOTDIR at a link).
        """
        ...


class _OpenHow(ctypes.Structure):
    _fields_ = [  # the form that ctypes requires
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


class OpenAt2:
    """Uses openat2 with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`."""

    def open(self, directory: int, names: Rel, flags: int, mode: int = 0) -> int:
        """See `Beneath.open`."""
        at = directory
        try:
            while True:
                names, piece = _piece(names)
                last = not names
                fd = self._call(at, piece, flags if last else os.O_PATH | os.O_DIRECTORY, mode if last else 0)
                if at != directory:
                    os.close(at)
                at = directory
                if last:
                    return fd
                at = fd
        finally:
            if at != directory:
                os.close(at)

    @staticmethod
    def _call(directory: int, path: bytes, flags: int, mode: int) -> int:
        how = _OpenHow(
            flags | os.O_NOFOLLOW | os.O_CLOEXEC,
            mode,
            _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
        )
        while True:
            fd = int(_libc.syscall(_SYS_OPENAT2, directory, path, ctypes.byref(how), ctypes.sizeof(how)))
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            if number not in (errno.EINTR, errno.EAGAIN):
                raise OSError(number, os.strerror(number))


class Walk:
    """Uses one `openat(O_NOFOLLOW)` per name."""

    def open(self, directory: int, names: Rel, flags: int, mode: int = 0) -> int:
        """See `Beneath.open`."""
        if not names:
            return os.open(b".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        at = directory
        try:
            for name in names[:-1]:
                fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                if at != directory:
                    os.close(at)
                at = fd
            return os.open(names[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=at)
        finally:
            if at != directory:
                os.close(at)


def best(directory: int) -> Beneath:
    """The implementation that works here, found by trying it, because a seccomp filter may refuse what the kernel supports."""
    try:
        os.close(OpenAt2().open(directory, (), os.O_PATH))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG):
            return Walk()
        raise
    return OpenAt2()


def _piece(names: Rel) -> tuple[Rel, bytes]:
    """Split off as many leading names as fit into one path argument. Returns the remaining names and that path."""
    if not names:
        return (), b"."
    count, size = 1, len(names[0])
    while count < len(names) and size + 1 + len(names[count]) <= _CALL_BYTES:
        size += 1 + len(names[count])
        count += 1
    return names[count:], b"/".join(names[:count])
