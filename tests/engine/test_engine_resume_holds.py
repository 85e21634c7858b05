"""A held proposal whose process is gone goes on where it stopped, asks nothing twice, and runs nothing twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import AGENT

from interlock.approvals import Approver

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
        [result] = asyncio.run(runtime.resume(held.run_id))
        assert desk.store.list_holds(None)[0].id == hold.id, "the same question, and no other"
        assert len(desk.store.list_holds(None)) == 1
    if answer == "approve":
        assert result.status == "succeeded"
        assert (project.root / "new.txt").read_text() == "hello"
    else:
        assert result["asked"].reason == "approval_denied"
        assert not (project.root / "new.txt").exists()


def test_an_abort_elsewhere_withdraws_the_question(new_project):
    project = new_project(toml=rules('allow = ["fs.read"]\nask = ["fs.write"]'))
    plan = {
        "actions": [
            {"id": "asked", "type": "tool_call", "tool": "fs.write", "parameters": {"path": "a", "content": "b"}},
            {"id": "fails", "type": "tool_call", "tool": "fs.read", "parameters": {"path": "is-not-there"}},
        ]
    }
    with project.open() as runtime:
        runtime.services.desk.wait = False
        result = asyncio.run(runtime.execute(plan))
        assert result.status == "failed"
        assert result["asked"].status == "skipped"
        assert [hold.status for hold in runtime.services.desk.store.list_holds(None)] == ["cancelled"]
