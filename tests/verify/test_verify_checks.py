"""`verify`: what is wrong with a plan, without running anything."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.codes import REASONS, WARNINGS
from interlock.model.decode import proposal_from_builtins
from interlock.model.limits import Limits
from interlock.model.proposal import Action, Proposal
from interlock.model.tool import Tool
from interlock.verify.checks import verify
from interlock.verify.conflicts import find_conflicts
from interlock.verify.graph import build_graph
from interlock.verify.templates import fill, mentions

PATH = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "count": {"type": "integer"},
        "list": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["path"],
    "additionalProperties": False,
}


def marked(mark):
    return PATH | {"properties": PATH["properties"] | {"path": {"type": "string", "x-interlock": mark}}}


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(name="fs.read", parameters=marked("path.read"), read_only=True),
        Tool(name="fs.write", parameters=marked("path.write")),
        Tool(name="fs.append", parameters=PATH, idempotent=True),
        Tool(name="noop"),
        Tool(name="login", effects={"session": "$output.token"}),
        Tool(name="either", parameters={"oneOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                                                  {"properties": {"a": {"type": "boolean"}}, "required": ["a"]}]}),
    )
}  # fmt: skip


def call(tool, parameters=None, **fields):
    return {"type": "tool_call", "tool": tool, "parameters": parameters or {}, **fields}


def write(key, value=None, **fields):
    return {"type": "state_write", "parameters": {"key": key, "value": value}, **fields}


def report(*actions, state=None, limits=None, **fields):
    proposal = proposal_from_builtins({"actions": actions, **fields})
    return verify(proposal, TOOLS, state=state, **({"limits": limits} if limits else {}))


def issues(*actions, **options):
    return [(issue.action_id, issue.severity, issue.code) for issue in report(*actions, **options).issues]


def test_a_good_plan():
    found = report(
        call("fs.read", {"path": "a"}), call("fs.read", {"path": "b"}), call("fs.write", {"path": "$a1.output"})
    )
    assert found.valid
    assert (found.issues, found.conflicts) == ([], [])
    assert found.execution_levels == [["a1", "a2"], ["a3"]]


def test_an_empty_plan():
    found = report()
    assert (found.valid, found.issues, found.execution_levels) == (True, [], [])


def test_every_code_is_documented():
    found = report(
        call("fs.raed"),
        call("fs.read", {"path": 1}),
        write("k", preconditions=[{"key": "x"}]),
        *[call("noop")] * 3,
        write("k", failure_behavior="skip"),
        order="free",
        budget={"actions": 1},
    )
    assert {issue.code for issue in found.issues} == {
        "unknown_tool",
        "invalid_parameters",
        "unestablished_precondition",
        "repeated_call",
        "unordered_writers",
        "unordered_calls",
        "budget_exceeded",
    }
    assert {issue.code for issue in found.issues} <= REASONS.keys() | WARNINGS.keys()


class TestCalls:
    def test_an_unknown_tool_is_an_error_that_offers_the_nearest_one(self):
        found = report(call("fs.raed", {"path": "a"}))
        assert not found.valid
        assert [issue.message for issue in found.issues] == [
            "no tool `fs.raed` is registered (did you mean `fs.read`?)"
        ]

    def test_parameters_are_checked_and_their_values_not_shown(self):
        found = report(call("fs.read", {"path": 12345, "pth": "hunter2"}))
        messages = [issue.message for issue in found.issues]
        assert len(messages) == 2
        assert any("$.path" in message for message in messages)
        assert not any("12345" in message or "hunter2" in message for message in messages)

    def test_all_problems_are_listed_and_not_only_the_first(self):
        assert issues(call("nope"), call("fs.read"), call("fs.read", {"path": "a"}), call("neither")) == [
            ("a1", "error", "unknown_tool"),
            ("a2", "error", "invalid_parameters"),
            ("a4", "error", "unknown_tool"),
        ]

    def test_what_a_reference_will_be_is_not_known_yet(self):
        fine = [
            {"path": "$a1.output"},
            {"path": "x", "count": "$a1.output.n"},
            {"path": "x", "list": [1, "$a1.output[0]"]},
        ]
        for parameters in fine:
            assert issues(call("noop"), call("fs.read", parameters)) == []
        assert issues(call("noop"), call("either", {"a": "$a1.output"})) == []

    @pytest.mark.parametrize(
        "parameters",
        [
            {"count": "$a1.output"},
            {"path": "$a1.output", "extra": 1},
            {"path": "$a1.output", "count": "x"},
            {"path": "x", "list": ["$a1.output", "x"]},
            {"path": "x", "count": "$$a1.output"},
        ],
    )
    def test_what_is_wrong_beside_a_reference_is_still_found(self, parameters):
        assert issues(call("noop"), call("fs.read", parameters)) == [("a2", "error", "invalid_parameters")]

    def test_a_compensation_is_checked_like_a_call(self):
        def with_compensation(tool, parameters):
            return call("noop", compensation={"type": "tool", "tool": tool, "parameters": parameters})

        assert issues(with_compensation("fs.write", {"path": "$a1.output"})) == []
        assert issues(with_compensation("fs.write", {})) == [("a1", "error", "invalid_parameters")]
        assert issues(with_compensation("undo", {})) == [("a1", "error", "unknown_tool")]

    def test_a_mode_that_the_tool_does_not_have(self):
        tools = {name: Tool(name=name, invocation_modes=("one_shot", "run")) for name in ("noop",)}

        def found(mode):
            action = Action(type="tool_call", tool="noop", id="a", invocation_mode=mode)
            return [issue.code for issue in verify(Proposal(actions=(action,)), tools).issues]

        assert found("run") == []
        assert found("session") == ["unsupported_invocation_mode"]

    def test_a_mode_that_is_not_supported(self):
        proposal = Proposal(actions=(Action(type="tool_call", tool="noop", id="a", invocation_mode="stream"),))
        assert [issue.code for issue in verify(proposal, TOOLS).issues] == ["unsupported_invocation_mode"]

    @pytest.mark.parametrize(
        ("actions", "action", "code"),
        [
            ([call("noop", id="x"), call("noop", id="x")], "x", "duplicate_id"),
            ([call("noop", dependencies=["a9"])], "a1", "dependency_unknown"),
            ([call("noop", {"x": "$a9.output"})], "a1", "dependency_unknown"),
            ([call("noop", dependencies=["a2"]), call("noop", dependencies=["a1"])], "a1", "dependency_cycle"),
        ],
    )
    def test_a_plan_without_a_graph(self, actions, action, code):
        found = report(call("nope"), *actions) if code == "duplicate_id" else report(*actions, call("nope"))
        assert ("error", code) in [(issue.severity, issue.code) for issue in found.issues]
        assert action in [issue.action_id for issue in found.issues if issue.code == code]
        assert "unknown_tool" in [issue.code for issue in found.issues], "other problems are listed all the same"
        assert (found.valid, found.execution_levels) == (False, [])


class TestState:
    def test_a_condition_on_a_known_state_that_does_not_hold(self):
        condition = [{"key": "x", "operator": "gt", "value": 1}]
        assert issues(call("noop", preconditions=condition), state={"x": (2, 1)}) == []
        assert issues(call("noop", preconditions=condition), state={"x": (1, 1)}) == [
            ("a1", "error", "precondition_failed")
        ]
        assert issues(call("noop", preconditions=condition), state={}) == [("a1", "error", "precondition_failed")]

    def test_nothing_is_said_against_what_an_earlier_action_establishes(self):
        condition = [{"key": "x", "value": 1}]
        for first in (write("x", 1), call("noop", expected_effects={"x": 1}), write("x", "$a0.output")):
            plan = [call("noop", id="a0"), first, call("noop", {"n": 1}, preconditions=condition)]
            assert issues(*plan, state={}) == []
            assert issues(*plan) == []

    def test_an_earlier_action_that_makes_it_false(self):
        assert issues(write("x", 2), call("noop", preconditions=[{"key": "x", "value": 1}]), state={"x": (1, 1)}) == [
            ("a2", "error", "precondition_failed")
        ]
        # Whatever the state holds: after the write it is known.
        assert issues(write("x", 2), call("noop", preconditions=[{"key": "x", "value": 1}])) == [
            ("a2", "error", "precondition_failed")
        ]

    def test_a_later_writer_does_not_help(self):
        plan = [call("noop", preconditions=[{"key": "x", "operator": "exists"}]), write("x", 1)]
        assert issues(*plan, state={}) == [("a1", "error", "precondition_failed")]
        assert issues(*plan) == [("a1", "warning", "unestablished_precondition")]

    def test_a_state_that_is_not_known_leaves_a_warning(self):
        found = report(
            call("noop", preconditions=[{"key": "x"}]), call("fs.read", {"path": "a"}, state_dependencies=["y"])
        )
        assert found.valid
        assert [(i.action_id, i.code) for i in found.issues] == [
            ("a1", "unestablished_precondition"),
            ("a2", "unestablished_precondition"),
        ]
        assert issues(call("noop", preconditions=[{"key": "x", "operator": "not_exists"}])) == []

    def test_a_key_that_must_be_there(self):
        assert issues(call("noop", state_dependencies=["x"]), state={}) == [("a1", "error", "state_missing")]
        assert issues(call("noop", state_dependencies=["x"]), state={"x": (None, 1)}) == []

    def test_an_assertion_that_cannot_come_true(self):
        assertion = {"type": "assertion", "parameters": {"key": "x", "expected": 1}}
        assert issues(write("x", 1.0), assertion, state={}) == []
        assert issues(write("x", True), assertion, state={}) == [("a2", "error", "assertion_failed")]

    def test_a_problem_of_the_parameters_does_not_hide_one_of_the_state(self):
        assert issues(call("nope", preconditions=[{"key": "x"}]), state={"x": (1, 1)}) == [
            ("a1", "error", "unknown_tool"),
            ("a1", "error", "precondition_failed"),
        ]


class TestLimits:
    def test_more_actions_than_the_limit(self):
        proposal = proposal_from_builtins({"actions": [call("fs.read", {"path": "a"})] * 3})
        assert verify(proposal, TOOLS, limits=Limits(actions=3)).valid
        found = verify(proposal, TOOLS, limits=Limits(actions=2))
        assert [(i.action_id, i.severity, i.code) for i in found.issues] == [(None, "error", "limit_exceeded")]

    def test_more_than_its_own_budget_allows(self):
        plan = [call("noop"), write("x"), call("fs.read", {"path": "a"})]
        assert issues(*plan, budget={"actions": 3, "tool_calls": 2}) == []
        assert issues(*plan, budget={"actions": 2, "tool_calls": 1}) == [(None, "warning", "budget_exceeded")] * 2


class TestRepeats:
    def test_the_third_identical_call_is_warned_of_once(self):
        same = call("fs.write", {"path": "a", "count": 1})
        assert issues(same, same) == []
        assert issues(same, call("noop"), same, same, same) == [("a4", "warning", "repeated_call")]

    def test_calls_that_are_not_the_same_or_do_no_harm(self):
        assert issues(*(call("fs.write", {"path": "a", "count": n}) for n in range(5))) == []
        assert issues(*[call("fs.read", {"path": "a"})] * 5) == []
        assert issues(*[call("fs.append", {"path": "a"}, idempotent=True)] * 5) == []

    def test_action_and_tool_must_both_say_idempotent(self):
        assert issues(*[call("fs.append", {"path": "a"})] * 3) == [("a3", "warning", "repeated_call")]
        assert issues(*[call("fs.write", {"path": "a"}, idempotent=True)] * 3) == [("a3", "warning", "repeated_call")]


class TestConflicts:
    def test_two_writers_in_free_order(self):
        found = report(write("x", 1), write("x", 2), order="free")
        assert [(c.key, c.actions) for c in found.conflicts] == [("x", ("a1", "a2"))]
        assert [(i.action_id, i.severity, i.code) for i in found.issues] == [("a2", "warning", "unordered_writers")]
        assert found.valid

    @pytest.mark.parametrize(
        "plan",
        [
            [write("x"), write("x", dependencies=["a1"])],
            [write("x"), call("noop", {"x": "$a1.output"}), write("x", dependencies=["a2"])],
            [write("x"), write("y")],
            [write("x"), {"type": "state_read", "parameters": {"key": "x"}}],
        ],
    )
    def test_no_conflict(self, plan):
        assert report(*plan, order="free").conflicts == []

    @pytest.mark.parametrize("behavior", ["abort", "retry", "skip"])
    def test_the_declared_chain_is_an_order_whatever_a_failure_means(self, behavior):
        assert report(write("x"), write("x", failure_behavior=behavior)).conflicts == []

    def test_claimed_and_vouched_writes_count(self):
        plan = [call("login"), call("noop", write_set=["session"]), call("noop", expected_effects={"session": 1})]
        assert [c.actions for c in report(*plan, order="free").conflicts] == [("a1", "a2"), ("a2", "a3")]

    @pytest.mark.parametrize(
        ("plan", "path"),
        [
            ([call("fs.write", {"path": "a"}), call("fs.read", {"path": "./a"})], "a"),
            ([call("fs.read", {"path": "a/b"}), call("fs.write", {"path": "a/b"})], "a/b"),
            ([call("fs.write", {"path": "a/b/c"}), call("fs.read", {"path": "a"})], "a"),
            ([call("fs.read", {"path": "."}), call("fs.write", {"path": "a/b/c"})], "a/b/c"),
            ([call("fs.write", {"path": "a"}), call("fs.write", {"path": "a"}, failure_behavior="skip")], "a"),
        ],
    )
    def test_calls_on_one_path_that_free_order_leaves_without_one(self, plan, path):
        found = report(*plan, order="free")
        assert [(i.action_id, i.severity, i.code) for i in found.issues] == [("a2", "warning", "unordered_calls")]
        assert f"`{path}`" in found.issues[0].message
        assert report(*plan).issues == []

    @pytest.mark.parametrize(
        "plan",
        [
            [call("fs.read", {"path": "a"}), call("fs.read", {"path": "a"})],
            [call("fs.write", {"path": "a"}), call("fs.read", {"path": "ab"})],
            [call("fs.write", {"path": "a"}), call("fs.read", {"path": "a"}, dependencies=["a1"])],
        ],
    )
    def test_calls_that_need_no_order_or_have_one(self, plan):
        assert report(*plan, order="free").issues == []

    def test_of_calls_that_do_not_say_what_they_change_one_pair_is_named(self):
        found = report(*[call("noop", {"n": n}) for n in range(4)], order="free").issues
        assert [(i.action_id, i.code) for i in found] == [("a2", "unordered_calls")]

    def test_an_action_that_runs_only_as_a_compensation_is_not_a_writer(self):
        plan = [write("x", compensation={"type": "action_ref", "action_id": "a2"}), write("x"), write("y")]
        assert report(*plan, order="free").conflicts == []

    @given(
        st.lists(
            st.tuples(st.sampled_from("xyz-"), st.sets(st.integers(1, 6), max_size=2), st.booleans()),
            min_size=1,
            max_size=14,
        ),
        st.sampled_from(["declared", "free"]),
    )
    def test_against_plain_reachability(self, plan, order):
        actions = []
        for i, (key, back, skips) in enumerate(plan):
            fields = {"dependencies": [f"a{i - b + 1}" for b in sorted(back) if i - b >= 0]}
            fields |= {"failure_behavior": "skip"} if skips else {}
            actions.append(call("noop", **fields) if key == "-" else write(key, **fields))
        proposal = proposal_from_builtins({"actions": actions, "order": order})
        after = {
            i: {j for j, a in enumerate(proposal.actions) if f"a{i + 1}" in a.dependencies} for i in range(len(plan))
        }
        chain = range(len(plan)) if order == "declared" else []
        for i, j in pairwise(chain):
            after[i].add(j)

        def reaches(i, j):
            return i == j or any(reaches(k, j) for k in after[i] if k <= j)

        wanted = []
        for j, (key, _, _) in enumerate(plan):
            earlier = [i for i in range(j) if plan[i][0] == key != "-"]
            if earlier and not reaches(earlier[-1], j):
                wanted.append((key, (f"a{earlier[-1] + 1}", f"a{j + 1}")))
        found = find_conflicts(proposal, TOOLS, build_graph(proposal, TOOLS))
        assert [(c.key, c.actions) for c in found] == wanted


class TestSize:
    """Generous: these would take minutes, not seconds, if anything were quadratic."""

    def chain(self, make, count=30_000, **fields):
        actions = tuple(make(i, id=f"a{i}", dependencies=(f"a{i - 1}",) if i else ()) for i in range(count))
        return verify(Proposal(actions=actions, **fields), TOOLS)

    def test_a_long_chain_of_calls(self):
        found = self.chain(lambda i, **f: Action(type="tool_call", tool="fs.write", parameters={"path": f"f{i}"}, **f))
        assert found.valid
        assert len(found.execution_levels) == 30_000

    @pytest.mark.parametrize("order", ["declared", "free"])
    def test_a_long_chain_of_writers_of_many_keys(self, order):
        found = self.chain(
            lambda i, **f: Action(type="state_write", parameters={"key": f"k{i % 100}"}, **f), order=order
        )
        assert (found.valid, found.conflicts) == (True, [])

    def test_many_unordered_writers(self):
        actions = tuple(Action(type="state_write", parameters={"key": "k"}, id=f"a{i}") for i in range(30_000))
        assert len(verify(Proposal(actions=actions, order="free"), TOOLS).conflicts) == 29_999


class TestTemplates:
    PARAMETERS = {"to": "x", "deep": {"a": [1]}}  # noqa: RUF012 - never changed
    OUTPUT = {"id": 7, "none": None}  # noqa: RUF012 - never changed

    @pytest.mark.parametrize(
        ("template", "value"),
        [
            ("$parameters.to", "x"),
            ("$parameters.deep.a", [1]),
            ("$output.id", 7),
            ("$output", OUTPUT),
            ("$parameters", PARAMETERS),
            ("$output.none", None),
            ("$output.missing.deeper", None),
            ("$parameters.to.x", None),
            ("plain", "plain"),
            ("$other.x", "$other.x"),
            ("$parametersx", "$parametersx"),
            ("to $parameters.to", "to $parameters.to"),
            (["$output.id", {"k": "$parameters.to"}, 1, None], [7, {"k": "x"}, 1, None]),
        ],
    )
    def test_placeholders_are_replaced(self, template, value):
        assert fill(template, self.PARAMETERS, self.OUTPUT) == value

    def test_what_a_template_depends_on(self):
        assert mentions({"a": ["$output.x"]}, "output")
        assert not mentions({"a": ["$output.x", "$outputs"]}, "parameters")
        assert not mentions(["$outputs", "x $output.y"], "output")
