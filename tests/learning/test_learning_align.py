"""Alignment: any two traces of one template give the template back, and nothing that must not be kept is in it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.learning.align import (
    PARAMETER,
    REFERENCE,
    Step,
    Trace,
    UnalignableError,
    align,
    bindings,
    fill,
    keeps_apart,
)

KEYS = st.text("abcdef", min_size=1, max_size=3)
LEAVES = st.none() | st.booleans() | st.integers(-99, 99) | st.text("xyz .-", max_size=6)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=6)


@st.composite
def templates(draw):
    """Steps with marks in some places; each mark has a name of its own, or one that stands twice."""
    names = [f"p{n}" for n in range(draw(st.integers(0, 4)))]
    steps = []
    for number in range(draw(st.integers(1, 4))):
        parameters = draw(st.dictionaries(KEYS, VALUES, max_size=3))
        for name in names:
            if draw(st.booleans()):
                parameters[draw(st.sampled_from(["path", "text", "a", name]))] = {PARAMETER: name}
        if number and draw(st.booleans()):
            parameters["from"] = {REFERENCE: f"s{draw(st.integers(1, number))}.output['x']"}
        steps.append(Step(type="tool_call", tool=draw(st.sampled_from(["fs.write", "t"])), parameters=parameters))
    return steps


def traced(steps, arguments):
    return Trace(
        order="declared",
        steps=tuple(msgspec.structs.replace(one, parameters=fill(one.parameters, arguments)) for one in steps),
    )


def marks(value):
    if isinstance(value, dict):
        if PARAMETER in value:
            return [value[PARAMETER]]
        return [name for inner in value.values() for name in marks(inner)]
    return [name for inner in value for name in marks(inner)] if isinstance(value, list) else []


@given(templates(), st.lists(st.integers(0, 9), min_size=8, max_size=8, unique=True))
def test_two_traces_of_a_template_give_it_back(steps, numbers):
    names = sorted(set(marks([one.parameters for one in steps])))
    first = {name: f"one-{numbers[i]}" for i, name in enumerate(names)}
    second = {name: f"two-{numbers[i]}" for i, name in enumerate(names)}
    found = align([traced(steps, first), traced(steps, second)])
    renamed = {}
    for ours, theirs in zip(found.steps, steps, strict=True):
        rename(ours.parameters, theirs.parameters, renamed)
    assert sorted(renamed) == sorted(found.parameters)
    assert sorted(renamed.values()) == names  # one parameter each, and no other
    for arguments in (first, second):
        assert bindings(found, traced(steps, arguments)) == {ours: arguments[name] for ours, name in renamed.items()}
        assert traced(found.steps, bindings(found, traced(steps, arguments))) == traced(steps, arguments)


def rename(ours, theirs, renamed):
    """Walk both; they differ in nothing but the names of the marks."""
    if isinstance(theirs, dict) and PARAMETER in theirs:
        assert renamed.setdefault(ours[PARAMETER], theirs[PARAMETER]) == theirs[PARAMETER]
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            rename(ours[key], theirs[key], renamed)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            rename(one, other, renamed)
    else:
        assert (ours, type(ours)) == (theirs, type(theirs))


@given(templates())
def test_the_order_of_traces_changes_no_template(steps):
    names = sorted(set(marks([one.parameters for one in steps])))
    traces = [traced(steps, {name: f"{n}-{name}" for name in names}) for n in range(3)]
    assert align(traces) == align(traces[::-1])


def one(**parameters):
    return Trace(order="declared", steps=(Step(type="tool_call", tool="t", parameters=parameters),))


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "cat /home/ann/x",
        "--out=/tmp/x",
        "~/.ssh/id",
        "~ann/x",
        "use [redacted:password:1a2b3c4d]",
        "'/srv/a'",
    ],
)
def test_secrets_and_absolute_paths_never_go_in(text):
    assert keeps_apart(text)
    found = align([one(a=text, b=[{"c": text}]), one(a=text, b=[{"c": text}])])
    assert text not in msgspec.json.encode(found).decode()
    assert list(found.parameters) == ["a"]  # the same at both places


@pytest.mark.parametrize("text", ["a/b", "src/x.py", "and/or", "1 / 2", "https://example.org/a", "./x", "a ~ b"])
def test_other_texts_stay(text):
    assert align([one(a=text), one(a=text)]).parameters == {}


def test_proposals_with_other_parameters_have_another_shape():
    assert one(a=1).shape == one(a="x").shape != one(a=1, b=1).shape


def test_references_that_differ_cannot_be_aligned_and_have_another_shape():
    left, right = one(a={REFERENCE: "s1.output"}), one(a={REFERENCE: "s2.output"})
    assert left.shape != right.shape
    with pytest.raises(UnalignableError):
        align([left, right])


def test_kinds_of_values_are_in_the_schema():
    found = align([one(a=1, b="x", c=[1], d=None), one(a=2.5, b=3, c=[1, 2], d={"k": 1})])
    assert found.parameters == {
        "a": {"type": "number"}, "b": {"type": ["integer", "string"]}, "c": {"type": "array"},
        "d": {"type": ["null", "object"]},
    }  # fmt: skip
