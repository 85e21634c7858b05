"""Reads the WebAssembly file of a capsule, beneath the capsule's directory and never through a symbolic link."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from interlock.isolation.syscalls import open_beneath
from interlock.model.errors import ConfigurationError

BYTES_MAX: Final = 128 * 1024 * 1024


class Identity(NamedTuple):
    """Identifies the version of a file that was read."""

    device: int
    inode: int
    size: int
    changed_ns: int
    written_ns: int


class ComponentFile(NamedTuple):
    """The file's content, digest and identity."""

    data: bytes
    sha256: str
    identity: Identity


def identify(directory: Path, file: str) -> Identity:
    """Returns the file's current identity. Raises: ConfigurationError."""
    fd = _open(directory, file)
    try:
        return _identity(fd, file)
    finally:
        os.close(fd)


def read_component(directory: Path, file: str) -> ComponentFile:
    """Read the file beneath the directory. Raises: ConfigurationError, which describes the problem."""
    fd = _open(directory, file)
    try:
        identity = _identity(fd, file)
        data = bytearray()
        while len(data) <= BYTES_MAX and (part := os.read(fd, 1024 * 1024)):
            data += part
    except OSError as error:
        raise _refused(directory, file, f"cannot be read: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(fd)
    if len(data) > BYTES_MAX:
        raise _refused(directory, file, f"has more than {BYTES_MAX} bytes")
    return ComponentFile(bytes(data), hashlib.sha256(data).hexdigest(), identity)


def _open(directory: Path, file: str) -> int:
    try:
        top = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(directory, file, f"cannot be reached: {os.strerror(error.errno or 0)}") from None
    try:
        return open_beneath(top, os.path.normpath(file), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise _refused(
                directory, file, "does not exist", "`interlock capsule build` creates it; `component.file` names it"
            ) from None
        if error.errno in (errno.ELOOP, errno.EXDEV):
            raise _refused(
                directory, file, "is reached through a symbolic link, which could be changed after it was trusted"
            ) from None
        raise _refused(directory, file, f"cannot be read: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(top)


def _identity(fd: int, file: str) -> Identity:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"the component `{file}` is not a regular file", code="capsule_invalid", path=file)
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns)


def _refused(directory: Path, file: str, what: str, hint: str | None = None) -> ConfigurationError:
    return ConfigurationError(
        f"the component `{file}` {what}", code="capsule_invalid", path=str(directory / file), hint=hint
    )
