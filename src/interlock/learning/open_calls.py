"""The calls of open sessions, in a table of the room `skills`, whose schema is in `skills.py`.

The process that serves a session has its calls in memory, too. The table outlives it: if the process was killed, another one
learns from the remaining calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from interlock.disk import Database
from interlock.learning.align import Step
from interlock.learning.evidence import json_of
from interlock.model import typed
from interlock.model.clock import Clock


class OpenCall(NamedTuple):
    """A successful call that belongs to no task yet."""

    run: str
    step: Step
    version: str | None
    """The version of the tool's definition."""


class OpenCallStore:
    """The open calls of one workspace. Every method may raise StoreError."""

    def __init__(self, db: Database, workspace: str, clock: Clock) -> None:
        """The table must exist."""
        self._db = db
        self._workspace = workspace
        self._clock = clock

    def add(self, owner: str, agent: str, session: str, call: OpenCall) -> None:
        """Add the newest call of a session that the process `owner` serves."""
        self._db.execute(
            "insert into skill_calls (workspace, owner, agent, session, run, step, version, at_us)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (self._workspace, owner, agent, session, call.run, json_of(call.step), call.version, self._clock.now_us()),
        )

    def clear(self, owner: str, agent: str, session: str) -> None:
        """Delete the calls of a session: each now belongs to a task, or never will."""
        self._db.execute(
            "delete from skill_calls where workspace = ? and owner = ? and agent = ? and session = ?",
            (self._workspace, owner, agent, session),
        )

    def remove(self, run: str) -> None:
        """Delete the calls of a run that was undone."""
        self._db.execute("delete from skill_calls where workspace = ? and run = ?", (self._workspace, run))

    def take_abandoned(self, is_alive: Callable[[str], bool]) -> list[tuple[str, list[OpenCall]]]:
        """Take the calls of each session whose process has ended, with their agent. Only one process gets them."""
        with self._db.transaction():
            owners = self._db.execute(
                "select distinct owner from skill_calls where workspace = ? order by owner", (self._workspace,)
            )
            found: dict[tuple[str, str, str], list[OpenCall]] = {}
            for (owner,) in owners:
                if is_alive(owner):
                    continue
                rows = self._db.execute(
                    "select agent, session, run, step, version from skill_calls where workspace = ? and owner = ?"
                    " order by number",
                    (self._workspace, owner),
                )
                for agent, session, run, step, version in rows:
                    call = OpenCall(run, typed.decode(step, Step), version)
                    found.setdefault((owner, agent, session), []).append(call)
                self._db.execute("delete from skill_calls where workspace = ? and owner = ?", (self._workspace, owner))
        return [(agent, calls) for (_, agent, _), calls in found.items()]

    def prune(self, before_us: int) -> None:
        """Delete calls from before a time."""
        self._db.execute("delete from skill_calls where workspace = ? and at_us < ?", (self._workspace, before_us))
