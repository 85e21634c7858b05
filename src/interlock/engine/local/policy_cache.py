"""A cache of checked policy sets in the state directory: a process that finds its set there needs no Cedar parser.

The name of an entry is a digest of the set and of the code that checked it. An entry that was altered, or that another user owns
or could have written, is ignored: the set is then checked and written again. Entries are not synced, because losing one only
costs time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from interlock.disk import Disk
from interlock.model.errors import StoreError

_ENTRIES_MAX: Final = 8
"""Enough for every way to open one project: with and without its tool modules, the current and the trusted version."""
_BYTES_MAX: Final = 32 * 1024 * 1024
_HASH_BYTES: Final = 32
_CHECKED_BY: Final = ("cedarpy", "interlock.policy")


class PolicyCache:
    """The `policy.load.Checked` of one state directory."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        """`directory` is made with the first entry."""
        self._directory = directory
        self._disk = disk

    def find(self, key: str) -> bytes | None:
        """The entry with this key, if it is intact and nobody else could have written it."""
        try:
            with contextlib.closing(_Private(self._path(key))) as file:
                data = file.read()
        except OSError:
            return None
        body = data[_HASH_BYTES:]
        return body if hashlib.sha256(body).digest() == data[:_HASH_BYTES] else None

    def keep(self, key: str, data: bytes) -> None:
        """Store an entry, and drop the oldest ones. If the disk refuses, that only costs time."""
        if len(data) > _BYTES_MAX - _HASH_BYTES:
            return
        with contextlib.suppress(StoreError, OSError):
            self._disk.make_directory(self._directory)
            self._disk.write_atomic(self._path(key), hashlib.sha256(data).digest() + data, durable=False)
            entries = sorted(self._directory.iterdir(), key=lambda entry: entry.stat().st_mtime_ns)
            for entry in entries[:-_ENTRIES_MAX]:
                entry.unlink()

    def _path(self, key: str) -> Path:
        return self._directory / hashlib.sha256(f"{key} {self._code}".encode()).hexdigest()

    @cached_property
    def _code(self) -> str:
        """A fingerprint of the code that checks, which changes with its version and with edits.

        Raises: OSError if it cannot be read (for example in an archive): then nothing is found or stored.
        """
        found: list[tuple[str, int, int]] = []
        for name in _CHECKED_BY:
            directories = _directories(name)
            if not directories:
                raise FileNotFoundError(name)
            for directory in directories:
                with os.scandir(directory) as entries:
                    found += [(e.path, e.stat().st_mtime_ns, e.stat().st_size) for e in entries if e.is_file()]
        return repr(sorted(found))


class _Private:
    """A regular file of this user, which no one else may write. Raises: OSError."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        found = os.fstat(self._fd)
        foreign = found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if foreign or not stat.S_ISREG(found.st_mode) or found.st_size > _BYTES_MAX:
            self.close()
            raise PermissionError(path)

    def read(self) -> bytes:
        with open(self._fd, "rb", closefd=False) as file:
            return file.read(_BYTES_MAX)

    def close(self) -> None:
        os.close(self._fd)


def _directories(name: str) -> list[str]:
    """The directories of a package, without importing it."""
    path = None
    for part in name.split("."):
        found = PathFinder.find_spec(part if path is None else name, path)
        path = [] if found is None else list(found.submodule_search_locations or ())
    return path or []
