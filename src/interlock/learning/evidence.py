"""The traces from which skills are learnt, in tables of the room `skills`, whose schema is in `skills.py`.

A trace of a run that was undone does not count; if the undo is undone, it counts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from interlock.disk import Database
from interlock.learning.align import Trace
from interlock.model.clock import Clock

EVIDENCE_MAX: Final = 20
"""Maximum number of traces of a shape that count, newest first."""


class TraceStore:
    """The traces of one workspace. Call every method in a transaction. Each may raise StoreError."""

    def __init__(self, db: Database, workspace: str, clock: Clock) -> None:
        """The tables must exist."""
        self._db = db
        self._workspace = workspace
        self._clock = clock

    def add(self, agent: str, runs: Sequence[str], proposal: str, trace: Trace, tools: dict[str, str]) -> bool:
        """Store a trace of the last of these runs. Returns False if it is already stored."""
        self._db.execute(
            "insert into skill_traces (workspace, agent, shape, run, proposal, trace, tools, created_us, runs)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (workspace, run, proposal) do nothing",
            (
                self._workspace, agent, trace.shape, runs[-1], proposal, json_of(trace), json_of(tools),
                self._clock.now_us(), f" {' '.join(runs)} ",
            ),
        )  # fmt: skip
        if not self._db.changes:
            return False
        for run in runs:  # it may have been undone before this process learnt from it
            for (by,) in self._db.execute(
                "select by_run from skill_undone where workspace = ? and run = ?", (self._workspace, run)
            ):
                self._mark(by, "instr(runs, ?) > 0 and withdrawn_by is null", f" {run} ")
        return True

    def withdraw(self, run: str, *, by: str) -> list[tuple[str, str, bool]]:
        """Record that a run was undone. Returns agent and shape of the traces concerned, and whether they count again."""
        self._db.execute("delete from skill_undone where workspace = ? and by_run = ?", (self._workspace, run))
        self._db.execute(
            "insert into skill_undone (workspace, run, by_run, at_us) values (?, ?, ?, ?)"
            " on conflict (workspace, run) do nothing",
            (self._workspace, run, by, self._clock.now_us()),
        )
        rows = self._db.execute(
            "select distinct agent, shape, withdrawn_by is not null and withdrawn_by = ? from skill_traces"
            " where workspace = ? and (instr(runs, ?) > 0 or withdrawn_by = ?) order by agent, shape",
            (run, self._workspace, f" {run} ", run),
        )
        self._mark(None, "withdrawn_by = ?", run)
        self._mark(by, "instr(runs, ?) > 0 and withdrawn_by is null", f" {run} ")
        return [(row[0], row[1], bool(row[2])) for row in rows]

    def of(self, agent: str, shape: str) -> list[tuple[str, str, str, str]]:
        """Returns run, proposal, trace and tools of the newest traces that count, oldest first."""
        rows = self._db.execute(
            "select run, proposal, trace, tools from skill_traces where workspace = ? and agent = ? and shape = ?"
            " and withdrawn_by is null order by number desc limit ?",
            (self._workspace, agent, shape, EVIDENCE_MAX),
        )
        return [(r[0], r[1], r[2], r[3]) for r in reversed(rows)]

    def prune(self, before_us: int) -> None:
        """Delete traces and undos from before a time."""
        for table, column in (("skill_traces", "created_us"), ("skill_undone", "at_us")):
            self._db.execute(
                f"delete from {table} where workspace = ? and {column} < ?",  # noqa: S608 - constants
                (self._workspace, before_us),
            )

    def _mark(self, by: str | None, condition: str, run: str) -> None:
        self._db.execute(
            f"update skill_traces set withdrawn_by = ? where workspace = ? and {condition}",  # noqa: S608 - constants
            (by, self._workspace, run),
        )


def json_of(value: Any) -> str:
    """Returns the stored form of a value: the same text for the same value."""
    return msgspec.json.encode(value, order="deterministic").decode()
