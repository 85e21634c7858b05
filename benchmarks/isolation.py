"""Start to finish of `true` behind walls, against other sandboxes with the same walls and none: `python benchmarks/isolation.py`.

In alternation, because the machine's load changes: only the ratios count. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from interlock.isolation.client import ForkServer
from interlock.isolation.spec import WallSpec

PROGRAM = "/usr/bin/true"


def main() -> None:
    """Measure and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=40)
    rounds = options.parse_args().rounds
    with tempfile.TemporaryDirectory(dir="/var/tmp") as workspace:
        server = ForkServer(launch=lambda: {"namespaces": True, "shown": [sys.base_prefix]})
        loop = asyncio.new_event_loop()
        cwd = os.open(workspace, os.O_PATH)

        def ours(profile: Any) -> Callable[[], None]:
            return lambda: loop.run_until_complete(_ours(server, profile, workspace, cwd))

        cases = {"interlock ns": ours("ns"), "interlock nons": ours("nons"), "interlock none": ours("none")}
        cases |= {name: _runs(argv) for name, argv in _others(workspace).items() if shutil.which(argv[0])}
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds + 3):
            for name, run in cases.items():
                began = time.perf_counter()
                run()
                found[name].append((time.perf_counter() - began) * 1000)
        server.close()
        os.close(cwd)
    base = statistics.median(found["bubblewrap"][3:]) if "bubblewrap" in found else None
    for name, times in found.items():
        median = statistics.median(times[3:])
        ratio = "" if base is None else f"   {median / base:.2f} x bubblewrap"
        print(f"{name:16} {median:7.2f} ms{ratio}")


def _others(workspace: str) -> dict[str, list[str]]:
    """Other ways to run it; bubblewrap has the same namespaces and mounts, and no filter and no Landlock."""
    links = [part for name in ("bin", "lib", "lib64", "sbin") for part in ("--symlink", f"usr/{name}", f"/{name}")]
    bubblewrap = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--ro-bind",
        "/usr",
        "/usr",
    ]
    bubblewrap += [*links, "--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    return {
        "bubblewrap": [*bubblewrap, "--bind", workspace, workspace, "--chdir", workspace, PROGRAM],
        "firejail": [
            "firejail",
            "--quiet",
            "--noprofile",
            "--net=none",
            "--private-dev",
            "--caps.drop=all",
            "--seccomp",
            PROGRAM,
        ],
        "srt": ["srt", PROGRAM],
        "subprocess": [PROGRAM],
    }


def _runs(argv: list[str]) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(argv, check=True, capture_output=True)

    return run


async def _ours(server: ForkServer, profile: Any, workspace: str, cwd: int) -> None:
    walls = WallSpec(profile=profile, workspace=workspace)
    outcome = await server.run(
        {
            "argv": [PROGRAM], "search": "", "environment": {"PATH": "/usr/bin:/bin"}, "home": True, "home_files": {},
            "timeout_ms": 10_000, "grace_ms": 500, "keep_bytes": 1 << 20, "keep_last": False,
            "limits": {"memory_bytes": 1 << 30, "file_bytes": 1 << 34, "open_files": 65_536, "processes": 64, "cpu_ms": None},
            "call": None, "walls": walls.wire(), "directory": "", "descriptors": [],
        },
        cwd=cwd,
    )  # fmt: skip
    assert outcome.report["failure"] is None, outcome.report
    assert outcome.report["exit_code"] == 0, outcome.report


if __name__ == "__main__":
    main()
