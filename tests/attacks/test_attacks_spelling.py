"""An agent that wants to slip a forbid by the type, the absence or the spelling of a parameter.

What counts is what the function gets: whenever the gate lets a call through, the function is called with those very
parameters, and must not be able to do what the policies forbid.
"""

import base64
import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from engine_world import embedded
from hypothesis import given, settings
from hypothesis import strategies as st

import interlock
from interlock.capability import compile_grants
from interlock.engine.judges.judges import Call, Judges
from interlock.engine.judges.steps import judge_call
from interlock.engine.judges.verdict import ALLOW
from interlock.model.decision import Refusal
from interlock.model.decode import decode_proposal
from interlock.model.errors import InterlockError
from interlock.model.globs import workspace_path
from interlock.model.grant import Grant, Principal
from interlock.model.hosts import endpoint
from interlock.policy import Rules, World, load

POLICIES = """
permit (principal, action, resource);
@id("large") forbid (principal, action == Action::"pay", resource)
when { context.params has amount && context.params.amount.greaterThan(decimal("5000.0")) };
@id("many") forbid (principal, action == Action::"pay", resource)
when { context.params has count && context.params.count > 10 };
@id("who") forbid (principal, action == Action::"pay", resource)
when { context.params has to && context.params.to like "*mallory*" };
@id("any") forbid (principal, action == Action::"pay", resource)
when { context.params has labels && context.params.labels.contains("bad") };
@id("where") forbid (principal, action == Action::"pay", resource)
when { context.params has path && context.params.path like "secrets/*" };
@id("host") forbid (principal, action == Action::"pay", resource)
when { context.params has host && context.params.host like "*127.0.0.1*" };
@id("force") forbid (principal, action == Action::"pay", resource)
when { context.params has options && context.params.options has force && context.params.options.force };
"""


@dataclass
class Options:
    force: bool = True
    note: str = ""


OPTIONS = Options()


def pay(
    amount: float = 9000.0,
    count: int = 11,
    to: str = "mallory",
    labels: list[str] = ["bad"],  # noqa: B006 - never changed
    path: interlock.PathRead = "secrets/x",
    host: interlock.Host = "127.0.0.1:80",
    options: Options = OPTIONS,
) -> list[str]:
    """Every harm that these parameters do."""
    return [
        name
        for name, done in (
            ("large", amount > 5000),
            ("many", count > 10),
            ("who", "mallory" in to),
            ("any", "bad" in labels),
            ("where", workspace_path(path).startswith("secrets/")),
            ("host", endpoint(host).host == "127.0.0.1"),
            ("force", options.force),
        )
        if done
    ]


TOOL = embedded(interlock.tool(pay)).services.registry.find("pay")
JUDGES = Judges(
    compile_grants([Grant(id="g", agent="a", tools=("*",), hosts=("*:*",))]),
    load([("p.cedar", POLICIES)], Rules(), World(tools=(TOOL.tool,))),
    lambda: 0,
    {},
    {},
)
NO_STATE = SimpleNamespace(get=lambda _key: None, claimed=lambda _key: None)
HARMLESS = {
    "amount": 1.0, "count": 1, "to": "bob", "labels": [], "path": "a", "host": "example.org:80", "options": {"force": False}
}  # fmt: skip
B64 = lambda text: {"b64": base64.b64encode(text.encode()).decode()}
SPELLINGS = {
    "amount": [9000, 9000.0, 9e3, "9000", 5000.5, 5000.00001, 1e300, 2**53 - 1, True, [9000], {"__extn": 1}, -0.0, 5000, 5000.0],
    "count": [11, 11.0, 1.1e1, "11", True, [11], 10, 10.0, 2**53 - 1, 11.5],
    "to": ["mallory", "MALLORY", "mallory\u200b", "m\u0430llory", "\uff4dallory", ["mallory"], {"__entity": {}}],
    "labels": [["bad"], ["bad", None], [None], "bad", [["bad"]], {"0": "bad"}, ["good"]],
    "path": [
        "secrets/x", "./secrets/x", "src/../secrets/x", "secrets//x", "src//../secrets/./x", "/secrets/x", "secrets/x/",
        "SECRETS/x", "~/secrets/x", "file:/secrets/x", "secrets\\x", "secrets/x\0", B64("secrets/x"), B64("./secrets//x"),
        "%73ecrets/x", "secrets/../secrets/x", ["secrets/x"], "secrets/y/../x", "a/",
    ],
    "host": [
        "127.0.0.1:80", "127.1:80", "0x7f.1:80", "0177.0.0.1:80", "2130706433:80", "[::ffff:127.0.0.1]:80", "127.0.0.1.:80",
        "http://127.1", "HTTP://0x7f000001/", "http://a@127.1/", "http://127.1:80/x", "\uff11\uff12\uff17.1:80", ["127.1:80"],
        "[::ffff:7f00:1]:80", "127.0.0.1", "http://127.0.0.1\\@example.org/", "http://x.org@127.0.0.1/", "127.0.0.1%00:80",
    ],
    "options": [
        {}, {"force": True}, {"note": "x"}, {"force": 1}, {"force": "true"}, {"force": None}, {"Force": False}, [True], [],
        {"force": False, "note": "x"}, "force",
    ],
}  # fmt: skip


def verdict(text):
    """What the gate answers to parameters, given as JSON text: None if it lets the call through."""
    try:
        proposal = decode_proposal(
            b'{"actions": [{"type": "tool_call", "tool": "pay", "parameters": %s}]}' % text.encode()
        )
    except InterlockError as error:
        return error.code
    action = proposal.actions[0]
    call = Call(Principal(agent="a"), proposal, action, TOOL, action.parameters, NO_STATE)
    answer = judge_call(JUDGES, call).verdict
    return answer.reason if isinstance(answer, Refusal) else None if answer is ALLOW else answer.decision.decision


def harm(text):
    """The forbidden things that the function does with what the gate lets through."""
    if verdict(text) is not None:
        return []
    try:
        return TOOL.function(json.loads(text), None)
    except (InterlockError, ValueError):
        return []


def test_the_harmless_call_goes_through():
    assert verdict(json.dumps(HARMLESS)) is None


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SPELLINGS.items() for value in values])
def test_no_spelling_of_a_parameter_slips_a_forbid(name, value):
    assert harm(json.dumps(HARMLESS | {name: value})) == []


@pytest.mark.parametrize("name", HARMLESS)
def test_no_absence_of_a_parameter_slips_a_forbid(name):
    left_out = {other: value for other, value in HARMLESS.items() if other != name}
    assert verdict(json.dumps(left_out)) == "policy_denied"
    assert harm(json.dumps(HARMLESS | {name: None})) == []


@pytest.mark.parametrize(
    "number", ["5000.5", "5e3", "5.0001e3", "50000e-1", "9000E0", "5000.00000001", "1e400", "0.5001e4"]
)
def test_no_spelling_of_a_number_slips_a_forbid(number):
    assert harm(json.dumps(HARMLESS)[:-1].replace('"amount": 1.0', f'"amount": {number}') + "}") == []


WORDS = st.sampled_from(["secrets", ".", "..", "", "x", "a"])
ANY = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.lists(WORDS, max_size=6).map("/".join),
    st.dictionaries(st.sampled_from(["force", "note", "b64", "amount"]), st.booleans() | st.text(max_size=3), max_size=2),
)  # fmt: skip


@settings(max_examples=500)
@given(
    st.fixed_dictionaries(
        {},
        optional={name: st.just(HARMLESS[name]) | st.sampled_from(values) | ANY for name, values in SPELLINGS.items()},
    )
)
def test_nothing_that_goes_through_does_what_is_forbidden(parameters):
    assert harm(json.dumps(parameters)) == []
