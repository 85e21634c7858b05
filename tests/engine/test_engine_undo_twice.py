"""What was compensated once is not compensated twice; what an undo of the undo made good may be undone again."""

from __future__ import annotations

import asyncio

from engine_world import binding, execute

from interlock.model.tool import CompensationTemplate


def test_undo_again_and_again(new_project):
    booked: list[str] = []

    async def book(parameters, ctx):
        booked.append("book")
        return {"seat": 7}

    async def cancel(parameters, ctx):
        booked.append("cancel")
        return {"seat": parameters["seat"]}

    project = new_project()
    rt = project.open(
        binding("book", book, compensation=CompensationTemplate(tool="cancel", parameters={"seat": "$output.seat"})),
        binding("cancel", cancel, compensation=CompensationTemplate(tool="book", parameters={})),
    )
    done = execute(rt, {"type": "tool_call", "id": "b", "tool": "book"})
    first = asyncio.run(rt.runs.undo(done.run_id))
    assert first.status == "succeeded"
    assert booked == ["book", "cancel"]

    second = asyncio.run(rt.runs.undo(done.run_id))
    assert second.results[0].reason == "nothing_to_undo"
    assert booked == ["book", "cancel"], "compensated once"

    undone = asyncio.run(rt.runs.undo(first.run_id))
    assert undone.status == "succeeded", undone.results[0].output
    assert booked == ["book", "cancel", "book"]
    assert asyncio.run(rt.runs.undo(done.run_id)).status == "succeeded"
    assert booked == ["book", "cancel", "book", "cancel"]


def test_a_file_that_our_own_compensation_removed_comes_back(new_project):
    project = new_project(files=[("ledger.py", "a - b\n")])
    rt = project.open()
    plan = [
        {"type": "tool_call", "id": "init", "tool": "shell", "parameters": {"command": "git init -q ."}},
        {
            "type": "tool_call",
            "id": "fix",
            "tool": "fs.edit",
            "parameters": {"path": "ledger.py", "old": "-", "new": "+"},
        },
        {"type": "tool_call", "id": "add", "tool": "git.add", "parameters": {"paths": ["ledger.py"]}},
        {"type": "tool_call", "id": "commit", "tool": "git.commit", "parameters": {"message": "first"}},
    ]
    done = execute(rt, *plan)
    assert done.status == "succeeded", done.results
    result = asyncio.run(rt.runs.undo(done.run_id))
    assert (project.root / "ledger.py").read_text() == "a - b\n"
    assert [one["action"] for one in result.results[0].output["not_undone"]] == ["init"], "git has changed what it made"


def test_a_conflict_is_found_before_anything_is_touched(new_project):
    project = new_project(files=[("one", "1"), ("two", "2")])
    rt = project.open()
    writes = [
        {"type": "tool_call", "id": name, "tool": "fs.write", "parameters": {"path": name, "content": "new"}}
        for name in ("one", "two")
    ]
    done = execute(rt, *writes)
    (project.root / "one").write_text("somebody else's")
    result = asyncio.run(rt.runs.undo(done.run_id))
    assert result.results[0].reason == "undo_conflict"
    assert (project.root / "two").read_text() == "new", "nothing was touched"
    assert asyncio.run(rt.runs.undo(done.run_id, force=True)).status == "succeeded"
    assert [(project.root / name).read_text() for name in ("one", "two")] == ["1", "2"]


def test_state_too_is_undone_and_redone_again_and_again(new_project):
    rt = new_project().open()
    write = {"type": "state_write", "id": "w", "parameters": {"key": "k", "value": 1}}
    done = execute(rt, write, {**write, "id": "x", "parameters": {"key": "k", "value": 2}, "dependencies": ["w"]})
    for _ in range(2):
        undone = asyncio.run(rt.runs.undo(done.run_id))
        assert undone.status == "succeeded", undone.results[0].output
        assert rt.state.get("k") is None
        assert asyncio.run(rt.runs.undo(undone.run_id)).status == "succeeded"
        assert rt.state.get("k") == 2
    # Somebody's own write counts, although the value is the same.
    execute(rt, {**write, "parameters": {"key": "k", "value": 3}})
    execute(rt, {**write, "parameters": {"key": "k", "value": 2}})
    again = asyncio.run(rt.runs.undo(done.run_id))
    assert again.results[0].reason == "undo_incomplete"
    assert {left.reason for left in again.not_undone} == {"state_conflict"}
    assert rt.state.get("k") == 2
