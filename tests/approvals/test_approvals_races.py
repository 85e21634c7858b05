"""Real processes: of two that answer at once one wins and the other is told; a killed one leaves all or nothing.

`INTERLOCK_RACE_ROUNDS` sets how often each race is run (the figures of long runs are in the ADR on approvals).
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interlock.approvals import HoldRequest

sys.path.insert(0, str(Path(__file__).parent))
import approvals_racers as racers

ROUNDS = int(os.environ.get("INTERLOCK_RACE_ROUNDS", "120"))
STATUS = {"approve": "approved", "deny": "denied", "cancel": "cancelled"}


class Racer:
    def __init__(self, path, role):
        self.role = role
        self.process = subprocess.Popen(
            [sys.executable, racers.__file__, "race", str(path), role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, hold, at_ns):
        self.process.stdin.write(f"{hold.id} {hold.digest} {at_ns}\n")
        self.process.stdin.flush()

    def outcome(self):
        return self.process.stdout.readline().split()

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def racing(tmp_path):
    path = tmp_path / "interlock.db"
    store = racers.open_store(path)
    started = []

    def start(*roles):
        started.extend(Racer(path, role) for role in roles)
        return started

    yield store, start
    for racer in started:
        racer.close()
    store.database.close()


@pytest.mark.parametrize(
    "roles",
    [("approve", "deny"), ("approve-1", "approve-2"), ("approve", "cancel"), ("deny", "cancel"), ("cancel", "cancel")],
)
def test_of_two_one_wins_and_the_other_is_told(racing, roles):
    store, start = racing
    racers_ = start(*roles)
    for n in range(ROUNDS):
        hold = store.ask(HoldRequest(agent="a", summary="race", digest=f"d{n}"))
        at_ns = time.monotonic_ns() + 2_000_000
        for racer in racers_:
            racer.start(hold, at_ns)
        outcomes = [(racer.role, *racer.outcome()) for racer in racers_]
        status = store.get(hold.id).status
        won = [role for role, code, _ in outcomes if code == "resolved"]
        lost = [told for _, code, told in outcomes if code == "already_resolved"]
        assert len(won) == len(lost) == 1
        assert status == STATUS[won[0].split("-")[0]] == lost[0]
        assert [r.event for r in store.audit.records(hold.id)].count(status) == 1


def test_an_answer_against_the_expiry(racing):
    store, start = racing
    answering, expiring = start("approve", "expire")
    seen = set()
    for n in range(ROUNDS):
        hold = store.ask(HoldRequest(agent="a", summary="race", digest=f"d{n}", ttl_ms=4))
        at_ns = time.monotonic_ns() + 3_000_000 + n % 7 * 300_000
        answering.start(hold, at_ns)
        expiring.start(hold, at_ns)
        code, told = answering.outcome()
        expiring.outcome()
        time.sleep(max(0, hold.expires_at_us - store.time.now_us()) / 1e6)
        store.expire()
        status = store.get(hold.id).status
        assert (code, told, status) in {
            ("resolved", "approved", "approved"),
            ("already_resolved", "expired", "expired"),
        }
        events = [r.event for r in store.audit.records(hold.id)]
        assert events.count("approved") + events.count("expired") == 1
        seen.add(status)
    assert "expired" in seen


def test_killed_between_any_two_steps_an_answer_is_there_as_a_whole_or_not_at_all(tmp_path):
    done = subprocess.run(
        [sys.executable, racers.__file__, "die", str(tmp_path / "interlock.db")],
        capture_output=True,
        check=True,
        text=True,
        timeout=25,
    )
    report = json.loads(done.stdout)
    assert len(report) > 10, "an answer has that many steps"
    for left in report:
        if left["left"] == "pending":
            assert left["votes"] == 0
            assert left["events"] == ["asked"]
            assert (left["code"], left["now"]) == ("resolved", "denied"), "the next answer counts"
        else:
            assert left["left"] == "approved"
            assert left["votes"] == 1
            assert left["events"] == ["asked", "voted", "approved"]
            assert (left["code"], left["now"]) == ("already_resolved", "approved")
    assert {left["left"] for left in report} == {"pending", "approved"}
    first_approved = next(n for n, left in enumerate(report) if left["left"] == "approved")
    assert all(left["left"] == "approved" for left in report[first_approved:])
