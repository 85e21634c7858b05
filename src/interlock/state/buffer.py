"""A proposal's view of the state: its own writes over the store as of its first read.

Reads are consistent: after the first one, commits of others are not visible. The version of each key read from the
store is kept, and the commit checks it. Writing a key without reading it checks nothing, so such writes never conflict.

`claim` keeps what the agent expects of an action (`expected_effects`) apart from what was observed. Only `claimed`,
which preconditions use, returns claims, and they are never committed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from interlock.state.store import Entry, StateStore, Transition, Write, encode


class Buffer:
    """One proposal's reads and writes. Not thread-safe; values are copied in and out."""

    def __init__(self, store: StateStore, proposal: str | None = None) -> None:
        """An empty buffer. The store is read when the first key is."""
        self._store = store
        self._proposal = proposal
        self._as_of: int | None = None
        self._base: dict[str, tuple[str | None, int]] = {}
        self._read: dict[str, int] = {}
        self._own: dict[str, tuple[str | None, int]] = {}
        self._claims: dict[str, str] = {}
        self._writes: list[Write] = []

    def get(self, key: str) -> Entry | None:
        """The observed value: the proposal's own last write, else the store's value; None if absent."""
        found = self._own.get(key)
        if found is None:
            found = self._from_store(key)
            self._read[key] = found[1]
        return None if found[0] is None else Entry(msgspec.json.decode(found[0]), found[1])

    def histories(self, keys: Collection[str]) -> dict[str, list[Transition]]:
        """The changes of keys in the store, each oldest first, read in few statements, in which later calls find the values.

        They do not count as read.
        """
        found, values = self._store.histories(keys, self._start())
        for key, value in values.items():
            self._base.setdefault(key, value)
        return found

    def claimed(self, key: str) -> Entry | None:
        """As `get`, but a claim that is newer than the last write takes precedence."""
        claim = self._claims.get(key)
        if claim is None:
            return self.get(key)
        return Entry(msgspec.json.decode(claim), self._version(key))

    def has(self, key: str) -> bool:
        """True if `claimed` would return an entry. For a claim, the store is not read."""
        return key in self._claims or self.get(key) is not None

    def write(self, key: str, value: Any, action: str | None = None) -> tuple[int, int]:
        """Set a key. Returns the versions before and after, assuming that no other proposal writes the key first.

        Raises: CanonicalError if the value is not JSON.
        """
        return self._put(key, encode(value), action)

    def delete(self, key: str, action: str | None = None) -> tuple[int, int]:
        """Remove a key. Returns the versions before and after."""
        return self._put(key, None, action)

    def expect(self, key: str, version: int) -> None:
        """Make the commit fail unless the store still has this version of the key. For reads of an earlier process."""
        self._read.setdefault(key, version)

    def claim(self, key: str, value: Any) -> None:
        """Store a claim; the next `write` or `delete` of the key replaces it. Raises: CanonicalError."""
        self._claims[key] = encode(value)

    @property
    def dirty(self) -> bool:
        """True if there are writes to commit."""
        return bool(self._writes)

    @property
    def read(self) -> dict[str, int]:
        """The version of each key that was read from the store (0: it was absent)."""
        return dict(self._read)

    @property
    def writes(self) -> list[Write]:
        """The writes, in order."""
        return list(self._writes)

    def commit(self, *, run: str, seq: int, seal: str) -> list[Transition]:
        """Check the versions that were read and apply the writes, in one transaction. Returns the changes.

        Applying twice for the same (run, seq) changes nothing. Raises: StateConflictError (nothing is applied).
        """
        with self._store.db.transaction():
            if self._store.applied(run, seq) is None:
                self.check()
            self.apply(run=run, seq=seq, seal=seal)
            return self._store.changes_of(run, seq)

    def check(self) -> None:
        """Check the versions that were read. Raises: StateConflictError."""
        self._store.check(self._read)

    def apply(self, *, run: str, seq: int, seal: str) -> None:
        """Apply the writes, after `check` in the same `Database.transaction()`, with which other rows commit too."""
        self._store.apply(self._writes, run=run, seq=seq, seal=seal, checked=self._read)

    def _put(self, key: str, text: str | None, action: str | None) -> tuple[int, int]:
        old = self._version(key)
        self._own[key] = (text, old + 1)
        self._claims.pop(key, None)
        self._writes.append(Write(key, text, self._proposal, action))
        return old, old + 1

    def _version(self, key: str) -> int:
        return (self._own.get(key) or self._from_store(key))[1]

    def _from_store(self, key: str) -> tuple[str | None, int]:
        found = self._base.get(key)
        if found is None:
            found = self._base[key] = self._store.read_as_of(key, self._start())
        return found

    def _start(self) -> int:
        """The number of the store's change as of which this buffer sees it."""
        if self._as_of is None:
            self._as_of = self._store.latest()
        return self._as_of
