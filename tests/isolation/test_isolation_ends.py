"""Whatever a program did, its tree is gone when the action is, and what it had printed is kept: in every profile."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from interlock.isolation.client import ForkServer
from interlock.isolation.spec import WallSpec

PYTHON = os.path.realpath(sys.executable)
LASTING = 'os.execvp("sleep", ["sleep", MARK])'
TRICKS = {
    "forks twice, in a session of its own": "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: {last}\n os._exit(0)",
    "ignores every signal that it can": (
        "if os.fork() == 0:\n for n in signal.valid_signals() - {{9, 19, 32, 33}}: signal.signal(n, signal.SIG_IGN)\n {last}"
    ),
    "is stopped": "if (p := os.fork()) == 0: {last}\nos.kill(p, signal.SIGSTOP)",
    "waits to be traced": (
        "if os.fork() == 0:\n libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP)\n {last}\ntime.sleep(0.05)"
    ),
    "has a pid namespace of its own, if it can": (
        "if os.fork() == 0:\n libc.unshare(0x30000000)\n if os.fork() == 0: {last}\n os._exit(0)\ntime.sleep(0.05)"
    ),
    "waits for a child that shares its memory": "if os.fork() == 0:\n subprocess.Popen(['sleep', MARK]); {last}",
    "has a first thread that has ended": (
        "if os.fork() == 0:\n threading.Thread(target=subprocess.run, args=(['sleep', MARK],)).start()\n"
        " time.sleep(0.05); libc.syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\ntime.sleep(0.2)"
    ),
    "holds its output open": "if os.fork() == 0:\n os.dup2(1, 9, inheritable=True); {last}",
}
PRELUDE = """
import ctypes, os, signal, subprocess, threading, time
libc = ctypes.CDLL(None)
MARK = "{mark}"
print("partial", flush=True)
"""


@pytest.mark.parametrize("profile", ["ns", "nons", "none"])
def test_the_tree_is_gone_and_the_output_kept(bench, profile):
    bench.server = ForkServer(launch=lambda: {"namespaces": profile == "ns", "shown": [sys.base_prefix]})
    walls = WallSpec(profile=profile, workspace=os.fspath(bench.root)).wire()

    async def perform(name, trick, rest, stopped):
        code = PRELUDE.format(mark=bench.marker) + trick.format(last=LASTING) + rest
        timeout = 60_000 if stopped is None else 3_000  # all of them have to print before, on a busy machine too
        outcome = await bench.start(PYTHON, "-I", "-S", "-c", code, walls=walls, home=True, timeout_ms=timeout)
        report = outcome.report
        found = (report["failure"], report["stopped"], report["strays_left"], outcome.stdout)
        return None if found == (None, stopped, False, b"partial\n") else (name, rest, found, outcome.stderr[-300:])

    async def scene():
        ends = (("", None), ("\ntime.sleep(60)", "timeout"))
        cases = [(name, trick, *end) for name, trick in TRICKS.items() for end in ends]
        return [bad for bad in await asyncio.gather(*(perform(*case) for case in cases)) if bad is not None]

    assert asyncio.run(scene()) == []
    assert bench.marked() == []


@pytest.fixture
def frozen():
    """A control group of version 2 that can be frozen, if this user may make one."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    place = next((Path(line.split()[4]) for line in lines if " - cgroup2 " in line), None)
    made = None if place is None else place / f"interlock-test-{os.getpid()}"
    try:
        if made is None:
            pytest.skip("no cgroup version 2 here")
        made.mkdir()
    except OSError:
        pytest.skip("this user may make no control group")
    yield made
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            made.rmdir()
        except OSError:
            time.sleep(0.02)
        else:
            return


def test_a_frozen_process_is_ended_too(bench, frozen):
    """Only without walls can a program freeze itself."""
    script = f"echo partial; (echo 0 > {frozen}/cgroup.procs; echo 1 > {frozen}/cgroup.freeze; $MARK) & sleep 0.2"
    outcome = bench.sh(script)
    assert (outcome.stdout, outcome.report["strays_left"]) == (b"partial\n", False)
    assert bench.marked() == []
