"""One writer at a time; a dead one holds nobody up."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from interlock.disk import Database
from interlock.model.errors import StoreError
from interlock.testing import FakeClock
from interlock.workspace import WriteLease


@pytest.fixture
def database(tmp_path):
    made = Database(tmp_path / "interlock.db")
    yield made
    made.close()


def test_the_second_is_told_who_writes(database):
    first = WriteLease.acquire(database, "ws_1", "run_1 prop_1", FakeClock())
    with pytest.raises(StoreError) as caught:
        WriteLease.acquire(database, "ws_1", "run_2 prop_1", FakeClock())
    assert caught.value.code == "workspace_busy"
    assert "run_1 prop_1" in caught.value.message
    assert str(os.getpid()) in caught.value.message
    assert "interlock approvals list" in (caught.value.hint or "")
    with WriteLease.acquire(database, "ws_2", "run_3 prop_1", FakeClock()):
        pass
    first.release()
    with WriteLease.acquire(database, "ws_1", "run_2 prop_1", FakeClock()) as second:
        assert second.holder == "run_2 prop_1"


def test_release_is_once_and_only_ones_own(database):
    first = WriteLease.acquire(database, "ws_1", "one", FakeClock())
    first.release()
    second = WriteLease.acquire(database, "ws_1", "two", FakeClock())
    first.release()
    with pytest.raises(StoreError):
        WriteLease.attempt(database, "ws_1", "three", FakeClock())
    second.renew()
    with pytest.raises(StoreError):
        first.renew()


def test_waiting_until_it_is_free(database):
    first = WriteLease.acquire(database, "ws_1", "one", FakeClock())
    timer = threading.Timer(0.2, first.release)
    timer.start()
    try:
        WriteLease.acquire(database, "ws_1", "two", FakeClock(), wait_ms=20_000).release()
    finally:
        timer.join()


DIES = """
import sys
from pathlib import Path
from interlock.disk import Database
from interlock.testing import FakeClock
from interlock.workspace import WriteLease
WriteLease.acquire(Database(Path(sys.argv[1])), "ws_1", "dead", FakeClock())
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_holder_is_taken_over_at_once(database, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", DIES, str(tmp_path / "interlock.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="dead"):
            WriteLease.attempt(database, "ws_1", "next", FakeClock())
        child.kill()
        child.wait()
    WriteLease.attempt(database, "ws_1", "next", FakeClock()).release()


def test_a_process_that_got_the_number_of_a_dead_one_does_not_count(database):
    WriteLease.acquire(database, "ws_1", "one", FakeClock())
    database.execute("update workspace_leases set started = '1'")
    WriteLease.attempt(database, "ws_1", "two", FakeClock()).release()


def test_a_holder_elsewhere_counts_until_its_expiry(database):
    clock = FakeClock()
    WriteLease.acquire(database, "ws_1", "one", clock)
    database.execute("update workspace_leases set place = 'another boot', started = '1'")
    clock.advance(59)
    with pytest.raises(StoreError):
        WriteLease.attempt(database, "ws_1", "two", clock)
    clock.advance(2)
    WriteLease.attempt(database, "ws_1", "two", clock).release()


def test_a_living_holder_here_does_not_expire(database):
    clock = FakeClock()
    WriteLease.acquire(database, "ws_1", "one", clock)
    clock.advance(3600)
    with pytest.raises(StoreError):
        WriteLease.attempt(database, "ws_1", "two", clock)


def contend(path, name, log, rounds):
    database = Database(path)
    for _ in range(rounds):
        lease = WriteLease.acquire(database, "ws_1", name, FakeClock(), wait_ms=20_000)
        with lease, open(log, "ab", buffering=0) as file:
            file.write(b"(")
            time.sleep(0.001)
            file.write(b")")
    database.close()


def test_processes_never_hold_it_together(database, tmp_path):
    log = tmp_path / "log"
    WriteLease.acquire(database, "ws_1", "parent", FakeClock()).release()
    spawn = multiprocessing.get_context("spawn")
    racers = [spawn.Process(target=contend, args=(tmp_path / "interlock.db", f"p{i}", log, 15)) for i in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert log.read_bytes() == b"()" * 45
