"""Standing answers, for more than one call: issued with an approval of scope `session` or `always`, counted, revocable.

A standing answer discharges the same hold policies (by content hash) as its approval, for the same agent and tool version, in
the same session or any. A changed policy or tool asks again.
"""

# ruff: noqa: S608 -- only constants of this module are put into SQL text; every value is bound

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from interlock.approvals.audit import Audit
from interlock.approvals.hold import Hold, Scope, Standing, without_effect
from interlock.approvals.time import SharedTime
from interlock.disk import Database
from interlock.model import typed
from interlock.model.clock import Ids

_SCHEMA: Final = (
    """create table approvals_standing (
        id text primary key, hold text not null, agent text not null, session text, tool text not null,
        tool_version text not null, contents text not null, created_at_us bigint not null, expires_at_us bigint not null,
        uses_left integer not null, revoked_at_us bigint
    )""",
    "create index approvals_standing_agent on approvals_standing (agent, tool)",
)
_COLUMNS: Final = (
    "id, hold, agent, session, tool, tool_version, contents, created_at_us, expires_at_us, uses_left, revoked_at_us"
)


class StandingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A standing answer as `grants list` shows it."""

    id: str
    hold: str
    """The approval that it came from."""
    agent: str
    session: str | None
    """None: every session (scope `always`)."""
    tool: str
    tool_version: str
    contents: tuple[str, ...]
    created_at_us: int
    expires_at_us: int
    uses_left: int
    revoked_at_us: int | None = None

    @property
    def scope(self) -> Scope:
        """`session` or `always`."""
        return "always" if self.session is None else "session"


class StandingAnswers:
    """The table of standing answers."""

    def __init__(self, database: Database, time: SharedTime, ids: Ids, audit: Audit) -> None:
        """Create the table if it does not exist."""
        self._database = database
        self._time = time
        self._ids = ids
        self._audit = audit
        database.migrate("approvals_standing", _SCHEMA)

    def mint(self, hold: Hold, terms: Standing, now_us: int, who: str) -> str:
        """Issue a standing answer for an approved hold, inside the transaction that approves it. Returns the id."""
        made = self.preview(hold, terms, now_us, self._ids.new("standing"))
        self._database.execute(
            f"insert into approvals_standing ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, null)",
            _row(made),
        )
        self._audit.write(now_us, "standing_minted", made.id, who=who, detail=msgspec.to_builtins(made))
        return made.id

    def preview(self, hold: Hold, terms: Standing, now_us: int, standing_id: str = "") -> StandingAnswer:
        """Returns the standing answer that an approval on these terms would issue, to show before the approver agrees."""
        return StandingAnswer(
            id=standing_id,
            hold=hold.id,
            agent=hold.agent,
            session=hold.session if terms.scope == "session" else None,
            tool=hold.tool,
            tool_version=without_effect(hold.tool_version),
            contents=tuple(sorted({r.content for r in hold.requirements})),
            created_at_us=now_us,
            expires_at_us=now_us + terms.ttl_ms * 1000,
            uses_left=terms.uses,
        )

    def use(
        self, agent: str, session: str | None, tool: str, tool_version: str, contents: Iterable[str]
    ) -> tuple[str, ...] | None:
        """Take one use of the answers that together discharge all of `contents`.

        Returns their ids, or None (and uses nothing).
        """
        missing = set(contents) or {""}
        used: list[str] = []
        if not self._alive(agent, session, tool, tool_version):
            return None  # the usual case takes no write lock
        with self._database.transaction():
            now = self._time.tick()
            for answer in self._alive(agent, session, tool, tool_version):
                if not missing.isdisjoint(answer.contents or ("",)):
                    missing.difference_update(answer.contents or ("",))
                    used.append(answer.id)
            if missing:
                return None
            for standing_id in used:
                self._database.execute(
                    "update approvals_standing set uses_left = uses_left - 1 where id = ?", (standing_id,)
                )
                self._audit.write(now, "standing_used", standing_id, detail={"agent": agent, "tool": tool})
        return tuple(used)

    def revoke(self, standing_id: str, who: str) -> bool:
        """Revoke a standing answer, effective at once. Returns False if there is none, or it was revoked before."""
        with self._database.transaction():
            now = self._time.tick()
            self._database.execute(
                "update approvals_standing set revoked_at_us = ? where id = ? and revoked_at_us is null",
                (now, standing_id),
            )
            revoked = self._database.changes == 1
            if revoked:
                self._audit.write(now, "standing_revoked", standing_id, who=who)
            return revoked

    def all(self) -> list[StandingAnswer]:
        """Returns all standing answers, oldest first."""
        rows = self._database.execute(f"select {_COLUMNS} from approvals_standing order by created_at_us, id")
        return [_answer(row) for row in rows]

    def _alive(self, agent: str, session: str | None, tool: str, tool_version: str) -> list[StandingAnswer]:
        rows = self._database.execute(
            f"select {_COLUMNS} from approvals_standing where agent = ? and tool = ? and tool_version = ?"
            " and (session is null or session = ?) and revoked_at_us is null and uses_left > 0 and expires_at_us > ?"
            " order by created_at_us, id",
            (agent, tool, tool_version, session, self._time.now_us()),
        )
        return [_answer(row) for row in rows]


def _row(answer: StandingAnswer) -> tuple[object, ...]:
    values = msgspec.structs.astuple(answer)[:-1]
    return tuple(msgspec.json.encode(v).decode() if isinstance(v, tuple) else v for v in values)


def _answer(row: tuple[object, ...]) -> StandingAnswer:
    values = dict(zip(StandingAnswer.__struct_fields__, row, strict=True))
    return typed.convert({**values, "contents": msgspec.json.decode(str(values["contents"]))}, StandingAnswer)
