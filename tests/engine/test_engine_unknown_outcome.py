"""An unknown outcome is a held action like any other: listed, answered with the same proof everywhere, for one attempt."""

import asyncio

import pytest
from engine_world import statuses
from test_engine_recovery import Crash, register, step

from interlock.approvals import AccessError
from interlock.engine.people.answers import Answering, Standing
from interlock.engine.people.identity import Proof, identify
from interlock.engine.runs.resume import resume
from interlock.engine.runs.unknown_outcomes import answer_outcome
from interlock.model.errors import UsageError


@pytest.fixture
def crash(project):
    return Crash(project)


@pytest.fixture
def dead(crash):
    """A run whose process died in the middle of `b`, and a runtime with approver ann."""
    crash.run(register(), step("a"), step("b", die=True), step("c"))
    crash.rt = crash.project.open(crash.tool())
    crash.desk = crash.rt.services.desk
    crash.token = crash.desk.approvers.add("ann")
    return crash


def ann(dead):
    return identify(dead.desk, Proof(token=dead.token))


def go_on(dead, answers=None):
    (result,) = asyncio.run(resume(dead.rt.services, dead.run_id, answers, by="me"))
    return result


def test_it_is_listed_with_the_others_at_once(dead):
    (one,) = dead.rt.runs.recover()
    assert (one.need, one.actions) == ("settle", ["b"])
    (hold,) = Answering(dead.desk, "rest").holds()
    assert one.approvals == [hold.id]
    assert (hold.kind, hold.run, hold.action, hold.tool) == ("unknown_outcome", dead.run_id, "b", "step")
    assert hold.parameters == {"outcome": "again"}
    held = go_on(dead)
    assert (statuses(held), held["b"].output) == (["succeeded", "held", "skipped"], {"approval": hold.id})
    assert len(Answering(dead.desk, "rest").holds()) == 1, "asked once"


@pytest.mark.parametrize(
    ("choice", "patch", "expected", "ran"),
    [
        ("approve", None, ["succeeded", "succeeded", "succeeded"], ["b", "c"]),
        ("edit", {"outcome": "succeeded"}, ["succeeded", "succeeded", "succeeded"], ["c"]),
        ("edit", {"outcome": "undo"}, ["not_undone", "failed", "skipped"], []),
        ("deny", None, ["not_undone", "failed", "skipped"], []),
    ],
)
def test_an_answer_from_any_surface_settles_it(dead, choice, patch, expected, ran):
    dead.rt.runs.recover()
    (hold,) = Answering(dead.desk, "rest").holds()
    done = Answering(dead.desk, "rest").answer(hold.id, ann(dead), choice, digest=hold.digest, patch=patch)
    assert done.code == "resolved"
    (one,) = dead.rt.runs.recover()
    assert one.need == "resume"
    result = go_on(dead)
    assert statuses(result) == expected
    assert [name for _, name in dead.log] == ran
    (settled,) = [e for e in dead.project.journal(dead.run_id) if e["kind"] == "outcome_settled"]
    assert settled["by"] == "ann"


def test_nothing_but_an_answer_with_proof_settles_it_once_there_are_approvers(dead):
    with pytest.raises(AccessError) as refused:
        go_on(dead, {"b": "succeeded"})
    assert refused.value.code == "unauthenticated"
    assert go_on(dead).status == "held"
    with pytest.raises(AccessError):
        identify(dead.desk, Proof())


def test_what_it_became_is_one_of_four_words(dead):
    dead.rt.runs.recover()
    (hold,) = Answering(dead.desk, "rest").holds()
    with pytest.raises(UsageError) as refused:
        Answering(dead.desk, "rest").answer(hold.id, ann(dead), "edit", digest=hold.digest, patch={"outcome": "fine"})
    assert refused.value.code == "invalid_parameters"
    with pytest.raises(UsageError, match="once"):
        Answering(dead.desk, "rest").answer(
            hold.id, ann(dead), "approve", digest=hold.digest, standing=Standing(scope="always")
        )
    assert go_on(dead).status == "held"


def test_an_answer_is_for_one_attempt(dead):
    """The action runs again and dies again: that is another question."""
    services, directory = dead.rt.services, dead.project.run_directory(dead.run_id)
    answer_outcome(dead.desk, services.disk, directory, "b", "again", ann(dead), "cli")
    dead.rt.close()
    child = dead.project.script(
        f"""
        from interlock.engine.runs.resume import resume
        async def step(parameters, ctx):
            os.kill(os.getpid(), 9)
        rt = project.open(binding("step", step))
        asyncio.run(resume(rt.services, {dead.run_id!r}))
        """
    )
    child.communicate(timeout=20)
    assert child.returncode == -9
    dead.rt = dead.project.open(dead.tool())
    dead.desk = dead.rt.services.desk
    assert go_on(dead).status == "held"
    assert dead.log == []


def test_an_action_without_an_unknown_outcome_is_not_settled(dead):
    services, directory = dead.rt.services, dead.project.run_directory(dead.run_id)
    with pytest.raises(UsageError) as refused:
        answer_outcome(dead.desk, services.disk, directory, "a", "failed", ann(dead), "cli")
    assert refused.value.code == "not_found"


def test_an_undo_of_the_run_withdraws_the_question(dead):
    dead.rt.runs.recover()
    asyncio.run(dead.rt.runs.undo(dead.run_id))
    assert Answering(dead.desk, "rest").holds() == []


def test_what_settles_by_itself_is_not_asked(crash):
    crash.run(register(idempotent=True), step("b", die=True))
    rt = crash.project.open(crash.tool(idempotent=True))
    (one,) = rt.runs.recover()
    assert one.need == "resume"
    assert Answering(rt.services.desk, "rest").holds() == []
    (result,) = asyncio.run(resume(rt.services, crash.run_id))
    assert result.status == "succeeded"
