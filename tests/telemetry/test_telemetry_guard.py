"""The resource guard, driven by made-up samples and a clock that does not move."""

import asyncio
from typing import Any

import pytest

from interlock.telemetry import GuardLimits, Reading, ResourceGuard, Snapshot
from interlock.telemetry.snapshot import Processes
from interlock.testing.clock import FakeClock

GIB = 2**30


class Machine:
    """A source of samples that a test sets."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.values: dict[str, Any] = {
            "cpu_percent": 10.0, "own_cpu_percent": 0.0, "memory_total_bytes": 100 * GIB, "memory_used_bytes": 10 * GIB,
            "own_memory_bytes": 0, "disk_percent": 10.0, "load": (9.0, 9.0, 9.0), "processes": Processes(),
        }  # fmt: skip
        self.asked = 0
        self.sample = self.take()

    def take(self, **values: Any) -> Snapshot:
        self.values |= values
        self.sample = Snapshot(ts=self.clock.now_us(), mono_ns=self.clock.mono_ns(), cpus=4, **self.values)
        return self.sample

    def latest(self) -> Snapshot:
        self.asked += 1
        return self.sample


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def machine(clock: FakeClock) -> Machine:
    return Machine(clock)


@pytest.fixture
def guard(machine: Machine, clock: FakeClock) -> ResourceGuard:
    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    return ResourceGuard(GuardLimits(), machine, clock, sleep)


def run(guard: ResourceGuard, machine: Machine, seconds: int, **values: Any) -> Reading | None:
    """Let that many seconds pass with these values, one sample each; the last verdict."""
    verdict = guard.check()
    for _ in range(seconds):
        machine.clock.advance(1)
        machine.take(**values)
        verdict = guard.check()
    return verdict


def test_a_machine_at_its_limits_is_fine(guard: ResourceGuard, machine: Machine) -> None:
    at = {"cpu_percent": 80.0, "memory_used_bytes": 80 * GIB, "disk_percent": 90.0, "processes": Processes(zombies=10)}
    assert run(guard, machine, 60, **at) is None


OVER = {
    "cpu": {"cpu_percent": 80.5},
    "memory": {"memory_used_bytes": 80 * GIB + 1},
    "disk": {"disk_percent": 90.1},
    "zombies": {"processes": Processes(zombies=11)},
}


@pytest.mark.parametrize("name", OVER)
def test_each_limit_by_itself(name: str, guard: ResourceGuard, machine: Machine) -> None:
    reading = run(guard, machine, 60, **OVER[name])
    assert {key.split("_")[0] for key in reading.as_dict()} == {name}
    assert reading.as_dict()[f"{name}_limit"] == {"cpu": 0.8, "memory": 0.8, "disk": 0.9, "zombies": 10.0}[name]
    assert all(type(value) is float for value in reading.as_dict().values())


def test_a_reading_explains_itself(guard: ResourceGuard, machine: Machine) -> None:
    reading = run(guard, machine, 60, cpu_percent=93.0, processes=Processes(zombies=12))
    assert (
        reading.describe()
        == "cpu is at 93 % (30 s average 93 %), the limit is 80 %; zombies are at 12, the limit is 10"
    )
    assert reading.as_dict() == {
        "cpu": 0.93, "cpu_average": 0.93, "cpu_limit": 0.8, "zombies": 12.0, "zombies_limit": 10.0,
    }  # fmt: skip


def test_a_short_peak_stops_nobody(guard: ResourceGuard, machine: Machine) -> None:
    run(guard, machine, 40)
    assert run(guard, machine, 20, cpu_percent=100.0) is None, "20 s at 100 % after 10 s at 10 %: 70 % on average"
    assert run(guard, machine, 5, cpu_percent=100.0) is not None


def test_a_high_average_alone_stops_nobody(guard: ResourceGuard, machine: Machine) -> None:
    run(guard, machine, 40)
    run(guard, machine, 23, cpu_percent=100.0)
    assert guard.check() is None
    assert run(guard, machine, 1, cpu_percent=60.0) is None


def test_once_over_it_takes_a_cool_down_of_five_seconds(guard: ResourceGuard, machine: Machine) -> None:
    assert run(guard, machine, 60, cpu_percent=100.0) is not None
    assert run(guard, machine, 5, cpu_percent=10.0) is not None
    assert run(guard, machine, 1, cpu_percent=90.0) is not None, "and it starts anew with each sample over the limit"
    assert run(guard, machine, 5, cpu_percent=10.0) is not None
    assert run(guard, machine, 1, cpu_percent=10.0) is None


def test_our_own_load_does_not_count(guard: ResourceGuard, machine: Machine) -> None:
    ours = {
        "cpu_percent": 100.0, "own_cpu_percent": 25.0, "memory_used_bytes": 95 * GIB, "own_memory_bytes": 20 * GIB,
        "processes": Processes(zombies=15, own_zombies=5),
    }  # fmt: skip
    assert run(guard, machine, 60, **ours) is None
    assert run(guard, machine, 60, own_cpu_percent=10.0) is not None


def test_cpu_is_not_judged_before_our_own_part_is_known(guard: ResourceGuard, machine: Machine) -> None:
    assert run(guard, machine, 60, cpu_percent=100.0, own_cpu_percent=None) is None


def test_a_fresh_start_asks_the_kernel_whether_the_machine_was_busy_before(
    guard: ResourceGuard, machine: Machine
) -> None:
    assert run(guard, machine, 3, cpu_percent=100.0, load=(0.4, 0.1, 0.1)) is None, (
        "a tenth of four CPUs in the last minute"
    )


def test_a_machine_that_was_busy_before_is_over_within_seconds(guard: ResourceGuard, machine: Machine) -> None:
    assert run(guard, machine, 3, cpu_percent=100.0, load=(8.0, 8.0, 8.0)) is None, "10 % in the first sample"
    assert run(guard, machine, 4, cpu_percent=100.0) is not None


def test_what_the_machine_does_not_tell_is_not_judged(guard: ResourceGuard, machine: Machine) -> None:
    measures = ("cpu_percent", "memory_total_bytes", "memory_used_bytes", "disk_percent", "load", "processes")
    nothing: dict[str, Any] = dict.fromkeys(measures)
    assert run(guard, machine, 5, **nothing) is None


def test_the_verdict_is_worked_out_once_a_sample(guard: ResourceGuard, machine: Machine) -> None:
    reading = run(guard, machine, 60, disk_percent=95.0)
    for _ in range(100):
        assert guard.check() is reading
    assert len(guard._windows["disk"]) <= 31


def test_waiting_for_a_machine_that_is_fine_does_not_wait(guard: ResourceGuard, clock: FakeClock) -> None:
    before = clock.mono_ns()
    assert asyncio.run(guard.wait(on_wait=lambda reading: pytest.fail("there was nothing to wait for"))) is None
    assert clock.mono_ns() == before


def test_waiting_ends_when_the_machine_recovers(machine: Machine, clock: FakeClock) -> None:
    async def sleep(seconds: float) -> None:
        clock.advance(seconds)
        machine.take(disk_percent=50.0)

    guard = ResourceGuard(GuardLimits(), machine, clock, sleep)
    run(guard, machine, 60, disk_percent=99.0)
    began = clock.mono_ns()
    told: list[Reading] = []
    assert asyncio.run(guard.wait(30_000, told.append)) is None
    assert 5e9 <= clock.mono_ns() - began < 6e9
    assert [reading.as_dict()["disk"] for reading in told] == [0.99]


@pytest.mark.parametrize("max_wait_ms", [0, 100, 30_000])
def test_waiting_gives_up_after_the_time_that_was_given(
    max_wait_ms: int, guard: ResourceGuard, machine: Machine, clock: FakeClock
) -> None:
    run(guard, machine, 60, disk_percent=99.0)
    began = clock.mono_ns()
    reading = asyncio.run(guard.wait(max_wait_ms))
    assert reading.as_dict()["disk"] == 0.99
    assert clock.mono_ns() - began == max_wait_ms * 1_000_000


def test_other_limits(machine: Machine, clock: FakeClock) -> None:
    guard = ResourceGuard(GuardLimits(cpu=0.05, zombies=0), machine, clock)
    reading = run(guard, machine, 40, processes=Processes(zombies=1))
    assert set(reading.as_dict()) == {"cpu", "cpu_average", "cpu_limit", "zombies", "zombies_limit"}
