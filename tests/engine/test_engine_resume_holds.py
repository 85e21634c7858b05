"""A held proposal whose process is gone continues where it stopped, asks nothing twice, and runs nothing twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import AGENT, binding

import interlock
from interlock.approvals import Approver
from interlock.engine.record.replay import ReplayedRun
from interlock.journal import lock
from interlock.model.errors import StoreError, UsageError

TOML = """
agent = "%s"
[rules]
%s
[grants.%s]
tools = ["*"]
"""


def rules(text: str) -> str:
    return TOML % (AGENT, text, AGENT)


PLAN: dict[str, Any] = {
    "actions": [
        {"id": "before", "type": "state_write", "parameters": {"key": "count", "value": 1}},
        {"id": "asked", "type": "tool_call", "tool": "fs.write", "parameters": {"path": "new.txt", "content": "hello"}},
        {"id": "after", "type": "state_write", "parameters": {"key": "count", "value": 2}, "dependencies": ["asked"]},
    ]
}


@pytest.mark.parametrize("answer", ["approve", "deny"])
def test_a_held_proposal_is_resumed(new_project, answer):
    project = new_project(toml=rules('allow = ["state_write"]\nask = ["fs.write"]'))
    with project.open() as runtime:
        runtime.services.desk.wait = False
        held = asyncio.run(runtime.execute(PLAN))
        assert held.status == "held"
        assert [row.status for row in held.results] == ["succeeded", "held", "skipped"]
        assert held["after"].reason == "held"
    with project.open() as runtime:
        desk = runtime.services.desk
        [hold] = desk.store.list_holds()
        desk.store.vote(hold.id, Approver(id="ann", groups=("*",)), "cli", answer, digest=hold.digest)
        [result] = asyncio.run(runtime.runs.resume(held.run_id))
        assert desk.store.list_holds(None)[0].id == hold.id, "the same question, and no other"
        assert len(desk.store.list_holds(None)) == 1
    if answer == "approve":
        assert result.status == "succeeded"
        assert (project.root / "new.txt").read_text() == "hello"
    else:
        assert result["asked"].reason == "approval_denied"
        assert not (project.root / "new.txt").exists()


def test_an_abort_elsewhere_withdraws_the_question(new_project):
    project = new_project(toml=rules('allow = ["fails"]\nask = ["fs.write"]'))
    plan = {
        "actions": [
            {"id": "asked", "type": "tool_call", "tool": "fs.write", "parameters": {"path": "a", "content": "b"}},
            {"id": "fails", "type": "tool_call", "tool": "fails"},
        ],
        "order": "free",
    }

    async def fails(parameters, ctx):
        while not runtime.services.desk.store.list_holds():
            await asyncio.sleep(0.001)
        raise interlock.ToolError("once there is a question")

    with project.open(binding("fails", fails, open_world=False)) as runtime:
        runtime.services.desk.wait = False
        result = asyncio.run(runtime.execute(plan))
        assert result.status == "failed"
        assert result["asked"].status == "skipped"
        assert [hold.status for hold in runtime.services.desk.store.list_holds(None)] == ["cancelled"]


WRITES = {
    "actions": [
        {"id": "done", "type": "tool_call", "tool": "fs.write", "parameters": {"path": "a.txt", "content": "a"}},
        {"id": "asked", "type": "tool_call", "tool": "fs.delete", "parameters": {"path": "old.txt"}},
        {"id": "after", "type": "tool_call", "tool": "fs.write", "parameters": {"path": "b.txt", "content": "b"}},
    ]
}


@pytest.fixture
def held(new_project):
    """A project in which one proposal waits for an answer, half done, and nobody waits with it."""
    toml = rules('allow = ["fs.write"]\nask = ["fs.delete"]') + '[workspace]\nmode = "direct"\n'
    project = new_project(toml=toml, files=[("old.txt", "old")])
    with project.open() as runtime:
        runtime.services.desk.wait = False
        result = asyncio.run(runtime.execute(WRITES))
        assert [row.status for row in result.results] == ["succeeded", "held", "skipped"]
    return project, result.run_id


def test_a_run_that_is_not_over_ends_with_its_undo(held):
    project, run_id = held
    with project.open() as runtime:
        assert asyncio.run(runtime.runs.undo(run_id)).ok
        assert not (project.root / "a.txt").exists()
        [hold] = runtime.services.desk.store.list_holds(None)
        assert hold.status == "cancelled"
        with pytest.raises(UsageError) as caught:
            asyncio.run(runtime.runs.resume(run_id))
        assert caught.value.code == "run_finished"
        assert runtime.runs.recover() == []
        assert runtime.services.index.get(run_id).status == "cancelled"
        replayed = ReplayedRun(runtime.services.state_dir / "runs" / run_id)
        [shown] = [replayed.result(proposal) for proposal in replayed.proposals]
        assert shown.status == "cancelled"
        assert [(row.status, row.reason) for row in shown.results] == [
            ("succeeded", None), ("skipped", "cancelled"), ("skipped", "cancelled")
        ]  # fmt: skip
    assert (project.root / "old.txt").read_text() == "old"


def test_a_run_that_did_nothing_but_ask_ends_with_its_undo_too(new_project):
    project = new_project(toml=rules('ask = ["fs.delete"]'), files=[("old.txt", "old")])
    with project.open() as runtime:
        runtime.services.desk.wait = False
        waiting = asyncio.run(runtime.execute({"actions": [WRITES["actions"][1]]}))
        assert asyncio.run(runtime.runs.undo(waiting.run_id)).ok
        assert runtime.services.desk.store.list_holds() == []
        again = asyncio.run(runtime.runs.undo(waiting.run_id))
        assert again.results[0].reason == "nothing_to_undo"


def test_a_run_that_is_not_over_is_undone_whole_or_not_at_all(held):
    project, run_id = held
    with project.open() as runtime:
        refused = asyncio.run(runtime.runs.undo(run_id, "done"))
        assert refused.results[0].reason == "run_unfinished"
        (project.root / "a.txt").write_text("somebody else's")
        conflict = asyncio.run(runtime.runs.undo(run_id))
        assert conflict.results[0].reason == "undo_conflict"
        assert runtime.services.desk.store.list_holds()[0].status == "pending", (
            "nothing was touched, and it can continue"
        )
        assert (project.root / "a.txt").read_text() == "somebody else's"


def test_a_run_whose_process_is_alive_is_not_undone(held):
    project, run_id = held
    with project.open() as runtime:
        directory = runtime.services.state_dir / "runs" / run_id
        with lock.held(directory, runtime.services.disk):
            refused = asyncio.run(runtime.runs.undo(run_id))
        assert refused.results[0].reason == "run_locked"
        assert (project.root / "a.txt").exists()


def test_a_run_that_cannot_be_ended_is_not_undone_and_can_be_resumed(held, monkeypatch):
    project, run_id = held

    def locked(*_arguments, **_options):
        raise StoreError("the database is locked by another process", code="database_locked")

    with project.open() as runtime:
        runtime.services.desk.wait = False
        with monkeypatch.context() as broken:
            broken.setattr(runtime.services.desk.store, "cancel", locked)
            refused = asyncio.run(runtime.runs.undo(run_id))
        assert (refused.status, refused.results[0].reason) == ("failed", "database_locked")
        assert (project.root / "a.txt").exists()
        assert ReplayedRun(runtime.services.state_dir / "runs" / run_id).finished is None
        [again] = asyncio.run(runtime.runs.resume(run_id))
        assert again.status == "held"
