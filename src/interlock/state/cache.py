"""Results of calls to tools with a `cache_ttl`, shared by the processes of a workspace (step 7).

The key is that of the idempotency store (`interlock.state.idempotency.call_key`), so that an agent never sees what only
another agent was allowed to fetch. The number and size of entries are limited; the least recently used are dropped
first. Times are relative to the boot of the machine: a clock that all processes share and nobody can set back.

Results that depend on files are valid only until something writes in the workspace. An action may read, and another may
write before the first result is stored. So each write starts a new generation, and `put` names the generation in which
the read began.

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
    """A cached output, which may be None."""

    output: Any


class _Used:
    """Whether any process of the workspace has ever used the cache: one byte of a file that all of them map.

    Each action that may write checks it twice, so the check must not cost a system call.
    """

    def __init__(self, path: Path | None) -> None:
        """Store the path. The file is mapped by the first check."""
        self._path = path
        self._set = False
        self._byte: mmap.mmap | None = None

    def is_set(self) -> bool:
        """Also True if the file cannot be used: then every write costs a transaction, but no stale result is returned."""
        if self._set or self._path is None:
            return self._set
        if self._byte is None:
            self._set = not self._map(self._path)
        return self._set or self._byte is None or self._byte[0] != 0

    def set(self) -> None:
        """Record that the cache is used. Raises: StoreError if other processes cannot see it."""
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
    """The open file of `_Used`, created with its byte if it is missing. Raises: OSError."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(self.fd).st_size == 0:
                # truncate does not overwrite a byte that another process may have set meanwhile
                os.ftruncate(self.fd, 1)
                # allocate the block: writing to a mapped hole on a full disk would kill the process
                os.posix_fallocate(self.fd, 0, 1)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.fd)


class ResultCache:
    """A cache with a time to live for each entry. Safe for threads and processes. Every method may raise StoreError."""

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
        """`flag` is the file that records whether any process has used the cache; None if there are no other processes."""
        self._db = db
        self._workspace = workspace
        self._clock = clock
        self._boot = boot
        self._used = _Used(flag)  # shared by the caches that `apart` returns
        self._space = ""
        self._entries_max = entries_max
        self._chars_max = chars_max
        db.migrate("result_cache", _SCHEMA)

    def apart(self, space: str) -> ResultCache:
        """The cache for a separate set of tools with the same names: neither finds what the other stores."""
        other = copy.copy(self)
        other._space = space  # noqa: SLF001 - another instance of this class
        return other

    def begin(self) -> int:
        """The generation in which a read begins, for `put`."""
        self._used.set()
        rows = self._db.execute(
            "select generation from result_cache_generations where workspace = ?", (self._workspace,)
        )
        return int(rows[0][0]) if rows else 0

    def get(self, key: str) -> Hit | None:
        """The cached output; None if there is none or it has expired."""
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
        """Store an output for `ttl_ms`; with `files`, at most until something writes in the workspace.

        With the `generation` from `begin`, nothing is stored if something has written since. An output larger than the
        whole cache is not stored. Raises: CanonicalError.
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
        """Invalidate results that depend on files. Call it before and after an action that may write in the workspace."""
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
        """Delete all entries."""
        self._used.set()
        self.files_changed()
        with self._db.transaction(lasting=False):
            self._db.execute("delete from result_cache where workspace = ?", (self._workspace,))

    def delete(self, key: str) -> None:
        """Delete an entry."""
        self._delete(self._space + key)

    def _delete(self, stored: str) -> None:
        with self._db.transaction(lasting=False):
            self._db.execute("delete from result_cache where workspace = ? and key = ?", (self._workspace, stored))
