"""Remembers the state in which the journal of an unfinished run was recovered.

A thousand runs may wait for answers, and each command begins with recovering unfinished runs. If the journal file has
not changed since its last recovery (inode, size, times), it need not be read again. The rows are only a cache: without
a matching row, the journal is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from interlock.disk import Database
from interlock.journal.sealing import JOURNAL_NAME, TORN_NAME
from interlock.model import typed

_TABLE: Final = """
create table recovered_runs (
    run_id text primary key,
    journal text not null,
    facts text not null
)
"""


class OpenFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was open at the end of a recovered journal."""

    seq: int
    """Sequence number of the last sealed event."""
    status: str
    """The run's status in the index."""
    unknown: tuple[str, ...] = ()
    """Actions with an unknown outcome."""
    settle: dict[str, str | None] = {}
    """Unknown outcomes that only a person can settle, by action; the value is the id of the open hold, if there is one."""
    asked: tuple[str, ...] = ()
    """Holds that actions wait for, answered or not."""
    undoes: bool = False
    """True if one of the run's actions undoes another run."""


class RecoveredRuns:
    """The table `recovered_runs`."""

    def __init__(self, database: Database) -> None:
        """Create the table if it is missing. Raises: StoreError."""
        self._database = database
        database.migrate("recovered", (_TABLE,))

    def unchanged(self, runs: Path, run_ids: Iterable[str]) -> dict[str, OpenFacts]:
        """The stored facts of those runs whose journals have not changed since `remember`."""
        wanted, directory = set(run_ids), os.fspath(runs)
        if not wanted:
            return {}
        found = {}
        for run_id, journal, facts in self._database.execute("select run_id, journal, facts from recovered_runs"):
            if run_id in wanted and journal == fingerprint(os.path.join(directory, run_id)):  # noqa: PTH118 - hot loop
                try:
                    found[run_id] = typed.decode(facts, OpenFacts)
                except msgspec.MsgspecError:
                    continue  # written by another version
        return found

    def remember(self, facts: Mapping[str, tuple[str, OpenFacts]]) -> None:
        """Store the facts of journals, each with its fingerprint from before it was read. Raises: StoreError."""
        if not facts:
            return
        with self._database.transaction(lasting=False):
            self._database.execute_many(
                "insert into recovered_runs values (?, ?, ?)"
                " on conflict (run_id) do update set journal = excluded.journal, facts = excluded.facts",
                [(run_id, journal, msgspec.json.encode(one).decode()) for run_id, (journal, one) in facts.items()],
            )

    def forget(self, run_ids: Iterable[str]) -> None:
        """Delete the rows of runs that ended or were removed. Raises: StoreError."""
        gone = [(run_id,) for run_id in run_ids]
        if gone:
            with self._database.transaction(lasting=False):
                self._database.execute_many("delete from recovered_runs where run_id = ?", gone)

    def ids(self) -> set[str]:
        """The ids of all runs in the table."""
        return {run_id for (run_id,) in self._database.execute("select run_id from recovered_runs")}


def fingerprint(run_dir: str) -> str:
    """Identifies the file of a run's journal and its state; empty if the file cannot be examined."""
    try:
        found = os.stat(f"{run_dir}/{JOURNAL_NAME}")  # noqa: PTH116 - hot loop
        torn = _torn(run_dir)
    except OSError:
        return ""
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {torn}"


def _torn(run_dir: str) -> str:
    try:
        found = os.stat(f"{run_dir}/{TORN_NAME}")  # noqa: PTH116 - hot loop
    except FileNotFoundError:
        return "-"
    return f"{found.st_ino} {found.st_size} {found.st_ctime_ns}"
