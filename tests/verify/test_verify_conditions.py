"""Step 4: preconditions and assumptions, operator by operator."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.canonical import canonical
from interlock.model.codes import REASONS
from interlock.model.proposal import Assumption, Precondition
from interlock.verify.conditions import check_assumptions, check_preconditions, equal, holds

STATE = {
    "one": (1, 4),
    "half": (0.5, 1),
    "yes": (True, 1),
    "null": (None, 2),
    "text": ("needle in hay", 1),
    "list": ([1, "a", [True], {"x": 1}], 1),
    "tree": ({"a/b": {"m~n": [10, 20]}, "": {"": 0}, "-": 1, "0": "zero"}, 1),
}


def true(key, operator, value=None, path=None):
    return holds(Precondition(key=key, operator=operator, value=value, path=path), STATE.get(key))


@pytest.mark.parametrize(
    ("key", "operator", "value"),
    [
        ("one", "eq", 1),
        ("one", "eq", 1.0),
        ("yes", "eq", True),
        ("null", "eq", None),
        ("text", "eq", "needle in hay"),
        ("list", "eq", [1.0, "a", [True], {"x": 1.0}]),
        ("one", "neq", True),
        ("yes", "neq", 1),
        ("null", "neq", False),
        ("null", "neq", 0),
        ("one", "neq", "1"),
        ("list", "neq", [1, "a", [1], {"x": 1}]),
        ("one", "gt", 0.5),
        ("one", "gte", 1),
        ("half", "lt", 1),
        ("half", "lte", 0.5),
        ("text", "gt", "needle"),
        ("text", "lt", "z"),
        ("one", "exists", None),
        ("null", "exists", None),
        ("nowhere", "not_exists", None),
        ("text", "contains", "in"),
        ("text", "contains", ""),
        ("list", "contains", 1.0),
        ("list", "contains", [True]),
        ("list", "contains", {"x": 1}),
        ("tree", "contains", "a/b"),
    ],
)
def test_holds(key, operator, value):
    assert true(key, operator, value)


@pytest.mark.parametrize(
    ("key", "operator", "value"),
    [
        ("one", "eq", True),
        ("yes", "eq", 1),
        ("one", "eq", "1"),
        ("one", "neq", 1.0),
        ("one", "gt", 1),
        ("one", "gt", "0"),
        ("yes", "gt", False),
        ("yes", "gte", 1),
        ("one", "lt", True),
        ("null", "lt", 1),
        ("null", "gte", None),
        ("list", "gt", []),
        ("text", "lt", "needle"),
        ("null", "not_exists", None),
        ("list", "contains", True),
        ("list", "contains", "x"),
        ("text", "contains", "Needle"),
        ("text", "contains", 1),
        ("tree", "contains", 0),
        ("one", "contains", 1),
        ("null", "contains", None),
    ],
)
def test_does_not_hold(key, operator, value):
    assert not true(key, operator, value)


@pytest.mark.parametrize("operator", ["eq", "neq", "gt", "lt", "gte", "lte", "exists", "contains"])
@pytest.mark.parametrize("value", [None, 0, "", False])
def test_an_absent_key_and_a_path_to_nowhere_fail_every_operator_that_needs_a_value(operator, value):
    assert not true("nowhere", operator, value)
    assert not true("tree", operator, value, "/missing")
    assert not true("null", operator, value, "/x")


@pytest.mark.parametrize(
    ("key", "path", "value"),
    [
        ("tree", "", STATE["tree"][0]),
        ("tree", "/a~1b/m~0n/0", 10),
        ("tree", "/a~1b/m~0n", [10, 20]),
        ("tree", "//", 0),
        ("tree", "/-", 1),
        ("tree", "/0", "zero"),
        ("list", "/3/x", 1),
        ("list", "/2/0", True),
    ],
)
def test_a_path_is_a_json_pointer(key, path, value):
    assert true(key, "eq", value, path)
    assert not true(key, "not_exists", None, path)


@pytest.mark.parametrize(
    "path", ["/4", "/-", "/-1", "/01", "/00", "/+1", "/ 1", "/1.0", "/x", "/", "/²", "/" + "9" * 5000, "/1/0"]
)
def test_a_path_that_leads_nowhere_in_an_array(path):
    assert true("list", "not_exists", None, path)
    assert not true("list", "exists", None, path)


def test_the_refusal_names_key_operator_and_path_and_never_a_value():
    conditions = [
        Precondition(key="one", value=1),
        Precondition(key="text", operator="contains", value="agent-secret", path="/x"),
    ]
    refusal = check_preconditions(conditions, STATE.get)
    assert (refusal.reason, refusal.path) == ("precondition_failed", "$.preconditions[1]")
    assert refusal.detail == "precondition `contains` on state key `text` at `/x` does not hold"
    assert refusal.reason in REASONS
    assert check_preconditions(conditions[:1], STATE.get) is None
    assert check_preconditions([], STATE.get) is None


@pytest.mark.parametrize(
    "assumption",
    [
        Assumption(key="one"),
        Assumption(key="one", expected_value=1.0),
        Assumption(key="one", read_version=4),
        Assumption(key="one", expected_value=1, read_version=4),
        Assumption(key="null", expected_value=None, read_version=2),
        # What `state_read` said of a key that is absent: null, which is version 0.
        Assumption(key="nowhere", expected_value=None),
        Assumption(key="nowhere", read_version=0),
    ],
)
def test_an_assumption_that_is_right(assumption):
    assert check_assumptions([assumption], STATE.get) is None


@pytest.mark.parametrize(
    "assumption",
    [
        Assumption(key="one", expected_value=True),
        Assumption(key="one", expected_value=None),
        Assumption(key="one", expected_value=1, read_version=3),
        Assumption(key="one", read_version=0),
        Assumption(key="nowhere", expected_value=1),
        Assumption(key="nowhere", read_version=1),
    ],
)
def test_an_assumption_that_is_wrong(assumption):
    refusal = check_assumptions([Assumption(key="one"), assumption], STATE.get)
    assert (refusal.reason, refusal.path) == ("precondition_failed", "$.assumptions[1]")


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, -0.0, 1.0, 0.5, 2.0**53])
    | st.text("ab", max_size=2)
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("ab"), v, max_size=2)
)


@given(values, values)
def test_two_values_are_equal_exactly_if_their_canonical_json_is(a, b):
    assert equal(a, b) == (canonical(a) == canonical(b))
    assert equal(a, a)


@given(values, values)
def test_operators_agree_with_each_other(a, b):
    def true(operator):
        return holds(Precondition(key="k", operator=operator, value=b), (a, 1))

    assert true("eq") != true("neq")
    assert true("gte") == (true("gt") or (true("lte") and true("eq")))
    assert true("lte") == (true("lt") or (true("gte") and true("eq")))
    assert not (true("gt") and true("lt"))
    assert (true("gt") or true("lte")) == (true("lt") or true("gte"))
