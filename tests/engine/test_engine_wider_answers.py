"""A wider answer (`--scope session|always --uses N`) is the same in the process that asked and after `resume`.

The action finds its own approval first, which is used up; a use of the wider answer is for another call.
"""

import asyncio
import threading

import pytest
from engine_world import AGENT, call, plan

from interlock.approvals import Approver
from interlock.approvals.hold import Standing

ME = Approver(id="me", groups=("*",))
RULES = f"""
agent = "{AGENT}"
[rules]
ask = ["fs.write"]
[grants.{AGENT}]
tools = ["*"]
"""
WIDER = {"session": Standing(scope="session", uses=2), "always": Standing(scope="always", uses=2)}


def put(name, content="proposed", path="f"):
    return call("fs.write", name, parameters={"path": path, "content": content})


class Asked:
    """One project, whose question is answered by `answer` while its process waits, or when it is gone (`later`)."""

    def __init__(self, project, answer, *, later):
        self.project = project
        self.answer = answer
        self.later = later

    def run(self, *actions):
        """Take a plan to its end; the result, and the runtime."""
        if not self.later:
            rt = self.project.open()
            rt.services.desk.listeners.append(
                lambda hold: threading.Thread(target=self.answer, args=(rt.services.desk.store, hold)).start()
            )
            return asyncio.run(rt.execute(plan(*actions), session="s")), rt
        with self.project.open() as rt:
            rt.services.desk.wait = False
            result = asyncio.run(rt.execute(plan(*actions), session="s"))
        while result.status == "held":
            with self.project.open() as rt:
                for hold in rt.services.desk.store.list_holds():
                    self.answer(rt.services.desk.store, hold)
            rt = self.project.open()
            rt.services.desk.wait = False
            [result] = asyncio.run(rt.runs.resume(result.run_id))
        return result, rt


@pytest.fixture(params=["live", "resumed"])
def asked(request, new_project):
    def make(answer):
        return Asked(new_project(toml=RULES), answer, later=request.param == "resumed")

    return make


def approve(standing, patch=None):
    def answer(store, hold):
        store.vote(
            hold.id, ME, "cli", "edit" if patch else "approve", digest=hold.digest, patch=patch, standing=standing
        )

    return answer


@pytest.mark.parametrize("scope", WIDER)
def test_the_approved_call_uses_up_its_own_approval_and_no_use(asked, scope):
    result, rt = asked(approve(WIDER[scope])).run(put("a"))
    assert result.ok
    [hold] = rt.services.desk.store.list_holds(None)
    assert hold.consumed_by == f"{result.run_id}/{result.proposal_id}/a"
    [wider] = rt.services.desk.store.standing.all()
    assert wider.uses_left == 2


def test_an_edit_that_came_with_a_wider_answer_is_kept(asked):
    world = asked(approve(WIDER["always"], {"content": "edited"}))
    result, _ = world.run(put("a"))
    assert result.ok
    assert (world.project.root / "f").read_text() == "edited"


def test_a_file_that_a_person_changed_after_approving_is_asked_about_again(asked):
    answers = []

    def answer(store, hold):
        if not answers:  # before the answer, which is acted on at once where the process waits for it
            (world.project.root / "f").write_text("a person's")
        answers.append(hold)
        approve(WIDER["always"])(store, hold)

    world = asked(answer)
    (world.project.root / "f").write_text("as shown")
    result, rt = world.run(put("a"))
    assert result.ok
    assert [hold.action for hold in answers] == ["a", "a"]
    assert "`f` has changed since it was approved" in answers[1].reason
    assert {wider.uses_left for wider in rt.services.desk.store.standing.all()} == {2}


def test_the_uses_are_for_the_calls_after_it(asked):
    """Two more calls go through, the next one is asked about."""
    world = asked(approve(WIDER["always"]))
    result, rt = world.run(put("a", path="a"), put("b", path="b"), put("c", path="c"), put("d", path="d"))
    assert result.ok
    assert [hold.action for hold in rt.services.desk.store.list_holds("approved")] == ["a", "d"]


def test_a_question_that_a_wider_answer_covers_by_now_is_withdrawn(new_project):
    project = new_project(toml=RULES)
    with project.open() as rt:
        rt.services.desk.wait = False
        result = asyncio.run(rt.execute(plan(put("a", path="a"), put("b", path="b"), order="free")))
        first, _ = rt.services.desk.store.list_holds()
        approve(WIDER["always"])(rt.services.desk.store, first)
    with project.open() as rt:
        rt.services.desk.wait = False
        [result] = asyncio.run(rt.runs.resume(result.run_id))
        assert result.ok
        assert [hold.status for hold in rt.services.desk.store.list_holds(None)] == ["approved", "cancelled"]
        assert [wider.uses_left for wider in rt.services.desk.store.standing.all()] == [1]
