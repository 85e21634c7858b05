"""`simulate`: the state that a plan would leave, and what of it could not run. The engine is the oracle."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interlock
from interlock.model.decode import proposal_from_builtins
from interlock.model.errors import ProposalError
from interlock.model.tool import Binding, Tool
from interlock.verify.simulate import simulate

TOOLS = {
    tool.name: tool
    for tool in (
        Tool(name="noop"),
        Tool(name="login", effects={"session": "$output.token", "user": "$parameters.name", "in": True}),
        Tool(name="strict", parameters={"type": "object", "required": ["x"]}),
    )
}


def call(tool, parameters=None, **fields):
    return {"type": "tool_call", "tool": tool, "parameters": parameters or {}, **fields}


def write(key, value=None, **fields):
    return {"type": "state_write", "parameters": {"key": key, "value": value}, **fields}


def play(*actions, state=None, **fields):
    return simulate(proposal_from_builtins({"actions": actions, **fields}), TOOLS, state if state is not None else {})


def dropped(*actions, **options):
    return [(d.action_id, d.reason) for d in play(*actions, **options).dropped]


def test_writes_are_played_over_the_state():
    found = play(write("x", 2), write("y", {"a": None}), state={"x": (1, 3), "z": ("kept", 1)})
    assert (found.state, found.unknown, found.dropped) == ({"x": 2, "y": {"a": None}, "z": "kept"}, [], [])


def test_the_given_state_is_not_touched():
    state = {"x": (1, 1)}
    play(write("x", 2), state=state)
    assert state == {"x": (1, 1)}


def test_what_only_a_tool_can_tell_is_unknown():
    found = play(call("noop"), write("x", "$a1.output"), write("y", ["$a1.output.z"]), write("w", "$$a1.output"))
    assert (found.state, found.unknown) == ({"w": "$a1.output"}, ["x", "y"])


def test_the_effects_that_a_tool_vouches_for():
    found = play(call("login", {"name": "ann"}), call("noop"), call("login", {"name": "$a2.output"}))
    assert found.unknown == ["session", "user"]
    assert found.state == {"in": True}
    assert play(call("login", {"name": "ann"})).state == {"in": True, "user": "ann"}


def test_claims_are_seen_by_conditions_and_are_not_the_predicted_state():
    condition = [{"key": "x", "value": 1}]
    found = play(call("noop", expected_effects={"x": 1}), call("noop", preconditions=condition))
    assert (found.state, found.dropped) == ({}, [])
    plan = [call("noop", expected_effects={"x": 1}), write("x", 2), call("noop", preconditions=condition)]
    assert dropped(*plan) == [("a3", "precondition_failed")]


def test_what_an_action_writes_counts_more_than_what_it_claims():
    plan = [write("x", 2, expected_effects={"x": 1}), call("noop", preconditions=[{"key": "x", "value": 1}])]
    assert dropped(*plan) == [("a2", "precondition_failed")]


def test_conditions_on_what_is_unknown_are_taken_to_hold():
    plan = [call("noop"), write("x", "$a1.output"), call("noop", preconditions=[{"key": "x", "value": 5}])]
    assert dropped(*plan) == []


def test_what_cannot_run_is_dropped_with_all_that_needs_it_and_the_rest_continues():
    found = play(
        call("nope", id="missing"),
        write("x", "$missing.output", id="child"),
        write("y", 1, dependencies=["child"], id="grandchild"),
        call("strict", id="misfit"),
        write("z", 1, id="other"),
        {"type": "assertion", "parameters": {"key": "z", "expected": 2}, "id": "wrong"},
        call("noop", id="late", state_dependencies=["nowhere"]),
        call("noop", id="assumed", assumptions=[{"key": "z", "expected_value": 7}]),
    )
    assert [(d.action_id, d.reason) for d in found.dropped] == [
        ("missing", "unknown_tool"),
        ("child", "dependency_failed"),
        ("grandchild", "dependency_failed"),
        ("misfit", "invalid_parameters"),
        ("wrong", "assertion_failed"),
        ("late", "state_missing"),
        ("assumed", "precondition_failed"),
    ]
    assert found.state == {"z": 1}


def test_a_dropped_write_leaves_what_was_there():
    condition = [{"key": "x", "value": 2}]
    assert play(write("x", 5, preconditions=condition), state={"x": (1, 1)}).state == {"x": 1}


def test_an_action_that_runs_only_as_a_compensation():
    plan = [write("x", 1, compensation={"type": "action_ref", "action_id": "a2"}), write("x", 0)]
    found = play(*plan)
    assert (found.state, [(d.action_id, d.reason) for d in found.dropped]) == ({"x": 1}, [("a2", "reserved")])


def test_a_state_that_is_not_known_at_all():
    proposal = proposal_from_builtins(
        {"actions": [write("x", 1), call("noop", preconditions=[{"key": "y"}], state_dependencies=["z"])]}
    )
    found = simulate(proposal, TOOLS, None)
    assert (found.state, found.dropped) == ({"x": 1}, [])


def test_a_plan_without_a_graph_is_an_error():
    with pytest.raises(ProposalError):
        play(call("noop", dependencies=["a2"]), call("noop", dependencies=["a1"]))


KEYS = st.sampled_from(["x", "y"])
VALUES = st.sampled_from([None, 0, 1, 1.0, True, "s"])
CONDITIONS = st.lists(
    st.fixed_dictionaries(
        {"key": KEYS, "operator": st.sampled_from(["eq", "neq", "gt", "exists", "not_exists"]), "value": VALUES}
    ),
    max_size=1,
)


@st.composite
def steps(draw, number):
    kind = draw(st.sampled_from(["write", "assertion", "call", "read"]))
    fields = {
        "id": f"s{number}",
        "failure_behavior": "skip",
        "preconditions": draw(CONDITIONS),
        "state_dependencies": draw(st.lists(KEYS, max_size=1)),
        "dependencies": [f"s{draw(st.integers(0, number - 1))}"] if number and draw(st.booleans()) else [],
    }
    key, value = draw(KEYS), draw(VALUES)
    match kind:
        case "write":
            return write(key, value, **fields)
        case "assertion":
            return {"type": "assertion", "parameters": {"key": key, "expected": value}, **fields}
        case "read":
            return {"type": "state_read", "parameters": {"key": key}, **fields}
        case _:
            return call(
                "set", {"value": value}, expected_effects=draw(st.dictionaries(KEYS, VALUES, max_size=1)), **fields
            )


@st.composite
def plans(draw):
    count = draw(st.integers(1, 7))
    return {"actions": [draw(steps(n)) for n in range(count)], "order": draw(st.sampled_from(["declared", "free"]))}


async def _nothing(parameters, ctx):
    return None


SET = Tool(name="set", effects={"x": "$parameters.value"})
SETTINGS = {
    "agent": "coder",
    "rules": {"allow": ["*", "state_read", "state_write", "assert"]},
    "grants": {"coder": {"tools": ["*"], "unscoped": ["*"], "state_keys": ["**"]}},
}


@settings(max_examples=60, deadline=None)
@given(plans(), plans())
def test_the_engine_does_what_was_predicted(first, second):
    rt = interlock.Runtime.open(settings=SETTINGS)
    try:
        rt.register(Binding(tool=SET, function=_nothing))
        for plan in (first, second):
            state = rt.services.store.snapshot()
            predicted = simulate(proposal_from_builtins(plan), {"set": SET}, state)
            result = asyncio.run(rt.execute(plan))
            failed = {row.action_id: row.reason for row in result.results if row.status != "succeeded"}
            assert failed == {d.action_id: d.reason for d in predicted.dropped}
            assert {k: entry.value for k, entry in rt.services.store.snapshot().items()} == predicted.state
            assert predicted.unknown == []
    finally:
        rt.close()
