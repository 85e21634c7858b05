"""Tool calls of models by their vendor's id, so that a message that is executed twice runs its call only once.

A call is claimed, with the id of its run, before the run begins; its outcome is added at the end. A claim without an
outcome belongs to a call that is held or still running, or whose process died; the journal of its run tells which.

Schema history: 1: first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from interlock.disk import Database
from interlock.model.clock import Clock

TTL_US: Final = 7 * 24 * 60 * 60 * 1_000_000
"""How long an outcome is kept. Claims without an outcome stay, because an approval may take long."""

_SCHEMA: Final = (
    """
    create table calls (
        workspace text not null, key text not null, run text not null, outcome text, at_us bigint not null,
        primary key (workspace, key)
    );
    create index calls_run on calls (workspace, run);
    """,
)


class Claim(NamedTuple):
    """A claimed call. `outcome` is the JSON text of its result; None if it has none yet."""

    run: str
    outcome: str | None


class CallStore:
    """The calls of a workspace. Every method may raise StoreError."""

    def __init__(self, db: Database, workspace: str, clock: Clock, ttl_us: int = TTL_US) -> None:
        """Create the table if it is missing."""
        self._db = db
        self._workspace = workspace
        self._clock = clock
        self._ttl_us = ttl_us
        db.migrate("calls", _SCHEMA)

    def claim(self, key: str, run_id: str) -> Claim | None:
        """Claim a call for a run that is about to begin. Returns None, or the earlier claim if there is one."""
        now = self._clock.now_us()
        with self._db.transaction():
            self._db.execute("delete from calls where outcome is not null and at_us <= ?", (now - self._ttl_us,))
            self._db.execute(
                "insert into calls (workspace, key, run, outcome, at_us) values (?, ?, ?, null, ?)"
                " on conflict (workspace, key) do nothing",
                (self._workspace, key, run_id, now),
            )
            if self._db.changes == 1:
                return None
            rows = self._db.execute(
                "select run, outcome from calls where workspace = ? and key = ?", (self._workspace, key)
            )
        return Claim(*rows[0])

    def find(self, key: str) -> Claim | None:
        """The claim of a call; None if there is none."""
        rows = self._db.execute(
            "select run, outcome from calls where workspace = ? and key = ?", (self._workspace, key)
        )
        return Claim(*rows[0]) if rows else None

    def finish(self, key: str, run_id: str, outcome: str) -> None:
        """Store the outcome, unless another run has claimed the call since."""
        self._db.execute(
            "update calls set outcome = ?, at_us = ? where workspace = ? and key = ? and run = ?",
            (outcome, self._clock.now_us(), self._workspace, key, run_id),
        )

    def forget(self, key: str, run_id: str) -> None:
        """Delete the claim of a run that had no effect, so that the call can be made again."""
        self._db.execute(
            "delete from calls where workspace = ? and key = ? and run = ?", (self._workspace, key, run_id)
        )

    def forget_run(self, run_id: str) -> None:
        """Delete the outcomes of an undone run, because they are no longer valid."""
        self._db.execute("delete from calls where workspace = ? and run = ?", (self._workspace, run_id))
