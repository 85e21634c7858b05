"""Real processes that race each other for the same questions, and one that dies at every step. Started by the tests beside it.

`race DATABASE ROLE` reads one hold per line (`ID DIGEST START_NS`), waits for that moment, acts in its role, and prints the
outcome's code and the status it was told. `die DATABASE` forks a child for each step of an answer, lets it die there by
SIGKILL, and prints what each left behind.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from interlock.approvals import ApprovalStore, Approver, WakeFile
from interlock.approvals.hold import HoldRequest
from interlock.disk import Database
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.model.errors import StoreError


def open_store(path, database=None):
    wake = WakeFile(Path(path).parent / "wake")
    return ApprovalStore(
        database or Database(Path(path)), SystemClock(), SystemIds(), boot="boot", redact=lambda v: v, changed=wake.ring
    )


def act(store, role, hold_id, digest):
    if role == "cancel":
        return store.cancel(hold_id, "raced")
    if role == "expire":
        store.expire()
        return None
    decision = "deny" if role.startswith("deny") else "approve"
    return store.vote(hold_id, Approver(id=role), "cli", decision, digest=digest)


def race(path, role):
    store = open_store(path)
    print("ready", flush=True)
    for line in sys.stdin:
        hold_id, digest, start_ns = line.split()
        time.sleep(max(0, int(start_ns) - time.monotonic_ns() - 500_000) / 1e9)
        while time.monotonic_ns() < int(start_ns):
            pass
        outcome = act(store, role, hold_id, digest)
        print("none none" if outcome is None else f"{outcome.code} {outcome.hold.status}", flush=True)


class Dying(Database):
    """Dies at the nth statement, before or after it."""

    steps = 10**9

    def execute(self, sql, parameters=()):
        self._step()
        rows = super().execute(sql, parameters)
        self._step()
        return rows

    def _step(self):
        self.steps -= 1
        if self.steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def die_at(path, step, hold_id, digest):
    """True if the child finished, False if it died at its step."""
    pid = os.fork()
    if pid == 0:
        database = Dying(Path(path))
        store = open_store(path, database)
        rung = store._changed

        def changed():
            database._step()
            rung()
            database._step()

        store._changed = changed
        database.steps = step
        act(store, "approve", hold_id, digest)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def die(path):
    report = []
    finished, step = False, 0
    while not finished:
        step += 1
        # The parent opens its store anew each time: a connection does not survive a fork.
        store = open_store(path)
        hold = store.ask(HoldRequest(agent="a", summary=f"step {step}", digest=f"d{step}"))
        store.database.close()
        finished = die_at(path, step, hold.id, hold.digest)
        store = open_store(path)
        left = store.get(hold.id)
        events = [r.event for r in store.audit.records(hold.id)]
        try:
            after = store.vote(hold.id, Approver(id="later"), "cli", "deny", digest=hold.digest)
        except StoreError as error:
            after = error
        report.append(
            {
                "left": left.status,
                "votes": len(left.votes),
                "events": events,
                "code": after.code,
                "now": after.hold.status,
            }
        )
        store.database.close()
    print(json.dumps(report))


if __name__ == "__main__":
    if sys.argv[1] == "race":
        race(*sys.argv[2:])
    else:
        die(*sys.argv[2:])
