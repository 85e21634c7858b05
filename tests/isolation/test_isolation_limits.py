"""Each limit, exceeded for real, in every profile where it holds; and failures that are the program's own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from interlock.isolation import meter
from interlock.isolation.client import ForkServer
from interlock.isolation.spec import WallSpec

PYTHON = os.path.realpath(sys.executable)
MIB = 1 << 20
OFTEN = {"cpu_ms": 60_000}
"""With a limit of CPU time the tree is measured at every tick, so that a second is enough on a busy machine too."""
FD_SIZES = os.stat("/proc/self/fd").st_size > 0
"""From Linux 6.2 the number of open files can be seen from outside."""


class Cell:
    """Programs behind the walls of one profile, in a workspace of their own."""

    def __init__(self, bench, profile):
        self.bench = bench
        self.profile = profile
        bench.server = ForkServer(
            launch=lambda: {"namespaces": profile == "ns", "groups": True, "shown": [sys.base_prefix]}
        )

    def run(self, *argv, tmp_bytes=64 * MIB, limits=None, **request):
        walls = WallSpec(profile=self.profile, workspace=os.fspath(self.bench.root), tmp_bytes=tmp_bytes)
        made = self.bench.request(*argv, walls=walls.wire(), home=True, limits=limits or {}, **request)
        cwd = os.open(self.bench.root, os.O_PATH)
        try:
            outcome = asyncio.run(self.bench.server.run(made, cwd=cwd))
        finally:
            os.close(cwd)
        assert outcome.report["failure"] is None, outcome.report
        return outcome

    def python(self, code, **changes):
        """Run Python that has printed `partial` before; nothing of that is lost."""
        outcome = self.run(PYTHON, "-I", "-S", "-c", f"print('partial', flush=True)\n{code}", **changes)
        assert outcome.stdout == b"partial\n", outcome
        return outcome.report


@pytest.fixture(params=["ns", "nons", "none"])
def cell(request, bench):
    return Cell(bench, request.param)


@pytest.fixture
def inside(bench):
    return Cell(bench, "ns")


CHILDREN = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = bytearray(b"x") * (60 << 20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


def test_the_memory_of_a_tree_is_limited_not_only_that_of_each_process(cell):
    report = cell.python(CHILDREN, limits={"memory_bytes": 128 * MIB})
    assert report["exceeded"] == "memory"
    assert report["grouped"] or report["stopped"] == "limit"


def test_memory_in_files_that_are_not_mapped_counts_too(cell):
    code = """
import os, time
fd = os.memfd_create("m")
for _ in range(200): os.write(fd, bytes(1 << 20))
time.sleep(60)
"""
    assert cell.python(code, limits={"memory_bytes": 128 * MIB})["exceeded"] == "memory"


def test_shared_memory_that_no_process_is_attached_to_counts_too(inside):
    """Without namespaces a program can make none."""
    code = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for _ in range(4):
    segment = libc.shmget(0, ctypes.c_size_t(50 << 20), 0o1600)
    place = libc.shmat(segment, None, 0)
    ctypes.memset(place, 1, 50 << 20)
    libc.shmdt(ctypes.c_void_p(place))
time.sleep(60)
"""
    assert inside.python(code, limits={"memory_bytes": 128 * MIB})["exceeded"] == "memory"


def test_memory_that_processes_share_counts_once(cell):
    code = """
import os, time
held = bytearray(b"x") * (80 << 20)
children = []
for _ in range(4):
    if (pid := os.fork()) == 0:
        sum(held[::4096]); time.sleep(1.2); os._exit(0)
    children.append(pid)
for pid in children: os.waitpid(pid, 0)
"""
    report = cell.python(code, limits={"memory_bytes": 128 * MIB, **OFTEN})
    assert (report["exceeded"], report["exit_code"]) == (None, 0)


def test_pages_of_a_file_do_not_count_as_memory_of_a_program(cell):
    with open(cell.bench.root / "big", "wb") as file:
        file.truncate(96 * MIB)
    code = """
import mmap, time
with open("big", "rb") as file: m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
for at in range(0, len(m), 4096): m[at]
time.sleep(1.2)
"""
    report = cell.python(code, limits={"memory_bytes": 48 * MIB, **OFTEN})
    assert (report["exceeded"], report["exit_code"]) == (None, 0)


# Children that no parent collects: once they are gone, their time is in no sum.
UNCOLLECTED = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        end = time.process_time() + 0.2
        while time.process_time() < end: pass
        os._exit(0)
    time.sleep(0.2)
"""


def test_the_cpu_time_of_a_tree_is_limited(cell):
    report = cell.python("import os\nos.fork(); os.fork()\nwhile True: pass", limits={"cpu_ms": 500})
    assert (report["stopped"], report["exceeded"]) == ("limit", "cpu")


def test_the_cpu_time_of_children_that_no_one_collects_counts(inside):
    report = inside.python(UNCOLLECTED, limits={"cpu_ms": 500})
    assert (report["stopped"], report["exceeded"]) == ("limit", "cpu")


def test_a_program_that_waits_uses_no_cpu_time(inside):
    assert inside.python("import time; time.sleep(0.6)", limits={"cpu_ms": 500})["exceeded"] is None


def test_too_many_processes_end_the_tree(cell):
    code = "import os, time\nfor _ in range(40):\n if os.fork() == 0: time.sleep(60); os._exit(0)\ntime.sleep(60)"
    report = cell.python(code, limits={"processes": 16})
    assert (report["stopped"], report["exceeded"]) == ("limit", "processes")


def test_a_file_that_is_too_large_is_known_by_the_signal(cell):
    argv = ("dd", "if=/dev/zero", "of=big", "bs=1M", "count=20")
    report = cell.run(*argv, limits={"file_bytes": 8 * MIB}).report
    assert (report["exceeded"], report["signal"]) == ("file_size", signal.SIGXFSZ)
    assert (cell.bench.root / "big").stat().st_size == 8 * MIB


def test_a_file_that_is_too_large_is_known_by_what_a_shell_says_of_its_command(cell):
    report = cell.run("/bin/sh", "-c", "head -c 20M /dev/zero > big; exit $?", limits={"file_bytes": 8 * MIB}).report
    assert (report["exceeded"], report["exit_code"]) == ("file_size", 128 + signal.SIGXFSZ)


def test_a_program_that_is_refused_a_larger_file_and_gives_up_failed_by_itself(cell):
    """It ignores the signal, so only the program knows."""
    report = cell.python("open('big', 'wb').write(bytes(20 << 20))", limits={"file_bytes": 8 * MIB})
    assert (report["exceeded"], report["exit_code"]) == (None, 1)


def test_a_full_tmp_is_seen_when_the_program_has_failed(inside):
    fill = "dd if=/dev/zero of=/tmp/x bs=64k"
    assert inside.run("/bin/sh", "-c", fill, tmp_bytes=2 * MIB).report["exceeded"] == "tmp"
    assert inside.run("/bin/sh", "-c", f"{fill}; true", tmp_bytes=2 * MIB).report["exceeded"] is None
    assert inside.run("/bin/sh", "-c", f"{fill}; rm /tmp/x; false", tmp_bytes=2 * MIB).report["exceeded"] is None


@pytest.mark.skipif(not FD_SIZES, reason="this kernel does not tell how many files a process has open")
def test_a_process_with_all_the_files_it_may_have_is_seen_when_the_program_has_failed(cell):
    code = """
import os, resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
try:
    while True: os.open("/dev/null", os.O_RDONLY)
except OSError:
    time.sleep(1.2)
os._exit(%d)
"""
    assert cell.python(code % 1, limits={"open_files": 80, **OFTEN})["exceeded"] == "open_files"
    assert cell.python(code % 0, limits={"open_files": 80, **OFTEN})["exceeded"] is None


@pytest.mark.parametrize("end", ["raise SystemExit(7)", "import os; os.kill(os.getpid(), 9)", "raise MemoryError"])
def test_a_failure_of_the_program_itself_is_not_reported_as_a_limit(cell, end):
    assert cell.python(end)["exceeded"] is None


def test_a_supervisor_lives_within_the_smallest_limits(cell):
    """Behind namespaces it is held to the same limits, and has to keep both outputs all the same."""
    code = "import os\nos.write(1, b'x' * (1 << 20)); os.write(2, b'y' * (1 << 20))"
    limits = {"memory_bytes": 32 * MIB, "file_bytes": 4 * MIB, "open_files": 64, "processes": 1}
    outcome = cell.run(PYTHON, "-I", "-S", "-c", code, limits=limits)
    assert outcome.report["exit_code"] == 0, outcome
    assert (len(outcome.stdout), len(outcome.stderr)) == (MIB, MIB)


def test_a_program_that_makes_measuring_slow_is_measured_all_the_same(monkeypatch):
    clock = iter(range(0, 1000, 60))
    monkeypatch.setattr(meter.time, "thread_time", lambda: float(next(clock)))
    limits = {"memory_bytes": 1 << 60, "file_bytes": 1, "open_files": 1 << 30, "processes": 1 << 20, "cpu_ms": 1 << 40}
    measured = meter.Meter(limits, None)
    assert measured.exceeded() is None
    assert measured.pause_s() <= 1.0
