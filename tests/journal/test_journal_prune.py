"""What is forgotten, when, and what is left alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from journaling import keep as keep_value
from journaling import log, open_writer

from interlock.disk import Database, Disk
from interlock.journal import JournalWriter, RunIndex, RunRow, keep, prune, scan
from interlock.model.errors import StoreError, UsageError
from interlock.testing import CrashingDisk, SimulatedCrash


@pytest.fixture
def index(tmp_path: Path) -> Iterator[RunIndex]:
    database = Database(tmp_path / "interlock.db")
    yield RunIndex(database)
    database.close()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def make_run(runs: Path, index: RunIndex, run_id: str, **fields: object) -> JournalWriter:
    """A run with an original and a backup; its writer is alive."""
    writer = open_writer(runs / run_id)
    keep_value(writer, "secret", "***")
    writer.append(log("x"))
    writer.flush()
    (runs / run_id / "backups").mkdir()
    (runs / run_id / "backups" / "file").write_text("old")
    values = {"workspace": "w", "agent": "a", "source": "cli", "status": "succeeded", "started_us": 10, **fields}
    index.add(RunRow(run_id=run_id, **values))
    return writer


def has_originals(runs: Path, run_id: str) -> set[bool]:
    return {(runs / run_id / name).exists() for name in ("private", "backups")}


def test_keep_deletes_originals_and_backups_of_old_runs_only(runs: Path, index: RunIndex):
    make_run(runs, index, "run_old", finished_us=99).close()
    make_run(runs, index, "run_new", finished_us=100).close()
    make_run(runs, index, "run_crashed", status="running").close()
    make_run(runs, index, "run_held", status="held", finished_us=50).close()
    with make_run(runs, index, "run_live", status="running"):
        assert keep(runs, index, Disk(), before_us=100) == ["run_crashed", "run_old"]
    gone = {p.name for p in runs.iterdir() if has_originals(runs, p.name) == {False}}
    assert gone == {"run_old", "run_crashed"}
    assert scan(runs / "run_old").events == 1
    assert keep(runs, index, Disk(), before_us=100) == ["run_live"]  # it has ended meanwhile
    assert keep(runs, index, Disk(), before_us=100) == []


def test_keep_leaves_a_run_alone_that_the_index_does_not_know(runs: Path, index: RunIndex):
    make_run(runs, index, "run_a", finished_us=1).close()
    index.delete("run_a")
    assert keep(runs, index, Disk(), before_us=100) == []


def test_keep_without_any_run(runs: Path, index: RunIndex):
    assert keep(runs, index, Disk(), before_us=100) == []


def test_prune_removes_whole_runs(runs: Path, index: RunIndex):
    for name in ("run_a", "run_b"):
        make_run(runs, index, name).close()
    prune(runs, index, Disk(), ["run_a"])
    assert [p.name for p in runs.iterdir()] == ["run_b"]
    assert [r.run_id for r in index.list_runs()] == ["run_b"]
    with pytest.raises(UsageError):
        prune(runs, index, Disk(), ["run_a"])


def test_prune_never_touches_a_live_run(runs: Path, index: RunIndex):
    with make_run(runs, index, "run_live"), pytest.raises(StoreError) as caught:
        prune(runs, index, Disk(), ["run_live"])
    assert caught.value.code == "run_locked"
    assert scan(runs / "run_live").events == 1
    assert index.get("run_live")


@pytest.mark.parametrize("run_id", ["../elsewhere", "", ".", "a/b"])
def test_prune_stays_inside_the_directory_of_runs(runs: Path, index: RunIndex, run_id: str):
    make_run(runs, index, "run_a").close()
    (runs.parent / "elsewhere").mkdir()
    with pytest.raises(UsageError):
        prune(runs, index, Disk(), [run_id])
    assert (runs.parent / "elsewhere").exists()
    assert scan(runs / "run_a").events == 1


def test_prune_may_die_at_any_step_and_is_simply_called_again(tmp_path: Path, index: RunIndex):
    runs = tmp_path / "count"
    make_run(runs, index, "run_x").close()
    counting = CrashingDisk()
    prune(runs, index, counting, ["run_x"])
    for at in range(len(counting.operations)):
        runs = tmp_path / f"runs_{at}"
        make_run(runs, index, "run_x").close()
        with contextlib.suppress(SimulatedCrash):
            prune(runs, index, CrashingDisk(at=at), ["run_x"])
        prune(runs, index, Disk(), ["run_x"])
        assert list(runs.iterdir()) == []
        assert index.list_runs() == []
