"""One workspace, many processes: who waits for whom, fairness of the queue, cost of unfinished runs at a start.

    python benchmarks/workspace.py [--quick] [--json]

Goals: a process writes within 100 ms while another has an open hold; with 8, 16 and 32 processes the longest wait is
under 5 times the median; 1,000 held runs, or an unfinished run of 100,000 actions, add under 30 ms to a start; one
action in a separate run takes 1.5 ms and 4 syncs.
"""

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import apsw
from measuring import alternate, options, scratch, table

import interlock
from interlock.approvals import Approver
from interlock.disk import Disk
from interlock.engine.runs.recover import recover_all
from interlock.settings import TrustStore, gather
from interlock.workspace.registry import state_directory

TOML = """
agent = "coder"
[rules]
allow = ["fs.write", "noop"]
ask = ["shell"]
[grants.coder]
tools = ["*"]
unscoped = ["*"]
"""
PROCESSES = (1, 8, 16, 32)
SECONDS = 6.0
HELD = 1_000
ACTIONS = 100_000


class Project:
    """A trusted project in a separate directory."""

    def __init__(self, directory: Path, *, new: bool = True, toml: str = TOML) -> None:
        self.directory = directory
        self.root = directory / "project"
        os.environ["INTERLOCK_STATE_DIR"] = str(directory / "state")
        if new:
            self.root.mkdir(parents=True)
            (self.root / "interlock.toml").write_text(toml)
            found, disk = gather(self.root), Disk()
            state = state_directory(os.environ, disk)
            TrustStore(state, disk).record(found.root, found.files)

    def open(self) -> interlock.Runtime:
        rt = interlock.Runtime.open(workspace=self.root)
        rt.register(noop)
        return rt


async def noop() -> None:
    """Do nothing."""


def write(path: str) -> dict:
    return {"actions": [{"type": "tool_call", "tool": "fs.write", "parameters": {"path": path, "content": "x"}}]}


def ask() -> dict:
    return {"actions": [{"type": "tool_call", "tool": "shell", "parameters": {"command": "true"}}]}


# -- an open hold


def open_question(directory: Path, rounds: int) -> list[dict]:
    """A write in one runtime, while another one waits for an approval, and while none does."""
    project = Project(directory)

    async def measure() -> dict[str, list[float]]:
        asking, writing = project.open(), project.open()
        took: dict[str, list[float]] = {"question": [], "alone": []}
        for _ in range(rounds):
            waiting = asyncio.create_task(asking.execute(ask()))
            store = asking.services.desk.store
            while not store.list_holds("pending"):
                await asyncio.sleep(0.001)
            took["question"].append(await timed(writing, write("f")))
            (hold,) = store.list_holds("pending")
            store.vote(hold.id, Approver(id="ann"), "cli", "deny", digest=hold.digest)
            await waiting
            took["alone"].append(await timed(writing, write("f")))
        asking.close()
        writing.close()
        return took

    took = asyncio.run(measure())
    median, longest = statistics.median(took["question"]), max(took["question"])
    shown = {"work": "a write while another's question is open", "median": f"{median * 1e3:.1f} ms"}
    alone = f"alone {statistics.median(took['alone']) * 1e3:.1f} ms"
    return [shown | {"most": f"{longest * 1e3:.1f} ms", "beside": alone, "to reach": "100 ms"}]


async def timed(rt: interlock.Runtime, proposal: dict) -> float:
    begun = time.perf_counter()
    result = await rt.execute(proposal)
    took = time.perf_counter() - begun
    if not result.ok:
        raise SystemExit(f"a write did not succeed: {result}")
    return took


# -- many processes


def worker(directory: str, number: str, seconds: str) -> None:
    """A process that makes proposals as fast as it can. Prints the time of each."""
    rt = Project(Path(directory), new=False).open()

    async def go() -> list[float]:
        await rt.execute(write(f"own-{number}"))
        print("ready", flush=True)
        sys.stdin.readline()
        end, took = time.perf_counter() + float(seconds), []
        while time.perf_counter() < end:
            took.append(await timed(rt, write("shared")))
        return took

    print(json.dumps(asyncio.run(go())))
    rt.close()


def crowd(directory: Path, count: int, seconds: float) -> tuple[float, float, float]:
    """Proposals per second, with their median and maximum time, of this many processes that write the same file."""
    Project(directory)
    command = [sys.executable, __file__, "--worker", str(directory)]
    children = [
        subprocess.Popen([*command, str(n), str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(count)
    ]
    for child in children:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise SystemExit("a process did not begin")
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    took = [one for child in children for one in json.loads(child.communicate()[0])]
    if any(child.returncode for child in children):
        raise SystemExit("a process failed")
    return len(took) / seconds, statistics.median(took), max(took)


def crowds(directory: Path, seconds: float) -> list[dict]:
    rows, single = [], 0.0
    for count in PROCESSES:
        rate, median, longest = crowd(directory / f"crowd{count}", count, seconds)
        single = single or rate
        rows.append(
            {
                "work": f"{count} processes write one file" if count > 1 else "1 process writes",
                "median": f"{median * 1e3:.1f} ms",
                "most": f"{longest * 1e3:.1f} ms ({longest / median:.1f} x)",
                "beside": f"{rate:.0f} per s, {rate / single:.2f} of one process",
                "to reach": "most under 5 x median" if count > 1 else "",
            }
        )
    return rows


# -- a start with unfinished runs


def starts(directory: Path, held: int, actions: int) -> list[dict]:
    projects = {name: Project(directory / name) for name in ("none", "held", "long")}
    opened = {name: interlock_of(project) for name, project in projects.items()}

    async def hold() -> None:
        for _ in range(held):
            if (await opened["held"].execute(ask(), wait=False)).status != "held":
                raise SystemExit("an action was not held")

    asyncio.run(hold())
    leave_long(projects["long"], actions)

    def start(name: str) -> float:
        services = opened[name].services
        begun = time.perf_counter()
        runs, root = services.state_dir / "runs", Path(services.workspace.root)
        found = recover_all(services.db, services.index, runs, services.disk, services.desk, root=root)
        took = time.perf_counter() - begun
        if len(found) != {"none": 0, "held": held, "long": 1}[name]:
            raise SystemExit(f"{len(found)} unfinished runs in `{name}`")
        return took

    took = alternate({name: lambda name=name: start(name) for name in projects})
    for rt in opened.values():
        rt.close()
    shown = {"held": f"{held:,} held runs", "long": f"an unfinished run of {actions:,} actions"}
    return [
        {
            "work": f"start beside {what}",
            "median": f"{took[name] * 1e3:.1f} ms",
            "most": "",
            "beside": f"none {took['none'] * 1e3:.1f} ms",
            "to reach": "30 ms more",
        }
        for name, what in shown.items()
    ]


def interlock_of(project: Project) -> interlock.Runtime:
    os.environ["INTERLOCK_STATE_DIR"] = str(project.directory / "state")
    return project.open()


LONG = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from workspace import Project
rt = Project(Path(sys.argv[2]), new=False).open()
async def die() -> None:
    os.kill(os.getpid(), 9)
rt.register(die)
actions = [{"type": "tool_call", "tool": "noop"} for _ in range(int(sys.argv[3]) - 1)]
asyncio.run(rt.execute({"actions": [*actions, {"type": "tool_call", "tool": "die"}]}))
"""


def leave_long(project: Project, actions: int) -> None:
    """Run a process that dies in the last of this many actions."""
    toml = project.root / "interlock.toml"
    toml.write_text(TOML.replace('"noop"]', '"noop", "die"]') + '[journal]\ndurability = "batch"\n')
    os.environ["INTERLOCK_STATE_DIR"] = str(project.directory / "state")
    found, disk = gather(project.root), Disk()
    TrustStore(state_directory(os.environ, disk), disk).record(found.root, found.files)
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", LONG, here, str(project.directory), str(actions)], check=False)


# -- one action


class CountingVFS(apsw.VFS):
    """SQLite's default VFS, which also counts syncs."""

    syncs = 0

    def __init__(self) -> None:
        super().__init__("counting", "unix", makedefault=True)

    def xOpen(self, name: object, flags: list[int]) -> "CountingFile":  # noqa: N802 - SQLite's name
        return CountingFile(name, flags)


class CountingFile(apsw.VFSFile):
    def __init__(self, name: object, flags: list[int]) -> None:
        super().__init__("unix", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        CountingVFS.syncs += 1
        super().xSync(flags)


def single(directory: Path, rounds: int) -> list[dict]:
    """One durable action in a separate run, compared with two synced writes."""
    vfs = CountingVFS()
    counted = 0
    real = os.fsync, os.fdatasync

    def counting(sync):
        def call(fd):
            nonlocal counted
            counted += 1
            return sync(fd)

        return call

    rt = Project(directory).open()
    loop = asyncio.new_event_loop()
    proposal = {"actions": [{"type": "tool_call", "tool": "noop"}]}
    fd = os.open(directory / "raw", os.O_WRONLY | os.O_CREAT)
    line = b"x" * 400

    def raw() -> float:
        begun = time.perf_counter()
        for _ in range(2):
            os.write(fd, line)
            os.fdatasync(fd)
        return time.perf_counter() - begun

    took = alternate({"run": lambda: loop.run_until_complete(timed(rt, proposal)), "raw": raw}, rounds)
    os.fsync, os.fdatasync = counting(real[0]), counting(real[1])
    before = CountingVFS.syncs
    for _ in range(10):
        loop.run_until_complete(timed(rt, proposal))
    os.fsync, os.fdatasync = real
    syncs = (counted + CountingVFS.syncs - before) / 10
    rt.close()
    loop.close()
    os.close(fd)
    del vfs
    return [
        {
            "work": "one action in a run of its own, durable",
            "median": f"{took['run'] * 1e3:.2f} ms",
            "most": f"{syncs:g} syncs",
            "beside": f"two synced writes {took['raw'] * 1e3:.2f} ms",
            "to reach": "1.5 ms, 4 syncs",
        }
    ]


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
        return
    chosen = options(__doc__ or "")
    quick = chosen.quick
    with scratch() as room:
        rows = list(
            itertools.chain(
                open_question(room / "question", 5 if quick else 40),
                crowds(room, 1.5 if quick else SECONDS),
                starts(room, 100 if quick else HELD, 5_000 if quick else ACTIONS),
                single(room / "single", 20 if quick else 300),
            )
        )
    print(json.dumps(rows) if chosen.json else table(rows))


if __name__ == "__main__":
    main()
