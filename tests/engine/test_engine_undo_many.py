"""An undo of many state keys: what it restores, what it leaves, and that its cost is not a statement for each of them."""

from __future__ import annotations

import asyncio

from engine_world import execute

from interlock.disk import Database

MANY = 2_500


def write(key, value):
    return {"type": "state_write", "id": f"w-{key}-{value}", "parameters": {"key": key, "value": value}}


def undo(rt, run_id, **options):
    return asyncio.run(rt.runs.undo(run_id, **options))


def test_all_of_many_keys_get_their_former_values_in_few_statements(project, monkeypatch):
    rt = project.open()
    execute(rt, *(write(f"k{n}", "before") for n in range(0, MANY, 2)))
    run = execute(rt, *(write(f"k{n}", "after") for n in range(MANY)), write("k0", "twice"))
    assert run.ok
    statements = []
    made = Database.execute
    monkeypatch.setattr(Database, "execute", lambda self, sql, *more: statements.append(sql) or made(self, sql, *more))
    assert undo(rt, run.run_id).ok
    assert len(statements) < MANY / 10, len(statements)
    lookups = [sql for sql in statements if "key in (" in sql]
    assert len(lookups) < 3 * MANY / 500, "one pass for the histories and values, and one to check them at the commit"
    assert rt.state.snapshot() == {f"k{n}": "before" for n in range(0, MANY, 2)}


def test_keys_that_were_changed_since_are_left_and_the_others_are_restored(project):
    rt = project.open()
    run = execute(rt, *(write(f"k{n}", "after") for n in range(20)))
    execute(rt, write("k3", "later"), write("k7", "later"))
    done = undo(rt, run.run_id, skip_changed=True)
    assert done.ok, done
    left = {one["action"] for one in done.results[0].output["not_undone"]}
    assert left == {"w-k3-after", "w-k7-after"}
    assert rt.state.snapshot() == {"k3": "later", "k7": "later"}


def test_one_action_of_many_is_undone_alone(project):
    rt = project.open()
    run = execute(rt, *(write(f"k{n}", "after") for n in range(20)))
    assert undo(rt, run.run_id, action_id="w-k5-after").ok
    assert "k5" not in rt.state.snapshot()
    assert len(rt.state.snapshot()) == 19
