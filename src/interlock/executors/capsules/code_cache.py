"""Compiled code of capsules, in a private directory.

It is native code, so it is used only if authenticated with this machine's key.

A file is named after its source and compiler. Beside it is a record with a keyed digest: it holds the code's own
digest, the module's imports, and the file's identity when it was written. While the identity is unchanged, the code is
not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from interlock.disk import Disk
from interlock.executors.capsules.component_file import Identity
from interlock.model import typed
from interlock.model.errors import StoreError

_FORMAT: Final = "2"
"""Part of every name. History: 1: first. 2: components may have several memories."""


class Code(NamedTuple):
    """Compiled code that is ready to load."""

    path: Path
    imports: tuple[tuple[str, str], ...]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    imports: tuple[tuple[str, str], ...]
    identity: Identity


class CodeCache:
    """The compiled code of all capsules of a user."""

    def __init__(self, directory: Path, key: bytes, disk: Disk) -> None:
        """`key` is secret: anyone who has it can make this machine run native code."""
        self.directory = directory
        self._key = key
        self._disk = disk

    def find(self, name: str) -> Code | None:
        """Returns the authenticated code with this name; None if there is none."""
        path = self._path(name)
        record = self._record(name)
        if record is None:
            return None
        try:
            identity = _identity(path)
            if identity != record.identity:
                data = path.read_bytes()
                if not hmac.compare_digest(self._digest(name, data), record.digest):
                    return None
                with contextlib.suppress(StoreError):  # the code is good; it is only read again next time
                    self._write_record(name, msgspec.structs.replace(record, identity=identity))
        except OSError:
            return None
        return Code(path, record.imports)

    def keep(self, name: str, data: bytes, imports: Sequence[tuple[str, str]]) -> Code:
        """Store compiled code. Raises: StoreError."""
        self._disk.make_directory(self.directory)
        path = self._path(name)
        self._disk.write_atomic(path, data)  # on disk before the record authenticates it
        self._write_record(name, _Record(self._digest(name, data), tuple(imports), _identity(path)))
        return Code(path, tuple(imports))

    def _record(self, name: str) -> _Record | None:
        try:
            mac, _, body = self._path(name, ".json").read_bytes().partition(b"\n")
            if not hmac.compare_digest(mac.decode("ascii", "replace"), self._digest(name, body)):
                return None
            return typed.decode(body, _Record)
        except (OSError, msgspec.DecodeError, TypeError):
            return None

    def _write_record(self, name: str, record: _Record) -> None:
        body = msgspec.json.encode(record)
        data = self._digest(name, body).encode() + b"\n" + body
        self._disk.write_atomic(self._path(name, ".json"), data, durable=False)

    def _path(self, name: str, suffix: str = ".cwasm") -> Path:
        return self.directory / f"{name}{suffix}"

    def _digest(self, name: str, data: bytes) -> str:
        return hmac.new(self._key, name.encode() + b"\0" + data, hashlib.sha256).hexdigest()


def code_name(sha256: str, abi: str, compiler: str, *, fuel: bool) -> str:
    """Returns the name for a component's code, given its compiler (name and version)."""
    return hashlib.sha256("\0".join((_FORMAT, sha256, abi, compiler, str(fuel))).encode()).hexdigest()


def _identity(path: Path) -> Identity:
    found = os.lstat(path)
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns)
