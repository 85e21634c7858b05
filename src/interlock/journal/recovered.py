"""Remembers up to which head the journal of an unfinished run was recovered, and what was open there.

A thousand runs may wait for answers, and each command begins by putting the journals of unfinished runs in order. A journal that
is the very file that was recovered last time (inode, size, times) needs no reading: nothing was written to it since.
The rows are a convenience: without one, or with one that does not fit, the journal is read.
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
    """What of a run is open at the end of its journal."""

    seq: int
    """The head."""
    status: str
    """That of the run's row."""
    unknown: tuple[str, ...] = ()
    """Actions whose outcome is not known."""
    settle: dict[str, str | None] = {}
    """Those of them that only a person can settle, each with the open question about it."""
    asked: tuple[str, ...] = ()
    """Questions that actions wait for, answered or not."""
    undoes: bool = False
    """True if it has an action that undoes another run."""


class RecoveredRuns:
    """The table `recovered_runs`."""

    def __init__(self, database: Database) -> None:
        """Make the table if it is not there. Raises: StoreError."""
        self._database = database
        database.migrate("recovered", (_TABLE,))

    def unchanged(self, runs: Path, run_ids: Iterable[str]) -> dict[str, OpenFacts]:
        """What is known of those runs whose journals have not been written since `remember`."""
        wanted, directory = set(run_ids), os.fspath(runs)
        if not wanted:
            return {}
        found = {}
        for run_id, journal, facts in self._database.execute("select run_id, journal, facts from recovered_runs"):
            if run_id in wanted and journal == fingerprint(os.path.join(directory, run_id)):  # noqa: PTH118 - a thousand times
                try:
                    found[run_id] = typed.decode(facts, OpenFacts)
                except msgspec.MsgspecError:
                    continue  # written by another version
        return found

    def remember(self, facts: Mapping[str, tuple[str, OpenFacts]]) -> None:
        """Remember journals, each with the fingerprint that it had before it was read. Raises: StoreError."""
        if not facts:
            return
        with self._database.transaction(lasting=False):
            self._database.execute_many(
                "insert into recovered_runs values (?, ?, ?)"
                " on conflict (run_id) do update set journal = excluded.journal, facts = excluded.facts",
                [(run_id, journal, msgspec.json.encode(one).decode()) for run_id, (journal, one) in facts.items()],
            )

    def forget(self, run_ids: Iterable[str]) -> None:
        """These are over, or were removed. Raises: StoreError."""
        gone = [(run_id,) for run_id in run_ids]
        if gone:
            with self._database.transaction(lasting=False):
                self._database.execute_many("delete from recovered_runs where run_id = ?", gone)

    def ids(self) -> set[str]:
        """The runs that are remembered."""
        return {run_id for (run_id,) in self._database.execute("select run_id from recovered_runs")}


def fingerprint(run_dir: str) -> str:
    """Which file a run's journal is, and in which state; empty if it cannot be looked at."""
    try:
        found = os.stat(f"{run_dir}/{JOURNAL_NAME}")  # noqa: PTH116 - a thousand times
        torn = _torn(run_dir)
    except OSError:
        return ""
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {torn}"


def _torn(run_dir: str) -> str:
    try:
        found = os.stat(f"{run_dir}/{TORN_NAME}")  # noqa: PTH116 - a thousand times
    except FileNotFoundError:
        return "-"
    return f"{found.st_ino} {found.st_size} {found.st_ctime_ns}"
