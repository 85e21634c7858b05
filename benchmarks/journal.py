"""The cost of durability, compared with raw `fdatasync`, LangGraph and DBOS; also of a snapshot and a command's start.

    python benchmarks/journal.py [--quick] [--json]

The sequential row is a proposal in declared order under durability `full`: each intent is on disk before its tool runs.
For comparison, the bytes that such a proposal writes to its journal are written in two pieces per action to an open
file, each followed by `fdatasync`. A proposal with one action also pays for acquiring and releasing the workspace, its
own record, and its end. The parallel rows are a proposal in free order, with at most 32 tools at a time; LangGraph runs
tasks of one entrypoint with its asynchronous SQLite checkpointer (durability `sync`), DBOS steps of one workflow, both
in groups of 32, in their own processes, with their databases' own settings on the same disk. They store the results of
tasks; Interlock stores intents, decisions, outcomes and a chain of seals over them, and has judged every call.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import subject
from measuring import ROUNDS, Peer, alternate, options, row, scratch, show
from msgspec.structs import replace

import interlock
from interlock.engine.assemble import open_project

ACTIONS = 192
WIDE = 32


def journal_of(measured: subject.Subject) -> Path:
    assert measured.run.files.directory is not None
    return measured.run.files.directory / "journal.ndjson"


def sequential(root: Path, rounds: int) -> list[dict]:
    rows = []
    with subject.on_disk(root, "full") as runtime:
        measured = subject.Subject(runtime)
        for count, work in ((ACTIONS, "durable sequential action"), (1, "a proposal of one action, on disk")):
            data, repeat = subject.document(count), max(1, 64 // count)
            before = journal_of(measured).stat().st_size
            measured.seconds(data, repeat)
            size = (journal_of(measured).stat().st_size - before) // (count * repeat * 2)

            def raw(times: int = count * repeat, size: int = size) -> float:
                piece = b"x" * (size - 1) + b"\n"
                file = os.open(root / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                began = time.perf_counter()
                for _ in range(times * 2):
                    os.write(file, piece)
                    os.fdatasync(file)
                took = time.perf_counter() - began
                os.close(file)
                return took / times

            found = alternate(
                {"interlock": lambda data=data, repeat=repeat: measured.seconds(data, repeat), "raw": raw}, rounds
            )
            rows.append(row(work, found["interlock"] / count, f"2 fdatasync of {size} bytes", found["raw"], "1.5"))
        measured.close()
    return rows


def parallel(root: Path, rounds: int) -> list[dict]:
    peers = {"langgraph": Peer("langgraph"), "dbos": Peer("dbos")}
    data = subject.document(ACTIONS, "pausing", order="free")

    def ask(name: str) -> float:
        answer = peers[name].ask(directory=str(root), actions=ACTIONS, wide=WIDE)
        assert answer["kept"] == ACTIONS, answer
        return answer["seconds"]

    with subject.on_disk(root, "full") as runtime:
        measured = subject.Subject(runtime)
        found = alternate(
            {
                "interlock": lambda: measured.seconds(data),
                "langgraph": lambda: ask("langgraph"),
                "dbos": lambda: ask("dbos"),
            },
            rounds,
        )
        measured.close()
    for peer in peers.values():
        peer.close()
    ours = found["interlock"] / ACTIONS
    return [
        row(f"durable parallel action, {WIDE} wide", ours, name, found[key] / ACTIONS, "0.02")
        for key, name in (("langgraph", "LangGraph + SQLite"), ("dbos", "DBOS on SQLite"))
    ]


def snapshots(root: Path, rounds: int) -> list[dict]:
    """The same proposal with measurements of the machine before and after each action, and without the sampler."""
    with subject.on_disk(root, "batch") as runtime:
        measured, services = subject.Subject(runtime), runtime.services
        data, sampler = subject.document(ACTIONS), runtime.services.sampler

        def timed(chosen: object) -> float:
            measured.run.services = replace(services, sampler=chosen)
            return measured.seconds(data, 16)

        found = alternate({"with": lambda: timed(sampler), "without": lambda: timed(None)}, rounds)
        measured.run.services = services
        measured.close()
    name = "action with readings of the machine (`batch`)"
    cost = (found["with"] - found["without"]) / ACTIONS
    return [
        row(name, found["with"] / ACTIONS, "without", found["without"] / ACTIONS, f"+0.3 ms; is {cost * 1e6:+.1f} us")
    ]


def starts(root: Path, rounds: int) -> list[dict]:
    project = subject.make_project(root, "full")
    command = [sys.executable, "-m", "interlock.surfaces.cli.main"]
    installed = Path(sys.executable).with_name("interlock")
    if installed.exists():
        command = [str(installed)]

    def timed(*arguments: str) -> float:
        began = time.perf_counter()
        done = subprocess.run(
            arguments, cwd=project, env=os.environ | subject.environment(root), capture_output=True, check=False
        )
        took = time.perf_counter() - began
        assert done.returncode == 0, (arguments[1:], done.returncode, done.stderr[-300:])
        return took

    (project / "plan.json").write_text(PLAN)
    holds = open_questions(root, project, rounds + 2)
    commands = {
        "interlock --version": (("--version",), "50 ms"),
        "interlock runs list": (("runs", "list"), "90 ms"),
        "interlock run, one action": (("run", "plan.json", "-q"), "150 ms"),
    }
    contenders = {shown: lambda given=given: timed(*command, *given) for shown, (given, _) in commands.items()}
    contenders |= {
        "interlock approvals approve": lambda: timed(*command, "approvals", "approve", holds.pop()),
        "pass": lambda: timed(sys.executable, "-c", "pass"),
    }
    goals = {shown: goal for shown, (_, goal) in commands.items()} | {"interlock approvals approve": "90 ms"}
    found = alternate(contenders, rounds)
    return [
        row(f"`{shown}`", found[shown], "`python -c pass`", found["pass"], goal, 1e3) for shown, goal in goals.items()
    ]


PLAN = '{"actions": [{"type": "tool_call", "tool": "fs.read", "parameters": {"path": "plan.json"}}]}'


def open_questions(root: Path, project: Path, count: int) -> list[str]:
    """Ids of open holds, each in a separate run."""
    with subject.register(interlock.Runtime(*open_project(project, env=subject.environment(root)))) as runtime:
        runtime.rules.add("asked", lambda _request: True, effect="ask")
        for _ in range(count):
            runtime.execute_sync(subject.document(1), wait=False)
        return [hold.id for hold in runtime.services.desk.store.list_holds("pending")]


def main() -> None:
    chosen = options(__doc__)
    rounds = 3 if chosen.quick else ROUNDS
    with scratch() as root:
        rows = sequential(root / "sequential", rounds)
        rows += parallel(root / "parallel", rounds)
        rows += snapshots(root / "snapshots", rounds)
        rows += starts(root / "starts", rounds)
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
