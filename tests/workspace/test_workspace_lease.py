"""Writers whose claims overlap take turns, first come, first served; a dead one holds nobody up."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from interlock.disk import Database
from interlock.engine.local.clock import SystemClock
from interlock.model.errors import StoreError
from interlock.testing import FakeClock
from interlock.workspace import EVERYTHING, Claim, LeaseQueue

A, B = Claim.of([(b"a",)]), Claim.of([(b"b",)])


@pytest.fixture
def database(tmp_path):
    made = Database(tmp_path / "interlock.db")
    yield made
    made.close()


@pytest.fixture
def queue(database, tmp_path):
    return LeaseQueue(database, "ws_1", SystemClock(), tmp_path / "turns")


def run(work):
    async def limited():
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(limited())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


def holders(queue):
    return [turn.holder for turn in queue.turns()]


def test_the_second_is_told_who_writes(database, queue):
    first = queue.attempt(EVERYTHING, "run_1 prop_1", doing="`build` (`shell`)")
    with pytest.raises(StoreError) as caught:
        queue.attempt(EVERYTHING, "run_2 prop_1")
    assert caught.value.code == "workspace_busy"
    assert "run_1 prop_1" in caught.value.message
    assert "`build` (`shell`)" in caught.value.message
    assert str(os.getpid()) in caught.value.message
    assert "interlock runs list" in (caught.value.hint or "")
    LeaseQueue(database, "ws_2", SystemClock(), None).attempt(EVERYTHING, "run_3 prop_1").release()
    first.release()
    assert queue.attempt(EVERYTHING, "run_2 prop_1").holder == "run_2 prop_1"
    assert holders(queue) == ["run_2 prop_1"]


def test_writers_of_different_paths_do_not_wait(queue):
    queue.attempt(A, "one")
    queue.attempt(B, "two")
    with pytest.raises(StoreError, match="one"):
        queue.attempt(Claim.of([(b"a", b"beneath")]), "three")
    with pytest.raises(StoreError, match="one"):
        queue.attempt(EVERYTHING, "four")
    assert holders(queue) == ["one", "two"]


def test_release_is_once_and_only_ones_own(queue):
    first = queue.attempt(EVERYTHING, "one")
    first.release()
    second = queue.attempt(EVERYTHING, "two")
    second.renew()
    second.release()
    with pytest.raises(StoreError):
        first.renew()


def test_first_come_first_served(queue):
    """Who waits for all of it is not passed by those who come later, even if these could write at once."""

    async def main():
        order = []

        async def write(name, claim):
            lease = await queue.acquire(claim, name)
            order.append(name)
            lease.release()

        first = queue.attempt(A, "first")
        tasks = []
        for name, claim in [("all", EVERYTHING), ("b", B), ("a", A)]:
            tasks.append(asyncio.create_task(write(name, claim)))
            await until(lambda name=name: name in holders(queue))
        await asyncio.sleep(0)
        assert order == []
        first.release()
        await asyncio.gather(*tasks)
        assert order[0] == "all"
        assert sorted(order[1:]) == ["a", "b"]

    run(main())


def test_a_waiter_is_told_for_whom_it_waits_and_gives_up_in_time(queue):
    async def main():
        queue.attempt(EVERYTHING, "busy", doing="`build` (`shell`)")
        seen = []
        clock = SystemClock()
        with pytest.raises(StoreError) as caught:
            await queue.acquire(A, "late", until_ns=clock.mono_ns() + 150_000_000, on_wait=seen.append)
        assert caught.value.code == "workspace_busy"
        assert {(turn.holder, turn.doing) for turn in seen} == {("busy", "`build` (`shell`)")}
        assert holders(queue) == ["busy"]

    run(main())


def test_a_cancelled_waiter_leaves_the_queue(queue, tmp_path):
    async def main():
        first = queue.attempt(EVERYTHING, "first")
        second = asyncio.create_task(queue.acquire(EVERYTHING, "second"))
        third = asyncio.create_task(queue.acquire(EVERYTHING, "third"))
        await until(lambda: len(holders(queue)) == 3)
        second.cancel()
        with suppress(asyncio.CancelledError):
            await second
        assert holders(queue) == ["first", "third"]
        first.release()
        await third
        assert list((tmp_path / "turns").iterdir()) == []

    run(main())


def test_what_a_holder_does_is_reported_to_who_waits(queue):
    async def main():
        first = queue.attempt(EVERYTHING, "first", doing="one")
        seen = []
        waiter = asyncio.create_task(queue.acquire(A, "second", on_wait=lambda turn: seen.append(turn.doing)))
        await until(lambda: seen)
        first.renew("two", 7)
        assert queue.turns()[0].since_us == 7
        await until(lambda: "two" in seen)
        first.release()
        (await waiter).release()

    run(main())


def test_many_waiters_of_a_process_share_descriptors_and_come_in_order(queue, tmp_path):
    async def main():
        order = []

        async def write(number):
            lease = await queue.acquire(EVERYTHING, f"w{number}")
            order.append(number)
            lease.release()

        first = queue.attempt(EVERYTHING, "first")
        before = len(os.listdir("/proc/self/fd"))
        tasks = [asyncio.create_task(write(number)) for number in range(100)]
        await until(lambda: len(holders(queue)) == 101)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        first.release()
        await asyncio.gather(*tasks)
        assert order == list(range(100))
        assert list((tmp_path / "turns").iterdir()) == []
        assert len(os.listdir("/proc/self/fd")) <= before

    run(main())


HOLDS = """
import asyncio, sys
from pathlib import Path
from interlock.disk import Database
from interlock.engine.local.clock import SystemClock
from interlock.workspace import EVERYTHING, LeaseQueue
path = Path(sys.argv[1])
queue = LeaseQueue(Database(path), "ws_1", SystemClock(), path.parent / "turns")
print("begun", flush=True)
asyncio.run(queue.acquire(EVERYTHING, sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    children = []

    def begin(name):
        command = [sys.executable, "-c", HOLDS, str(tmp_path / "interlock.db"), name]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        children.append(child)
        assert child.stdout.readline() == b"begun\n"
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def kill(child):
    child.send_signal(signal.SIGKILL)
    child.wait()


def test_a_killed_holder_is_taken_over_at_once(queue, start, monkeypatch):
    """The death itself wakes who waits: the timer is set to never."""
    monkeypatch.setattr("interlock.workspace.lease._LOOK_S", 1000.0)
    monkeypatch.setattr("interlock.workspace.lease._FIRST_LOOK_S", 1000.0)
    child = start("dead")
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(StoreError, match="dead"):
        queue.attempt(EVERYTHING, "next")

    async def main():
        waiter = asyncio.create_task(queue.acquire(EVERYTHING, "next"))
        await until(lambda: "next" in holders(queue))
        await asyncio.to_thread(kill, child)
        (await waiter).release()

    run(main())
    assert holders(queue) == []


def test_a_killed_waiter_is_passed_over(queue, start):
    first = queue.attempt(EVERYTHING, "first")
    second, third = start("second"), start("third")
    run(until(lambda: len(holders(queue)) == 3))
    dead = second if holders(queue)[1] == "second" else third
    alive = third if dead is second else second
    kill(dead)
    first.release()
    assert alive.stdout.readline() == b"held\n"
    kill(alive)
    queue.attempt(EVERYTHING, "last").release()


def test_a_process_that_got_the_number_of_a_dead_one_does_not_count(database, queue):
    queue.attempt(EVERYTHING, "one")
    database.execute("update workspace_turns set started = '1'")
    queue.attempt(EVERYTHING, "two").release()


def test_a_holder_elsewhere_counts_until_its_expiry(database):
    clock = FakeClock()
    queue = LeaseQueue(database, "ws_1", clock, None)
    first = queue.attempt(EVERYTHING, "one")
    database.execute("update workspace_turns set place = 'another boot', started = '1'")
    clock.advance(59)
    with pytest.raises(StoreError):
        queue.attempt(EVERYTHING, "two")
    clock.advance(2)
    queue.attempt(EVERYTHING, "two").release()
    with pytest.raises(StoreError):  # and it learns of that
        first.renew()


def test_a_living_holder_here_does_not_expire(database):
    clock = FakeClock()
    queue = LeaseQueue(database, "ws_1", clock, None)
    queue.attempt(EVERYTHING, "one")
    clock.advance(3600)
    with pytest.raises(StoreError):
        queue.attempt(EVERYTHING, "two")


def test_who_was_taken_for_dead_while_waiting_gets_in_line_again(database, queue):
    async def main():
        first = queue.attempt(EVERYTHING, "one")
        second = asyncio.create_task(queue.acquire(EVERYTHING, "two"))
        await until(lambda: len(holders(queue)) == 2)
        database.execute("delete from workspace_turns where holder = 'two'")
        await until(lambda: len(holders(queue)) == 2)
        assert not second.done()
        first.release()
        (await second).release()

    run(main())


def contend(path, name, log, rounds):
    database = Database(path)
    queue = LeaseQueue(database, "ws_1", SystemClock(), path.parent / "turns")

    async def go():
        for _ in range(rounds):
            lease = await queue.acquire(EVERYTHING, name)
            with open(log, "ab", buffering=0) as file:
                file.write(b"(")
                time.sleep(0.001)
                file.write(b")")
            lease.release()

    asyncio.run(go())
    database.close()


def test_processes_never_hold_it_together(queue, tmp_path):
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    racers = [spawn.Process(target=contend, args=(tmp_path / "interlock.db", f"p{i}", log, 15)) for i in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert log.read_bytes() == b"()" * 45
    assert holders(queue) == []
