"""What an action itself used."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from interlock.telemetry import Meter
from interlock.telemetry.own import control_group_usage, process_usage


def burn(meter_usage: list[dict[str, int | float]]) -> None:
    meter = Meter("thread")
    while meter.usage()["cpu_ms"] < 30:
        sum(range(10_000))
    meter_usage.append(meter.usage())


def test_a_thread_counts_only_itself() -> None:
    mine = Meter("thread")
    whole = Meter("process")
    out: list[dict[str, int | float]] = []
    thread = threading.Thread(target=burn, args=(out,))
    thread.start()
    thread.join()
    assert out[0]["cpu_ms"] >= 30
    assert whole.usage()["cpu_ms"] >= 30
    assert mine.usage()["cpu_ms"] < out[0]["cpu_ms"]
    assert set(out[0]) == {"cpu_ms", "user_ms", "system_ms", "read_bytes", "write_bytes"}


def test_a_process_that_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "x = bytearray(30_000_000)"])
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    usage = process_usage(used)
    assert usage["memory_bytes"] > 30_000_000
    assert usage["cpu_ms"] > 0


def test_a_control_group_tells_what_its_controllers_know(tmp_path: Path) -> None:
    assert control_group_usage(tmp_path) == {}
    (tmp_path / "cpu.stat").write_text("usage_usec 2500\nuser_usec 2000\nsystem_usec 500\nnr_periods 0\n")
    assert control_group_usage(tmp_path) == {"cpu_ms": 2.5, "user_ms": 2.0, "system_ms": 0.5}
    (tmp_path / "memory.peak").write_text("4096\n")
    (tmp_path / "pids.peak").write_text("3\n")
    (tmp_path / "io.stat").write_text("8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=0\n")
    usage = control_group_usage(tmp_path)
    assert (usage["memory_bytes"], usage["processes_peak"], usage["read_bytes"], usage["write_bytes"]) == (
        4096,
        3,
        15,
        20,
    )
