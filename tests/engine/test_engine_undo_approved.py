"""A compensation that was shown with an approved action is approved with it: undo does not ask again."""

from __future__ import annotations

import asyncio
import threading

import pytest
from engine_world import TOML, binding, call, execute, statuses

from interlock.approvals import Approver
from interlock.approvals.hold import ANY_GROUP
from interlock.model.tool import CompensationTemplate
from interlock.surfaces.cli.holds import hold_lines
from interlock.surfaces.cli.output import Output

ASKING = TOML % 'ask = ["book", "cancel"]\n'
ME = Approver(id="me", display="Me", groups=(ANY_GROUP,))


@pytest.fixture
def world(new_project):
    """A runtime in which booking and cancelling are asked about, the log of calls, and every question that was asked."""
    log, asked = [], []

    async def book(parameters, _ctx):
        log.append(("book", parameters["seat"]))
        return {"booking": 7}

    async def cancel(parameters, _ctx):
        log.append(("cancel", parameters["booking"]))

    undo = CompensationTemplate(tool="cancel", parameters={"booking": "$output.booking"})
    project = new_project(toml=ASKING)
    rt = project.open(binding("book", book, reversibility="compensable", compensation=undo), binding("cancel", cancel))

    def answer(hold):
        asked.append(hold)
        store = rt.services.desk.store
        threading.Thread(target=lambda: store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)).start()

    rt.services.desk.listeners.append(answer)
    return rt, log, asked, project


BOOK = call("book", "book", parameters={"seat": "1a"})
FAIL = call("shell", "fail", parameters={"command": "exit 3"})


def test_undo_of_an_approved_action_runs_the_compensation_that_was_shown(world):
    rt, log, asked, _ = world
    done = execute(rt, BOOK)
    assert statuses(done) == ["succeeded"]
    assert any("by `cancel`, which the approval covers too" in line for line in hold_lines(Output(), asked[0]))
    result = asyncio.run(rt.runs.undo(done.run_id))
    assert (result.status, result.results[0].output["not_undone"]) == ("succeeded", [])
    assert log == [("book", "1a"), ("cancel", 7)]
    assert len(asked) == 1


def test_rollback_too(world):
    rt, log, _, _ = world
    assert statuses(execute(rt, BOOK, FAIL)) == ["compensated", "failed"]
    assert log == [("book", "1a"), ("cancel", 7)]


def test_a_compensation_that_the_agent_chose_is_not_approved_unseen(world):
    rt, log, _, _ = world
    chosen = {**BOOK, "compensation": {"type": "tool", "tool": "cancel", "parameters": {"booking": 8}}}
    result = execute(rt, chosen, FAIL)
    assert statuses(result)[0] == "not_undone"
    assert "needs an approval of its own" in result.not_undone[0].detail
    assert log == [("book", "1a")]


def test_a_rule_that_came_later_holds(world):
    rt, log, asked, project = world
    done = execute(rt, BOOK)
    (project.root / "interlock.toml").write_text(ASKING.replace("ask = [", 'deny = ["cancel"]\nask = ['))
    project.trust()
    result = asyncio.run(rt.runs.undo(done.run_id))
    assert result.status == "failed"
    assert log == [("book", "1a")]
    assert len(asked) == 1
