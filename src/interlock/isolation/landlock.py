"""Layer L2: the files that a process may reach, enforced by Landlock. Uses only the standard library.

These are allow lists: what no rule names cannot be opened. The same lists serve with namespaces (a second wall around
the same places) and without (the only wall).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final, NamedTuple

from interlock.isolation import syscalls

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REMOVE_DIR, REMOVE_FILE = 16, 32
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 64, 128, 256, 512, 1024, 2048, 4096
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

_RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""The rights that each ABI knows; later ABIs added none for files."""
_ON_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_READ: Final = EXECUTE | READ_FILE | READ_DIR
_DEVICE: Final = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
_SCOPED: Final = 3
"""Confines signals and abstract sockets to the walled processes (ABI 6)."""
_BIND_TCP, _CONNECT_TCP = 1, 2
"""Rights of TCP sockets (ABI 4)."""


class Beneath(NamedTuple):
    """A path beneath a directory, resolved without symbolic links, because a program may have created one there."""

    top: str
    path: str


def confine(
    *,
    read: Sequence[str | Beneath],
    write: Sequence[str | Beneath],
    devices: Sequence[str],
    ports: Sequence[int] | None,
    write_only: Sequence[str | Beneath] = (),
    version: int | None = None,
) -> None:
    """Put this thread, and everything that it starts, behind the walls. Paths that do not exist are skipped.

    `write` paths may be read and written, and everything except device files may be created in them; `write_only` paths
    cannot be read. TCP may connect only to `ports` (ABI 4) and listen on none; None leaves TCP unrestricted. `version`
    overrides the kernel's ABI version.

    Raises: OSError, and then no restriction is in force.
    """
    abi = syscalls.landlock_version() if version is None else version
    rights = _RIGHTS.get(abi, _RIGHTS[5] if abi > 5 else 0)
    scoped, tcp = (_SCOPED if abi >= 6 else 0), (0 if ports is None or abi < 4 else _BIND_TCP | _CONNECT_TCP)
    ruleset = syscalls.landlock_ruleset(rights, tcp, scoped, abi)
    try:
        for paths, wanted in (
            (read, _READ),
            (write, rights & ~(MAKE_CHAR | MAKE_BLOCK)),
            (write_only, rights & ~(MAKE_CHAR | MAKE_BLOCK | _READ)),
            (devices, _DEVICE),
        ):
            for place in paths:  # one at a time, because the limit on open files is already in force
                fd = _open(place)
                if fd is None:
                    continue
                try:
                    own = wanted & rights
                    if not stat.S_ISDIR(os.fstat(fd).st_mode):
                        own &= _ON_FILES
                    syscalls.landlock_allow(ruleset, fd, own)
                finally:
                    os.close(fd)
        if tcp:
            for port in ports or ():
                syscalls.landlock_allow_port(ruleset, port, _CONNECT_TCP)
        syscalls.forbid_new_privileges()
        syscalls.landlock_restrict(ruleset)
    finally:
        os.close(ruleset)


def _open(place: str | Beneath) -> int | None:
    if isinstance(place, str):
        return syscalls.open_path(place)
    top = syscalls.open_path(place.top)
    if top is None:
        return None
    try:
        return syscalls.open_beneath(top, place.path, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return None
        raise
    finally:
        os.close(top)
