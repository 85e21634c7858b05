"""Issued grants, and the use counts of all grants, shared by all processes.

Grants of the configuration are defined in their file, and only counted here (`count`). Grants issued by a person, a parent
agent or an approval are stored here. Revoking a grant revokes its children.
"""
# ruff: noqa: S608 -- only constants of this module are put into SQL text; every value is bound

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from interlock.approvals.audit import Audit
from interlock.approvals.time import SharedTime
from interlock.disk import Database
from interlock.model import typed
from interlock.model.canonical import digest
from interlock.model.clock import Ids
from interlock.model.errors import UsageError
from interlock.model.grant import TOKEN, Grant

_SCHEMA: Final = (
    """create table grants (
        id text primary key, agent text not null, session text, parent text, source text not null, definition text not null,
        fingerprint text not null, issued_at_us bigint not null, issued_by text not null, expires_at_us bigint,
        uses_left integer, revoked_at_us bigint, revoked_by text
    )""",
    "create index grants_parent on grants (parent)",
    "create table grants_revision (one integer primary key check (one = 1), revision bigint not null)",
    "insert into grants_revision values (1, 0)",
)
_COLUMNS: Final = "definition, session, issued_at_us, issued_by, uses_left, revoked_at_us, revoked_by"
_CONFIGURATION: Final = "configuration"
_TOKEN_KEPT_US: Final = 7 * 86_400 * 1_000_000
"""How long the blocks of a token are kept after its expiry, so that its runs can still report the reason of a refusal."""


class IssuedGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A grant and its status."""

    grant: Grant
    session: str | None
    """The session it is limited to; None for all."""
    issued_at_us: int
    issued_by: str
    uses_left: int | None
    """None if uses are not counted."""
    revoked_at_us: int | None
    revoked_by: str | None


class GrantStore:
    """The table of grants."""

    def __init__(self, database: Database, time: SharedTime, ids: Ids, audit: Audit) -> None:
        """Create the tables if they do not exist."""
        self._database = database
        self.time = time
        self._ids = ids
        self._audit = audit
        database.migrate("grants", _SCHEMA)

    def revision(self) -> int:
        """Returns a number that changes whenever a grant is issued or revoked; then compile the grants again."""
        return int(self._database.execute("select revision from grants_revision where one = 1")[0][0])

    def issue(self, grant: Grant, *, by: str, session: str | None = None) -> Grant:
        """Issue a grant under a new id and return it. A child must be attenuated already.

        Raises: UsageError if its parent is revoked or unknown (`not_found`), or a limit is invalid.
        """
        if (grant.uses_max is not None and grant.uses_max < 1) or (
            grant.actions_max is not None and grant.actions_max < 1
        ):
            raise UsageError("`uses_max` and `actions_max` must be above zero")
        made = msgspec.structs.replace(grant, id=self._ids.new("grant"))
        with self._database.transaction():
            now = self.time.tick()
            if made.parent is not None:
                parents = self._database.execute("select revoked_at_us from grants where id = ?", (made.parent,))
                if not parents or parents[0][0] is not None:
                    raise UsageError(f"there is no active parent grant `{made.parent}`", code="not_found")
            self._insert(made, now, by, session)
            self._changed(now, "grant_issued", made.id, by, {"agent": made.agent, "source": made.source})
        return made

    def present(self, chain: Sequence[Grant], *, by: str = "") -> None:
        """Store the blocks of a verified token, first to last: from now on their uses count, and they can be revoked.

        Raises: UsageError `grant_token_revoked` if one of them, or the token's grant, was revoked.
        """
        with self._database.transaction():
            now = self.time.tick()
            under = self.get(chain[0].parent or "")
            if under is None or under.revoked_at_us is not None:
                raise UsageError("the grant that the token is for was revoked", code="grant_token_revoked")
            for grant in chain:
                known = self.get(grant.id)
                if known is None:
                    self._insert(grant, now, by, under.session)
                    self._audit.write(now, "grant_token_known", grant.id, who=by, detail={"agent": grant.agent})
                elif known.revoked_at_us is not None:
                    raise UsageError(
                        "the grant token, or one from which it was made, was revoked", code="grant_token_revoked"
                    )
                elif known.grant != grant:
                    raise UsageError("another block of a grant token has the same id", code="bad_grant_token")
            self._database.execute(
                "delete from grants where source = ? and expires_at_us < ?", (TOKEN, now - _TOKEN_KEPT_US)
            )

    def revoke_unseen(self, token_id: str, by: str) -> None:
        """Revoke a block of a token that was not presented yet, so that it is never accepted."""
        with self._database.transaction():
            now = self.time.tick()
            self._insert(Grant(id=token_id, agent="", source=TOKEN), now, by, None)
            self._revoke(token_id, by, now)
            self._changed(now, "grant_revoked", token_id, by, {})

    def count(self, grants: Iterable[Grant]) -> None:
        """Register the configuration's grants, so that their uses are counted and children can be made of them.

        A changed `uses_max` restarts the count; a grant that is no longer configured is revoked with its children. One that a
        person revoked stays revoked until its definition changes. Call it when the configuration is loaded.
        """
        wanted = {g.id: g for g in grants}
        with self._database.transaction():
            taken = self._database.execute(
                "select id, fingerprint from grants where source = ? and revoked_at_us is not null and revoked_by <> ?",
                (_CONFIGURATION, _CONFIGURATION),
            )
            for grant_id, fingerprint in taken:
                if grant_id in wanted and _fingerprint(wanted[grant_id]) == fingerprint:
                    del wanted[grant_id]
            stored = dict(
                self._database.execute(
                    "select id, fingerprint from grants where source = ? and revoked_at_us is null", (_CONFIGURATION,)
                )
            )
            if stored == {g.id: _fingerprint(g) for g in wanted.values()}:
                return
            now = self.time.tick()
            for gone in stored.keys() - wanted.keys():
                self._revoke(gone, _CONFIGURATION, now)
            for grant in wanted.values():
                if stored.get(grant.id) != _fingerprint(grant):
                    self._replace(msgspec.structs.replace(grant, source=_CONFIGURATION), now)
            self._changed(now, "grants_configured", "", _CONFIGURATION, {"grants": sorted(wanted)})

    def use(self, grant_ids: Sequence[str]) -> bool:
        """Take one use of each of these grants (`Compiled.counted`: a grant and its ancestors), of all or of none.

        Returns False if one is used up, expired, revoked or unknown.
        """
        with self._database.transaction():
            now = self.time.tick()
            marks = ", ".join("?" * len(grant_ids))
            usable = (
                f"id in ({marks}) and revoked_at_us is null and (expires_at_us is null or expires_at_us > ?)"
                " and (uses_left is null or uses_left > 0)"
            )
            rows = self._database.execute(f"select count(*) from grants where {usable}", (*grant_ids, now))
            if rows[0][0] != len(set(grant_ids)):
                return False
            self._database.execute(
                f"update grants set uses_left = uses_left - 1 where id in ({marks}) and uses_left is not null",
                grant_ids,
            )
        return True

    def revoke(self, grant_id: str, by: str) -> tuple[str, ...]:
        """Revoke a grant and its descendants, effective at once. Returns the revoked ids."""
        with self._database.transaction():
            now = self.time.tick()
            revoked = self._revoke(grant_id, by, now)
            for one in revoked:
                self._changed(now, "grant_revoked", one, by, {})
        return revoked

    def all(self) -> list[IssuedGrant]:
        """Returns every grant, oldest first, including revoked and expired ones."""
        return [_issued(r) for r in self._database.execute(f"select {_COLUMNS} from grants order by issued_at_us, id")]

    def get(self, grant_id: str) -> IssuedGrant | None:
        """Returns one grant by its id; None if there is none."""
        rows = self._database.execute(f"select {_COLUMNS} from grants where id = ?", (grant_id,))
        return _issued(rows[0]) if rows else None

    def load(self, session: str | None, token: str | None = None) -> tuple[list[Grant], list[Grant]]:
        """Returns the grants to compile for a session: those in force, and the revoked ones (to explain refusals).

        With `token` (the id of its last block) the blocks of that token are included, and never those of other tokens.
        """
        rows = self._database.execute(
            "with recursive line (id, parent) as (select id, parent from grants where id = ?"
            " union select grants.id, grants.parent from grants join line on grants.id = line.parent)"
            f" select {_COLUMNS} from grants where (session is null or session = ?)"
            " and (source <> ? or id in (select id from line)) order by issued_at_us, id",
            (token, session, TOKEN),
        )
        issued = [_issued(row) for row in rows]
        return (
            [i.grant for i in issued if i.revoked_at_us is None],
            [i.grant for i in issued if i.revoked_at_us is not None],
        )

    def _replace(self, grant: Grant, now: int) -> None:
        old = self.get(grant.id)
        self._database.execute("delete from grants where id = ?", (grant.id,))
        self._insert(grant, now, _CONFIGURATION, None)
        if old is not None and old.revoked_at_us is None and old.grant.uses_max == grant.uses_max:
            self._database.execute("update grants set uses_left = ? where id = ?", (old.uses_left, grant.id))

    def _insert(self, grant: Grant, now: int, by: str, session: str | None) -> None:
        self._database.execute(
            "insert into grants values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, null, null)",
            (
                grant.id,
                grant.agent,
                session,
                grant.parent,
                grant.source,
                msgspec.json.encode(grant).decode(),
                _fingerprint(grant),
                now,
                by,
                grant.expires_at_us,
                grant.uses_max,
            ),
        )

    def _revoke(self, grant_id: str, by: str, now: int) -> tuple[str, ...]:
        family = (
            "with recursive family (id) as (select id from grants where id = ?"
            " union select grants.id from grants join family on grants.parent = family.id)"
        )
        rows = self._database.execute(
            f"{family} select id from grants where id in (select id from family) and revoked_at_us is null"
            " order by issued_at_us, id",
            (grant_id,),
        )
        revoked = tuple(str(row[0]) for row in rows)
        for one in revoked:
            self._database.execute("update grants set revoked_at_us = ?, revoked_by = ? where id = ?", (now, by, one))
        return revoked

    def _changed(self, now: int, event: str, grant_id: str, by: str, detail: dict[str, object]) -> None:
        self._database.execute("update grants_revision set revision = revision + 1 where one = 1")
        self._audit.write(now, event, grant_id, who=by, detail=detail)


def _fingerprint(grant: Grant) -> str:
    return digest("grant", msgspec.to_builtins(msgspec.structs.replace(grant, source="")))


def _issued(row: tuple[object, ...]) -> IssuedGrant:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    grant = typed.decode(str(values.pop("definition")), Grant)
    return typed.convert({**values, "grant": grant}, IssuedGrant)
