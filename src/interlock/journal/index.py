"""The list of runs in the workspace's database: what `runs list` and `sessions` show, and the position of each journal.

A row can be rebuilt from the journal, so the start and the end of a run do not wait for the disk. If a power failure
loses a row or leaves it outdated, the recovery of unfinished runs repairs it. There is one exception: the commit point.
Every commit to the database stores the journal's position (`commit_point`); a journal that no longer contains that
point was truncated or rewritten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.disk import Database
from interlock.journal.reader import JournalStatus, corrupt, scan
from interlock.journal.sealing import Head
from interlock.model.errors import IntegrityError, UsageError
from interlock.model.ids import CANDIDATES_MAX, choose_id

_MIGRATIONS: Final = (
    """
    create table runs (
        run_id text primary key,
        workspace text not null,
        session text,
        agent text not null,
        source text not null,
        status text not null,
        started_us bigint not null,
        finished_us bigint,
        actions bigint not null default 0,
        succeeded bigint not null default 0,
        failed bigint not null default 0,
        rejected bigint not null default 0,
        skipped bigint not null default 0,
        not_undone bigint not null default 0,
        seq bigint,
        seal text
    );
    create index runs_by_start on runs (started_us);
    create index runs_by_session on runs (session, started_us);
    """,
)


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the index; times in microseconds since the epoch."""

    run_id: str
    workspace: str
    session: str | None = None
    agent: str
    source: str
    status: str = "running"
    """A RunStatus, or `running` until a process records the end of the run."""
    started_us: int
    finished_us: int | None = None
    actions: int = 0
    succeeded: int = 0
    failed: int = 0
    rejected: int = 0
    skipped: int = 0
    not_undone: int = 0
    seq: int | None = None
    """The journal's position at the last commit to the database; null before the first."""
    seal: str | None = None


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session: the number of its runs, and when they began and ended."""

    session: str
    runs: int
    actions: int
    started_us: int
    last_us: int


_COLUMNS: Final = ", ".join(RunRow.__struct_fields__)
_COUNTS: Final = ("actions", "succeeded", "failed", "rejected", "skipped", "not_undone")


class RunIndex:
    """The table `runs`."""

    def __init__(self, database: Database) -> None:
        """Migrate the table."""
        self._database = database
        self.in_order = False
        """True once this process has recovered the journals of runs whose process died."""
        database.migrate("journal", _MIGRATIONS)

    def add(self, row: RunRow) -> None:
        """Add a run. Raises: UsageError `run_exists`."""
        values = msgspec.structs.astuple(row)
        places = ", ".join("?" * len(values))
        with self._database.transaction(lasting=False):
            self._database.execute(
                f"insert into runs ({_COLUMNS}) values ({places}) on conflict (run_id) do nothing",  # noqa: S608 - constants
                values,
            )
            if not self._database.changes:
                raise UsageError(f"run `{row.run_id}` exists already", code="run_exists", hint="use another run id")

    def update(self, run_id: str, *, status: str, finished_us: int | None = None, **counts: int) -> None:
        """Update a run's status; `counts` are the row's counters. Raises: UsageError `not_found`."""
        assert set(counts) <= set(_COUNTS), counts
        assignments = "".join(f", {name} = ?" for name in counts)
        with self._database.transaction(lasting=False):
            self._database.execute(
                f"update runs set status = ?, finished_us = ?{assignments} where run_id = ?",  # noqa: S608 - constants
                (status, finished_us, *counts.values(), run_id),
            )
            self._require_changed(run_id)

    def commit_point(self, head: Head) -> None:
        """Store the journal's position. Call it in the transaction that commits the journal's content up to this position."""
        with self._database.transaction():
            self._database.execute(
                "update runs set seq = ?, seal = ? where run_id = ?", (head.seq, head.seal, head.run)
            )
            self._require_changed(head.run)

    def _require_changed(self, run_id: str) -> None:
        """Raises: UsageError `not_found` if the last update found no row of that run."""
        if not self._database.changes:
            self.get(run_id)

    def check_not_behind(self, run_dir: Path) -> JournalStatus:
        """Scan a run's journal and compare it with the commit point. Call it before a run is resumed.

        Raises: IntegrityError (`journal_corrupt`; `journal_truncated` if it ends before the point; `journal_rewritten` if it
        differs there); UsageError `not_found`.
        """
        row = self.get(run_dir.name)
        status = scan(run_dir, at=row.seq)
        if status.corruption is not None:
            raise corrupt(run_dir, status.corruption)
        require_not_behind(row, status)
        return status

    def get(self, run_id: str) -> RunRow:
        """The row of a run. Raises: UsageError `not_found`."""
        rows = self._rows("where run_id = ?", (run_id,))
        if not rows:
            raise UsageError(f"there is no run `{run_id}`", code="not_found", hint="`interlock runs list` shows them")
        return rows[0]

    def find(self, text: str) -> str:
        """Resolve a prefix of a run id (with or without `run_`), or `last` for the newest run, to the full id.

        Raises: UsageError `not_found`, `ambiguous_id`.
        """
        if text == "last":
            rows = self._rows("order by started_us desc, run_id desc limit 1", ())
            if not rows:
                raise UsageError("there is no run yet", code="not_found", hint="`interlock run PLAN` starts one")
            return rows[0].run_id
        begins = (text, f"run_{text}")
        rows = self._rows(
            f"where run_id = ? or {' or '.join('substr(run_id, 1, ?) = ?' for _ in begins)} order by run_id <> ?, run_id limit ?",
            (text, *(each for begin in begins for each in (len(begin), begin)), text, CANDIDATES_MAX + 1),
        )
        return choose_id(text, [row.run_id for row in rows], what="run", hint="`interlock runs list` shows them")

    def list_runs(
        self,
        *,
        session: str | None = None,
        status: str | None = None,
        agent: str | None = None,
        since_us: int | None = None,
        limit: int | None = None,
    ) -> list[RunRow]:
        """Runs that match the given filters, newest first; at most `limit` of them.

        `since_us` excludes runs that ended before that time (microseconds since the epoch).
        """
        wanted = {"session = ?": session, "status = ?": status, "agent = ?": agent}
        given: dict[str, tuple[Any, ...]] = {text: (value,) for text, value in wanted.items() if value is not None}
        if since_us is not None:
            given["coalesce(finished_us, ?) >= ?"] = (since_us, since_us)
        where = "where " + " and ".join(given) if given else ""
        tail, cut = ("", ()) if limit is None else (" limit ?", (limit,))
        parameters = tuple(value for values in given.values() for value in values)
        return self._rows(f"{where} order by started_us desc, run_id desc{tail}", (*parameters, *cut))

    def ids(self) -> set[str]:
        """The ids of all runs."""
        return {run_id for (run_id,) in self._database.execute("select run_id from runs")}

    def sessions(self) -> list[SessionRow]:
        """All sessions, most recently used first."""
        rows = self._database.execute(
            "select session, count(*), sum(actions), min(started_us), max(coalesce(finished_us, started_us)) from runs"
            " where session is not null group by session order by max(started_us) desc, session"
        )
        return [SessionRow(session=r[0], runs=r[1], actions=r[2], started_us=r[3], last_us=r[4]) for r in rows]

    def session(self, name: str) -> list[RunRow]:
        """The runs of a session, newest first. Raises: UsageError `not_found`."""
        rows = self.list_runs(session=name)
        if not rows:
            raise UsageError(f"there is no session `{name}`", code="not_found", hint="`interlock sessions list`")
        return rows

    def delete(self, run_id: str) -> None:
        """Delete the row of a run, if there is one."""
        self._database.execute("delete from runs where run_id = ?", (run_id,))

    def _rows(self, rest: str, parameters: tuple[Any, ...]) -> list[RunRow]:
        rows = self._database.execute(f"select {_COLUMNS} from runs {rest}", parameters)  # noqa: S608 - constants
        return [RunRow(**dict(zip(RunRow.__struct_fields__, row, strict=True))) for row in rows]


def require_not_behind(row: RunRow, status: JournalStatus) -> None:
    """Raise unless a journal, scanned with `at=row.seq`, contains the run's commit point. Raises: IntegrityError."""
    if row.seq is not None:
        require_reached(status, row.seq, row.seal, "the database")


def require_reached(status: JournalStatus, seq: int, seal: str | None, who: str) -> None:
    """Raise unless a journal, scanned with `at=seq`, has the seal at `seq` that `who` recorded. Raises: IntegrityError."""
    if status.head.seq < seq:
        raise IntegrityError(
            f"the journal of run `{status.head.run}` ends at event {status.head.seq}, but {who} recorded it up to {seq}:"
            " it was truncated",
            code="journal_truncated",
            hint="restore the journal from a backup; Interlock no longer writes to it",
        )
    if status.seal_at != seal:
        raise IntegrityError(
            f"the journal of run `{status.head.run}` is not the one that {who} recorded at event {seq}: it was rewritten",
            code="journal_rewritten",
            hint="restore the journal from a backup; Interlock no longer writes to it",
        )
