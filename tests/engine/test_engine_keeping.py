"""`[journal] keep`: originals and backups go when their time is over, journals stay."""

from __future__ import annotations

import asyncio

from engine_world import TOML, call, plan

from interlock.testing import FakeClock


def test_old_backups_go_and_the_journal_stays(new_project):
    clock = FakeClock()
    project = new_project(toml=TOML % "" + '[journal]\nkeep = "10d"\n')
    with project.open(clock=clock) as runtime:
        result = asyncio.run(runtime.execute(plan(call("fs.write", parameters={"path": "a", "content": "b"}))))
        directory = runtime.services.state_dir / "runs" / result.run_id
        assert (directory / "backups").is_dir()
    clock.advance(9 * 86_400)
    with project.open(clock=clock):
        assert (directory / "backups").is_dir(), "not yet"
    clock.advance(2 * 86_400)
    with project.open(clock=clock):
        assert not (directory / "backups").exists()
        assert (directory / "journal.ndjson").stat().st_size > 0


def test_a_clock_that_jumps_ahead_takes_nothing_that_undo_needs(new_project):
    """Whoever boots with a dead battery is in another year: what the clock says counts if it says so again a day later."""
    clock = FakeClock()
    project = new_project(toml=TOML % "" + '[journal]\nkeep = "10d"\n')
    with project.open(clock=clock) as runtime:
        result = asyncio.run(runtime.execute(plan(call("fs.write", parameters={"path": "a", "content": "b"}))))
        directory = runtime.services.state_dir / "runs" / result.run_id
    clock.advance(20 * 365 * 86_400)
    with project.open(clock=clock):
        assert (directory / "backups").is_dir()
    clock.advance(86_400)
    with project.open(clock=clock):
        assert not (directory / "backups").exists()


def test_a_clock_that_was_ahead_once_keeps_nothing_for_ever(new_project):
    clock = FakeClock()
    project = new_project(toml=TOML % "" + '[journal]\nkeep = "10d"\n')
    with project.open(clock=clock) as runtime:
        result = asyncio.run(runtime.execute(plan(call("fs.write", parameters={"path": "a", "content": "b"}))))
        directory = runtime.services.state_dir / "runs" / result.run_id
        mark = runtime.services.state_dir / "kept"
    mark.write_text(str(clock.now_us() + 20 * 365 * 86_400 * 1_000_000))
    clock.advance(11 * 86_400)
    with project.open(clock=clock):
        assert not (directory / "backups").exists()
