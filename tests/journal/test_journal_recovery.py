"""After a crash: the torn tail is put aside, what it tells is reported, nothing sealed is lost, nothing is made up."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from journaling import RUN, failed, intent, keep, log, open_writer, run, started, succeeded

from interlock.disk import Disk
from interlock.journal import TornIntent, intents_in_torn_tail, read, read_private, recover, scan
from interlock.model.errors import IntegrityError, StoreError, UsageError
from interlock.model.events import ActionUnknown
from interlock.testing import CrashingDisk, SimulatedCrash


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose last batch (intent b, intent c) lacks the end of its seal."""
    path = tmp_path / RUN
    with open_writer(path) as writer:
        for batch in ([started(), intent("a"), succeeded("a")], [intent("b"), intent("c", 2)]):
            for event in batch:
                writer.append(event)
            writer.flush()
    tear(path, 10)
    return path


def tear(run_dir: Path, count: int) -> None:
    path = run_dir / "journal.ndjson"
    path.write_bytes(path.read_bytes()[:-count])


def test_the_tail_is_moved_and_its_intents_are_reported(run_dir: Path):
    before = (run_dir / "journal.ndjson").read_bytes()
    wanted = (TornIntent("p", "b", 1), TornIntent("p", "c", 2))
    assert intents_in_torn_tail(run_dir) == wanted
    report = recover(run_dir, Disk())
    after = (run_dir / "journal.ndjson").read_bytes()
    assert report.intents == wanted
    assert report.unreadable_lines == 0
    assert report.moved_bytes == len(before) - len(after)
    assert report.status == scan(run_dir)
    assert (report.status.events, report.status.torn) == (3, None)
    header, tail = (run_dir / "journal.torn").read_bytes().split(b"\n", 1)
    assert tail == before[len(after) :] + b"\n"
    assert json.loads(header)["offset"] == len(after)


def test_a_second_recovery_changes_nothing_and_tells_the_same(run_dir: Path):
    first = recover(run_dir, Disk())
    files = {p.name: p.read_bytes() for p in run_dir.iterdir()}
    second = recover(run_dir, Disk())
    assert second.moved_bytes == 0
    assert second.intents == first.intents
    assert {p.name: p.read_bytes() for p in run_dir.iterdir()} == files


def test_an_intent_is_reported_until_the_journal_holds_its_outcome(run_dir: Path):
    recover(run_dir, Disk())
    with open_writer(run_dir, create=False) as writer:
        writer.append(ActionUnknown(ts=1, mono=1, proposal="p", action="b", attempt=1, reason="unknown_outcome"))
        writer.append(succeeded("c", 1))  # another attempt: says nothing about attempt 2
    assert recover(run_dir, Disk()).intents == (TornIntent("p", "c", 2),)


def test_each_torn_tail_is_kept(run_dir: Path):
    recover(run_dir, Disk())
    with open_writer(run_dir, create=False) as writer:
        writer.append(intent("d"))
    tear(run_dir, 1)
    assert [each.action for each in recover(run_dir, Disk()).intents] == ["b", "c", "d"]


def test_lines_that_cannot_be_read_are_counted_because_they_may_have_been_intents(run_dir: Path):
    path = run_dir / "journal.ndjson"
    path.write_bytes(path.read_bytes().replace(b'"action":"b"', b'"action":\0b"'))
    report = recover(run_dir, Disk())
    assert [each.action for each in report.intents] == ["c"]
    assert report.unreadable_lines == 1


def test_a_whole_journal_and_an_empty_one_need_nothing(tmp_path: Path):
    run_dir = tmp_path / RUN
    with open_writer(run_dir) as writer:
        assert scan(run_dir).events == 0
        writer.append(started())
    report = recover(run_dir, Disk())
    assert (report.moved_bytes, report.intents, report.status.events) == (0, (), 1)
    assert not (run_dir / "journal.torn").exists()


def test_a_damaged_journal_is_left_as_it_is(run_dir: Path):
    path = run_dir / "journal.ndjson"
    data = path.read_bytes()
    path.write_bytes(b"?" + data[1:] + b"x" * 9)
    with open_writer(run_dir.with_name("run_b")) as writer:
        for _ in range(2):
            writer.append(log("x"))
            writer.flush()
    other = run_dir.with_name("run_b") / "journal.ndjson"
    other.write_bytes(b"?" + other.read_bytes()[1:] + b"torn")
    before = other.read_bytes()
    with pytest.raises(IntegrityError) as caught:
        recover(other.parent, Disk())
    assert caught.value.code == "journal_corrupt"
    assert other.read_bytes() == before


def test_a_run_with_a_live_writer_is_not_recovered(tmp_path: Path):
    with open_writer(tmp_path / RUN), pytest.raises(StoreError) as caught:
        recover(tmp_path / RUN, Disk())
    assert caught.value.code == "run_locked"


def test_a_run_that_is_not_there(tmp_path: Path):
    with pytest.raises(UsageError):
        recover(tmp_path / RUN, Disk())
    assert not (tmp_path / RUN).exists()


def test_damage_in_the_torn_file_is_reported_and_not_passed_over(run_dir: Path):
    recover(run_dir, Disk())
    path = run_dir / "journal.torn"
    path.write_bytes(path.read_bytes().replace(b'"action":"b"', b'"action":"x"'))
    with pytest.raises(IntegrityError):
        recover(run_dir, Disk())


@pytest.mark.parametrize("fault", ["crash", "full", "failed"])
@pytest.mark.parametrize("survives", [0, 1])
@pytest.mark.parametrize("names", [False, True])
def test_recovery_may_die_at_any_step(tmp_path: Path, fault: str, survives: int, names: bool):
    def torn_run(name: str) -> Path:
        path = tmp_path / name
        with open_writer(path) as writer:
            for batch in ([started()], [intent("b"), intent("c")]):
                for event in batch:
                    writer.append(event)
                writer.flush()
        tear(path, 1)
        return path

    counting = CrashingDisk()
    recover(torn_run("run_count"), counting)
    assert len(counting.operations) > 5
    for at in range(len(counting.operations)):
        path = torn_run(f"run_{at}")
        disk = CrashingDisk(at=at, fault=fault)
        with contextlib.suppress(SimulatedCrash, StoreError):
            recover(path, disk)
        disk.power_loss(survives=lambda n: n * survives, names=names)
        report = recover(path, Disk())
        assert [each.action for each in report.intents] == ["b", "c"], (at, counting.operations)
        assert (path / "journal.torn").read_bytes().count(b'"kind":"torn"') == 1
        assert (report.status.events, report.status.torn) == (1, None)


# -- the writer dies at every operation -----------------------------------------------------------------------------------


def session(run_dir: Path, disk: Disk, told: list[int], durability: str = "full") -> None:
    """A run of two writers. `told` collects the sequence numbers that were acknowledged as durable."""
    for create in (True, False):
        with open_writer(run_dir, disk=disk, create=create, durability=durability) as writer:
            for name in "abc":
                writer.append(intent(name))
                run(writer.durable())
                told.append(writer.head().seq)
                event = succeeded(name)
                event.output = keep(writer, f"secret {name}", "***")
                writer.append(event)
            writer.append(log("last"))
        told.append(writer.head().seq)


@pytest.mark.parametrize("fault", ["crash", "full", "failed"])
@pytest.mark.parametrize(("numerator", "names"), [(0, False), (1, True), (2, True), (3, True)])
def test_whatever_operation_fails_what_was_acknowledged_is_there(
    tmp_path: Path, fault: str, numerator: int, names: bool
):
    counting = CrashingDisk()
    session(tmp_path / "run_count", counting, [])
    for at in range(len(counting.operations)):
        run_dir = tmp_path / f"run_{at}"
        disk, told = CrashingDisk(at=at, fault=fault), [-1]
        with contextlib.suppress(SimulatedCrash, StoreError):
            session(run_dir, disk, told)
        assert len(told) < 9  # it did stop
        disk.power_loss(survives=lambda n: n * numerator // 3, names=names)
        if not (run_dir / "journal.ndjson").exists():
            assert told == [-1]
            continue
        report = recover(run_dir, Disk())
        found = list(read(run_dir))
        where = (at, disk.operations[at])
        assert report.status.head.seq >= told[-1], where
        assert [event.seq for event in found] == list(range(len(found)))
        for event in found:
            if event.seq <= told[-1] and getattr(event, "output", None) is not None:
                assert read_private(run_dir, event.output.digest) is not None, where
        with open_writer(run_dir, create=False) as writer:  # and the run can continue
            writer.append(log("after"))
        assert list(read(run_dir))[-1].message == "after"


def test_a_sync_that_failed_is_not_tried_again_and_nothing_after_it_is_acknowledged(tmp_path: Path):
    counting = CrashingDisk()
    session(tmp_path / "run_count", counting, [])
    for at, name in enumerate(counting.operations):
        if name != "sync_data":
            continue
        disk = CrashingDisk(at=at, fault="failed")
        told: list[int] = [-1]
        with pytest.raises(StoreError):
            session(tmp_path / f"run_{at}", disk, told)
        assert len(disk.operations) == at + 1


# -- a state machine against a simple model -------------------------------------------------------------------------------


class JournalMachine(RuleBasedStateMachine):
    """Writers come, write, flush, die in power losses and are recovered; a list of numbers says what must be there."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(self.tmp.mktemp("machine"))
        self.run_dir = self.root / RUN
        self.disk = CrashingDisk()
        self.writer = open_writer(self.run_dir, disk=self.disk)
        self.appended: list[str] = []  # of this journal, in order
        self.safe = 0  # how many of them are acknowledged
        self.count = 0

    @rule(many=st.integers(1, 4), redacted=st.booleans())
    def append(self, many: int, redacted: bool) -> None:
        for _ in range(many):
            self.count += 1
            event = log(f"{self.count}")
            if redacted:
                keep(self.writer, f"original {self.count}", "***")
            assert self.writer.append(event) == len(self.appended)
            self.appended.append(event.message)

    @rule()
    def flush(self) -> None:
        self.writer.flush()
        self.safe = len(self.appended)

    @rule()
    def durable(self) -> None:
        run(self.writer.durable())
        self.safe = len(self.appended)

    @rule(steps=st.integers(0, 6), thirds=st.integers(0, 3), names=st.booleans(), junk=st.binary(max_size=40))
    def die_and_recover(self, steps: int, thirds: int, names: bool, junk: bytes) -> None:
        self.disk.at = len(self.disk.operations) + steps
        with contextlib.suppress(SimulatedCrash, StoreError):
            self.writer.flush()
            self.safe = len(self.appended)
        with contextlib.suppress(SimulatedCrash, StoreError):
            self.writer.close()
        self.disk.power_loss(survives=lambda n: n * thirds // 3, names=names)
        self.disk = CrashingDisk()
        if not (self.run_dir / "journal.ndjson").exists():  # its name is synced with its first events
            assert self.safe == 0
            self.appended = []
            self.writer = open_writer(self.run_dir, disk=self.disk)
            return
        with (self.run_dir / "journal.ndjson").open("ab") as file:
            file.write(junk)
        report = recover(self.run_dir, self.disk)
        assert self.safe <= report.status.events <= len(self.appended)
        self.appended = self.appended[: report.status.events]
        self.safe = len(self.appended)
        self.writer = open_writer(self.run_dir, disk=self.disk, create=False)

    @rule()
    def hand_over(self) -> None:
        self.writer.close()
        self.safe = len(self.appended)
        self.writer = open_writer(self.run_dir, disk=self.disk, create=False)

    @invariant()
    def what_is_read_is_what_was_written(self) -> None:
        found = [event.message for event in read(self.run_dir)]
        assert found == self.appended[: len(found)]
        assert len(found) >= self.safe

    def teardown(self) -> None:
        with contextlib.suppress(SimulatedCrash, StoreError):
            self.writer.close()


def test_journal_state_machine(tmp_path_factory: pytest.TempPathFactory):
    class Machine(JournalMachine):
        tmp = tmp_path_factory

    case = Machine.TestCase
    case.settings = settings(
        max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case().runTest()


# -- a real process, really killed ----------------------------------------------------------------------------------------

_VICTIM = """
import asyncio, sys, time
from pathlib import Path
from interlock.disk import Disk
from interlock.journal import JournalWriter
from interlock.model.canonical import canonical
from interlock.model.events import ActionIntent, ActionLog
class Clock:
    now_us = mono_ns = staticmethod(time.monotonic_ns)
async def work(writer, name):
    for number in range(100_000):
        writer.keep(canonical(f"{name} {number}"), "***", f"{name} {number}")
        seq = writer.append(ActionIntent(ts=1, mono=1, action=name, attempt=number, tool="t"))
        await writer.durable()
        sys.stdout.write(f"{seq}\\n")
        sys.stdout.flush()
        writer.append(ActionLog(ts=1, mono=1, message="x" * 200))
async def main(run_dir, durability, create):
    writer = JournalWriter.open(run_dir, run_id=run_dir.name, disk=Disk(), clock=Clock(), durability=durability, create=create)
    await asyncio.gather(*(work(writer, f"a{i}") for i in range(4)))
asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "create"))
"""


@pytest.mark.parametrize("durability", ["full", "batch"])
def test_a_process_killed_at_any_moment_loses_nothing_that_it_was_told(tmp_path: Path, durability: str):
    run_dir, told = tmp_path / RUN, -1
    for attempt in range(8):
        arguments = [str(run_dir), durability, "create" if attempt == 0 else "again"]
        with subprocess.Popen([sys.executable, "-c", _VICTIM, *arguments], stdout=subprocess.PIPE) as victim:
            lines = [victim.stdout.readline() for _ in range(5 + 37 * attempt)]
            victim.kill()
            lines += victim.stdout.read().splitlines(keepends=True)
        told = max([told, *(int(line) for line in lines if line.endswith(b"\n"))])
        report = recover(run_dir, Disk())
        assert report.status.head.seq >= told
        assert report.status.head.epoch == attempt + 1
        told = report.status.head.seq
    assert [event.seq for event in read(run_dir)] == list(range(told + 1))


def test_outcomes_of_every_kind_settle_a_torn_intent(run_dir: Path):
    recover(run_dir, Disk())
    with open_writer(run_dir, create=False) as writer:
        writer.append(failed("b"))
        writer.append(succeeded("c", 2))
    assert recover(run_dir, Disk()).intents == ()
