"""The audit of holds, approvers and grants: an append-only table, written in the same transaction as the recorded change.

If the record cannot be written, the recorded change does not happen either.
"""

# ruff: noqa: S608 -- only constants of this module are put into SQL text; every value is bound

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from interlock.disk import Database

_SCHEMA: Final = (
    """create table approvals_audit (
        seq bigint primary key, at_us bigint not null, event text not null, subject text not null, who text not null,
        surface text not null, detail text not null
    )""",
    "create index approvals_audit_subject on approvals_audit (subject, seq)",
    """create trigger approvals_audit_no_update before update on approvals_audit
        begin select raise(abort, 'audit records are never changed'); end""",
    """create trigger approvals_audit_no_delete before delete on approvals_audit
        begin select raise(abort, 'audit records are never deleted'); end""",
)


def _nothing() -> None:
    pass


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record. `subject` is the id of the hold, grant or approver; `detail` never holds raw values."""

    seq: int
    at_us: int
    event: str
    subject: str
    who: str
    surface: str
    detail: dict[str, Any]


class Audit:
    """Appends and reads records."""

    def __init__(self, database: Database) -> None:
        """Create the table if it does not exist."""
        self._database = database
        self.written: Callable[[], None] = _nothing
        """Called when this process has written a record, inside the transaction."""
        database.migrate("approvals_audit", _SCHEMA)

    def write(
        self,
        at_us: int,
        event: str,
        subject: str,
        *,
        who: str = "",
        surface: str = "",
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Append a record; call it inside the transaction of the recorded change."""
        self._database.execute(
            "insert into approvals_audit select coalesce(max(seq), 0) + 1, ?, ?, ?, ?, ?, ? from approvals_audit",
            (at_us, event, subject, who, surface, msgspec.json.encode(detail or {}).decode()),
        )
        self.written()

    def records(self, subject: str | None = None, *, after: int = 0, limit: int = 1000) -> list[AuditRecord]:
        """Records in order of writing, of one subject or of all."""
        where, values = ("subject = ? and", (subject,)) if subject is not None else ("", ())
        rows = self._database.execute(
            "select seq, at_us, event, subject, who, surface, detail from approvals_audit"
            f" where {where} seq > ? order by seq limit ?",
            (*values, after, limit),
        )
        return [
            AuditRecord(
                seq=r[0], at_us=r[1], event=r[2], subject=r[3], who=r[4], surface=r[5], detail=msgspec.json.decode(r[6])
            )
            for r in rows
        ]
