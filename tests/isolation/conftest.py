"""Real processes through a real fork server."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from interlock.isolation.client import ForkServer
from interlock.isolation.spec import WallSpec

LIMITS = {"memory_bytes": 1 << 30, "file_bytes": 1 << 32, "open_files": 4096, "processes": 64, "cpu_ms": None}


class Bench:
    """A fork server, a working directory and a marker that only this test's processes have in their arguments.

    Its programs run behind the walls of `profile`, with the working directory as the workspace.
    """

    def __init__(self, root: Path, marker: str, profile: str):
        self.root = root
        self.marker = marker
        self.profile = profile
        self.launch = {"namespaces": profile == "ns", "shown": [sys.base_prefix]}
        self.server = ForkServer(launch=lambda: self.launch)

    def request(self, *argv, **changes):
        walls = (
            None if self.profile == "none" else WallSpec(profile=self.profile, workspace=os.fspath(self.root)).wire()
        )
        request = {
            "argv": list(argv),
            "search": "/usr/local/bin:/usr/bin:/bin",
            "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
            "home": False,
            "home_files": {},
            "timeout_ms": 20_000,
            "grace_ms": 300,
            "keep_bytes": 1 << 20,
            "keep_last": False,
            "limits": LIMITS,
            "call": None,
            "walls": walls,
            "directory": "",
            "descriptors": [],
        }
        request["limits"] = {**LIMITS, **changes.pop("limits", {})}
        return {**request, **changes}

    async def start(self, *argv, stdin=None, **changes):
        cwd = os.open(self.root, os.O_PATH)
        try:
            return await self.server.run(self.request(*argv, **changes), cwd=cwd, stdin=stdin)
        finally:
            os.close(cwd)

    def run(self, *argv, **changes):
        return asyncio.run(self.start(*argv, **changes))

    def sh(self, script, **changes):
        """Run a shell script; `$MARK` in it is a command that sleeps for long under this test's marker."""
        return self.run("/bin/sh", "-c", self.script(script), **changes)

    def script(self, script):
        return script.replace("$MARK", f"sleep {self.marker}")

    def marked(self):
        """Process ids of the living processes that carry the marker as their last argument."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    arguments = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if self.marker.encode() in arguments:
                    found.append(int(entry.name))
        return found

    def wait_marked(self, count):
        """Wait until exactly `count` marked processes live."""
        until = time.monotonic() + 10
        while len(self.marked()) != count:
            assert time.monotonic() < until, f"{self.marked()} live, {count} expected"
            time.sleep(0.01)


@pytest.fixture
def bench(tmp_path, request):
    """A bench of its own for each test, without walls unless the test names a profile; it leaves no process."""
    # A number that sleep takes and nobody else uses: 700 and some seconds, and a fraction for this test alone.
    made = Bench(tmp_path, f"7{os.getpid() % 90 + 10}.{time.monotonic_ns()}", getattr(request, "param", "none"))
    yield made
    made.server.close()
    assert made.marked() == []
