"""Explanations, tables of cases, and replay: how people see what policies do."""

from __future__ import annotations

import pytest
from policy_worlds import ask, judge, request

from interlock.model.errors import ConfigurationError
from interlock.policy import Past, Rules, read_cases, run_cases
from interlock.policy.replay import replay

TEXT = """
@id("all") permit(principal, action, resource);
@id("big") @hold("ops")
forbid(principal, action == Action::"pay", resource)
when { context.params.to != "bob" &&
       context.params.amount.greaterThan(decimal("100.0")) }
unless { context.params has urgent && context.params.urgent };
@id("other") forbid(principal == Agent::"eve", action, resource);
@id("over") permit(principal, action == Action::"pay", resource)
when { context.params has count && context.params.count * 2 > 0 };
@id("hosts") forbid(principal, action == Action::"connect", resource) when { resource has ip && resource.ip.isLoopback() };
"""
POLICIES = judge(TEXT)


def test_each_policy_says_whether_it_matched_and_why() -> None:
    explained = POLICIES.explain(request("pay", {"amount": 500, "to": "eve"}))
    assert explained.decision == ask(POLICIES, "pay", {"amount": 500, "to": "eve"})
    results = {each.id: (each.result, each.why) for each in explained.policies}
    assert results == {
        "all": ("matched", "it has no conditions"),
        "big": ("matched", "every condition is met"),
        "other": ("out of scope", "the policy is for another principal"),
        "over": ("no match", "`when { context.params has count }` is not met (line 10)"),
        "hosts": ("out of scope", "the policy is for another action"),
    }


def test_conditions_are_shown_as_written_with_their_lines() -> None:
    explained = POLICIES.explain(request("pay", {"amount": 50, "to": "eve"}))
    big = next(each for each in explained.policies if each.id == "big")
    assert [(each.text, each.line, each.result) for each in big.conditions] == [
        ('context.params.to != "bob"', 5, "true"),
        ('context.params.amount.greaterThan(decimal("100.0"))', 6, "false"),
        ("context.params has urgent && context.params.urgent", 7, "not reached"),
    ]
    assert big.why == '`when { context.params.amount.greaterThan(decimal("100.0")) }` is not met (line 6)'


def test_an_unless_that_holds_is_the_reason() -> None:
    explained = POLICIES.explain(request("pay", {"amount": 500, "to": "eve", "urgent": True}))
    big = next(each for each in explained.policies if each.id == "big")
    assert big.result == "no match"
    assert big.why.startswith("`unless { context.params has urgent")


def test_the_text_of_an_unless_is_said_to_be_what_it_is() -> None:
    """A false text was printed as true: the reader compares it with the request."""
    for urgent, result in ((True, "true"), (False, "false")):
        explained = POLICIES.explain(request("pay", {"amount": 500, "to": "eve", "urgent": urgent}))
        big = next(each for each in explained.policies if each.id == "big")
        assert big.conditions[-1].unless
        assert big.conditions[-1].result == result
        assert big.result == ("no match" if urgent else "matched")


def test_errors_refusals_and_approvals_are_explained() -> None:
    explained = POLICIES.explain(request("pay", {"amount": 5, "to": "eve", "count": 2**62}))
    over = next(each for each in explained.policies if each.id == "over")
    assert (over.result, "integer overflow" in over.why, "ignored" in over.why) == ("error", True, True)
    refused = POLICIES.explain(request("pay", {"amount": "5", "to": "eve"}))
    assert refused.decision.reason == "policy_error"
    assert {each.result for each in refused.policies} == {"not evaluated", "out of scope"}
    hold = ask(POLICIES, "pay", {"amount": 500, "to": "eve"})
    approved = frozenset(need.content for need in hold.requirements)
    explained = POLICIES.explain(request("pay", {"amount": 500, "to": "eve"}, discharged=approved))
    assert explained.decision.decision == "allow"
    assert next(each for each in explained.policies if each.id == "big").result == "discharged"
    unknown = POLICIES.explain(request("nope"))
    assert {each.result for each in unknown.policies} == {"out of scope"}


def test_what_the_reference_engine_decides_is_explained_too() -> None:
    explained = POLICIES.explain(request("connect", resource_type="Host", resource="127.0.0.1:80"))
    hosts = next(each for each in explained.policies if each.id == "hosts")
    assert [each.result for each in hosts.conditions] == ["true", "true"]


def test_an_answer_that_needs_no_parameters_is_explained_without_them() -> None:
    policies = judge(
        '@id("all") permit(principal, action, resource);'
        '@id("eve") forbid(principal == Agent::"eve", action == Action::"pay", resource) when { context.params.to == "x" };'
    )
    explained = policies.explain(request("pay", {"to": 5}))
    assert explained.decision.decision == "allow"
    assert [each.result for each in explained.policies] == ["matched", "out of scope"]


def test_rules_are_named_by_their_place_in_the_configuration() -> None:
    policies = judge("", Rules(allow=("fs.*", "fs.*"), ask=("shell",)))
    assert [policy.statement.place for policy in policies.policies] == [
        "rules.allow[0]:1",
        "rules.ask[0]:1",
        "rules.ask[0]:1",
    ]


CASES = [
    {"name": "small", "action": "pay", "parameters": {"amount": 5, "to": "x"}, "expect": "allow", "policies": ["all"]},
    {"name": "large", "action": "pay", "parameters": {"amount": 500, "to": "x"}, "expect": "hold", "reason": "held"},
    {
        "name": "approved",
        "action": "pay",
        "parameters": {"amount": 500, "to": "x"},
        "approved": ["big"],
        "expect": "allow",
    },
    {"action": "connect", "resource": "127.0.0.1:80", "expect": "deny"},
    {"action": "shell", "agent": "eve", "parameters": {"command": "x"}, "expect": "deny", "policies": ["other"]},
]


def test_cases_pass() -> None:
    for data in (CASES, {"cases": CASES}):
        results = run_cases(POLICIES, read_cases(data, "cases.yaml"))
        assert [(each.passed, each.message) for each in results] == [(True, "")] * len(CASES)
        assert [each.name for each in results] == ["small", "large", "approved", "case 4", "case 5"]


def test_a_failing_case_says_what_differs() -> None:
    wrong = [
        {
            "action": "pay",
            "parameters": {"amount": 5, "to": "x"},
            "expect": "deny",
            "policies": ["big"],
            "reason": "held",
        }
    ]
    (result,) = run_cases(POLICIES, read_cases(wrong, "c"))
    assert not result.passed
    assert (
        result.message
        == "expected deny, got allow; expected the policies big, got all; expected the reason held, got None"
    )
    (result,) = run_cases(POLICIES, read_cases([{"action": "shell", "expect": "allow", "approved": ["nope"]}], "c"))
    assert "`approved` names `nope`, which is not a policy" in result.message


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ([{"action": "pay", "expct": "deny"}], "c.yaml:$.cases[0]", "unknown field `expct`"),
        ([{"action": "pay"}], "c.yaml:$.cases[0]", "missing required field `expect`"),
        ([{"action": "pay", "expect": "maybe"}], "c.yaml:$.cases[0].expect", "invalid enum value 'maybe'"),
        ([{"action": "connect", "expect": "deny"}], "c.yaml:$.cases[0]", "needs a `resource`"),
        ("cases", "c.yaml", "expected `object`"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(data: object, path: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_cases(data, "c.yaml")
    assert caught.value.path == path
    assert message in caught.value.message


def test_replay_says_what_would_change() -> None:
    past = [
        Past(run="r1", action="a1", request=request("pay", {"amount": 500, "to": "x"}), answer="allow"),
        Past(run="r1", action="a2", request=request("pay", {"amount": 5, "to": "x"}), answer="allow"),
        Past(run="r2", action="a1", request=request("shell", {"command": "x"}, agent="eve"), answer="allow"),
        Past(run="r2", action="a2", request=request("shell", {"command": "x"}), answer="deny"),
    ]
    found = replay(POLICIES, past)
    assert [(change.run, change.action, change.before, change.after.decision) for change in found.changes] == [
        ("r1", "a1", "allow", "hold"),
        ("r2", "a1", "allow", "deny"),
        ("r2", "a2", "deny", "allow"),
    ]
    assert found.summary == "would have held 1, denied 1, allowed 1 of 4"
    assert replay(POLICIES, past[1:2]).summary == "none of 1 decisions changes"
