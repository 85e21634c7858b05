"""The list of runs, and the commit point that tells a truncated journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from journaling import RUN, log, open_writer

from interlock.disk import Database
from interlock.journal import RunIndex, RunRow
from interlock.model.errors import IntegrityError, UsageError


@pytest.fixture
def index(tmp_path: Path) -> Iterator[RunIndex]:
    database = Database(tmp_path / "interlock.db")
    yield RunIndex(database)
    database.close()


def row(run_id: str = RUN, **fields: object) -> RunRow:
    return RunRow(**{"run_id": run_id, "workspace": "w", "agent": "a", "source": "cli", "started_us": 5, **fields})


def codes(call: object) -> str:
    with pytest.raises((UsageError, IntegrityError)) as caught:
        call()
    return caught.value.code


def test_a_run_is_added_updated_and_found(index: RunIndex):
    index.add(row())
    assert index.get(RUN) == row()
    assert index.get(RUN).status == "running"
    index.update(RUN, status="failed", finished_us=9, actions=3, succeeded=2, failed=1)
    assert index.get(RUN) == row(status="failed", finished_us=9, actions=3, succeeded=2, failed=1)


def test_unknown_and_doubled_runs_are_errors(index: RunIndex):
    assert codes(lambda: index.get("run_x")) == "not_found"
    assert codes(lambda: index.update("run_x", status="failed")) == "not_found"
    assert codes(lambda: index.session("nobody")) == "not_found"
    index.add(row())
    assert codes(lambda: index.add(row())) == "run_exists"


def test_runs_are_listed_newest_first_and_filtered(index: RunIndex):
    for number, fields in enumerate([{"session": "s"}, {"agent": "b"}, {"status": "held", "session": "s"}, {}]):
        index.add(row(f"run_{number}", started_us=100 + number, **fields))
    ids = lambda **f: [r.run_id for r in index.list_runs(**f)]
    assert ids() == ["run_3", "run_2", "run_1", "run_0"]
    assert ids(session="s") == ["run_2", "run_0"]
    assert ids(status="held") == ["run_2"]
    assert ids(agent="b") == ["run_1"]
    assert ids(session="s", status="running") == ["run_0"]
    assert ids(limit=1) == ["run_3"]


def test_sessions_group_runs_failed_ones_included(index: RunIndex):
    index.add(row("run_0", session="s", started_us=1))
    index.add(row("run_1", session="s", started_us=4))
    index.add(row("run_2", session="t", started_us=3))
    index.add(row("run_3", started_us=9))
    index.update("run_0", status="failed", finished_us=7, actions=2)
    assert [(s.session, s.runs, s.actions, s.started_us, s.last_us) for s in index.sessions()] == [
        ("s", 2, 2, 1, 7),
        ("t", 1, 0, 3, 3),
    ]
    assert [r.run_id for r in index.session("s")] == ["run_1", "run_0"]


def test_no_run_of_a_session_is_left_out(index: RunIndex):
    for number in range(1_100):
        index.add(row(f"run_{number:04}", session="long", started_us=number))
    assert len(index.session("long")) == index.sessions()[0].runs == len(index.list_runs()) == len(index.ids()) == 1_100


def test_the_list_is_there_after_the_database_was_opened_again(tmp_path: Path, index: RunIndex):
    index.add(row())
    again = Database(tmp_path / "interlock.db")
    assert RunIndex(again).get(RUN) == row()
    again.close()


def committed_run(tmp_path: Path, index: RunIndex) -> Path:
    """Three batches; the database knows the second."""
    index.add(row())
    with open_writer(tmp_path / RUN) as writer:
        for number in range(3):
            writer.append(log(f"{number}"))
            writer.flush()
            if number == 1:
                index.commit_point(writer.head())
    return tmp_path / RUN


def test_a_journal_that_reached_the_commit_point_is_accepted(tmp_path: Path, index: RunIndex):
    run_dir = committed_run(tmp_path, index)
    assert index.get(RUN).seq == 1
    assert index.check_not_behind(run_dir).events == 3
    path = run_dir / "journal.ndjson"
    path.write_bytes(path.read_bytes()[:-1])  # torn behind the commit point: that is recovery's business
    assert index.check_not_behind(run_dir).events == 2


def test_a_run_without_a_commit_is_accepted_as_it_is(tmp_path: Path, index: RunIndex):
    index.add(row())
    open_writer(tmp_path / RUN).close()
    assert index.check_not_behind(tmp_path / RUN).events == 0


def test_a_truncated_journal_is_refused(tmp_path: Path, index: RunIndex):
    run_dir = committed_run(tmp_path, index)
    path = run_dir / "journal.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    for keep in (0, 2):  # cut at a seal: in itself a perfectly whole journal
        path.write_bytes(b"".join(lines[:keep]))
        assert codes(lambda: index.check_not_behind(run_dir)) == "journal_truncated"


def test_a_journal_with_another_history_is_refused(tmp_path: Path, index: RunIndex):
    run_dir = committed_run(tmp_path, index)
    (run_dir / "journal.ndjson").unlink()
    with open_writer(run_dir) as writer:
        for number in range(3):
            writer.append(log(f"another {number}"))
            writer.flush()
    assert codes(lambda: index.check_not_behind(run_dir)) == "journal_rewritten"


def test_a_damaged_journal_is_refused(tmp_path: Path, index: RunIndex):
    run_dir = committed_run(tmp_path, index)
    path = run_dir / "journal.ndjson"
    path.write_bytes(b"?" + path.read_bytes()[1:])
    assert codes(lambda: index.check_not_behind(run_dir)) == "journal_corrupt"
