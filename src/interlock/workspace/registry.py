"""The location of Interlock's state, and the ids of workspaces.

`<state dir>/registry.json` maps a directory (path, device, inode, birth time) to an id. The id belongs to the directory
itself, so a moved project keeps its history, and another directory that takes its place or inode does not inherit it.

Format version history:
  1 (2026-11): first.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from interlock.disk import Disk
from interlock.model import typed
from interlock.model.clock import Clock, Ids
from interlock.model.errors import ConfigurationError, IntegrityError, UsageError

_STATX_BTIME: Final = 0x800
_AT_EMPTY_PATH: Final = 0x1000
_STATX_BYTES: Final = 256
_ORDER: Final = sys.byteorder
_BTIME_OFFSET: Final = 80  # struct statx in linux/stat.h: stx_btime, tv_sec (s64) and tv_nsec (u32)

_libc = ctypes.CDLL(None, use_errno=True)


class Known(msgspec.Struct, frozen=True):
    """One known workspace."""

    id: str
    path: str
    device: int
    inode: int
    birth_ns: str
    """Decimal; `0` if the file system does not store birth times."""
    created_us: int


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    workspaces: list[Known]


def state_directory(env: Mapping[str, str], disk: Disk) -> Path:
    """The state directory (mode 0700), created if missing: `INTERLOCK_STATE_DIR`, or `interlock` in XDG's.

    Raises: ConfigurationError `state_dir_unsafe`, StoreError.
    """
    named = env.get("INTERLOCK_STATE_DIR")
    base = env.get("XDG_STATE_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".local" / "state")
    path = Path(named or Path(base) / "interlock")
    if not path.is_absolute():
        raise ConfigurationError(
            f"the state directory `{path}` is not an absolute path",
            code="state_dir_unsafe",
            hint="set INTERLOCK_STATE_DIR (or XDG_STATE_HOME) to an absolute path",
        )
    disk.make_directory(path)
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"the state directory `{path}` is not a directory owned by this user",
            code="state_dir_unsafe",
            hint="set INTERLOCK_STATE_DIR to a directory of your own",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return path.resolve()


def check_apart(state: Path, root: Path) -> None:
    """Refuse a state directory inside the workspace, or the reverse, even through links, mounts and other spellings.

    Raises: ConfigurationError `state_dir_in_workspace` or `workspace_in_state_dir`.
    """
    if _id(root) in _upwards(state):
        raise ConfigurationError(
            f"the state directory `{state}` is inside the workspace `{root}`, where agents could write it",
            code="state_dir_in_workspace",
            hint="set INTERLOCK_STATE_DIR to a place outside",
        )
    if _id(state) in _upwards(root):
        raise ConfigurationError(
            f"the workspace `{root}` is inside the state directory `{state}`",
            code="workspace_in_state_dir",
            hint="set INTERLOCK_STATE_DIR to another place, or choose another workspace",
        )


class Registry:
    """The known workspaces of a state directory."""

    def __init__(self, state: Path, disk: Disk, clock: Clock, ids: Ids) -> None:
        """`state` is the result of `state_directory`."""
        self._state = state
        self._path = state / "registry.json"
        self._disk = disk
        self._clock = clock
        self._ids = ids

    def workspaces(self) -> list[Known]:
        """All known workspaces. Raises: IntegrityError `registry_damaged`, StoreError."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            file = typed.decode(data, _File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._damaged() from error
        if file.version != 1:
            raise self._damaged()
        return file.workspaces

    def knows(self, directory: Path) -> bool:
        """True if the directory is a known workspace. Raises: IntegrityError `registry_damaged`, StoreError."""
        try:
            found = directory.stat()
        except OSError:
            return False
        path = os.fsencode(directory).decode("utf-8", "backslashreplace")
        return _find(self.workspaces(), path, found.st_dev, found.st_ino, _birth_ns(directory)) is not None

    def workspace_id(self, root: Path) -> str:
        """The id of the workspace at `root`, or a new one; `<state dir>/<id>` is its directory.

        Raises: ConfigurationError (see `check_apart`), UsageError `workspace_missing`, IntegrityError, StoreError.
        """
        root = root.resolve()
        if not root.is_dir():
            raise UsageError(f"the workspace `{root}` is not a directory", code="workspace_missing")
        check_apart(self._state, root)
        found = root.stat()
        seen = (os.fsencode(root).decode("utf-8", "backslashreplace"), found.st_dev, found.st_ino, _birth_ns(root))
        lock = self._disk.lock(self._state / "registry.lock", wait=True)
        assert lock is not None
        try:
            known = self.workspaces()
            at = _find(known, *seen)
            if at is None:
                known.append(Known(self._ids.new("ws"), *seen, self._clock.now_us()))
                at = len(known) - 1
            elif (known[at].path, known[at].device) == seen[:2]:
                return known[at].id
            else:
                known[at] = Known(known[at].id, *seen, known[at].created_us)
            self._disk.write_atomic(self._path, msgspec.json.encode(_File(1, known)))
            return known[at].id
        finally:
            os.close(lock)

    def forget(self, workspace_id: str) -> None:
        """Forget a workspace, whose directory the caller has removed. Raises: IntegrityError, StoreError."""
        lock = self._disk.lock(self._state / "registry.lock", wait=True)
        assert lock is not None
        try:
            known = [one for one in self.workspaces() if one.id != workspace_id]
            self._disk.write_atomic(self._path, msgspec.json.encode(_File(1, known)))
        finally:
            os.close(lock)

    def _damaged(self) -> IntegrityError:
        return IntegrityError(
            f"`{self._path}` cannot be read",
            code="registry_damaged",
            hint="restore the file from a backup; without it every workspace counts as new",
        )


def _find(known: list[Known], path: str, device: int, inode: int, birth_ns: str) -> int | None:
    """Find the same directory by identity.

    At its old path the device is not compared, because its number may change at a reboot.
    """
    for i, one in enumerate(known):
        if (one.device, one.inode, one.birth_ns) == (device, inode, birth_ns) and (
            birth_ns != "0" or one.path == path or not Path(one.path).exists()
        ):
            return i
    for i, one in enumerate(known):
        if (one.path, one.inode, one.birth_ns) == (path, inode, birth_ns):
            return i
    return None


def _birth_ns(path: Path) -> str:
    """A directory's creation time in nanoseconds; "0" if the C library or the file system does not provide it.

    Source: statx(2).
    """
    if not hasattr(_libc, "statx"):
        return "0"
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        failed = _libc.statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer)
    finally:
        os.close(fd)
    if failed or not int.from_bytes(buffer.raw[:4], _ORDER) & _STATX_BTIME:
        return "0"
    seconds = int.from_bytes(buffer.raw[_BTIME_OFFSET : _BTIME_OFFSET + 8], _ORDER, signed=True)
    nanos = int.from_bytes(buffer.raw[_BTIME_OFFSET + 8 : _BTIME_OFFSET + 12], _ORDER)
    return str(seconds * 1_000_000_000 + nanos)


def _id(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _upwards(path: Path) -> Iterator[tuple[int, int]]:
    here = path.resolve()
    return (_id(place) for place in (here, *here.parents))
