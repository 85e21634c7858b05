"""Programs behind all walls of profile `ns`, with the proxy: what an action of Interlock gets."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys

from interlock.isolation.client import ForkServer
from interlock.isolation.egress.client import Policy
from interlock.isolation.spec import WallSpec

LIMITS = {"memory_bytes": 8 << 30, "file_bytes": 1 << 32, "open_files": 65536, "processes": 256, "cpu_ms": None}
PATH = "/usr/local/bin:/usr/bin:/bin"


class Walled:
    """Runs programs in a workspace behind walls and reports what they did."""

    def __init__(self, boxes, root, shown=()):
        self.boxes = boxes
        self.root = root
        self.server = ForkServer(launch=lambda: {"namespaces": True, "shown": [sys.base_prefix, sys.prefix, *shown]})

    async def start(self, *argv, hosts=(), env=None, private=None, timeout=60.0):
        watch = self.boxes.egress.watch(Policy(((tuple(hosts),),), tuple(hosts if private is None else private)))
        spec = WallSpec(
            profile="ns", workspace=os.fspath(self.root), network="proxied", egress=watch.inside.fileno(),
            egress_plan={"ports": watch.ports},
            # Bound for the action, so that it is seen beneath the private /tmp too, where a checkout may be.
            binds=[{"path": sys.prefix, "writable": False}],
        )  # fmt: skip
        request = {
            "argv": list(argv), "search": PATH, "environment": {"PATH": PATH, "LANG": "C.UTF-8", **(env or {})},
            "home": True, "home_files": {}, "timeout_ms": int(timeout * 1000), "grace_ms": 300, "keep_bytes": 1 << 20,
            "keep_last": False, "limits": LIMITS, "call": None, "walls": spec.wire(), "directory": "", "descriptors": [],
        }  # fmt: skip
        cwd = os.open(self.root, os.O_PATH)
        try:
            outcome = await self.server.run(request, cwd=cwd, descriptors=spec.descriptors())
        finally:
            os.close(cwd)
            traffic = await watch.finish()
        assert outcome.report["failure"] is None, outcome.report
        return outcome.report["exit_code"], outcome.stdout.decode(), outcome.stderr.decode(), traffic

    def run(self, *argv, **options):
        return asyncio.run(self.start(*argv, **options))

    def sh(self, script, **options):
        return self.run("/bin/sh", "-c", script, **options)


def program(name: str) -> str:
    """The path of a program that these tests need; they never pass without it."""
    found = shutil.which(name)
    assert found is not None, f"the tests need `{name}`: see scripts/test"
    return found
