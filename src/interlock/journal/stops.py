"""Requests to stop runs: written by a person or program, read by the process that executes the run.

A request is final: a stopped run is not resumed. The process answers in the same row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from interlock.disk import Database
from interlock.model import typed
from interlock.model.clock import Clock

_TABLE: Final = """
create table run_stops (
    run text primary key,
    asked_by text not null,
    surface text not null,
    reason text not null,
    at_us bigint not null,
    seen_us bigint,
    done_us bigint,
    report text
)
"""


class StoppedAction(msgspec.Struct, frozen=True):
    """An action that was stopped while it ran. `unknown_outcome`: it could not be stopped and may still have an effect."""

    action: str
    tool: str | None
    status: str


class StopAnswer(msgspec.Struct, frozen=True):
    """What the run's process stopped."""

    actions: tuple[StoppedAction, ...] = ()
    not_begun: int = 0
    """Actions that had not started."""
    programs: int = 0
    """Background programs that were killed."""


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A stop request and its progress; times in microseconds since the epoch."""

    run: str
    by: str
    surface: str
    reason: str = ""
    at_us: int
    seen_us: int | None = None
    """When the run's process read the request."""
    done_us: int | None = None
    """When nothing of the run was running any more."""
    answer: StopAnswer | None = None

    @property
    def text(self) -> str:
        """The reason, as shown in the rows of the stopped actions."""
        return f"stopped by `{self.by}`" + (f": {self.reason}" if self.reason else "")


class StopStore:
    """The table `run_stops`. Requests are rare, so the table is created with a workspace's first request."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Create the table if it is missing. Raises: StoreError."""
        self._database = database
        self._clock = clock
        database.migrate("stops", (_TABLE,))

    def request(self, run: str, *, by: str, surface: str, reason: str = "") -> StopRequest:
        """Ask that a run stop. If the run has a request already, that one counts. Raises: StoreError."""
        with self._database.transaction():
            self._database.execute(
                "insert into run_stops (run, asked_by, surface, reason, at_us) values (?, ?, ?, ?, ?)"
                " on conflict (run) do nothing",
                (run, by, surface, reason, self._clock.now_us()),
            )
            found = self.get(run)
        assert found is not None
        return found

    def get(self, run: str) -> StopRequest | None:
        """The request for a run; None if there is none."""
        return next(iter(self._rows("where run = ?", (run,))), None)

    def open(self, runs: Iterable[str]) -> list[StopRequest]:
        """The requests for these runs that no process has read yet."""
        wanted = tuple(runs)
        return [one for one in self._rows("where seen_us is null", ()) if one.run in wanted]

    def seen(self, run: str) -> None:
        """Record that the run's process has read the request."""
        self._mark("seen_us = coalesce(seen_us, ?)", run, (self._clock.now_us(),))

    def done(self, run: str, answer: StopAnswer) -> None:
        """Record that nothing of the run is running any more."""
        values = (self._clock.now_us(), msgspec.json.encode(answer).decode())
        self._mark("done_us = ?, report = ?", run, values)

    def _mark(self, assignments: str, run: str, values: tuple[Any, ...]) -> None:
        with self._database.transaction():
            self._database.execute(f"update run_stops set {assignments} where run = ?", (*values, run))  # noqa: S608 - constants

    def _rows(self, rest: str, parameters: tuple[Any, ...]) -> list[StopRequest]:
        rows = self._database.execute(
            f"select run, asked_by, surface, reason, at_us, seen_us, done_us, report from run_stops {rest}",  # noqa: S608 - constants
            parameters,
        )
        return [
            StopRequest(
                run=r[0], by=r[1], surface=r[2], reason=r[3], at_us=r[4], seen_us=r[5], done_us=r[6],
                answer=None if r[7] is None else typed.decode(r[7], StopAnswer),
            )
            for r in rows
        ]  # fmt: skip
