"""Values are what the schema says, so an agent cannot slip a forbid by type, absence or spelling."""

from __future__ import annotations

import json
from decimal import Decimal as Exact
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_worlds import TOOLS, ask, judge, request

from interlock.policy.shapes import Atom, Field, Fields, Many, Unknown, parameters
from interlock.policy.terms import Decimal, Uid
from interlock.policy.values import RefusedError, converter, to_json

PERMIT = '@id("all") permit(principal, action, resource);\n'
LIMIT = PERMIT + (
    '@id("limit") forbid(principal, action == Action::"pay", resource) '
    'when { context.params.amount.greaterThan(decimal("5000.0")) };'
)


@pytest.mark.parametrize(
    ("amount", "decision", "reason"),
    [
        (5000, "allow", None),
        (5000.0, "allow", None),
        (5000.0001, "deny", "policy_denied"),
        (5000.5, "deny", "policy_denied"),
        (5001, "deny", "policy_denied"),
        (1e14, "deny", "policy_denied"),
        (-1, "allow", None),
        (5000.00001, "deny", "policy_error"),
        (1e300, "deny", "policy_error"),
        (5e-324, "deny", "policy_error"),
        (float("nan"), "deny", "policy_error"),
        (float("inf"), "deny", "policy_error"),
        (10**30, "deny", "policy_error"),
        (922337203685478, "deny", "policy_error"),
        ("5001", "deny", "policy_error"),
        (True, "deny", "policy_error"),
        ([5001], "deny", "policy_error"),
        ({"__extn": {"fn": "decimal", "arg": "1.0"}}, "deny", "policy_error"),
        ({"__entity": {"type": "Agent", "id": "x"}}, "deny", "policy_error"),
        (None, "deny", "policy_error"),
    ],
)
def test_a_number_is_a_decimal_whatever_is_sent(amount: object, decision: str, reason: str | None) -> None:
    answer = ask(judge(LIMIT), "pay", {"amount": amount, "to": "x"})
    assert (answer.decision, answer.reason) == (decision, reason)


def test_a_missing_required_parameter_is_refused() -> None:
    answer = ask(judge(LIMIT), "pay", {"to": "x", "Amount": 1, "amount ": 1})
    assert (answer.decision, answer.reason, answer.detail) == ("deny", "policy_error", "`params.amount` is missing")


def test_a_parameter_that_no_policy_looks_at_can_be_anything() -> None:
    assert ask(judge(LIMIT), "pay", {"amount": 1, "to": 5, "count": 2**70, "more": {"__entity": 1}}).decision == "allow"


@pytest.mark.parametrize(
    ("condition", "parameters", "decision"),
    [
        ("context.params has count && context.params.count > 3", {"count": 4.0}, "policy_denied"),
        ("context.params has count && context.params.count > 3", {"count": 4.5}, "policy_error"),
        ("context.params has count && context.params.count > 3", {"count": 2**63}, "policy_error"),
        ("context.params has count && context.params.count > 3", {"count": False}, "policy_error"),
        ("context.params has count && context.params.count > 3", {"count": None}, None),
        ("context.params has urgent && context.params.urgent", {"urgent": 1}, "policy_error"),
        ("context.params has urgent && context.params.urgent", {"urgent": "true"}, "policy_error"),
        ("context.params has note", {"note": None}, None),
        ("context.params has note", {"note": ""}, "policy_denied"),
        ('context.params has labels && context.params.labels.contains("x")', {"labels": ["x", "x"]}, "policy_denied"),
        ('context.params has labels && context.params.labels.contains("x")', {"labels": ["y", None]}, None),
        ('context.params has labels && context.params.labels.contains("x")', {"labels": "x"}, "policy_error"),
        ('context.params has labels && context.params.labels.contains("x")', {"labels": [["x"]]}, "policy_error"),
        (
            'context.params has card && context.params.card.kind == "credit"',
            {"card": {"kind": "credit"}},
            "policy_denied",
        ),
        ('context.params has card && context.params.card.kind == "credit"', {"card": {"kind": "debit", "x": 1}}, None),
        ('context.params has card && context.params.card.kind == "credit"', {"card": {}}, "policy_error"),
        ('context.params has card && context.params.card.kind == "credit"', {"card": "credit"}, "policy_error"),
        (
            'context.params has pair && context.params.pair == {kind: "credit"}',
            {"pair": {"kind": "credit"}},
            "policy_denied",
        ),
        (
            'context.params has pair && context.params.pair == {kind: "credit"}',
            {"pair": {"kind": "credit", "extra": 1}},
            "policy_error",
        ),
        ('context.params has any && context.params.any == "x"', {"any": "x"}, "policy_denied"),
        ('context.params has any && context.params.any == "x"', {"any": ["x"]}, "policy_error"),
        ("context.params has any && context.params.any.contains(3)", {"any": [3]}, "policy_denied"),
        ("context.params has any && context.params.any.contains(3)", {"any": ["3"]}, "policy_error"),
        (
            "context.params has any && context.params.any has a && context.params.any.a > 1",
            {"any": {"a": 2}},
            "policy_denied",
        ),
        ("context.params has any && context.params.any has a && context.params.any.a > 1", {"any": {"b": 2}}, None),
        (
            "context.params has any && context.params.any has a && context.params.any.a > 1",
            {"any": "a"},
            "policy_error",
        ),
    ],
)
def test_every_type_is_the_schemas(condition: str, parameters: dict[str, Any], decision: str | None) -> None:
    policies = judge(PERMIT + f'forbid(principal, action == Action::"pay", resource) when {{ {condition} }};')
    assert ask(policies, "pay", {"amount": 1, "to": "x", **parameters}).reason == decision


def test_a_map_of_strings_is_reached_by_name() -> None:
    policies = judge(
        PERMIT + 'forbid(principal, action == Action::"shell", resource) when '
        '{ context.params has env && context.params.env has LD_PRELOAD && context.params.env.LD_PRELOAD like "*" };'
    )
    assert ask(policies, "shell", {"command": "x", "env": {"A": "b"}}).decision == "allow"
    assert ask(policies, "shell", {"command": "x", "env": {"LD_PRELOAD": "b"}}).reason == "policy_denied"
    assert ask(policies, "shell", {"command": "x", "env": {"LD_PRELOAD": 1}}).reason == "policy_error"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["__entity", "__extn", "fn", "arg", "type", "id", "kind", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
CLOSED = judge(
    PERMIT
    + """@id("amount") forbid(principal, action == Action::"pay", resource)
        when { context.params.amount.greaterThan(decimal("5000.0")) };
    @id("to") forbid(principal, action == Action::"pay", resource) unless { context.params.to == "bob" };
    @id("count") forbid(principal, action == Action::"pay", resource)
        when { context.params has count && !(context.params.count <= 3) };
    @id("urgent") forbid(principal, action == Action::"pay", resource)
        when { context.params has urgent && !(context.params.urgent == false) };
    @id("labels") forbid(principal, action == Action::"pay", resource)
        when { context.params has labels && !["a", "b"].containsAll(context.params.labels) };
    @id("pair") forbid(principal, action == Action::"pay", resource)
        when { context.params has pair && context.params.pair != {kind: "debit"} };"""
)


def harmless(parameters: dict[str, Any]) -> bool:
    """What the forbids above leave, said in Python about JSON."""
    amount, to = parameters.get("amount"), parameters.get("to")
    count, urgent = parameters.get("count"), parameters.get("urgent")
    labels, pair = parameters.get("labels"), parameters.get("pair")
    number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
    whole = isinstance(count, (int, float)) and not isinstance(count, bool) and count == count // 1
    return (
        (number and amount <= 5000)
        and to == "bob"
        and (count is None or (whole and count <= 3))
        and (urgent is None or urgent is False)
        and (labels is None or (isinstance(labels, list) and all(each in (None, "a", "b") for each in labels)))
        and (pair is None or pair == {"kind": "debit"})
    )


FITTING = {
    "amount": st.integers(0, 6000) | st.floats(0, 6000),
    "to": st.just("bob"),
    "count": st.integers(0, 5) | st.none(),
    "urgent": st.just(False) | st.none(),
    "labels": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
    "pair": st.just({"kind": "debit"}),
}


@given(st.data())
def test_an_agent_cannot_slip_a_forbid_by_type_absence_or_spelling(data: st.DataObject) -> None:
    parameters: dict[str, Any] = {}
    for name, fitting in FITTING.items():
        spelt = data.draw(st.sampled_from([name] * 6 + [name.upper(), name + " ", "no"]))
        parameters[spelt] = data.draw(st.one_of(fitting, fitting, fitting, JSON))
    answer = ask(CLOSED, "pay", parameters)
    if answer.decision == "allow":
        assert harmless(parameters)
    assert answer.decision in {"allow", "deny"}


@given(st.dictionaries(st.sampled_from(list(FITTING)), JSON))
def test_no_text_of_an_answer_holds_a_value(parameters: dict[str, Any]) -> None:
    marked = json.loads(
        json.dumps(parameters, allow_nan=True), parse_int=lambda _: 777777777777, parse_float=lambda _: 7777777.77777
    )
    if isinstance(marked.get("to"), str):
        marked["to"] = "SECRET"
    explained = CLOSED.explain(request("pay", marked))
    for text in (repr(CLOSED.decide(request("pay", marked))), repr(explained)):
        assert "77777" not in text
        assert "SECRET" not in text


@given(st.decimals(min_value=-(10**14), max_value=10**14, places=4))
def test_a_double_is_the_decimal_that_was_written(number: Exact) -> None:
    convert = converter(Atom("decimal"), "x")
    read = json.loads(str(number))
    try:
        got = convert(read)
    except RefusedError:
        # a double holds 15 digits for certain; where it does not hold the number, refusing is right
        assert len(number.as_tuple().digits) > 15
        return
    if len(number.as_tuple().digits) <= 15:
        assert got == Decimal(int(number * 10_000))


@pytest.mark.parametrize(
    ("schema", "shape"),
    [
        ({"type": "string"}, Atom("String")),
        ({"type": "integer"}, Atom("Long")),
        ({"type": "number"}, Atom("decimal")),
        ({"type": ["integer", "number"]}, Atom("decimal")),
        ({"type": ["string", "null"]}, Atom("String")),
        ({"type": ["string", "integer"]}, Unknown()),
        ({"enum": ["a", "b", None]}, Atom("String")),
        ({"enum": [1, 2.5]}, Atom("decimal")),
        ({"enum": [1, "a"]}, Unknown()),
        ({"const": True}, Atom("Bool")),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, Atom("Long")),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, Atom("decimal")),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, Unknown()),
        ({"allOf": [{"type": "string"}]}, Atom("String")),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, Unknown()),
        ({"type": "array", "items": {"type": "number"}}, Many(Atom("decimal"))),
        ({"type": "array", "prefixItems": [{"type": "number"}]}, Unknown()),
        ({"type": "array"}, Many(Unknown())),
        ({"$ref": "#/$defs/name"}, Atom("String")),
        ({"$ref": "https://example.org/x"}, Unknown()),
        ({"$ref": "#/$defs/loop"}, Unknown()),
        ({}, Unknown()),
        (True, Unknown()),
        ({"type": "object"}, Fields(rest=Unknown())),
        ({"type": "object", "additionalProperties": {"type": "string"}}, Fields(rest=Atom("String"))),
        ({"type": "object", "additionalProperties": False}, Fields()),
        (
            {"properties": {"a": {"type": "string"}, "b": {"type": ["string", "null"]}}, "required": ["a", "b"]},
            Fields({"a": Field(Atom("String"), required=True), "b": Field(Atom("String"))}),
        ),
    ],
)
def test_the_type_of_a_schema(schema: Any, shape: object) -> None:
    document = {
        "type": "object",
        "properties": {"p": schema},
        "$defs": {"name": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}},
    }
    assert parameters(document).fields["p"].shape == shape


def test_the_tools_of_the_tests_cover_every_shape() -> None:
    assert {type(field.shape) for tool in TOOLS for field in parameters(tool.parameters).fields.values()} == {
        Atom,
        Many,
        Fields,
        Unknown,
    }


@pytest.mark.parametrize("name", ["__entity", "__extn", "__expr"])
def test_reserved_names_never_reach_the_reference_engine(name: str) -> None:
    with pytest.raises(RefusedError):
        to_json({"a": {name: {"type": "Agent", "id": "x"}}})
    assert to_json({"a": Uid("Agent", "x")}) == {"a": {"__entity": {"type": "Agent", "id": "x"}}}
