"""Reads configuration files: once, regular files only, no links, up to a size limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from interlock.model.errors import ConfigurationError
from interlock.model.limits import DEFAULT_LIMITS


def read_bytes(path: Path, *, bytes_max: int = DEFAULT_LIMITS.config_bytes, follow: bool = False) -> bytes | None:
    """The bytes of a regular file; None if there is no such file.

    Raises: ConfigurationError for a symbolic link (unless `follow`), for anything but a regular file, and for more than
    `bytes_max` bytes.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        fd = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises for names that are too long
            hint = "replace the link with the file it points to: a link can be redirected after it was trusted"
            raise _unreadable(path, "is a symbolic link", hint) from None
        raise _unreadable(path, f"cannot be read: {os.strerror(error.errno or 0)}") from None
    except ValueError:
        raise _unreadable(path, "has a NUL character in its name") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _unreadable(path, "is not a regular file")
        data = bytearray()
        while len(data) <= bytes_max and (part := os.read(fd, bytes_max + 1 - len(data))):
            data += part
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(fd)
    if len(data) > bytes_max:
        raise _unreadable(path, f"has more than {bytes_max} bytes (limit config_bytes)")
    return bytes(data)


def _unreadable(path: Path, what: str, hint: str | None = None) -> ConfigurationError:
    return ConfigurationError(f"`{path.name or path}` {what}", path=str(path), hint=hint)
