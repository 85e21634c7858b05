"""The cost of walls: `true` from start to end, and a Python function, compared with other sandboxes and with no walls.

    python benchmarks/isolation.py [--quick] [--json]

`true` runs in profile `ns` in its proposal's layer, and in a separate layer that is mounted, compared and removed
around it. bubblewrap has the same namespaces, mounts and system call filter, but neither Landlock nor a layer; firejail
has its own filter; `srt` starts a proxy and bubblewrap for each command. Measured one after the other, on one
processor, and 32 at once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from measuring import PEERS, alternate, options, row, scratch, show

from interlock.disk import Disk
from interlock.engine.local.clock import SystemClock
from interlock.executors.enclosure import enclosure
from interlock.executors.modules import ModuleTools
from interlock.isolation import seccomp
from interlock.isolation.client import ForkServer
from interlock.isolation.probe import probe
from interlock.isolation.spec import WallSpec
from interlock.isolation.wire import memory_file
from interlock.workspace import Layer, LayerMounts, Workspace, open_layer, remove_layer

PROGRAM = "/usr/bin/true"
SRT = PEERS / "srt" / "node_modules" / ".bin" / "srt"
AT_ONCE = 32
ROUNDS, SLOW_ROUNDS, CROWDS, CALLS = 40, 7, 7, 20
"""Rounds of `true`; of programs that take a second; of 32 at once; calls of a function."""

LIMITS = {"memory_bytes": 1 << 30, "file_bytes": 1 << 34, "open_files": 65_536, "processes": 64, "cpu_ms": None}

MODULE = """
import asyncio, csv, decimal, email.message, http.client, json, sqlite3, xml.etree.ElementTree
import interlock

@interlock.tool(isolation="process", read_only=True)
def eight(text: str) -> str:
    "Uses its imports."
    return json.dumps(str(decimal.Decimal(text) * 2))
"""
FRESH = MODULE.split("import interlock", maxsplit=1)[0] + "print(json.dumps(str(decimal.Decimal('21') * 2)))"


class Ours:
    """Interlock's side: a fork server, a workspace with a layer, an event loop."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.root = room / "workspace"
        self.root.mkdir()
        self.base = Workspace(self.root)
        self.mounts = LayerMounts()
        self.count = 0
        self.layer = self.make_layer()
        self.loop = asyncio.new_event_loop()
        self.servers: list[ForkServer] = []
        self.server = self.start_server()

    def start_server(self) -> ForkServer:
        """Start a fork server on the processors of this process."""
        self.servers.append(
            ForkServer(launch=lambda: {"namespaces": True, "shown": [sys.base_prefix, sys.prefix], "groups": True})
        )
        return self.servers[-1]

    def make_layer(self) -> Layer:
        self.count += 1
        run = self.room / f"run{self.count}"
        run.mkdir()
        return open_layer(run, "p", self.base, self.mounts)

    async def true(self, server: ForkServer, profile: str = "ns", layer: Layer | None = None) -> None:
        tree = self.base if layer is None else layer.workspace
        spec = WallSpec(profile=profile, workspace=os.fspath(self.root), root=None if layer is None else tree.fd)
        outcome = await server.run(
            {
                "argv": [PROGRAM], "search": "", "environment": {"PATH": "/usr/bin:/bin"}, "home": True, "home_files": {},
                "timeout_ms": 30_000, "grace_ms": 500, "keep_bytes": 1 << 20, "keep_last": False,
                "limits": LIMITS, "call": None, "walls": spec.wire(), "directory": "", "descriptors": [],
            },
            cwd=tree.fd, descriptors=spec.descriptors(),
        )  # fmt: skip
        if outcome.report["failure"] is not None or outcome.report["exit_code"] != 0:
            raise SystemExit(f"`true` failed: {outcome.report}")

    def one(self, *arguments: object) -> Callable[[], float]:
        return timed(lambda: self.loop.run_until_complete(self.true(*arguments)))

    def in_own_layer(self) -> None:
        layer = self.make_layer()
        self.loop.run_until_complete(self.true(self.server, "ns", layer))
        if list(layer.candidates()):
            raise SystemExit("`true` has changed a file")
        layer.close()
        remove_layer(layer.directory, Disk())

    def crowd(self) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self.true(self.server, "ns", self.layer) for _ in range(AT_ONCE)))

        self.loop.run_until_complete(all_of_them())

    def close(self) -> None:
        self.layer.close()
        for server in self.servers:
            server.close()
        self.mounts.close()
        self.base.close()
        self.loop.close()


def timed(work: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


# -- the others


def bubblewrap(workspace: Path, filter_fd: int) -> list[str]:
    """bubblewrap with the same namespaces, mounts and filter."""
    links = [part for name in ("bin", "lib", "lib64", "sbin") for part in ("--symlink", f"usr/{name}", f"/{name}")]
    top = os.fspath(workspace)
    return [
        "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr",
        *links, "--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind", top, top,
        "--chdir", top, "--seccomp", str(filter_fd), PROGRAM,
    ]  # fmt: skip


FIREJAIL = [
    "firejail", "--quiet", "--noprofile", "--net=none", "--private-dev", "--private-tmp", "--caps.drop=all", "--seccomp", PROGRAM,
]  # fmt: skip


class Others:
    """Runs `true` in the other sandboxes."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.filter = seccomp.assemble(seccomp.program("all"))

    def start_bubblewrap(self) -> tuple[subprocess.Popen[bytes], int]:
        fd = memory_file("filter", self.filter)
        return subprocess.Popen(bubblewrap(self.workspace, fd), pass_fds=[fd], **QUIET), fd

    def bubblewrap(self, count: int = 1) -> None:
        for process, fd in [self.start_bubblewrap() for _ in range(count)]:
            process.communicate()
            os.close(fd)
            check(process.args, process.returncode)

    @staticmethod
    def run(argv: list[str]) -> Callable[[], float]:
        return timed(lambda: check(argv, subprocess.run(argv, check=False, **QUIET).returncode))


QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def check(argv: object, code: int) -> None:
    if code:
        raise SystemExit(f"{argv} ended with {code}")


# -- the measurements


def one_after_the_other(ours: Ours, others: Others, rounds: int, slow_rounds: int) -> list[dict]:
    quick = alternate(
        {
            "in its proposal's layer": ours.one(ours.server, "ns", ours.layer),
            "in a layer of its own": timed(ours.in_own_layer),
            "in the workspace itself": ours.one(ours.server),
            "bubblewrap, same walls": timed(others.bubblewrap),
            "subprocess, no walls": others.run([PROGRAM]),
        },
        rounds,
    )
    slow = alternate(
        {
            "ours": ours.one(ours.server, "ns", ours.layer),
            "firejail": others.run(FIREJAIL),
            "srt": others.run([os.fspath(SRT), PROGRAM]),
        },
        slow_rounds,
    )
    ours_ms = quick["in its proposal's layer"]
    rows = [
        row(f"`true`, {work}", quick[work], name, quick[name], "0.8" if "proposal" in work else "", 1e3)
        for name in ("bubblewrap, same walls",)
        for work in ("in its proposal's layer", "in a layer of its own", "in the workspace itself")
    ]
    rows += [
        row("`true`, in its proposal's layer", slow["ours"], name, slow[name], "", 1e3) for name in ("firejail", "srt")
    ]
    plain = "subprocess, no walls"
    return [*rows, row("`true`, in its proposal's layer", ours_ms, plain, quick[plain], "", 1e3)]


def on_one_processor(ours: Ours, others: Others, rounds: int) -> list[dict]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        server = ours.start_server()
        found = alternate({"ours": ours.one(server, "ns", ours.layer), "bubblewrap": timed(others.bubblewrap)}, rounds)
    finally:
        os.sched_setaffinity(0, before)
    return [row("`true`, on one processor", found["ours"], "bubblewrap, same walls", found["bubblewrap"], "0.8", 1e3)]


def many_at_once(ours: Ours, others: Others, rounds: int) -> list[dict]:
    found = alternate({"ours": timed(ours.crowd), "bubblewrap": timed(lambda: others.bubblewrap(AT_ONCE))}, rounds)
    work = f"`true`, {AT_ONCE} at once, until the last"
    return [row(work, found["ours"], "bubblewrap, same walls", found["bubblewrap"], "0.8", 1e3)]


class Call:
    """The context of a call, with what a function in a child needs."""

    run_id, proposal_id, action_id, attempt, agent, session = "r", "p", "a", 1, "bench", None
    invocation_mode, dry_run, cancelled, backups = "one_shot", False, False, None

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.deadline_ns = time.monotonic_ns() + 30 * 10**9

    def posture(self, **_: str) -> None: ...
    def resources(self, _: object) -> None: ...
    def not_exactly_undoable(self, _: str) -> None: ...
    def log(self, message: str) -> None:
        raise SystemExit(message)


def a_function(ours: Ours, room: Path, rounds: int) -> list[dict]:
    (room / "eight.py").write_text(MODULE)
    walls = enclosure("ns", probe(), environment=os.environ)
    modules = ModuleTools(["eight"], room, SystemClock(), enclose=lambda: walls)
    (binding,) = ours.loop.run_until_complete(modules.load())
    function: Callable[..., Awaitable[object]] = binding.function

    def call() -> None:
        answer = ours.loop.run_until_complete(function({"text": "21"}, Call(ours.base)))
        if answer != '"42"':
            raise SystemExit(f"the function returned {answer!r}")

    fresh = [sys.executable, "-I", "-c", FRESH]
    try:
        found = alternate({"ours": timed(call), "fresh": Others.run(fresh)}, rounds)
    finally:
        modules.close()
    work = "a function with eight imports, in profile `ns`"
    return [row(work, found["ours"], "a fresh interpreter, no walls", found["fresh"], "0.1", 1e3)]


def main() -> None:
    chosen = options(__doc__)
    if missing := [name for name in ("bwrap", "firejail") if shutil.which(name) is None] + ["srt"] * (not SRT.exists()):
        raise SystemExit(f"not installed: {', '.join(missing)}; scripts/bench installs what this is compared with")
    rounds, slow, crowds, calls = (5, 2, 2, 5) if chosen.quick else (ROUNDS, SLOW_ROUNDS, CROWDS, CALLS)
    with scratch() as room:
        ours = Ours(room)
        others = Others(ours.root)
        try:
            rows = one_after_the_other(ours, others, rounds, slow)
            rows += on_one_processor(ours, others, rounds)
            rows += many_at_once(ours, others, crowds)
            rows += a_function(ours, room, calls)
        finally:
            ours.close()
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
