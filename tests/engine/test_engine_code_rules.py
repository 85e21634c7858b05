"""Rules that a program gives as predicates: they only restrict, fail closed, and are on record by their names."""

import asyncio

import pytest
from engine_world import TOML, binding, call, execute, nothing, plan, reasons, statuses, write

import interlock
from interlock.approvals import Approver


@pytest.fixture
def rt(embedded):
    return embedded(binding("send", nothing), binding("other", nothing))


def large(request):
    return "too large" if request.parameters.get("amount", 0) > 100 else None


def send(amount, **fields):
    return call("send", parameters={"amount": amount}, failure_behavior="skip", **fields)


def test_a_predicate_forbids_by_its_name_and_with_its_reason(rt):
    execute(rt, send(500))  # judged before there was a rule: what was settled then does not count any more
    rt.rules.add("limit", large, tools=["send"])
    result = execute(rt, send(5), send(500), call("other", parameters={"amount": 500}))
    assert statuses(result) == ["succeeded", "rejected", "succeeded"]
    assert (result.results[1].reason, result.results[1].error) == (
        "policy_denied", "forbidden by code:limit: too large"
    )  # fmt: skip
    rt.rules.remove("limit")
    assert execute(rt, send(500)).ok
    with pytest.raises(interlock.UsageError, match="no rule in code"):
        rt.rules.remove("limit")


@pytest.mark.parametrize("answer", [1, "raise", {}, asyncio.sleep])
def test_a_predicate_that_raises_or_answers_something_else_denies(rt, answer):
    def broken(request):
        if answer == "raise":
            raise ValueError("with a value that nobody may see")
        return answer

    rt.rules.add("broken", broken)
    result = execute(rt, send(1))
    assert reasons(result) == ["policy_error"]
    assert "code:broken" in result.results[0].error
    assert "nobody may see" not in result.results[0].error


def test_it_can_allow_nothing(embedded):
    rt = embedded(binding("send", nothing), rules={"allow": ["state_write"], "deny": ["send"]})
    rt.rules.add("yes", lambda request: False)
    assert reasons(execute(rt, send(1))) == ["policy_denied"]


def test_it_cannot_change_the_call(embedded):
    seen = []

    async def see(parameters, ctx):
        seen.append(parameters)

    rt = embedded(binding("send", see))
    rt.rules.add("meddles", lambda request: request.parameters.clear())
    assert execute(rt, send(1)).ok
    assert seen == [{"amount": 1}]


def test_it_sees_state_that_it_names_and_judges_state_actions(rt):
    rt.rules.add("frozen", lambda request: request.state.get("frozen") is True, state_keys=["frozen"])
    result = execute(rt, write("frozen", True), send(1), write("other", 1, failure_behavior="skip"))
    assert statuses(result) == ["succeeded", "rejected", "rejected"]


def test_a_fork_begins_with_it_and_adds_its_own(rt):
    rt.rules.add("limit", large)
    fork = rt.fork("coder")
    fork.rules.add("none", lambda request: True)
    assert reasons(execute(fork, send(5))) == ["policy_denied"]
    assert execute(rt, send(5)).ok


def test_it_reaches_a_proposal_that_runs(embedded):
    async def first(parameters, ctx):
        rt.rules.add("stop", lambda request: True, tools=["second"])

    rt = embedded(binding("first", first), binding("second", nothing))
    assert reasons(execute(rt, call("first"), call("second", failure_behavior="skip"))) == [None, "policy_denied"]


def test_it_asks_and_the_approval_is_for_that_rule(project):
    rt = project.open(binding("send", nothing))
    rt.rules.add("limit", large, effect="ask")
    rt.services.desk.wait = False
    held = execute(rt, send(500))
    assert held.status == "held"
    [hold] = rt.services.desk.store.list_holds()
    assert (hold.requirements[0].policy, hold.reason) == ("code:limit", "too large")
    rt.services.desk.store.vote(hold.id, Approver(id="me", groups=("*",)), "cli", "approve", digest=hold.digest)
    [result] = asyncio.run(rt.runs.resume(held.run_id))
    assert result.ok
    decisions = [e for e in project.journal(held.run_id) if e["kind"] == "policy_decided"]
    assert decisions[0]["policies"] == ["code:limit"]


def test_the_persons_undo_does_not_depend_on_it(new_project):
    project = new_project(toml=TOML % "")
    rt = project.open()
    result = execute(rt, call("fs.write", parameters={"path": "a", "content": ""}))
    rt.rules.add("nothing", lambda request: True)
    assert asyncio.run(rt.runs.undo(result.run_id)).ok
    assert not (project.root / "a").exists()


def test_a_name_is_needed(rt):
    with pytest.raises(interlock.UsageError):
        rt.rules.add("", large)
    with pytest.raises(interlock.UsageError):
        rt.rules.add("x", large, effect="allow")


def test_explain_names_it(rt):
    rt.rules.add("limit", large)
    [answer] = rt.explain(plan(send(500)))
    assert "code:limit" in str(answer)
