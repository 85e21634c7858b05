"""The state of a workspace: a versioned key-value store that its runs share.

Only commits write to it. A proposal works on a `Buffer` (`interlock.state.buffer`): it sees the store as of its first
read, and its writes stay in the buffer until one transaction checks that what it read has not changed and applies the
writes. A key's version counts its writes and deletions from 1 and never goes back; a key that never existed has version
0.

Schema history: 1: first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from interlock.disk import Database
from interlock.model.canonical import canonical
from interlock.model.clock import Clock
from interlock.model.errors import ConflictError, IntegrityError

_SCHEMA: Final = (
    """
    create table state (
        workspace text not null, key text not null, version integer not null, number integer not null, value text,
        primary key (workspace, key)
    );
    create table state_transitions (
        workspace text not null, number integer not null, key text not null, version integer not null, value text,
        run text not null, seq integer not null, proposal text, action text, at_us integer not null,
        primary key (workspace, number)
    );
    create index state_transitions_key on state_transitions (workspace, key, number);
    create index state_transitions_run on state_transitions (workspace, run, seq);
    create table state_commits (
        workspace text not null, run text not null, seq integer not null, seal text not null, at_us integer not null,
        primary key (workspace, run, seq)
    );
    """,
)


_TRANSITION: Final = "number, key, version, value, run, seq, proposal, action, at_us"
_KEYS_AT_ONCE: Final = 500


class Entry(NamedTuple):
    """A value and the version of its key."""

    value: Any
    version: int


class Write(NamedTuple):
    """A pending change. `text` is JSON; None removes the key."""

    key: str
    text: str | None
    proposal: str | None = None
    action: str | None = None


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """An applied change. `number` counts the changes of the workspace from 1."""

    number: int
    key: str
    version: int
    value: Any
    """None if `deleted`."""
    deleted: bool
    run: str
    seq: int
    proposal: str | None
    action: str | None
    at_us: int


class Commit(NamedTuple):
    """The database's record of a commit: the position in the run's journal that decided it."""

    seq: int
    seal: str


class StateConflictError(ConflictError):
    """Keys that a proposal had read were changed before its commit. Nothing was applied."""

    default_code = "state_conflict"

    def __init__(self, keys: list[str]) -> None:
        """Name the changed keys."""
        names = ", ".join(f"`{key}`" for key in keys[:10]) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")
        super().__init__(f"changed since this proposal read it: {names}", hint="propose it again")
        self.keys = keys


class StateStore:
    """The state of one workspace.

    Thread-safe; several processes may have the database open. Every method may raise StoreError.
    """

    def __init__(self, db: Database, workspace: str, clock: Clock) -> None:
        """Create the tables if they are missing."""
        self.db = db
        self.workspace = workspace
        self._clock = clock
        db.migrate("state", _SCHEMA)

    def get(self, key: str) -> Entry | None:
        """The current value of a key; None if it is absent."""
        rows = self.db.execute(
            "select value, version from state where workspace = ? and key = ? and value is not null",
            (self.workspace, key),
        )
        return Entry(msgspec.json.decode(rows[0][0]), rows[0][1]) if rows else None

    def snapshot(self) -> dict[str, Entry]:
        """All current keys and values."""
        rows = self.db.execute(
            "select key, value, version from state where workspace = ? and value is not null order by key",
            (self.workspace,),
        )
        return {key: Entry(msgspec.json.decode(value), version) for key, value, version in rows}

    def history(self, key: str) -> list[Transition]:
        """The changes of a key, oldest first."""
        return self._transitions("key = ?", key)

    def histories(
        self, keys: Collection[str], number: int
    ) -> tuple[dict[str, list[Transition]], dict[str, tuple[str | None, int]]]:
        """The changes of several keys, each oldest first; empty for a key that never existed.

        And, from the same rows, the JSON text (None: absent) and version of those keys that were not changed after change
        `number`: the newest change of a key is never pruned.
        """
        found: dict[str, list[Transition]] = {key: [] for key in keys}
        values: dict[str, tuple[str | None, int]] = dict.fromkeys(keys, (None, 0))
        # Sorted here, because for an ordered result SQLite would scan the whole table in order for each statement.
        rows = self._rows_of(f"select {_TRANSITION} from state_transitions", keys)  # noqa: S608 - constants of this module
        for row in sorted(rows):  # by number
            found[row[1]].append(_transition(row))
            values[row[1]] = row[3], row[2]
        for history in found.values():
            if history and history[-1].number > number:
                del values[history[-1].key]
        return found, values

    def transitions_since(self, number: int) -> list[Transition]:
        """The changes of the workspace after change `number` (0: all), oldest first."""
        return self._transitions("number > ?", number)

    def latest(self) -> int:
        """The number of the newest change; 0 if there is none."""
        rows = self.db.execute(
            "select coalesce(max(number), 0) from state_transitions where workspace = ?", (self.workspace,)
        )
        return int(rows[0][0])

    def read_as_of(self, key: str, number: int) -> tuple[str | None, int]:
        """JSON text (None: absent) and version of a key after change `number`.

        Raises: StateConflictError if that version was pruned, because then it was also overwritten.
        """
        rows = self.db.execute(
            "select value, version, number from state where workspace = ? and key = ?", (self.workspace, key)
        )
        if not rows:
            return None, 0
        if rows[0][2] <= number:
            return rows[0][0], rows[0][1]
        newest = int(rows[0][1])
        rows = self.db.execute(
            "select value, version from state_transitions where workspace = ? and key = ? and number <= ?"
            " order by number desc limit 1",
            (self.workspace, key, number),
        )
        if rows:
            return rows[0][0], rows[0][1]
        later = self.db.execute(
            "select count(*) from state_transitions where workspace = ? and key = ?", (self.workspace, key)
        )
        if later[0][0] < newest:
            raise StateConflictError([key])
        return None, 0

    def check(self, read: Mapping[str, int]) -> None:
        """Raise StateConflictError unless each key still has the given version. Only meaningful inside a transaction."""
        now = self._versions(read)
        changed = [key for key, version in read.items() if now.get(key, 0) != version]
        if changed:
            raise StateConflictError(changed)

    def apply(
        self, writes: Iterable[Write], *, run: str, seq: int, seal: str, checked: Mapping[str, int] | None = None
    ) -> None:
        """Apply writes in order and in one transaction, once: a second call for the same (run, seq) changes nothing.

        Nothing is checked, because the journal has already decided, at
        event `seq` under the seal whose digest is `seal`. `checked` are present versions that `check` has confirmed in the
        same transaction, so they need not be read again. Raises: IntegrityError if (run, seq) was applied under another
        seal, which means that the journal was replaced.
        """
        with self.db.transaction():
            done = self.applied(run, seq)
            if done is not None:
                if done != seal:
                    raise IntegrityError(
                        f"the database holds a commit of run `{run}` at event {seq} under another seal",
                        hint="the journal was replaced or edited; `interlock runs check` shows where",
                    )
                return
            now = self._clock.now_us()
            self.db.execute(
                "insert into state_commits (workspace, run, seq, seal, at_us) values (?, ?, ?, ?, ?)",
                (self.workspace, run, seq, seal, now),
            )
            self._insert(list(writes), run, seq, now, checked or {})

    def changes_of(self, run: str, seq: int) -> list[Transition]:
        """The changes that were applied for (run, seq), oldest first."""
        return self._transitions("run = ? and seq = ?", run, seq)

    def applied(self, run: str, seq: int) -> str | None:
        """The seal under which (run, seq) was applied; None if it was not."""
        rows = self.db.execute(
            "select seal from state_commits where workspace = ? and run = ? and seq = ?", (self.workspace, run, seq)
        )
        return rows[0][0] if rows else None

    def last_commit(self, run: str) -> Commit | None:
        """The last committed position of a run's journal. A journal that ends earlier was truncated."""
        rows = self.db.execute(
            "select seq, seal from state_commits where workspace = ? and run = ? order by seq desc limit 1",
            (self.workspace, run),
        )
        return Commit(*rows[0]) if rows else None

    def prune(self, before_us: int) -> int:
        """Delete changes older than `before_us`, except the newest of each key. Returns the number of deleted changes."""
        with self.db.transaction():
            self.db.execute(
                "delete from state_transitions where workspace = ? and at_us < ? and number not in"
                " (select number from state where workspace = ?)",
                (self.workspace, before_us, self.workspace),
            )
            return self.db.changes

    def _insert(self, writes: list[Write], run: str, seq: int, now: int, checked: Mapping[str, int]) -> None:
        number, versions = self.latest(), dict(checked)
        versions |= self._versions({write.key for write in writes}.difference(checked))
        heads: dict[str, tuple[str, str, int, int, str | None]] = {}
        rows = []
        for write in writes:
            version = versions[write.key] = versions.get(write.key, 0) + 1
            number += 1
            heads[write.key] = (self.workspace, write.key, version, number, write.text)
            rows.append(
                (self.workspace, number, write.key, version, write.text, run, seq, write.proposal, write.action, now)
            )
        if rows:
            self.db.execute_many(
                "insert into state (workspace, key, version, number, value) values (?, ?, ?, ?, ?) on conflict (workspace, key)"
                " do update set version = excluded.version, number = excluded.number, value = excluded.value",
                list(heads.values()),
            )
            self.db.execute_many("insert into state_transitions values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _versions(self, keys: Collection[str]) -> dict[str, int]:
        """The version of each key that has ever existed."""
        return {key: int(version) for key, version in self._rows_of("select key, version from state", keys)}

    def _rows_of(self, select: str, keys: Collection[str]) -> Iterator[tuple[Any, ...]]:
        """The rows of several keys, with hundreds of keys per statement, because each statement costs as much as some
        ten rows.
        """
        left = list(keys)
        for first in range(0, len(left), _KEYS_AT_ONCE):
            some = left[first : first + _KEYS_AT_ONCE]
            places = ", ".join("?" * len(some))
            yield from self.db.execute(
                f"{select} where workspace = ? and key in ({places})",
                (self.workspace, *some),
            )

    def _transitions(self, condition: str, *values: str | int) -> list[Transition]:
        rows = self.db.execute(
            f"select {_TRANSITION} from state_transitions"  # noqa: S608 - constants of this module
            f" where workspace = ? and {condition} order by number",
            (self.workspace, *values),
        )
        return [_transition(row) for row in rows]


def encode(value: Any) -> str:
    """The JSON text of a stored value, which decodes to the same value.

    Raises: CanonicalError if the value is not JSON.

    This is not the canonical text, which writes 1e20 as an integer that exceeds 2^53 - 1.
    """
    canonical(value)
    return msgspec.json.encode(value).decode()


def _transition(row: tuple[Any, ...]) -> Transition:
    number, key, version, text, run, seq, proposal, action, at_us = row
    return Transition(
        number=number,
        key=key,
        version=version,
        value=None if text is None else msgspec.json.decode(text),
        deleted=text is None,
        run=run,
        seq=seq,
        proposal=proposal,
        action=action,
        at_us=at_us,
    )
