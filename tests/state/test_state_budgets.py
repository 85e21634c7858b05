"""Budgets: never overspent by however many processes, given back where nothing ran, and safe to crash in."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.disk import Database
from interlock.model.proposal import Budget
from interlock.state.budgets import BLOCK_MAX, BudgetStore

SPEND = """
import os, sys
from pathlib import Path
from interlock.disk import Database
from interlock.model.proposal import Budget
from interlock.state.budgets import BudgetStore
budget = BudgetStore(Database(Path(sys.argv[1]))).open({"session:s": Budget(actions=1000), "agent:a": Budget(tool_calls=700)})
n = 0
while n < int(sys.argv[2]) and budget.reserve():
    n += 1
    budget.settle(1.0, 0.0)
print(n, flush=True)
if sys.argv[3] == "die":
    os.kill(os.getpid(), 9)
budget.close()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "interlock.db"


@pytest.fixture
def database(path):
    database = Database(path)
    yield database
    database.close()


@pytest.fixture
def store(database):
    return BudgetStore(database)


def spend(budget, most=10**6, **settled):
    n = 0
    while n < most and budget.reserve():
        n += 1
        budget.settle(**settled)
    return n


def test_what_is_reserved_never_exceeds_the_limit(store):
    budget = store.open({"run:r": Budget(actions=10)})
    assert spend(budget) == 10
    assert not budget.reserve()
    assert (budget.exhausted.scope, budget.exhausted.kind, budget.exhausted.limit) == ("run:r", "actions", 10)
    assert store.spent("run:r")["actions"] == 10


def test_no_limit_no_counting(store):
    budget = store.open({"run:r": Budget()})
    assert spend(budget, 1000) == 1000
    assert store.spent("run:r")["actions"] == 0


def test_a_budget_of_nothing_allows_nothing(store):
    for limit in (Budget(actions=0), Budget(tool_calls=0), Budget(duration_ms=0), Budget(cost=0.0)):
        assert not store.open({"run:r": limit}).reserve()


def test_state_actions_cost_no_tool_calls(store):
    budget = store.open({"run:r": Budget(tool_calls=1)})
    assert all(budget.reserve(actions=1, tool_calls=0) for _ in range(5))
    assert budget.reserve()
    assert not budget.reserve()
    assert budget.reserve(actions=1, tool_calls=0)


def test_the_scarcest_scope_decides_and_the_others_lose_nothing(store):
    budget = store.open({"run:r": Budget(actions=100), "agent:a": Budget(actions=3)})
    assert spend(budget) == 3
    assert budget.exhausted.scope == "agent:a"
    budget.close()
    assert store.spent("run:r")["actions"] == 3


def test_a_refund_can_be_spent_again(store):
    budget = store.open({"run:r": Budget(actions=2, tool_calls=2)})
    assert budget.reserve()
    budget.refund()
    assert spend(budget) == 2


def test_what_is_not_spent_goes_back(store):
    first, second = (store.open({"session:s": Budget(actions=100)}) for _ in range(2))
    assert spend(first, 3) == 3
    assert spend(second) <= 97
    first.close()
    assert spend(second) + store.open({"session:s": Budget(actions=100)}).reserve() <= 97
    second.close()
    assert store.spent("session:s")["actions"] == 100


def test_a_released_budget_stays_open(store):
    budget = store.open({"run:r": Budget(actions=50)})
    spend(budget, 1)
    budget.release()
    assert store.spent("run:r")["actions"] == 1
    assert spend(budget) == 49


def test_a_process_that_waits_keeps_little_of_what_is_left(store):
    waiting, working = (store.open({"session:s": Budget(actions=1000)}) for _ in range(2))
    spend(waiting, 1)
    assert spend(working) >= 1000 - BLOCK_MAX - 1
    waiting.release()
    assert spend(working) + spend(waiting) >= 1


def test_an_action_costs_no_transaction(store, database, monkeypatch):
    budget = store.open(
        {"session:s": Budget(actions=100_000, duration_ms=10**9), "agent:a": Budget(tool_calls=100_000)}
    )
    count = 0
    real = database.transaction

    def counted():
        nonlocal count
        count += 1
        return real()

    monkeypatch.setattr(database, "transaction", counted)
    assert spend(budget, 6400, duration_ms=1, cost=0) == 6400
    assert count <= 2 * 6400 / BLOCK_MAX + 2


def test_time_and_cost_stop_what_comes_after_them(store):
    budget = store.open({"run:r": Budget(cost=1.0, duration_ms=10_000)})
    assert spend(budget, cost=0.3) == 4
    assert budget.exhausted.kind == "cost"
    assert store.spent("run:r")["cost"] == pytest.approx(1.2)
    budget = store.open({"run:s": Budget(cost=1.0, duration_ms=10_000)})
    assert spend(budget, duration_ms=5_000) == 2
    assert budget.exhausted.kind == "duration_ms"


def test_time_and_cost_of_others_count(store):
    first, second = (store.open({"session:s": Budget(cost=1.0)}) for _ in range(2))
    assert first.reserve()
    assert second.reserve()
    first.settle(cost=2.0)
    assert not first.reserve()
    second.settle(cost=0.9)
    assert not second.reserve()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["reserve", "refund", "release", "crash"])), max_size=60),
    st.integers(0, 12),
)
def test_against_a_simple_model(tmp_path_factory, steps, limit):
    database = Database(tmp_path_factory.mktemp("budgets") / "interlock.db")
    store = BudgetStore(database)
    budgets = [store.open({"s": Budget(actions=limit)}) for _ in range(3)]
    open_ = [0, 0, 0]
    spent = 0
    for who, step in steps:
        if step == "reserve":
            if budgets[who].reserve():
                spent += 1
                open_[who] += 1
        elif step == "refund" and open_[who]:
            budgets[who].refund()
            open_[who] -= 1
            spent -= 1
        elif step == "release":
            budgets[who].release()
        elif step == "crash":
            budgets[who] = store.open({"s": Budget(actions=limit)})
            open_[who] = 0
        assert spent <= store.spent("s")["actions"] <= limit
    if not any(step == "crash" for _, step in steps):
        for budget in budgets:
            budget.close()
        assert store.spent("s")["actions"] == spent
        assert spend(budgets[0]) == limit - spent
    database.close()


def test_several_processes_never_overspend_together(path, store):
    command = [sys.executable, "-c", SPEND, str(path), "1000", "close"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    used = [int(p.communicate(timeout=25)[0]) for p in running]
    assert sum(used) <= 700
    rest = store.open({"session:s": Budget(actions=1000), "agent:a": Budget(tool_calls=700)})
    assert sum(used) + spend(rest) == 700, "nothing is lost either"
    rest.close()
    assert store.spent("session:s")["actions"] == 700


def test_a_killed_process_costs_a_block_and_never_overspends(path, store):
    command = [sys.executable, "-c", SPEND, str(path), "100", "die"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=25, check=False)
    assert done.returncode == -9
    rest = store.open({"agent:a": Budget(tool_calls=700)})
    assert 700 - BLOCK_MAX <= 100 + spend(rest) <= 700
