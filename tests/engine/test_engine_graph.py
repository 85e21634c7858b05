"""Which action waits for which: needs, references at any depth, state keys, declared and free order, and what is refused."""

import sys

import pytest
from engine_world import binding, call, execute, expect, plan, read, reasons, statuses, write
from hypothesis import given
from hypothesis import strategies as st

import interlock
from interlock.model.decode import proposal_from_builtins
from interlock.model.tool import Tool
from interlock.verify import graph as graphs
from interlock.verify import references as reading
from interlock.verify.graph import build_graph
from interlock.verify.references import References

TOOLS = {"change": Tool(name="change"), "look": Tool(name="look", read_only=True)}
TOOLS["sets"] = Tool(name="sets", read_only=True, effects={"k": 1})


def edges(*actions, **fields):
    """The edges of a plan as (earlier, later) ids; needs marked with a star."""
    proposal = proposal_from_builtins(plan(*actions, **fields))
    graph = build_graph(proposal, TOOLS)
    name = [a.id for a in proposal.actions]
    return {
        f"{name[i]}->{name[j]}*" if j >= 0 else f"{name[i]}->{name[~j]}"
        for i, followers in enumerate(graph.dependents)
        for j in followers
    }


def look(name, **fields):
    return call("look", name, **fields)


def test_a_dependency_and_a_reference_are_needs():
    assert edges(look("a"), look("b", dependencies=["a"])) == {"a->b*"}
    assert edges(look("a"), look("b", parameters={"x": "$a.output"})) == {"a->b*"}


@pytest.mark.parametrize(
    "parameters",
    [
        {"x": "$a.output.files[0].path"},
        {"x": {"y": [1, {"z": ["$a.output"]}]}},
        {"x": ["$a.output[3][4]"]},
        {"x": "$a.output.a-b.c d"},
    ],
)
def test_references_are_found_at_any_depth(parameters):
    assert edges(look("a"), look("b", parameters=parameters)) == {"a->b*"}


@pytest.mark.parametrize(
    "text",
    ["$$a.output", "$$a.output.x", "$", "$ab", "$a_1", "$HOME", "x: $a.output", "$$a", "${a}", "$q/x.output", "$(a)", "$é"],
)  # fmt: skip
def test_any_other_dollar_is_plain_text(text):
    assert edges(look("a"), look("b", parameters={"x": text})) == set()


@pytest.mark.parametrize(
    "name", ["é", "two words", "a.b", "x-1:2", "ünï.cödé", "a[0]", "it's", "\u65e5\u672c", "out.output"]
)
@pytest.mark.parametrize(("path", "value"), [("", {"x": {"k": [7]}}), (".x.k[0]", 7), ("['x'][\"k\"][0]", 7)])
def test_every_legal_id_can_be_named(embedded, name, path, value):
    seen = []

    async def give(parameters, ctx):
        return {"x": {"k": [7]}}

    async def take(parameters, ctx):
        seen.append(parameters["v"])

    rt = embedded(binding("give", give), binding("take", take))
    assert execute(rt, call("give", name), call("take", parameters={"v": f"${name}.output{path}"})).ok
    assert seen == [value]


@pytest.mark.parametrize(
    "text",
    [
        "$a", "$a.outputs.x", "$a.output ", "$a.output.", "$a.output[z]", "$a.output['x'", "$a.output..x", "$a.Output", "$a.out",
        "$a and more", "$a/b", "$a[0]", "$a.result", "${a.output}", "${a.output.x}/file", f"$a.output[{'9' * 5000}]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["parameters", "compensation"])
def test_what_begins_with_a_known_id_and_is_not_a_reference_is_refused(text, place):
    parameters = {"deep": [{"x": text}]}
    fields = {"parameters": parameters}
    if place == "compensation":
        fields = {"compensation": {"type": "tool", "tool": "change", "parameters": parameters}}
    with pytest.raises(interlock.ProposalError) as caught:
        edges(look("a"), call("change", "b", **fields))
    inside = "parameters" if place == "parameters" else "compensation.parameters"
    assert (caught.value.code, caught.value.path) == ("reference_malformed", f"$.actions[1].{inside}.deep[0].x")
    assert "$a.output" in caught.value.hint


def test_a_refused_text_is_escaped_by_a_second_dollar(embedded):
    seen = []

    async def show(parameters, ctx):
        seen.append(parameters)

    rt = embedded(binding("show", show))
    texts = ["$$a1 and more", "$$a1.outputs", "$${a1.output}", "$$nope.output", "$$PATH", "$$$a1 and"]
    assert execute(rt, call("show", parameters={"texts": texts})).ok
    assert seen == [{"texts": ["$a1 and more", "$a1.outputs", "${a1.output}", "$nope.output", "$$PATH", "$$a1 and"]}]


def test_a_compensation_cannot_refer_to_an_action_that_there_is_not():
    given = {"type": "tool", "tool": "change", "parameters": {"x": "$zz.output"}}
    with pytest.raises(interlock.ProposalError) as caught:
        edges(call("change", "a", compensation=given))
    assert (caught.value.code, caught.value.path) == ("dependency_unknown", "$.actions[0].compensation.parameters.x")


def test_the_longest_id_is_meant_and_two_possible_ones_are_refused():
    assert edges(look("a"), look("a b"), look("c", parameters={"x": "$a b.output"})) == {"a b->c*"}
    with pytest.raises(interlock.ProposalError, match=r"could refer to `x\.output` or `x`"):
        edges(look("x"), look("x.output"), look("c", parameters={"x": "$x.output.output"}))


def test_an_id_does_not_begin_with_the_sign_of_references():
    with pytest.raises(interlock.ProposalError) as caught:
        edges(look("$a"))
    assert caught.value.path == "$.actions[0].id"


def test_two_dollars_escape_and_one_is_taken_away(embedded):
    seen = []

    async def show(parameters, ctx):
        seen.append(parameters)

    rt = embedded(binding("show", show))
    texts = ["$$a1.output", "$$a1.output.x[0]", "$$x", "$", "$HOME", "$$$a1.output"]
    assert execute(rt, call("show", parameters={"texts": texts, "deep": {"x": ["$$a1.output"]}})).ok
    assert seen == [
        {
            "texts": ["$a1.output", "$a1.output.x[0]", "$$x", "$", "$HOME", "$$a1.output"],
            "deep": {"x": ["$a1.output"]},
        }
    ]


def test_a_reference_keeps_the_type_of_what_it_stands_for(embedded):
    seen = []

    async def give(parameters, ctx):
        return {"files": [{"path": "x", "size": 3, "tags": ["a"], "none": None}]}

    async def take(parameters, ctx):
        seen.append(parameters)

    rt = embedded(binding("give", give), binding("take", take))
    wanted = {"a": "$g.output.files[0].size", "b": ["$g.output.files[0].tags"], "c": "$g.output.files[0].none"}
    assert execute(rt, call("give", "g"), call("take", parameters=wanted)).ok
    assert seen == [{"a": 3, "b": [["a"]], "c": None}]


@pytest.mark.parametrize("path", [".nope", "[0]", ".x[1]", ".x.y", ".x[0].z"])
def test_a_reference_that_leads_nowhere_rejects(embedded, path):
    async def give(parameters, ctx):
        return {"x": [1]}

    rt = embedded(binding("give", give))
    result = execute(rt, call("give", "g"), call("give", parameters={"v": f"$g.output{path}"}))
    assert statuses(result) == ["not_undone", "rejected"]
    assert reasons(result) == ["irreversible", "reference_failed"]


def test_what_is_referred_to_is_checked_against_the_schema_after_it_is_there(embedded):
    async def give(parameters, ctx):
        return "text"

    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    rt = embedded(binding("give", give), binding("take", give, parameters=schema))
    result = execute(rt, call("give", "g"), call("take", parameters={"n": "$g.output"}))
    assert result.results[1].reason == "invalid_parameters"


def test_read_after_write_write_after_read_write_after_write():
    assert edges(write("k", 1, "w"), read("k", "r"), order="free") == {"w->r*"}
    assert edges(read("k", "r"), write("k", 1, "w"), order="free") == {"r->w"}
    assert edges(write("k", 1, "v"), write("k", 2, "w"), order="free") == {"v->w"}
    assert edges(read("k", "p"), read("k", "q"), order="free") == set()


def test_the_nearest_writer_and_all_readers_since():
    plan_ = [write("k", 1, "w1"), read("k", "r1"), read("k", "r2"), write("k", 2, "w2"), read("k", "r3")]
    assert edges(*plan_, order="free") == {"w1->r1*", "w1->r2*", "w1->w2", "r1->w2", "r2->w2", "w2->r3*"}


@pytest.mark.parametrize(
    "reader",
    [
        {"read_set": ["k"]},
        {"state_dependencies": ["k"]},
        {"preconditions": [{"key": "k", "operator": "exists"}]},
        {"assumptions": [{"key": "k", "read_version": 1}]},
    ],
)
@pytest.mark.parametrize("writer", [{"write_set": ["k"]}, {"expected_effects": {"k": 1}}, {"tool": "sets"}])
def test_everything_that_names_a_key_counts(reader, writer):
    assert edges(look("w") | writer, look("r", **reader)) == {
        "w->r*" if {"read_set", "state_dependencies"} & {*reader} else "w->r"
    }
    assert edges(look("r", **reader), look("w") | writer) == {"r->w"}


def test_an_assertion_reads():
    assert edges(write("k", 1, "w"), expect("k", 1, "a"), order="free") == {"w->a"}


@pytest.mark.parametrize("behavior", ["abort", "retry", "skip"])
def test_declared_order_holds_what_changes_something(behavior):
    plan_ = [call("change", "a"), call("change", "c"), call("change", "d", failure_behavior=behavior)]
    plan_ += [write("k", 1, "e"), expect("k", 1, "f"), read("k", "g")]
    assert edges(*plan_) == {"a->c", "c->d", "d->e", "e->f", "e->g*"}
    assert edges(*plan_, order="free") == {"e->f", "e->g*"}


def test_a_reading_tool_sees_what_stands_before_it_and_nothing_that_stands_after_it():
    plan_ = [look("r0"), call("change", "w1"), look("r1"), look("r2"), call("change", "w2"), look("r3")]
    assert edges(*plan_) == {"r0->w1", "w1->r1", "w1->r2", "r1->w2", "r2->w2", "w1->w2", "w2->r3"}
    assert edges(*plan_, order="free") == set()


def test_what_is_about_state_waits_for_no_reading_tool_and_loses_none_of_them():
    plan_ = [look("r0"), write("k", 1, "s"), expect("x", 1, "a"), call("change", "w")]
    assert edges(*plan_) == {"s->a", "a->w", "r0->w"}


@pytest.mark.parametrize("uses", [read("k", "r"), look("r", read_set=["k"]), look("r", state_dependencies=["k"])])
def test_what_uses_a_value_needs_the_action_that_writes_it(embedded, uses):
    """A failed `skip` is passed on along state as along `dependencies`: the value is not the one that the plan means."""

    async def fails(parameters, ctx):
        raise interlock.ToolError("no", retryable=False)

    rt = embedded(binding("fails", fails), binding("look", lambda p, c: None, mode="inline", read_only=True))
    execute(rt, write("k", "old"))
    result = execute(rt, call("fails", "w", write_set=["k"], failure_behavior="skip"), uses, read("other"))
    assert statuses(result) == ["failed", "skipped", "succeeded"]
    assert result["r"].reason == "dependency_failed"


def test_a_condition_is_judged_whatever_the_outcome_of_the_writer(embedded):
    """Skipped, an assertion would not stop what it guards, and a precondition could not choose the other way."""

    async def fails(parameters, ctx):
        raise interlock.ToolError("no", retryable=False)

    rt = embedded(binding("fails", fails), binding("change", lambda p, c: None, mode="inline"))
    missing = [{"key": "k", "operator": "not_exists"}]
    failing = call("fails", "w", write_set=["k"], failure_behavior="skip")
    assert statuses(execute(rt, failing, call("change", preconditions=missing))) == ["failed", "succeeded"]
    assert reasons(execute(rt, failing, expect("k", 1), call("change")))[1:] == ["assertion_failed", "aborted"]


def test_needs_that_point_to_later_actions_come_first():
    plan_ = [call("change", "late", dependencies=["early"]), call("change", "early")]
    assert edges(*plan_) == {"early->late*"}
    proposal = proposal_from_builtins(plan(*plan_))
    assert list(build_graph(proposal, TOOLS).order) == [1, 0]


@pytest.mark.parametrize(
    ("actions", "code", "named"),
    [
        ([look("a", dependencies=["a"])], "dependency_cycle", ["`a` -> `a`"]),
        ([look("a", dependencies=["b"]), look("b", dependencies=["a"])], "dependency_cycle", ["`a`", "`b`"]),
        ([look("a", parameters={"x": "$b.output"}), look("b", dependencies=["a"])], "dependency_cycle", ["`a`", "`b`"]),
        ([look("a", dependencies=["zz"])], "dependency_unknown", ["`zz`"]),
        ([look("a", parameters={"x": "$zz.output"})], "dependency_unknown", ["`zz`"]),
        ([look("a", compensation={"type": "action_ref", "action_id": "zz"})], "dependency_unknown", ["`zz`"]),
        ([look("a"), look("b"), look("a")], "duplicate_id", ["`a`", "0", "2"]),
    ],
)
def test_plans_that_cannot_be_ordered_are_refused_before_anything_runs(embedded, actions, code, named):
    ran = []

    async def tool(parameters, ctx):
        ran.append(1)

    rt = embedded(binding("look", tool), binding("first", tool))
    with pytest.raises(interlock.ProposalError) as caught:
        execute(rt, call("first", "first"), *actions)
    assert caught.value.code == code
    shift = {"0": "1", "2": "3"}  # `first` comes before them
    assert all(shift.get(name, name) in caught.value.message for name in named)
    assert caught.value.path.startswith("$.actions[")
    assert ran == []


def test_a_circle_is_named_without_what_only_leads_into_it():
    actions = [look("in", dependencies=["x"])]
    actions += [look("x", dependencies=["z"]), look("y", dependencies=["x"]), look("z", dependencies=["y"])]
    with pytest.raises(interlock.ProposalError) as caught:
        edges(*actions)
    assert "`in`" not in caught.value.message
    assert all(f"`{name}`" in caught.value.message for name in "xyz")


def work(actions):
    """How many lines of the graph's own code run for a plan: counts, not seconds."""
    proposal = proposal_from_builtins(plan(*actions, order="declared"))
    lines = 0

    def trace(frame, event, arg):
        nonlocal lines
        if frame.f_code.co_filename not in (graphs.__file__, reading.__file__):
            return None
        lines += event == "line"
        return trace

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        build_graph(proposal, TOOLS)
    finally:
        sys.settrace(old)
    return lines


@pytest.mark.parametrize(
    "shape",
    [
        lambda n: [call("change", f"n{i}") for i in range(n)],
        lambda n: [look(f"n{i}", dependencies=[f"n{i - 1}"] if i else []) for i in range(n)],
        lambda n: [look(f"n{i}", dependencies=[f"n{i + 1}"] if i + 1 < n else []) for i in range(n)],
        lambda n: [look("n0"), *(look(f"n{i}", parameters={"x": "$n0.output"}) for i in range(1, n))],
        lambda n: [write("k", 1, f"n{i}") if i % 2 else read("k", f"n{i}") for i in range(n)],
        lambda n: [read("k", f"n{i}") if i % 100 else write("k", 1, f"n{i}") for i in range(n)],
        lambda n: [look(f"n{i}") if i % 100 else call("change", f"n{i}") for i in range(n)],
        lambda n: [look(f"n{i}", parameters={"x": "$" + "p" * 50}) for i in range(n)],
    ],
    ids=[
        "chain of order",
        "chain of needs",
        "backwards chain",
        "fan out",
        "readers and writers",
        "many readers",
        "many reading tools",
        "texts with dollars",
    ],
)
def test_the_work_grows_linearly(shape):
    small, large = work(shape(200)), work(shape(1600))
    assert large < small * 8 * 1.3


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["$1.output", "$1.output.x[0]", "$x.output", "$", "$ax"])
    | st.text(alphabet="$a.output[]x", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy$", max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text("xy", max_size=2), JSON, max_size=3))
def test_what_resolves_is_what_was_announced_and_nothing_else_changes(parameters):
    asked = []

    def lookup(name, path):
        asked.append((name, path))
        return "value"

    names = References(["1"])
    result = names.resolve(parameters, lookup)
    assert asked == list(names.of(parameters))
    if not asked and "$$" not in repr(parameters):
        assert result == parameters


@given(JSON)
def test_what_is_escaped_resolves_to_itself(value):
    def refuse(name, path):
        raise AssertionError("an escaped reference was looked up")

    names = References(["1"])
    assert names.resolve(names.escape(value), refuse) == value
