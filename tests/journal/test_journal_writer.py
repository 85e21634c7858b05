"""Appending, group commit, durability levels, and what happens when the disk says no."""

from __future__ import annotations

import asyncio
import gc
import stat
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from journaling import RUN, CountingDisk, SlowClock, intent, keep, log, open_writer, run, started, succeeded

from interlock.disk import Disk
from interlock.journal import JournalWriter, read, read_private, scan
from interlock.journal.late_sync import LATE_SYNC
from interlock.model.canonical import digest
from interlock.model.errors import IntegrityError, StoreError, UsageError
from interlock.testing import CrashingDisk, FakeClock


class NamingDisk(Disk):
    """Notes the directories whose names were synced."""

    def __init__(self) -> None:
        self.named: list[Path] = []

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.named.append(path)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / RUN


# -- one writer -----------------------------------------------------------------------------------------------------------


def test_events_are_numbered_from_zero_and_on_disk_after_durable(run_dir: Path):
    with open_writer(run_dir) as writer:
        assert [writer.append(started()), writer.append(intent("a"))] == [0, 1]
        assert scan(run_dir).events == 0
        run(writer.durable())
        assert scan(run_dir).events == 2
        assert writer.head() == scan(run_dir).head


def test_a_run_is_taken_up_where_it_stood_and_each_writer_is_counted(run_dir: Path):
    for create in (True, False, False):
        with open_writer(run_dir, create=create) as writer:
            writer.append(log("x"))
    open_writer(run_dir, create=False).close()  # wrote nothing: not counted
    status = scan(run_dir)
    assert (status.events, status.head.epoch) == (3, 3)
    assert [event.seq for event in read(run_dir)] == [0, 1, 2]


def test_files_of_a_run_are_for_its_user_only(run_dir: Path):
    with open_writer(run_dir) as writer:
        keep(writer, "secret", "***")
        writer.append(log("x"))
    modes = {p.relative_to(run_dir).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in run_dir.rglob("*")}
    assert modes == {
        "head.dsse.json": 0o600, "journal.ndjson": 0o600, "lock": 0o600, "private": 0o700, "private/originals-0001.pack": 0o600,
    }  # fmt: skip
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700


def test_a_second_writer_is_refused_and_told_the_pid(run_dir: Path):
    program = (
        "import sys; from pathlib import Path; from interlock.disk import Disk; from interlock.journal import JournalWriter\n"
        "from interlock.testing import FakeClock; d = Path(sys.argv[1])\n"
        "w = JournalWriter.open(d, run_id=d.name, disk=Disk(), clock=FakeClock(), create=True)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(StoreError, match=f"process {other.pid}") as caught:
            open_writer(run_dir, create=False)
        assert caught.value.code == "run_locked"
        other.kill()
    open_writer(run_dir, create=False).close()  # a dead writer holds nothing


def test_a_second_writer_in_the_same_process_is_refused_too(run_dir: Path):
    with open_writer(run_dir), pytest.raises(StoreError) as caught:
        open_writer(run_dir, create=False)
    assert caught.value.code == "run_locked"


def test_the_lock_says_when_only_a_child_of_the_writer_is_left(run_dir: Path):
    with open_writer(run_dir):
        (run_dir / "lock").write_text("1 0\n")  # as if pid 1 had been another process when the lock was taken
        with pytest.raises(StoreError, match="a child process of process 1"):
            open_writer(run_dir, create=False)


def test_creating_a_run_twice_and_taking_up_a_run_that_is_not_there_are_errors(run_dir: Path):
    with pytest.raises(UsageError) as caught:
        open_writer(run_dir, create=False)
    assert caught.value.code == "not_found"
    open_writer(run_dir).close()
    with pytest.raises(UsageError) as caught:
        open_writer(run_dir)
    assert caught.value.code == "run_exists"
    open_writer(run_dir, create=False).close()  # the refusal left no lock behind


def test_a_directory_with_another_name_than_the_run_is_refused(run_dir: Path):
    with pytest.raises(UsageError):
        JournalWriter.open(run_dir, run_id="run_x", disk=Disk(), clock=FakeClock(), create=True)


def test_a_torn_or_damaged_journal_is_not_written(run_dir: Path):
    path = run_dir / "journal.ndjson"
    with open_writer(run_dir) as writer:
        for _ in range(2):
            writer.append(log("x"))
            writer.flush()
    data = path.read_bytes()
    for content, code in ((data[:-1], "needs_recovery"), (b"?" + data[1:], "journal_corrupt")):
        path.write_bytes(content)
        with pytest.raises(IntegrityError) as caught:
            open_writer(run_dir, create=False)
        assert caught.value.code == code
        assert path.read_bytes() == content


def test_after_close_nothing_is_accepted_and_a_second_close_does_nothing(run_dir: Path):
    writer = open_writer(run_dir)
    writer.append(log("x"))
    writer.close()
    writer.close()
    assert scan(run_dir).events == 1
    with pytest.raises(StoreError, match="closed"):
        writer.append(log("y"))


# -- what is kept ---------------------------------------------------------------------------------------------------------


def test_a_value_that_needs_no_redaction_is_only_in_the_event(run_dir: Path):
    with open_writer(run_dir) as writer:
        kept = keep(writer, {"a": 1})
        writer.append(log("x"))
    assert (kept.digest, kept.bytes, kept.private) == (digest("value", {"a": 1}), 7, False)
    assert not (run_dir / "private").exists()


def test_the_original_of_a_redacted_value_goes_to_private_and_only_there(run_dir: Path):
    with open_writer(run_dir) as writer:
        event = succeeded("a")
        event.output = keep(writer, {"token": "hunter2"}, {"token": "<redacted>"})
        writer.append(event)
    [found] = read(run_dir)
    assert found.output.view == {"token": "<redacted>"}
    assert found.output.private
    assert read_private(run_dir, found.output.digest) == b'{"token":"hunter2"}'
    assert b"hunter2" not in (run_dir / "journal.ndjson").read_bytes()


def test_a_view_equal_to_the_original_does_not_count_as_redacted_but_1_is_not_true(run_dir: Path):
    with open_writer(run_dir) as writer:
        assert not keep(writer, {"a": 1}, {"a": 1}).private
        assert keep(writer, {"a": 1}, {"a": True}).private


@pytest.mark.parametrize(("size", "inline"), [(64 * 1024 - 2, True), (64 * 1024 - 1, False)])
def test_a_value_is_inline_up_to_64_kib(run_dir: Path, size: int, inline: bool):
    with open_writer(run_dir) as writer:
        event = succeeded("a")
        event.output = kept = keep(writer, "x" * size)
        writer.append(event)
    assert (kept.view is not None, kept.private) == (inline, not inline)
    assert (read_private(run_dir, kept.digest) is None) == inline
    assert next(read(run_dir)).output.view == ("x" * size if inline else None)


def test_a_large_redacted_view_is_left_out_too(run_dir: Path):
    with open_writer(run_dir) as writer:
        kept = keep(writer, ["s"], ["y" * 70_000])
    assert (kept.view, kept.private) == (None, True)


def test_what_the_tool_does_to_its_value_later_does_not_reach_the_journal(run_dir: Path):
    with open_writer(run_dir) as writer:
        value = {"a": [1]}
        event = succeeded("a")
        event.output = keep(writer, value)
        writer.append(event)
        value["a"].append(2)
    [found] = read(run_dir)
    assert found.output.view == {"a": [1]}
    assert digest("value", found.output.view) == found.output.digest


def test_a_lone_surrogate_in_a_tools_text_does_not_stop_the_run(run_dir: Path):
    with open_writer(run_dir) as writer:
        event = succeeded("b")
        event.output, event.posture = keep(writer, [1]), {"layer": "\ud800"}
        for each in (log("name \udc80"), event, log("whole")):
            writer.append(each)
    first, second, third = read(run_dir)
    assert (first.message, second.posture, second.output.view, third.message) == (
        "name ?", {"layer": "?"}, [1], "whole",
    )  # fmt: skip


# -- durability -----------------------------------------------------------------------------------------------------------


def test_off_writes_nothing_at_all_and_still_numbers(run_dir: Path):
    with open_writer(run_dir, durability="off") as writer:
        assert [writer.append(log("x")), writer.append(log("y"))] == [0, 1]
        keep(writer, "secret", "***")
        run(writer.durable())
    assert not run_dir.exists()


def test_batch_is_written_at_once_and_synced_soon_without_being_asked(run_dir: Path):
    synced = threading.Event()

    class Telling(CountingDisk):
        def sync_data(self, fd: int) -> None:
            super().sync_data(fd)
            synced.set()

    with open_writer(run_dir, disk=Telling(), durability="batch") as writer:
        writer.append(intent("a"))
        run(writer.durable())
        assert scan(run_dir).events == 1
        assert synced.wait(10)


def test_many_journals_in_batch_share_one_thread_and_each_is_synced_once_with_its_names(tmp_path: Path):
    disk, threads = NamingDisk(), set()

    def sync_data(fd: int) -> None:
        threads.add(threading.current_thread().name)
        Disk.sync_data(disk, fd)

    disk.sync_data = sync_data  # type: ignore[method-assign]
    (tmp_path / "runs").mkdir()
    names = [f"{RUN[:-1]}{number}" for number in range(4)]
    writers = [
        JournalWriter.open(
            tmp_path / "runs" / name, run_id=name, disk=disk, clock=FakeClock(), durability="batch", create=True
        )
        for name in names
    ]
    assert disk.named == []  # nothing of it is promised yet
    for writer in writers:
        writer.append(intent("a"))
        run(writer.durable())
    late = threading.Event()
    LATE_SYNC.schedule(late.set)
    assert late.wait(10)
    assert threads == {"interlock-late-sync"}
    assert disk.named == [path for name in names for path in (tmp_path / "runs", tmp_path / "runs" / name)]
    for writer in writers:
        writer.close()  # everything is on disk: nothing to sync, no thread to wait for
    assert len(disk.named) == 2 * len(names)
    assert threads == {"interlock-late-sync"}


def test_the_end_of_a_journal_in_batch_is_on_disk_without_waiting_for_the_late_sync(run_dir: Path):
    disk = CountingDisk()
    writer = open_writer(run_dir, disk=disk, durability="batch")
    writer.append(intent("a"))
    writer.flush(synced=False)
    assert scan(run_dir).events == 1
    writer.flush()
    assert disk.syncs == 1
    writer.close()
    late = threading.Event()
    LATE_SYNC.schedule(late.set)
    assert late.wait(10)
    assert disk.syncs == 1  # the file was closed by then


def test_a_failed_sync_in_the_background_ends_the_journal(run_dir: Path):
    class Failing(Disk):
        def sync_data(self, fd: int) -> None:
            raise StoreError("fdatasync: Input/output error", code="disk_failed")

    writer = open_writer(run_dir, disk=Failing(), durability="batch")
    writer.append(intent("a"))
    run(writer.durable())
    recorded = threading.Event()
    LATE_SYNC.schedule(recorded.set)  # after the sync of the journal
    assert recorded.wait(10)
    with pytest.raises(StoreError) as caught:
        writer.append(intent("b"))
    assert caught.value.code == "disk_failed"
    with pytest.raises(StoreError):
        writer.close()


def test_a_durable_event_costs_one_write_and_one_sync_and_a_redacted_one_two(run_dir: Path):
    disk = CountingDisk()
    with open_writer(run_dir, disk=disk) as writer:
        keep(writer, "a", "*")
        writer.append(log("opens the pack"))
        writer.flush()
        for view, expected in (("s", (1, 1)), ("*", (2, 2))):
            disk.writes = disk.syncs = 0
            event = succeeded("a")
            event.output = keep(writer, "s", view)
            writer.append(event)
            run(writer.durable())
            assert (disk.writes, disk.syncs) == expected


# -- group commit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [FakeClock, SlowClock], ids=["on the loop", "on the thread"])
def test_everybody_who_waits_shares_a_flush(run_dir: Path, clock: type[FakeClock]):
    disk = CountingDisk()

    async def work(writer: JournalWriter, name: str) -> None:
        for number in range(10):
            writer.append(intent(name, number))
            await writer.durable()
            assert writer.head().seq >= number

    async def main(writer: JournalWriter) -> None:
        await asyncio.gather(*(work(writer, f"a{i}") for i in range(32)))

    with open_writer(run_dir, disk=disk, clock=clock()) as writer:
        disk.syncs = 0
        run(main(writer))
        assert disk.syncs <= 3 * 10
    assert scan(run_dir).events == 320


@pytest.mark.parametrize("clock", [FakeClock, SlowClock], ids=["on the loop", "on the thread"])
def test_durable_returns_only_when_the_own_event_is_on_disk(run_dir: Path, clock: type[FakeClock]):
    async def work(writer: JournalWriter, name: str, wait: int) -> None:
        for _ in range(wait):
            await asyncio.sleep(0)
        seq = writer.append(intent(name))
        await writer.durable()
        assert scan(run_dir).events > seq

    async def main(writer: JournalWriter) -> None:
        await asyncio.gather(*(work(writer, f"a{i}", i % 7) for i in range(50)))

    with open_writer(run_dir, clock=clock()) as writer:
        run(main(writer))


@pytest.mark.parametrize("clock", [FakeClock, SlowClock], ids=["on the loop", "on the thread"])
def test_kick_flushes_what_nobody_waits_for(run_dir: Path, clock: type[FakeClock]):
    async def main(writer: JournalWriter) -> None:
        for count in (1, 2, 3):
            writer.append(log("x"))
            writer.kick(asyncio.get_running_loop())
            while scan(run_dir).events < count:
                await asyncio.sleep(0.001)
        for _ in range(20):  # while a flush is under way, too
            writer.append(log("y"))
            writer.kick(asyncio.get_running_loop())
            await asyncio.sleep(0)
        while scan(run_dir).events < 23:
            await asyncio.sleep(0.001)

    with open_writer(run_dir, clock=clock()) as writer:
        run(main(writer))


@pytest.mark.parametrize("clock", [FakeClock, SlowClock], ids=["on the loop", "on the thread"])
def test_a_cancelled_waiter_takes_nobody_along(run_dir: Path, clock: type[FakeClock]):
    async def work(writer: JournalWriter, name: str) -> None:
        writer.append(intent(name))
        await writer.durable()

    async def main(writer: JournalWriter) -> None:
        await work(writer, "first")
        tasks = [asyncio.create_task(work(writer, f"a{i}")) for i in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(r, asyncio.CancelledError) for r in results].count(True) <= 1
        assert [r for r in results if isinstance(r, Exception)] == []

    with open_writer(run_dir, clock=clock()) as writer:
        run(main(writer))
    assert scan(run_dir).events == 11


@pytest.mark.parametrize("clock", [FakeClock, SlowClock], ids=["on the loop", "on the thread"])
def test_one_writer_serves_one_loop_after_the_other(run_dir: Path, clock: type[FakeClock]):
    async def abandon(writer: JournalWriter) -> None:
        writer.append(intent("a"))
        writer.kick(asyncio.get_running_loop())
        await asyncio.sleep(0)  # the loop is closed with a flush scheduled or under way

    async def wait(writer: JournalWriter) -> None:
        async def one() -> None:
            writer.append(intent("b"))
            await writer.durable()

        await asyncio.gather(one(), one(), one())

    with open_writer(run_dir, clock=clock()) as writer:
        for _ in range(5):
            run(abandon(writer))
            run(wait(writer))
    assert scan(run_dir).events == 20


def test_a_loop_that_stopped_before_it_flushed_holds_nobody_up(run_dir: Path):
    loop = asyncio.new_event_loop()

    async def stop(writer: JournalWriter) -> None:
        writer.append(log("x"))
        writer.kick(asyncio.get_running_loop())
        loop.stop()
        await asyncio.sleep(60)

    async def wait(writer: JournalWriter) -> None:
        async def one() -> None:
            writer.append(log("y"))
            await writer.durable()

        await asyncio.gather(one(), one())

    with open_writer(run_dir) as writer:
        task = loop.create_task(stop(writer))
        loop.run_forever()
        run(wait(writer))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
    assert scan(run_dir).events == 3


def test_flush_joins_a_flush_that_is_under_way(run_dir: Path):
    async def main(writer: JournalWriter) -> None:
        writer.append(log("teaches the writer that the disk is slow"))
        await writer.durable()
        writer.append(log("x"))
        waiting = asyncio.create_task(writer.durable())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writer.append(log("y"))
        writer.flush()
        assert scan(run_dir).events == 3
        await waiting

    with open_writer(run_dir, clock=SlowClock()) as writer:
        run(main(writer))


def test_memory_does_not_grow_with_the_run(run_dir: Path):
    with open_writer(run_dir, durability="batch") as writer:

        def batch() -> None:
            for _ in range(500):
                event = succeeded("a")
                event.output = keep(writer, "s" * 100, "*")
                writer.append(event)
            writer.flush()

        def used() -> int:
            """Of this file and the journal alone: threads that other tests have left allocate too."""
            gc.collect()
            own = [tracemalloc.Filter(True, place) for place in (__file__, "*/interlock/journal/*")]
            return sum(one.size for one in tracemalloc.take_snapshot().filter_traces(own).statistics("filename"))

        batch()
        tracemalloc.start()
        batch()
        before = used()
        for _ in range(20):
            batch()
        grown = used() - before
        tracemalloc.reset_peak()
        assert sum(1 for _ in read(run_dir)) == 11_000
        peak = tracemalloc.get_traced_memory()[1] - tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert grown < 100_000
    assert peak < 3_000_000  # one batch, where the journal has about 3 MB


# -- the disk says no -----------------------------------------------------------------------------------------------------


def failing(run_dir: Path, operation: str, fault: str, **options: object) -> tuple[JournalWriter, CrashingDisk]:
    """A writer whose next operation of that name fails once."""
    disk = CrashingDisk(fault=fault)
    writer = open_writer(run_dir, disk=disk, **options)

    def step(name: str, halfway: object = lambda: None) -> None:
        if name == operation and disk.at is None:
            disk.at = len(disk.operations)
        CrashingDisk._step(disk, name, halfway)

    disk._step = step
    return writer, disk


@pytest.mark.parametrize("clock", [FakeClock, SlowClock], ids=["on the loop", "on the thread"])
@pytest.mark.parametrize(
    ("operation", "fault", "code"),
    [("write", "full", "disk_full"), ("write", "failed", "disk_failed"), ("sync_data", "failed", "disk_failed")],
)
def test_a_failure_is_final_and_everybody_hears_it(
    run_dir: Path, operation: str, fault: str, code: str, clock: type[FakeClock]
):
    writer, disk = failing(run_dir, operation, fault, clock=clock())

    async def work() -> None:
        writer.append(intent("a"))
        await writer.durable()

    async def main() -> list[object]:
        return await asyncio.gather(*(work() for _ in range(5)), return_exceptions=True)

    errors = run(main())
    assert {getattr(error, "code", error) for error in errors} == {code}
    assert len(set(map(id, errors))) == 1
    made = len(disk.operations)
    for call in (lambda: writer.append(log("x")), lambda: run(writer.durable()), writer.flush, lambda: keep(writer, 1)):
        with pytest.raises(StoreError) as caught:
            call()
        assert caught.value is errors[0]

    async def kick() -> None:
        writer.kick(asyncio.get_running_loop())

    run(kick())
    with pytest.raises(StoreError):
        writer.close()
    assert len(disk.operations) == made  # nothing was tried again
    assert writer.head().seq == -1  # nothing is said to be on disk


@pytest.mark.parametrize("operation", ["write", "sync_data"])
def test_a_flush_that_dies_on_the_thread_leaves_nobody_waiting(run_dir: Path, operation: str):
    writer, _ = failing(run_dir, operation, "crash", clock=SlowClock())

    async def main() -> None:
        writer.append(log("x"))
        writer._file.sync_ns = 1e12  # it has learned that the disk is slow
        with pytest.raises(StoreError):
            await writer.durable()

    run(main())
    with pytest.raises(StoreError):
        writer.close()
    assert writer.head().seq == -1


def test_when_an_original_cannot_be_written_the_event_is_not(run_dir: Path):
    writer, _ = failing(run_dir, "write", "full")
    keep(writer, "secret", "***")
    writer.append(intent("a"))
    with pytest.raises(StoreError) as caught:
        writer.flush()
    assert caught.value.code == "disk_full"
    with pytest.raises(StoreError):
        writer.close()
    assert (run_dir / "journal.ndjson").read_bytes() == b""


def test_a_failure_of_a_flush_that_nobody_waited_for_shows_in_the_next_call(run_dir: Path):
    writer, _ = failing(run_dir, "write", "full")

    async def main() -> None:
        writer.append(log("x"))
        writer.kick(asyncio.get_running_loop())
        await asyncio.sleep(0.01)
        writer.append(log("y"))

    with pytest.raises(StoreError) as caught:
        run(main())
    assert caught.value.code == "disk_full"
    with pytest.raises(StoreError):
        writer.close()


def test_an_event_that_cannot_be_encoded_ends_the_journal_as_our_fault(run_dir: Path):
    writer = open_writer(run_dir)
    event = log("x")
    event.message = object()  # type: ignore[assignment]
    writer.append(event)
    with pytest.raises(StoreError) as caught:
        writer.flush()
    assert caught.value.code == "internal"
    with pytest.raises(StoreError):
        writer.close()
    assert scan(run_dir).events == 0


def test_an_interrupt_in_the_middle_of_a_flush_ends_the_journal(run_dir: Path):
    class Interrupting(Disk):
        def write(self, fd: int, data: bytes) -> None:
            super().write(fd, data)
            if data.startswith(b"{"):
                raise KeyboardInterrupt

    writer = open_writer(run_dir, disk=Interrupting())
    writer.append(log("x"))
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    with pytest.raises(StoreError, match="interrupted"):
        writer.append(log("y"))
    with pytest.raises(StoreError, match="interrupted"):
        writer.close()


def test_the_error_in_flight_is_not_replaced_by_the_journals(run_dir: Path):
    writer, _ = failing(run_dir, "write", "full")
    writer.append(log("x"))
    with pytest.raises(ZeroDivisionError) as caught, writer:
        raise ZeroDivisionError
    assert "could not be closed" in caught.value.__notes__[0]


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        open_writer(tmp_path / "file" / RUN)
