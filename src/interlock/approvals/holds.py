"""Reads holds from the database, for listing and showing them, and for the store that changes them."""

# ruff: noqa: S608 -- only constants of this module are put into SQL text; every value is bound

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from interlock.approvals.hold import ChangeShown, FileShown, Hold, Kind, Status, Vote
from interlock.approvals.time import SharedTime
from interlock.disk import Database
from interlock.model import typed
from interlock.model.decision import Requirement
from interlock.model.ids import CANDIDATES_MAX, choose_id

_MIGRATIONS: Final = (
    """create table approvals (
        seq bigint primary key, id text not null unique, run text not null, proposal text not null, action text not null,
        agent text not null, session text, digest text not null, status text not null, created_at_us bigint not null,
        expires_at_us bigint not null, decided_at_us bigint, decision_reason text not null, consumed_by text,
        standing_id text, question text not null, edits text not null, votes text not null
    )""",
    "create index approvals_status on approvals (status, seq)",
    "create index approvals_due on approvals (status, expires_at_us)",
    "create index approvals_action on approvals (run, proposal, action, seq)",
    "create index approvals_call on approvals (agent, digest, seq)",
    "alter table approvals add column schema text",  # not in COLUMNS: it is never shown
    "drop index approvals_call",
)
COLUMNS: Final = (
    "seq, id, run, proposal, action, agent, session, digest, status, created_at_us, expires_at_us, decided_at_us,"
    " decision_reason, consumed_by, standing_id, question, edits, votes"
)

_IDS_PER_QUERY: Final = 500


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a row that no query filters by."""

    kind: Kind
    tool: str
    tool_version: str
    summary: str
    reason: str
    parameters: Any
    context: Any
    asked_digest: str
    requirements: tuple[Requirement, ...]
    files: tuple[FileShown, ...]
    started_by: str | None
    separation: bool
    changes: tuple[ChangeShown, ...] = ()


class Holds:
    """The holds of a workspace. A hold past its time limit reads as expired, whether or not that was recorded."""

    def __init__(self, database: Database, time: SharedTime) -> None:
        """Migrate the table."""
        self.database = database
        self.time = time
        database.migrate("approvals", _MIGRATIONS)

    def get(self, hold_id: str, now: int | None = None) -> Hold | None:
        """Returns a hold by its id, as of `now` (microseconds of the shared time)."""
        rows = self.database.execute(f"select {COLUMNS} from approvals where id = ?", (hold_id,))
        return read_hold(rows[0], self.time.now_us() if now is None else now) if rows else None

    def schema_of(self, hold_id: str) -> Any:
        """Returns the JSON Schema that edited parameters must match; None if there is none."""
        stored = self.database.execute("select schema from approvals where id = ?", (hold_id,))[0][0]
        return None if stored is None else msgspec.json.decode(stored)

    def find(self, text: str) -> str:
        """Returns the id of a hold from any unambiguous prefix, or of the newest open one for `last`.

        Raises: UsageError `not_found`, `ambiguous_id`.
        """
        if text == "last":
            rows = self.database.execute(
                "select id from approvals where status = 'pending' and expires_at_us > ? order by seq desc limit 1",
                (self.time.now_us(),),
            )
        else:
            rows = self.database.execute(
                "select id from approvals where substr(id, 1, ?) = ? order by id <> ?, id limit ?",
                (len(text), text, text, CANDIDATES_MAX + 1),
            )
        found: list[str] = [hold_id for (hold_id,) in rows]
        if text == "last" and found:
            return found[0]
        return choose_id(text, found, what="hold", hint="`interlock approvals list --status all` shows them")

    def answered(self, hold_ids: Sequence[str]) -> list[Hold]:
        """Returns those of the holds that are no longer pending."""
        now = self.time.now_us()
        out: list[Hold] = []
        for i in range(0, len(hold_ids), _IDS_PER_QUERY):
            some = hold_ids[i : i + _IDS_PER_QUERY]
            rows = self.database.execute(
                f"select {COLUMNS} from approvals where id in ({', '.join('?' * len(some))})"
                " and (status <> 'pending' or expires_at_us <= ?)",
                (*some, now),
            )
            out.extend(read_hold(row, now) for row in rows)
        return out

    def list_holds(self, status: Status | None = "pending", *, after: int = 0, limit: int = 100) -> list[Hold]:
        """Returns holds in order of creation, with a `seq` above `after`. `status` None selects all."""
        now = self.time.now_us()
        where = {
            None: "seq > :after",
            "pending": "status = 'pending' and seq > :after and expires_at_us > :now",
            "expired": "(status = 'expired' or (status = 'pending' and expires_at_us <= :now)) and seq > :after",
        }.get(status, "status = :status and seq > :after")
        rows = self.database.execute(
            f"select {COLUMNS} from approvals where {where} order by seq limit :limit",
            {"after": after, "now": now, "status": status, "limit": limit},
        )
        return [read_hold(row, now) for row in rows]

    def for_action(self, run: str, proposal: str, action: str, *, kind: Kind = "tool_call") -> Hold | None:
        """Returns the latest hold of that kind for an action; `resume` looks for it."""
        rows = self.database.execute(
            f"select {COLUMNS} from approvals where run = ? and proposal = ? and action = ? order by seq desc",
            (run, proposal, action),
        )
        now = self.time.now_us()
        return next((hold for row in rows if (hold := read_hold(row, now)).kind == kind), None)

    def of_run(self, run: str) -> list[Hold]:
        """Returns all holds of a run, in order of creation."""
        now = self.time.now_us()
        rows = self.database.execute(f"select {COLUMNS} from approvals where run = ? order by seq", (run,))
        return [read_hold(row, now) for row in rows]


def read_hold(row: tuple[Any, ...], now: int) -> Hold:
    """Reads a row of `COLUMNS`, as of `now`."""
    values = dict(zip(COLUMNS.split(", "), row, strict=True))
    question = typed.decode(values.pop("question"), Question)
    if values["status"] == "pending" and values["expires_at_us"] <= now:
        values["status"] = "expired"
        values["decision_reason"] = "approval_expired"
    values["edits"] = tuple(msgspec.json.decode(values["edits"]))
    values["votes"] = typed.decode(values["votes"], tuple[Vote, ...])
    return Hold(**values, **{name: getattr(question, name) for name in Question.__struct_fields__})


def as_text(value: Any) -> str:
    """Returns the JSON text of a column."""
    return msgspec.json.encode(value).decode()
