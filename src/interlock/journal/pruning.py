"""Retention: `keep` deletes old originals and backups, `prune` deletes whole runs on request. Live runs are not touched."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from interlock.disk import Disk
from interlock.journal import lock
from interlock.journal.index import RunIndex
from interlock.journal.private import delete_private
from interlock.journal.sealing import BACKUPS_NAME, PRIVATE_NAME
from interlock.model.errors import StoreError, UsageError

_TRASH: Final = ".pruned-"


def keep(runs_dir: Path, index: RunIndex, disk: Disk, *, before_us: int) -> list[str]:
    """Delete the private originals and backups of runs that ended before `before_us`. Returns the ids of those runs.

    For a run without a recorded end, its start counts. Runs that are held or alive are skipped. Raises: StoreError.
    """
    done = []
    for path in sorted(runs_dir.iterdir() if runs_dir.is_dir() else ()):
        if not any((path / name).exists() for name in (PRIVATE_NAME, BACKUPS_NAME)):
            continue
        try:
            row = index.get(path.name)
        except UsageError:
            continue  # the run is just being created
        if (row.finished_us or row.started_us) >= before_us or row.status == "held":
            continue
        try:
            with lock.held(path, disk):
                delete_private(path, disk)
                disk.remove_tree(path / BACKUPS_NAME)
        except StoreError as error:
            if error.code != "run_locked":
                raise
            continue
        done.append(path.name)
    return done


def prune(runs_dir: Path, index: RunIndex, disk: Disk, run_ids: Iterable[str]) -> None:
    """Delete runs entirely: journal, layers, originals, backups and row. Can be repeated after a crash.

    Raises: UsageError `not_found`; StoreError `run_locked` for a live run. The runs before it in the list are deleted
    by then.
    """
    for run_id in run_ids:
        if run_id in ("", ".", "..") or "/" in run_id:
            raise UsageError(f"`{run_id}` is not a run id", code="not_found")
        path, trash = runs_dir / run_id, runs_dir / f"{_TRASH}{run_id}"
        if path.is_dir():
            with lock.held(path, disk):
                disk.remove_tree(trash)
                disk.rename(path, trash)
                disk.sync_directory(runs_dir)
        elif not trash.exists():
            index.get(run_id)  # raises `not_found` if there is no row either
        disk.remove_tree(trash)
        index.delete(run_id)
