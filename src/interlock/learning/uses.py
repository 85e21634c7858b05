"""The uses of skills and their results, in a table of the room `skills`, whose schema is in `skills.py`.

Each use has the state before it, as far as a condition on it could be learnt: keys with a plain value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from interlock.disk import Database
from interlock.learning.evidence import json_of
from interlock.model.canonical import canonical
from interlock.model.clock import Clock

USES: Final = 20
"""Maximum number of uses that count, newest first."""
CASES_MIN: Final = 3
"""Minimum number of successful uses, and of failed ones, from which a condition is learnt."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """One use of a version."""

    name: str
    version: int
    run: str
    proposal: str
    agent: str
    succeeded: bool
    failed: str = ""
    """As in `Uses`."""
    state: dict[str, Any] = {}
    """Values of state keys before the use."""


class Uses(msgspec.Struct, frozen=True, kw_only=True):
    """The results of the last `USES` uses, of a version or of several skills."""

    uses: int
    succeeded: int
    failed: tuple[str, ...] = ()
    """`STEP REASON` (the step's number, from 0) of the failed uses."""

    @property
    def rate(self) -> float:
        """The share of successful uses; 1.0 without any use."""
        return self.succeeded / self.uses if self.uses else 1.0


class Condition(NamedTuple):
    """What held before each successful use, and before no failed one."""

    key: str
    value: Any
    succeeded: int
    failed: int


class UseStore:
    """The uses in one workspace. Call every method in a transaction. Each may raise StoreError."""

    def __init__(self, db: Database, workspace: str, clock: Clock) -> None:
        """The table must exist."""
        self._db = db
        self._workspace = workspace
        self._clock = clock

    def add(self, use: Use) -> None:
        """Count a use, once per proposal."""
        self._db.execute(
            "insert into skill_uses (workspace, name, version, run, proposal, agent, succeeded, at_us, failed, state)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (workspace, run, proposal) do nothing",
            (
                self._workspace, use.name, use.version, use.run, use.proposal, use.agent, use.succeeded,
                self._clock.now_us(), use.failed, json_of(use.state),
            ),
        )  # fmt: skip

    def of(self, versions: Sequence[tuple[str, int]]) -> Uses:
        """Returns the recent results of some versions together."""
        rows = self._recent(versions)
        failed = tuple(row[1] for row in rows if row[1])
        return Uses(uses=len(rows), succeeded=sum(row[0] for row in rows), failed=failed)

    def condition(self, name: str, version: int) -> Condition | None:
        """Returns the first key whose value separates the successful uses from the failed ones; None if there is none."""
        rows = self._recent([(name, version)])
        states = {kind: [msgspec.json.decode(row[2]) for row in rows if bool(row[0]) is kind] for kind in (True, False)}
        good, bad = states[True], states[False]
        if len(good) < CASES_MIN or len(bad) < CASES_MIN:
            return None
        for key in sorted(good[0]):
            value = canonical(good[0][key])
            if all(key in one and canonical(one[key]) == value for one in good) and not any(
                key in one and canonical(one[key]) == value for one in bad
            ):
                return Condition(key, good[0][key], len(good), len(bad))
        return None

    def withdraw(self, run: str, *, by: str) -> None:
        """Withdraw the uses of a run that was undone. Those that this run itself had withdrawn count again."""
        self._db.execute(
            "update skill_uses set withdrawn_by = null where workspace = ? and withdrawn_by = ?", (self._workspace, run)
        )
        self._db.execute(
            "update skill_uses set withdrawn_by = ? where workspace = ? and run = ? and withdrawn_by is null",
            (by, self._workspace, run),
        )

    def prune(self, before_us: int) -> None:
        """Delete uses from before a time."""
        self._db.execute("delete from skill_uses where workspace = ? and at_us < ?", (self._workspace, before_us))

    def _recent(self, versions: Sequence[tuple[str, int]]) -> list[tuple[Any, ...]]:
        """Returns success, failure and state of the newest uses that count."""
        if not versions:
            return []
        marks = " or ".join(["(name = ? and version = ?)"] * len(versions))
        return self._db.execute(
            f"select succeeded, failed, state from skill_uses where workspace = ? and withdrawn_by is null and ({marks})"  # noqa: S608 - marks alone
            " order by at_us desc, rowid desc limit ?",
            (self._workspace, *(part for one in versions for part in one), USES),
        )
