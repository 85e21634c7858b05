"""The files of the system's configuration that everyone may read. Uses only the standard library.

A user (above all root) can read more of /etc than programs are shown: passwords, private keys. A mount over such a file
would end when the file is replaced by another one, and would not cover new files. So programs see a copy without them, made
when the launcher starts.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from interlock.isolation import syscalls

TOPS: Final = ("/etc", "/usr/local/etc")
"""Shown directories that contain configuration with secrets."""
_ENTRIES_MAX: Final = 20_000
_COPIED_BYTES_MAX: Final = 64 * 1024
"""A larger file is shown itself: a mount of a file stays with that file, whatever gets its name later."""


def secret_files(top: str) -> Iterator[str]:
    """Returns files at or beneath `top` that this user can read but not everyone can. A directory stands for its contents."""
    if os.path.isdir(top) and not _is_public(os.stat(top)):
        if os.access(top, os.R_OK):
            yield top
        return
    pending, seen = [top], 0
    while pending:
        directory = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > _ENTRIES_MAX:
                raise OSError(errno.E2BIG, f"too many files beneath {top}")
            if entry.is_symlink():
                continue
            found = entry.stat(follow_symlinks=False)
            if not _is_public(found):
                if os.access(entry.path, os.R_OK):
                    yield entry.path
            elif stat.S_ISDIR(found.st_mode):
                pending.append(entry.path)


def without(path: str, secrets: set[str]) -> list[str]:
    """Returns a path, or if it contains secrets, its contents except them."""
    if path in secrets:
        return []
    if not any(secret.startswith(f"{path}/") for secret in secrets):
        return [path]
    return [inner for name in os.listdir(path) for inner in without(f"{path}/{name}", secrets)]


def copy_public(top: str, copy: str) -> None:
    """Copy what everyone may read beneath `top` into the new directory `copy`, with modes. Raises: OSError.

    Links are copied as links; a large file becomes a read-only mount; sockets, FIFOs and devices are left out.
    """
    before = os.umask(0)
    try:
        os.mkdir(copy, 0o755)
        if not _is_public(os.stat(top)):
            return
        pending, seen = [(top, copy)], 0
        while pending:
            directory, target = pending.pop()
            for entry in os.scandir(directory):
                seen += 1
                if seen > _ENTRIES_MAX:
                    raise OSError(errno.E2BIG, f"too many files beneath {top}")
                to = f"{target}/{entry.name}"
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), to)
                elif entry.is_dir(follow_symlinks=False):
                    if _is_public(found := entry.stat(follow_symlinks=False)):
                        os.mkdir(to, stat.S_IMODE(found.st_mode) & 0o755)
                        pending.append((entry.path, to))
                elif entry.is_file(follow_symlinks=False):
                    _copy_file(entry.path, to)
    finally:
        os.umask(before)


def _copy_file(path: str, to: str) -> None:
    """Copy a file if everyone may read it. What is judged is the opened file, because its name may get another one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # not readable for this user, or removed
    try:
        found = os.fstat(fd)
        if not (stat.S_ISREG(found.st_mode) and _is_public(found)):
            return
        out = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IMODE(found.st_mode) & 0o755)
        try:
            if found.st_size <= _COPIED_BYTES_MAX:
                os.write(out, os.read(fd, _COPIED_BYTES_MAX))
                return
        finally:
            os.close(out)
        syscalls.mount(f"/proc/self/fd/{fd}", to, None, syscalls.MS_BIND)
        syscalls.set_mount(to, syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV)
    finally:
        os.close(fd)


def _is_public(found: os.stat_result) -> bool:
    wanted = 0o005 if stat.S_ISDIR(found.st_mode) else 0o004
    return found.st_mode & wanted == wanted
