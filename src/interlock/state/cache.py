"""Results of calls to tools with a `cache_ttl`, shared by the processes of a workspace (step 7).

Keyed like the idempotency store (`interlock.state.idempotency.call_key`), so that no agent sees what another one was allowed
to fetch. Bounded in entries and size; the least recently used goes first. Times are those of the machine since it was started,
which every process reads alike and no one sets back.

What was read from files counts only until something writes in the workspace. An action may read, and another one write, before
the result of the first is stored: so who stores names the generation that it had found, and each write makes another one.

Schema history: 1: first.
"""

from __future__ import annotations

import copy
import mmap
import os
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from interlock.disk import Database
from interlock.model.clock import Clock
from interlock.model.errors import StoreError
from interlock.state.store import encode

_SCHEMA: Final = (
    """
    create table result_cache (
        workspace text not null, key text not null, boot text not null, files bigint not null, output text not null,
        chars bigint not null, used bigint not null, expires_ns bigint not null, primary key (workspace, key)
    );
    create index result_cache_used on result_cache (workspace, used);
    create table result_cache_generations (workspace text primary key, generation bigint not null);
    """,
)


class Hit(NamedTuple):
    """A cached output (which may be None)."""

    output: Any


class _Used:
    """Whether any process of the workspace has ever used the cache: one byte of a file that all of them map.

    Each action that may write asks twice, so it must not cost a system call.
    """

    def __init__(self, path: Path | None) -> None:
        """The file is mapped when it is first asked about."""
        self._path = path
        self._set = False
        self._byte: mmap.mmap | None = None

    def is_set(self) -> bool:
        """True too where the file cannot be used: then every write costs a transaction, and no result is too old."""
        if self._set or self._path is None:
            return self._set
        if self._byte is None:
            self._set = not self._map(self._path)
        return self._set or self._byte is None or self._byte[0] != 0

    def set(self) -> None:
        """From now on it was used. Raises: StoreError if the other processes cannot be told."""
        if self._set:
            return
        if self._path is not None:
            try:
                with closing(_OpenFlag(self._path)) as file:
                    os.pwrite(file.fd, b"\1", 0)
            except OSError as error:
                raise StoreError(f"the result cache cannot be used: {self._path}: {error.strerror}") from error
        self._set = True

    def _map(self, path: Path) -> bool:
        try:
            with closing(_OpenFlag(path)) as file:
                self._byte = mmap.mmap(file.fd, 1, prot=mmap.PROT_READ)
        except OSError:
            return False
        return True


class _OpenFlag:
    """The file of `_Used`, made with its byte if it is not there. Raises: OSError."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(self.fd).st_size == 0:
                os.ftruncate(self.fd, 1)  # and not a write: another process may have set the byte meanwhile
                os.posix_fallocate(self.fd, 0, 1)  # a mapped hole on a full disk would end the process
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.fd)


class ResultCache:
    """A cache with a time to live for each entry. Threads and processes may share it. Everything may raise StoreError."""

    def __init__(
        self,
        db: Database,
        workspace: str,
        clock: Clock,
        *,
        boot: str = "",
        flag: Path | None = None,
        entries_max: int = 4_096,
        chars_max: int = 64 * 1024 * 1024,
    ) -> None:
        """`flag` is the file that says whether any process has used the cache; None if no other process can."""
        self._db = db
        self._workspace = workspace
        self._clock = clock
        self._boot = boot
        self._used = _Used(flag)  # shared by the caches that are kept apart
        self._space = ""
        self._entries_max = entries_max
        self._chars_max = chars_max
        db.migrate("result_cache", _SCHEMA)

    def apart(self, space: str) -> ResultCache:
        """The same cache for other tools of the same names: nothing that one stores is found by the other."""
        other = copy.copy(self)
        other._space = space  # noqa: SLF001 - its own class
        return other

    def begin(self) -> int:
        """The generation of what is read from now on, for `put`."""
        self._used.set()
        rows = self._db.execute(
            "select generation from result_cache_generations where workspace = ?", (self._workspace,)
        )
        return int(rows[0][0]) if rows else 0

    def get(self, key: str) -> Hit | None:
        """The cached output, unless it has expired."""
        rows = self._db.execute(
            "select output, boot, expires_ns from result_cache where workspace = ? and key = ?",
            (self._workspace, self._space + key),
        )
        if not rows:
            return None
        text, boot, expires_ns = rows[0]
        if boot != self._boot or expires_ns <= self._clock.mono_ns():
            self.delete(key)
            return None
        with self._db.transaction(lasting=False):
            self._db.execute(
                "update result_cache set used = (select max(used) + 1 from result_cache where workspace = ?)"
                " where workspace = ? and key = ?",
                (self._workspace, self._workspace, self._space + key),
            )
        return Hit(msgspec.json.decode(text))

    def put(self, key: str, output: Any, ttl_ms: int, *, files: bool = False, generation: int | None = None) -> None:
        """Store an output for `ttl_ms`; with `files` until something writes. One larger than the whole cache is not stored.

        With the `generation` that `begin` gave, nothing is stored if something has written since. Raises: CanonicalError.
        """
        text = encode(output)
        with self._db.transaction(lasting=False):
            self.delete(key)
            if len(text) > self._chars_max or (files and generation is not None and self.begin() != generation):
                return
            self._db.execute(
                "insert into result_cache select ?, ?, ?, ?, ?, ?,"
                " (select coalesce(max(used), 0) + 1 from result_cache where workspace = ?), ?",
                (
                    self._workspace, self._space + key, self._boot, int(files), text, len(text), self._workspace,
                    self._clock.mono_ns() + ttl_ms * 1_000_000,
                ),
            )  # fmt: skip
            self._make_room()

    def _make_room(self) -> None:
        rows = self._db.execute(
            "select key, chars from result_cache where workspace = ? order by used desc", (self._workspace,)
        )
        chars = 0
        for number, (key, length) in enumerate(rows, 1):
            chars += length
            if number > self._entries_max or chars > self._chars_max:
                self._delete(key)

    def files_changed(self) -> None:
        """Something may write, or has written, in the workspace: what was read from files does not count any more."""
        if not self._used.is_set():
            return
        with self._db.transaction(lasting=False):
            self._db.execute(
                "insert into result_cache_generations values (?, 1)"
                " on conflict (workspace) do update set generation = generation + 1",
                (self._workspace,),
            )
            self._db.execute("delete from result_cache where workspace = ? and files = 1", (self._workspace,))

    def clear(self) -> None:
        """Remove everything."""
        self._used.set()
        self.files_changed()
        with self._db.transaction(lasting=False):
            self._db.execute("delete from result_cache where workspace = ?", (self._workspace,))

    def delete(self, key: str) -> None:
        """Remove an output."""
        self._delete(self._space + key)

    def _delete(self, stored: str) -> None:
        with self._db.transaction(lasting=False):
            self._db.execute("delete from result_cache where workspace = ? and key = ?", (self._workspace, stored))
