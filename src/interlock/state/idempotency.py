"""Results of idempotent calls, so that the same call is not made twice within a day (step 7).

Only successful calls of committed proposals are stored. Until the commit they are kept in the proposal's `Results`,
which an abort drops. Undo of a run, a proposal or an action deletes the results that it had stored. A changed tool
definition or grant changes the key, so a call under it does not find the old result.

Schema history: 1: first.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from interlock.disk import Database
from interlock.model.canonical import digest
from interlock.model.clock import Clock
from interlock.state.store import encode

TTL_US: Final = 24 * 60 * 60 * 1_000_000

_SCHEMA: Final = (
    """
    create table idempotency (
        workspace text not null, key text not null, run text not null, proposal text not null, action text not null,
        output text not null, state_changes text not null, expires_at_us integer not null,
        primary key (workspace, key)
    );
    create index idempotency_run on idempotency (workspace, run);
    create index idempotency_expiry on idempotency (expires_at_us);
    """,
)


class Origin(NamedTuple):
    """The action that made the call."""

    run: str
    proposal: str
    action: str

    def __str__(self) -> str:
        """`run/proposal/action`, the form used in `deduplicated_from` of results."""
        return "/".join(self)


class Stored(NamedTuple):
    """The result of a successful call."""

    origin: Origin
    output: Any
    state_changes: dict[str, Any]


def call_key(
    *, workspace: str, agent: str, grant: str, tool: str, tool_version: str, parameters: dict[str, Any]
) -> str:
    """The key shared by identical calls. `grant` is the id of the grant that allows the call. Raises: CanonicalError."""
    return digest("idempotency", [workspace, agent, grant, tool, tool_version, parameters])


class IdempotencyStore:
    """The stored results of a workspace. Every method may raise StoreError."""

    def __init__(self, db: Database, workspace: str, clock: Clock, ttl_us: int = TTL_US) -> None:
        """Create the tables if they are missing."""
        self.db = db
        self._workspace = workspace
        self._clock = clock
        self._ttl_us = ttl_us
        db.migrate("idempotency", _SCHEMA)

    def get(self, key: str) -> Stored | None:
        """The stored result; None if there is none or it has expired."""
        rows = self.db.execute(
            "select run, proposal, action, output, state_changes from idempotency"
            " where workspace = ? and key = ? and expires_at_us > ?",
            (self._workspace, key, self._clock.now_us()),
        )
        if not rows:
            return None
        run, proposal, action, output, changes = rows[0]
        return Stored(Origin(run, proposal, action), msgspec.json.decode(output), msgspec.json.decode(changes))

    def put(self, results: dict[str, Stored]) -> None:
        """Store results by key in one transaction. Replaces older results of the same key, and deletes expired ones."""
        now = self._clock.now_us()
        rows = [
            (
                self._workspace,
                key,
                *result.origin,
                encode(result.output),
                encode(result.state_changes),
                now + self._ttl_us,
            )
            for key, result in results.items()
        ]
        with self.db.transaction():
            self.db.execute("delete from idempotency where expires_at_us <= ?", (now,))
            self.db.execute_many(
                "insert into idempotency (workspace, key, run, proposal, action, output, state_changes, expires_at_us)"
                " values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (workspace, key) do update set run = excluded.run,"
                " proposal = excluded.proposal, action = excluded.action, output = excluded.output,"
                " state_changes = excluded.state_changes, expires_at_us = excluded.expires_at_us",
                rows,
            )

    def delete(self, run: str, proposal: str | None = None, action: str | None = None) -> int:
        """Delete what a run, or one proposal or action of it, had stored. Returns the number of deleted results."""
        with self.db.transaction():
            self.db.execute(
                "delete from idempotency where workspace = ? and run = ?"
                " and (? is null or proposal = ?) and (? is null or action = ?)",
                (self._workspace, run, proposal, proposal, action, action),
            )
            return self.db.changes


class Results:
    """One proposal's results: its own calls see them at once, other proposals after the commit."""

    def __init__(self, store: IdempotencyStore) -> None:
        """Start without results."""
        self._store = store
        self._own: dict[str, Stored] = {}

    def get(self, key: str) -> Stored | None:
        """The proposal's own result, else the stored one."""
        return self._own.get(key) or self._store.get(key)

    def put(self, key: str, result: Stored) -> None:
        """Keep a successful result."""
        self._own[key] = result

    @property
    def pending(self) -> bool:
        """True if there are results to store."""
        return bool(self._own)

    def commit(self) -> None:
        """Store the results, as part of the outer transaction if there is one."""
        if self._own:
            self._store.put(self._own)
