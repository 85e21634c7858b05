"""Waiting: woken by whoever answers, in any process; by the clock when time is over; by a slow look when a touch is lost."""

import asyncio
import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interlock.approvals import Approver, HoldRequest, Waiter, WakeFile
from interlock.approvals import wait as wait_module
from interlock.model.errors import StoreError, UsageError

sys.path.insert(0, str(Path(__file__).parent))
import approvals_racers as racers

ALICE = Approver(id="alice")


class Desk:
    """A store and a waiter on real clocks; `answer` answers as another process on the same database would."""

    def __init__(self, directory):
        self.path = directory / "interlock.db"
        self.store = racers.open_store(self.path)
        self.other = racers.open_store(self.path)
        self.waiter = Waiter(self.store, WakeFile(directory / "wake"))

    def ask(self, **fields):
        return self.store.ask(HoldRequest(**{"agent": "a", "summary": "s", "digest": "d", **fields}))

    def answer(self, hold, decision="approve"):
        return self.other.vote(hold.id, ALICE, "cli", decision, digest=hold.digest)


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.waiter.close()
    desk.store.database.close()
    desk.other.database.close()


async def started(coroutine):
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0.01)
    assert not task.done()
    return task


def test_an_answer_wakes_who_waits(desk):
    async def main():
        hold = desk.ask()
        task = await started(desk.waiter.wait_answered(hold.id))
        assert desk.waiter.notified
        desk.answer(hold)
        assert (await task).status == "approved"
        desk.waiter.close()
        assert not desk.waiter.notified

    asyncio.run(main())


def test_an_answer_from_another_process(desk):
    async def main():
        hold = desk.ask()
        task = await started(desk.waiter.wait_answered(hold.id))
        process = subprocess.Popen(
            [sys.executable, racers.__file__, "race", str(desk.path), "deny"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        process.communicate(f"{hold.id} {hold.digest} 0\n".encode())
        assert process.returncode == 0
        assert (await task).status == "denied"

    asyncio.run(main())


def test_a_question_that_is_answered_already_is_not_waited_for(desk):
    hold = desk.ask()
    desk.answer(hold)
    assert asyncio.run(desk.waiter.wait_answered(hold.id)).status == "approved"


def test_time_over_is_an_answer_and_is_written_down(desk):
    hold = desk.ask(ttl_ms=50)
    answer = asyncio.run(desk.waiter.wait_answered(hold.id))
    assert answer.status == "expired"
    assert answer.decision_reason == "approval_expired"
    assert [r.event for r in desk.other.audit.records(hold.id)] == ["asked", "expired"]


@pytest.mark.parametrize("lost", ["touch", "inotify"])
def test_without_notification_it_is_seen_all_the_same(desk, monkeypatch, lost):
    if lost == "touch":
        desk.other._changed = lambda: None
    else:
        monkeypatch.setattr(wait_module, "watch_directory", lambda _path: None)
    monkeypatch.setattr(wait_module, "POLL_S", 0.1)

    async def main():
        hold = desk.ask()
        task = await started(desk.waiter.wait_answered(hold.id))
        assert desk.waiter.notified == (lost == "touch")
        desk.answer(hold)
        assert (await task).status == "approved"

    asyncio.run(main())


def test_a_cancelled_caller_withdraws_its_question(desk):
    async def main():
        hold = desk.ask()
        task = await started(desk.waiter.wait_answered(hold.id))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert desk.other.get(hold.id).status == "cancelled"
        assert desk.answer(hold).code == "already_resolved"

    asyncio.run(main())


def test_a_caller_cancelled_too_late_changes_nothing(desk):
    async def main():
        hold = desk.ask()
        task = await started(desk.waiter.wait_answered(hold.id))
        desk.answer(hold)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert desk.store.get(hold.id).status == "approved"

    asyncio.run(main())


def test_two_may_wait_for_one_question(desk):
    async def main():
        hold = desk.ask()
        tasks = [await started(desk.waiter.wait_answered(hold.id)) for _ in range(2)]
        desk.answer(hold)
        assert [(await t).status for t in tasks] == ["approved", "approved"]

    asyncio.run(main())


def test_two_hundred_holds_at_once(desk):
    async def main():
        holds = [desk.ask(summary=str(n)) for n in range(200)]
        tasks = [asyncio.create_task(desk.waiter.wait_answered(h.id)) for h in holds]
        await asyncio.sleep(0)

        def answer_all():
            for n, hold in enumerate(reversed(holds)):
                desk.answer(hold, "approve" if n % 2 else "deny")

        await asyncio.to_thread(answer_all)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert [a.status for a in answers] == ["approved", "denied"] * 100
        assert [a.id for a in answers] == [h.id for h in holds]

    asyncio.run(main())


def test_waiting_takes_no_processor_time(desk):
    async def main():
        hold = desk.ask()
        task = await started(desk.waiter.wait_answered(hold.id))
        before = time.process_time()
        await asyncio.sleep(1.5)
        used = time.process_time() - before
        desk.answer(hold)
        await task
        return used

    assert asyncio.run(main()) < 0.2


def test_an_unknown_question_is_not_waited_for(desk):
    with pytest.raises(UsageError) as caught:
        asyncio.run(desk.waiter.wait_answered("hold_x"))
    assert caught.value.code == "not_found"


def test_a_database_that_fails_is_reported_to_everyone_who_waits(desk, monkeypatch):
    async def main():
        holds = [desk.ask(), desk.ask()]
        tasks = [await started(desk.waiter.wait_answered(h.id)) for h in holds]

        def fail(_ids):
            raise StoreError("the disk is gone")

        monkeypatch.setattr(desk.store, "answered", fail)
        desk.answer(holds[0])
        for task in tasks:
            with pytest.raises(StoreError):
                await task

    asyncio.run(main())


def test_a_locked_database_delays_an_answer_and_loses_none(desk, monkeypatch):
    async def main():
        answered, expired = desk.ask(), desk.ask(ttl_ms=50)
        tasks = [await started(desk.waiter.wait_answered(h.id)) for h in (answered, expired)]
        looks, look = [], desk.store.answered

        def locked(*ids):
            looks.append(ids)
            if len(looks) < 3 or not ids:  # reading works again after a while, writing never
                raise StoreError("the database is locked by another process", code="database_locked")
            return look(*ids)

        monkeypatch.setattr(desk.store, "answered", locked)
        monkeypatch.setattr(desk.store, "expire", locked)
        desk.answer(answered)
        return [(await asyncio.wait_for(task, 20)).status for task in tasks]

    assert asyncio.run(main()) == ["approved", "expired"]


def test_one_waiter_serves_one_loop_at_a_time(desk):
    hold = desk.ask(ttl_ms=30)
    assert asyncio.run(desk.waiter.wait_answered(hold.id)).status == "expired"
    hold = desk.ask(ttl_ms=30)
    assert asyncio.run(desk.waiter.wait_answered(hold.id)).status == "expired"


def test_a_forgotten_waiter_leaves_no_descriptor_open(desk):
    def watches():
        # The descriptor that lists the directory is gone by the time its link would be read.
        fds = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
        return sum(os.readlink(fd) == "anon_inode:inotify" for fd in fds if fd.is_symlink())

    before = watches()
    for _ in range(3):
        waiter = Waiter(desk.store, WakeFile(desk.path.parent / "wake"))
        assert asyncio.run(waiter.wait_answered(desk.ask(ttl_ms=5).id)).status == "expired"
        del waiter
        gc.collect()
    assert watches() == before


def test_a_thousand_questions_are_looked_at_together(desk):
    with desk.store.database.transaction():
        holds = [desk.ask(summary=str(n)) for n in range(1000)]
    for hold in holds[::100]:
        desk.answer(hold)
    assert {h.id for h in desk.store.answered([h.id for h in holds])} == {h.id for h in holds[::100]}


def test_a_waiter_is_not_shared_by_two_loops(desk):
    async def main():
        hold = desk.ask()
        task = await started(desk.waiter.wait_answered(hold.id))
        with pytest.raises(UsageError):
            await asyncio.to_thread(asyncio.run, desk.waiter.wait_answered(hold.id))
        desk.answer(hold)
        assert (await task).status == "approved"

    asyncio.run(main())


def test_where_there_is_no_inotify_there_is_no_error(tmp_path):
    assert wait_module.watch_directory(tmp_path / "missing") is None
