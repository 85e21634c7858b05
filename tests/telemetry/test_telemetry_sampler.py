"""The sampler on this machine and on made-up `/proc` trees: what is there is told, what is hidden says why."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.engine.local.clock import SystemClock
from interlock.telemetry import Sampler, diff, processes, report
from interlock.telemetry.accelerators import accelerators, parse_nvidia_smi
from interlock.telemetry.processes import parse_stat, scan, summarize
from interlock.telemetry.procfs import Absent, control_group_memory, cpu_times, memory, pressure
from interlock.telemetry.snapshot import Snapshot
from interlock.testing.clock import FakeClock

STAT = (
    "{pid} ({name}) {state} {parent} 1 1 0 -1 0 0 0 0 0 {user} {system} {cu} {cs} 20 0 1 0 {start} 1000 {rss} 0 0 0\n"
)


class Proc:
    """A `/proc` and a `/sys` that a test writes."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys = root / "proc", root / "sys"
        self.proc.mkdir()
        self.sys.mkdir()

    def file(self, name: str, text: str) -> None:
        path = self.proc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(
        self,
        pid: int,
        *,
        parent: int = 1,
        name: str = "x",
        state: str = "S",
        ticks: int = 0,
        reaped: int = 0,
        rss: int = 10,
    ) -> None:
        line = STAT.format(
            pid=pid,
            name=name,
            state=state,
            parent=parent,
            user=ticks,
            system=0,
            cu=reaped,
            cs=0,
            start=pid * 7,
            rss=rss,
        )
        self.file(f"{pid}/stat", line)
        self.file(f"{pid}/statm", f"100 {rss} 2 1 0 1 0")

    def busy(self, ticks: int, idle: int) -> None:
        self.file("stat", f"cpu  {ticks} 0 0 {idle} 0 0 0 0 99 99\ncpu0 1 1 1 1\n")


@pytest.fixture
def fake(tmp_path: Path) -> Proc:
    tree = Proc(tmp_path)
    tree.busy(0, 0)
    tree.file("loadavg", "0.50 0.25 0.10 1/100 4242\n")
    tree.file("meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
    for name in ("memory", "io"):
        tree.file(
            f"pressure/{name}", "some avg10=1.50 avg60=0 avg300=0 total=1\nfull avg10=0.50 avg60=0 avg300=0 total=1\n"
        )
    tree.file("pressure/cpu", "some avg10=2.25 avg60=0 avg300=0 total=1\nfull avg10=0.00 avg60=0 avg300=0 total=1\n")
    return tree


def sampler_of(tree: Proc, clock: FakeClock, path: Path = Path("/")) -> Sampler:
    return Sampler(clock, path, proc=tree.proc, sys=tree.sys)


def take(sampler: Sampler) -> Snapshot:
    return sampler._sample(processes=True)


def wait_for(condition: object, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.02)


def test_the_first_sample_is_there_at_once_and_full_ones_follow(tmp_path: Path) -> None:
    sampler = Sampler(SystemClock(), tmp_path, interval_s=0.05)
    try:
        first = sampler.latest()
        assert first.processes.total >= 1
        assert first.memory_total_bytes
        assert first.disk_total_bytes
        assert 0 <= first.disk_percent <= 100
        wait_for(lambda: (s := sampler.latest()).own_cpu_percent is not None and s.cpu_percent is not None)
        full = sampler.latest()
        assert full.processes.total >= 1
        assert full.processes.own >= 1
        assert full.own_memory_bytes > 0
        assert sum(p.rss_bytes for p in full.processes.top_memory) > 0
        assert full.ts > first.ts
    finally:
        sampler.close()
    assert sampler.latest() is sampler.latest(), "the last sample stays"


def test_nothing_starts_before_it_is_asked_and_one_thread_serves_all(tmp_path: Path) -> None:
    sampler = Sampler(SystemClock(), tmp_path, interval_s=60)
    assert sampler._thread is None
    sampler.latest()
    thread = sampler._thread
    sampler.latest()
    assert sampler._thread is thread
    assert thread.daemon
    sampler.close()
    assert not thread.is_alive()


def test_a_snapshot_for_people_has_everything_at_once(tmp_path: Path) -> None:
    sampler = Sampler(SystemClock(), tmp_path)
    now = sampler.snapshot_now()
    assert now.cpu_percent is not None
    assert now.own_cpu_percent is not None
    assert now.processes is not None
    assert sampler._thread is None, "no thread is needed for it"


def test_the_view_is_json_without_what_is_absent(fake: Proc) -> None:
    fake.process(os.getpid())
    sample = take(sampler_of(fake, FakeClock()))
    view = sample.view
    assert msgspec.json.decode(msgspec.json.encode(view))["memory_used_bytes"] == 600 * 1024
    assert "table" not in view
    assert "cpu_percent" not in view
    assert view["absent"]["cpu"] == "needs two samples"
    assert sample.view is view, "made once"


def test_processes_that_appeared_and_vanished_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SCAN_MAX_NS", 30_000_000_000)  # the scan of a busy machine is not cut short
    clock = SystemClock()
    sampler = Sampler(clock, tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        before = sampler.snapshot_now()
        child.communicate(b"\n")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        after = sampler.snapshot_now()
        other.communicate(b"\n")
    change = diff(before, after)
    assert any(line.startswith(f"{child.pid} ") for line in change["vanished"])
    assert any(line.startswith(f"{other.pid} ") for line in change["appeared"])
    assert change["interval_ms"] > 0
    same = diff(after, after)
    assert (same["interval_ms"], same["appeared"], same["vanished"]) == (0, [], [])
    assert set(report(before, after, {"cpu_ms": 1.0})) == {"before", "after", "change", "own"}
    assert "own" not in report(before, after)


def test_the_numbers_of_many_changes_are_exact_and_the_names_bounded(fake: Proc) -> None:
    clock = FakeClock()
    sampler = sampler_of(fake, clock)
    before = take(sampler)
    for pid in range(100, 150):
        fake.process(pid)
    clock.advance(1)
    change = diff(before, take(sampler))
    assert change["appeared"] == [], "the first scan was empty: nothing can be said"
    middle = take(sampler)
    for pid in range(200, 240):
        fake.process(pid, name="new")
    clock.advance(1)
    change = diff(middle, take(sampler))
    assert (change["appeared_count"], len(change["appeared"]), change["vanished_count"]) == (40, 20, 0)


def test_cpu_use_is_the_difference_of_two_samples_and_our_own_part_is_known(fake: Proc) -> None:
    clock = FakeClock()
    me, cpus, hertz = os.getpid(), os.cpu_count(), os.sysconf("SC_CLK_TCK")
    fake.process(me, ticks=1000)
    fake.process(20, parent=me, ticks=500)
    fake.process(21, parent=20, ticks=500)
    fake.process(99, ticks=500)
    fake.busy(1000, 1000)
    sampler = sampler_of(fake, clock)
    assert take(sampler).cpu_percent is None
    clock.advance(10)
    fake.process(me, ticks=1000 + hertz)
    fake.process(21, parent=20, ticks=500 + 2 * hertz)
    fake.process(99, ticks=500 + 4 * hertz)
    fake.busy(1750, 1250)
    sample = take(sampler)
    assert sample.cpu_percent == 75.0
    assert sample.own_cpu_percent == pytest.approx(100 * 3 / 10 / cpus, abs=0.1)
    assert [(p.pid, p.cpu_percent, p.own) for p in sample.processes.top_cpu] == [
        (99, 40.0, False),
        (21, 20.0, True),
        (me, 10.0, True),
    ]


def test_a_child_that_was_waited_for_counts_once(fake: Proc) -> None:
    clock = FakeClock()
    me, hertz = os.getpid(), os.sysconf("SC_CLK_TCK")
    fake.process(me, ticks=0)
    fake.process(20, parent=me, ticks=5 * hertz)
    sampler = sampler_of(fake, clock)
    take(sampler)
    clock.advance(10)
    (fake.proc / "20" / "stat").unlink()
    fake.process(me, ticks=0, reaped=6 * hertz)
    assert take(sampler).own_cpu_percent == pytest.approx(100 * 1 / 10 / os.cpu_count(), abs=0.1)


def test_states_and_whose_zombies_they_are(fake: Proc) -> None:
    me = os.getpid()
    fake.process(me, state="R")
    fake.process(30, parent=me, state="Z")
    fake.process(31, parent=30, state="Z")
    fake.process(32, state="Z")
    fake.process(33, state="D")
    fake.file("34/stat", "rubbish")
    fake.file("35/other", "")
    summary = take(sampler_of(fake, FakeClock())).processes
    assert (summary.total, summary.running, summary.blocked, summary.zombies) == (5, 1, 1, 3)
    assert (summary.own, summary.own_zombies) == (3, 2)
    assert not summary.truncated


def test_a_zombie_of_ours_is_seen_on_the_real_machine() -> None:
    with subprocess.Popen(["true"]) as child:
        wait_for(lambda: Path(f"/proc/{child.pid}/stat").read_text().split(") ")[1].startswith("Z"))
        summary = summarize(scan(Path("/proc"), os.getpid(), SystemClock()), None)
    assert summary.own_zombies >= 1


def test_a_scan_that_takes_too_long_stops_and_says_so(fake: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock.telemetry.processes.PROCESSES_MAX", 10)
    me = os.getpid()
    for pid in range(1000, 1030):
        fake.process(pid)
    fake.process(me)
    summary = take(sampler_of(fake, FakeClock())).processes
    assert summary.truncated
    assert 8 <= summary.total <= 10
    assert summary.own == 1, "our own tree comes first"


def test_a_dear_scan_is_repeated_less_often(fake: Proc) -> None:
    class SlowClock(FakeClock):
        def mono_ns(self) -> int:
            self.advance(0.01)  # each look at the clock costs 10 ms
            return super().mono_ns()

    clock = SlowClock()
    fake.process(os.getpid())
    sampler = sampler_of(fake, clock)
    first = take(sampler)
    clock.advance(1)
    assert take(sampler).table is first.table, "not scanned again: that would be more than 1 % of the time"
    clock.advance(10)
    assert take(sampler).table is not first.table


def test_what_a_container_hides_is_absent_with_a_reason_and_nothing_raises(tmp_path: Path) -> None:
    empty = Proc(tmp_path)
    sample = take(sampler_of(empty, FakeClock(), tmp_path / "gone"))
    assert set(sample.absent) == {"cpu", "load", "memory", "pressure", "disk", "accelerators"}
    assert all(reason for reason in sample.absent.values())
    assert (sample.cpu_percent, sample.memory_percent, sample.disk_percent, sample.load) == (None, None, None, None)
    (tmp_path / "proc").rmdir()
    assert "processes" in take(sampler_of(empty, FakeClock())).absent


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu a b c d e\n", "intr 1\n", "\x00\xff"])
def test_a_damaged_file_is_absent_too(text: str, fake: Proc) -> None:
    for name, measure in (("stat", cpu_times), ("meminfo", memory)):
        fake.file(name, text)
        with pytest.raises(Absent):
            measure(fake.proc)


def test_pressure_is_read_per_resource(fake: Proc) -> None:
    assert pressure(fake.proc) == {
        "cpu.some": 2.25,
        "memory.some": 1.5,
        "memory.full": 0.5,
        "io.some": 1.5,
        "io.full": 0.5,
    }


def test_the_tighter_limit_of_a_control_group_counts(fake: Proc) -> None:
    sampler = sampler_of(fake, FakeClock())
    assert take(sampler).memory_total_bytes == 1000 * 1024
    fake.file("self/cgroup", "0::/box\n")
    group = fake.sys / "fs" / "cgroup" / "box"
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text("memory\n")
    (group / "memory.max").write_text("max\n")
    with pytest.raises(Absent, match="no memory limit"):
        control_group_memory(fake.proc, fake.sys)
    (group / "memory.max").write_text("102400\n")
    (group / "memory.current").write_text("99000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 9000\n")
    sample = take(sampler)
    assert (sample.memory_total_bytes, sample.memory_used_bytes) == (102400, 90000)
    inner = group / "inner"  # whose own limit is far, and whose parent's is not
    inner.mkdir()
    fake.file("self/cgroup", "0::/box/inner\n")
    for name, text in (("controllers", "memory"), ("max", "204800"), ("current", "9000"), ("stat", "anon 1")):
        (inner / f"{'cgroup' if name == 'controllers' else 'memory'}.{name}").write_text(f"{text}\n")
    sample = take(sampler)
    assert (sample.memory_total_bytes, sample.memory_used_bytes) == (102400, 90000)


def test_accelerators_say_what_their_drivers_files_say(fake: Proc) -> None:
    with pytest.raises(Absent):
        accelerators(fake.proc, fake.sys)
    fake.file("driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H200\nIRQ: 1\n")
    device = fake.sys / "class" / "drm" / "card1" / "device"
    device.mkdir(parents=True)
    for name, value in (
        ("gpu_busy_percent", "37\n"),
        ("mem_info_vram_used", "1024\n"),
        ("mem_info_vram_total", "4096\n"),
    ):
        (device / name).write_text(value)
    nvidia, amd = accelerators(fake.proc, fake.sys)
    assert (nvidia.name, nvidia.busy_percent) == ("NVIDIA H200", None)
    assert (amd.busy_percent, amd.memory_used_bytes, amd.memory_total_bytes) == (37, 1024, 4096)
    assert "nvidia-smi" in take(sampler_of(fake, FakeClock())).absent["accelerators"]


def test_nvidia_smi_lines() -> None:
    one, two = parse_nvidia_smi("NVIDIA H200, 12, 100, 200\nNVIDIA X, [N/A], [N/A], 8\n\nrubbish\n")
    assert (one.busy_percent, one.memory_used_bytes, one.memory_total_bytes) == (12.0, 100 * 2**20, 200 * 2**20)
    assert (two.busy_percent, two.memory_used_bytes, two.memory_total_bytes) == (None, None, 8 * 2**20)


@given(st.text(alphabet=st.characters(exclude_characters="\x00\n", exclude_categories=["Cs"]), max_size=15))
def test_any_process_name_is_read(name: str) -> None:
    line = STAT.format(pid=5, name=name, state="R", parent=4, user=1, system=2, cu=3, cs=4, start=99, rss=1)
    row = parse_stat(line.encode())
    assert (row.pid, row.name, row.state, row.parent, row.ticks, row.reaped_ticks, row.start) == (
        5,
        name,
        "R",
        4,
        3,
        7,
        99,
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_a_row_or_a_value_error(data: bytes) -> None:
    try:
        parse_stat(data)
    except ValueError:
        return


def burn(stop: object) -> None:
    while not stop.is_set():
        sum(range(10_000))


def test_the_load_of_our_children_is_our_own() -> None:
    """A real process of ours that is busy shows up as our own CPU use."""
    clock = SystemClock()
    sampler = Sampler(clock, Path("/"))
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    child = context.Process(target=burn, args=(stop,))
    child.start()
    try:
        wait_for(lambda: (sampler.snapshot_now().own_cpu_percent or 0) > 2)
    finally:
        stop.set()
        child.join(timeout=10)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)


def test_a_sampler_that_is_closed_while_it_warms_up_starts_no_thread(tmp_path: Path) -> None:
    """The first sample is taken on a thread of its own, which may come to its end after the runtime was closed."""
    for _ in range(20):
        sampler = Sampler(SystemClock(), tmp_path, interval_s=60)
        sampler.warm_up()
        sampler.close()
    late = Sampler(SystemClock(), tmp_path, interval_s=60)
    late.close()
    late.latest()
    assert late._thread is None
