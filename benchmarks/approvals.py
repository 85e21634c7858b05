"""Approvals: from an approval in one process to the resumed wait in another; operations on ten thousand open holds.

    python benchmarks/approvals.py [--json]

Goals (governance.md): approve to resume under 10 ms p50 without a busy loop; with 10,000 pending, list, resolve and
expire under 20 ms each. A bare SQLite commit on the same disk is measured too: it is the floor of any answer.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from interlock.approvals import ApprovalStore, Approver, HoldRequest, Waiter, WakeFile
from interlock.disk import Database
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.model.decision import Requirement

ROUNDS = 200
PENDING = 10_000


def open_store(path):
    wake = WakeFile(path.parent / "wake")
    store = ApprovalStore(
        Database(path), SystemClock(), SystemIds(), boot="benchmark", redact=lambda v: v, changed=wake.ring
    )
    return store, wake


def question(**fields):
    return HoldRequest(
        **{
            "agent": "coder",
            "summary": "run `make`",
            "digest": "sha256:" + "0" * 64,
            "tool": "shell",
            "parameters": {"command": "make", "cwd": "."},
            "requirements": (Requirement(policy="p", content="c", group="ops"),),
            **fields,
        }
    )


def answer_lines(path):
    """The other process: approves each hold that it reads, and prints when it began and when the commit was done."""
    store, _ = open_store(path)
    for line in sys.stdin:
        hold_id, digest = line.split()
        begun = time.monotonic_ns()
        store.vote(hold_id, Approver(id="alice", groups=("ops",)), "cli", "approve", digest=digest)
        print(begun, time.monotonic_ns(), flush=True)


async def approve_to_resume(path):
    store, wake = open_store(path)
    waiter = Waiter(store, wake)
    other = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--answer", str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    took, used = [], time.process_time()
    for _ in range(ROUNDS):
        hold = store.ask(question())
        waiting = asyncio.create_task(waiter.wait_answered(hold.id))
        await asyncio.sleep(0.005)
        other.stdin.write(f"{hold.id} {hold.digest}\n".encode())
        await waiting
        resumed = time.monotonic_ns()
        begun = int((await other.stdout.readline()).split()[0])
        took.append((resumed - begun) / 1e6)
    used = time.process_time() - used
    waiter.close()
    other.stdin.close()
    await other.wait()
    return took, used


def timed(call, rounds=20):
    took = []
    for _ in range(rounds):
        begun = time.perf_counter_ns()
        call()
        took.append((time.perf_counter_ns() - begun) / 1e6)
    return took


def many_pending(path):
    store, _ = open_store(path)
    database = Database(path)
    holds = [store.ask(question(summary=str(n), ttl_ms=3_600_000)) for n in range(PENDING)]
    remaining = iter(holds)
    alice = Approver(id="alice", groups=("ops",))

    def expire():
        database.execute("update approvals set expires_at_us = 0 where id = ?", (next(remaining).id,))
        assert store.expire() == 1

    def resolve():
        hold = next(remaining)
        assert store.vote(hold.id, alice, "cli", "approve", digest=hold.digest).code == "resolved"

    def overdue():
        database.execute("update approvals set expires_at_us = 0 where status = 'pending'")
        return timed(store.expire, 15)

    return {
        "list, first 100": timed(store.list_holds),
        "list, last 100": timed(lambda: store.list_holds(after=holds[-101].seq)),
        "show": timed(lambda: store.get(holds[-1].id)),
        "ask": timed(lambda: store.ask(question())),
        "resolve": timed(resolve),
        "expire one": timed(expire),
        "list all of them": timed(lambda: store.list_holds(limit=PENDING), 5),
        "expire 500 of them": overdue(),
    }


def floor(path):
    database = Database(path)
    database.execute("create table t (x integer)")

    def commit():
        with database.transaction():
            database.execute("insert into t values (1)")

    return timed(commit, 100)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--answer", type=Path)
    arguments = parser.parse_args()
    if arguments.answer:
        answer_lines(arguments.answer)
        return
    with tempfile.TemporaryDirectory() as directory:
        resumed, used = asyncio.run(approve_to_resume(Path(directory) / "resume.db"))
        rows = {"bare commit": floor(Path(directory) / "floor.db"), "approve to resume": resumed}
        rows.update(many_pending(Path(directory) / "many.db"))
    table = {
        name: {"p50_ms": round(statistics.median(took), 3), "max_ms": round(max(took), 3), "rounds": len(took)}
        for name, took in rows.items()
    }
    if arguments.json:
        print(
            json.dumps({"pending": PENDING, "waiter_cpu_ms_per_round": round(used * 1000 / ROUNDS, 3), "rows": table})
        )
        return
    print(
        f"{PENDING} pending where it matters; the waiting process used {used * 1000 / ROUNDS:.2f} ms of CPU a round\n"
    )
    for name, row in table.items():
        print(f"{name:<20} p50 {row['p50_ms']:>8.3f} ms   max {row['max_ms']:>8.3f} ms   n={row['rounds']}")


if __name__ == "__main__":
    main()
