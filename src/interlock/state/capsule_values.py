"""Values stored for capsules: the keys and values of each capsule and agent, and the configuration of each capsule.

They are in separate tables, so that no key of a capsule can reach its configuration.

Schema history: 1: first.
"""

from __future__ import annotations

from typing import Final

from interlock.disk import Database

BYTES_MAX: Final = 64 * 1024 * 1024
"""Maximum size of the keys and values of one capsule and agent."""

_SCHEMA: Final = (
    """
    create table capsule_values (
        workspace text not null, capsule text not null, agent text not null, key text not null, value blob not null,
        primary key (workspace, capsule, agent, key)
    );
    create table capsule_config (
        workspace text not null, capsule text not null, key text not null, value blob not null,
        primary key (workspace, capsule, key)
    );
    """,
)


class CapsuleValues:
    """The values of all capsules of a workspace. Every method may raise StoreError."""

    def __init__(self, db: Database, workspace: str) -> None:
        """Create the tables if they are missing."""
        self._db = db
        self._workspace = workspace
        db.migrate("capsule_values", _SCHEMA)

    def of(self, capsule: str, agent: str) -> AgentValues:
        """The keys and values of one capsule and agent."""
        return AgentValues(self._db, (self._workspace, capsule, agent))

    def config(self, capsule: str) -> dict[str, bytes]:
        """The configured values of a capsule."""
        rows = self._db.execute(
            "select key, value from capsule_config where workspace = ? and capsule = ?", (self._workspace, capsule)
        )
        return {key: bytes(value) for key, value in rows}

    def set_config(self, capsule: str, key: str, value: bytes | None) -> None:
        """Set a configuration value; None removes it."""
        if value is None:
            self._db.execute(
                "delete from capsule_config where workspace = ? and capsule = ? and key = ?",
                (self._workspace, capsule, key),
            )
        else:
            self._db.execute(
                "insert into capsule_config (workspace, capsule, key, value) values (?, ?, ?, ?)"
                " on conflict (workspace, capsule, key) do update set value = excluded.value",
                (self._workspace, capsule, key, value),
            )


class AgentValues:
    """The keys and values of one capsule and agent. Every method may raise StoreError."""

    def __init__(self, db: Database, owner: tuple[str, str, str]) -> None:
        """`owner` is workspace, capsule and agent."""
        self._db = db
        self._owner = owner

    def get(self, key: str) -> bytes | None:
        """The value of a key; None if there is none."""
        rows = self._db.execute(
            "select value from capsule_values where workspace = ? and capsule = ? and agent = ? and key = ?",
            (*self._owner, key),
        )
        return bytes(rows[0][0]) if rows else None

    def set(self, key: str, value: bytes) -> bool:
        """Store a value. Returns False, and stores nothing, if all values together would exceed `BYTES_MAX`."""
        with self._db.transaction():
            used = self._db.execute(
                "select coalesce(sum(length(value) + length(key)), 0) from capsule_values"
                " where workspace = ? and capsule = ? and agent = ? and key <> ?",
                (*self._owner, key),
            )[0][0]
            if used + len(value) + len(key) > BYTES_MAX:
                return False
            self._db.execute(
                "insert into capsule_values (workspace, capsule, agent, key, value) values (?, ?, ?, ?, ?)"
                " on conflict (workspace, capsule, agent, key) do update set value = excluded.value",
                (*self._owner, key, value),
            )
        return True

    def delete(self, key: str) -> None:
        """Delete a key, if it exists."""
        self._db.execute(
            "delete from capsule_values where workspace = ? and capsule = ? and agent = ? and key = ?",
            (*self._owner, key),
        )

    def keys(self, prefix: str, most: int) -> list[str]:
        """The first `most` keys with this prefix, in order."""
        rows = self._db.execute(
            "select key from capsule_values where workspace = ? and capsule = ? and agent = ?"
            " and substr(key, 1, ?) = ? order by key limit ?",
            (*self._owner, len(prefix), prefix, most),
        )
        return [row[0] for row in rows]
