"""Decisions: default deny, forbid wins, errors in forbids deny, holds ask."""

from __future__ import annotations

import msgspec
import pytest
from policy_worlds import TOOLS, WORLD, ask, judge, request

from interlock.model.decision import Request
from interlock.policy import Rules, World, together

PERMIT = '@id("all") permit(principal, action, resource);\n'
HOLD = """@id("big") @hold("ops") @quorum("2") @ttl("10m") @reason("large payment")
forbid(principal, action == Action::"pay", resource) when { context.params.amount.greaterThan(decimal("100.0")) };
"""
NIGHT = """@id("frozen") @hold
forbid(principal, action == Action::"pay", resource) when { context.state has frozen && context.state.frozen };
"""
PAY = {"amount": 500, "to": "bob"}


def test_forbid_wins_over_permit() -> None:
    policies = judge(PERMIT + '@id("no") forbid(principal, action == Action::"shell", resource);')
    assert ask(policies, "fs.read", {"path": "a"}).decision == "allow"
    decision = ask(policies, "shell", {"command": "ls"})
    assert (decision.decision, decision.reason, decision.policies) == ("deny", "policy_denied", ("no",))


def test_the_determining_policies_are_sorted() -> None:
    policies = judge("".join(f'@id("{name}") permit(principal, action, resource);' for name in "cab"))
    assert ask(policies, "fs.read", {"path": "a"}).policies == ("a", "b", "c")


def test_an_error_in_a_forbid_denies_and_names_only_the_policy() -> None:
    policies = judge(
        PERMIT + '@id("f") forbid(principal, action == Action::"pay", resource)\n'
        "when { context.params has count && context.params.count * 2 > 4 };"
    )
    secret = 2**53 - 1
    assert ask(policies, "pay", {**PAY, "count": 2}).decision == "allow"
    decision = ask(policies, "pay", {**PAY, "count": 2**63 - 1})
    assert (decision.decision, decision.reason, decision.policies) == ("deny", "policy_error", ("f",))
    assert "integer overflow" in decision.detail
    assert str(secret) not in repr(decision)
    assert str(2**63 - 1) not in repr(decision)


def test_an_error_in_a_permit_is_ignored_and_reported() -> None:
    policies = judge(
        '@id("p") permit(principal, action == Action::"pay", resource) '
        "when { context.params has count && context.params.count * 2 > 4 };"
        '@id("q") permit(principal, action == Action::"pay", resource) when { context.params.to == "bob" };'
    )
    decision = ask(policies, "pay", {**PAY, "count": 2**63 - 1})
    assert (decision.decision, decision.policies) == ("allow", ("q",))
    assert decision.errors == ("p: integer overflow",)
    assert ask(policies, "pay", {"amount": 1, "to": "eve", "count": 2**63 - 1}).reason == "policy_denied"


def test_a_hold_asks_with_its_group_quorum_time_and_reason() -> None:
    decision = ask(judge(PERMIT + HOLD), "pay", PAY)
    assert (decision.decision, decision.reason, decision.policies) == ("hold", "held", ("big",))
    (need,) = decision.requirements
    assert (need.policy, need.group, need.quorum, need.ttl_ms, need.reason) == (
        "big",
        "ops",
        2,
        600_000,
        "large payment",
    )


def test_every_unmet_hold_is_a_requirement_of_its_own() -> None:
    decision = ask(judge(PERMIT + HOLD + NIGHT), "pay", PAY, state={"frozen": True})
    assert [(need.policy, need.group, need.quorum) for need in decision.requirements] == [
        ("big", "ops", 2),
        ("frozen", None, 1),
    ]


def test_an_approval_discharges_exactly_the_holds_it_was_for() -> None:
    policies = judge(PERMIT + HOLD + NIGHT)
    first = ask(policies, "pay", PAY)
    approved = frozenset(need.content for need in first.requirements)
    assert ask(policies, "pay", PAY, discharged=approved).decision == "allow"
    again = ask(policies, "pay", PAY, state={"frozen": True}, discharged=approved)
    assert [need.policy for need in again.requirements] == ["frozen"]
    edited = judge(PERMIT + HOLD.replace("100.0", "99.0"))
    assert ask(edited, "pay", PAY, discharged=approved).decision == "hold"


def test_a_hold_without_a_permit_or_beside_a_plain_forbid_is_a_deny() -> None:
    assert ask(judge(HOLD), "pay", PAY).decision == "deny"
    decision = ask(judge(PERMIT + HOLD + '@id("no") forbid(principal, action == Action::"pay", resource);'), "pay", PAY)
    assert (decision.decision, decision.policies) == ("deny", ("big", "no"))


def test_a_plain_forbid_cannot_be_discharged() -> None:
    policies = judge(
        PERMIT + '@id("no") forbid(principal, action == Action::"pay", resource) when { context.params.to == "x" };'
    )
    everything = frozenset(policy.content for policy in policies.policies)
    assert ask(policies, "pay", {"amount": 1, "to": "x"}, discharged=everything).decision == "deny"


def test_a_hold_that_fails_denies() -> None:
    text = '@id("h") @hold forbid(principal, action == Action::"pay", resource) when { context.params.amount == decimal("1.0") };'
    decision = ask(judge(PERMIT + text), "pay", {"amount": "1", "to": "x"})
    assert (decision.decision, decision.reason) == ("deny", "policy_error")


def test_a_reason_is_shown_with_the_answer() -> None:
    policies = judge(
        PERMIT + '@id("no") @reason("ask Bob first") forbid(principal, action == Action::"shell", resource);'
    )
    assert ask(policies, "shell", {"command": "x"}).detail == "forbidden by `no` (ask Bob first)"


def test_principals_are_in_groups_from_the_world_and_the_request() -> None:
    text = 'permit(principal in Group::"dev", action, resource); permit(principal == Agent::"bot", action, resource);'
    world = World(tools=TOOLS, agents={"coder": ("dev",), "bot": (), "eve": ()})
    policies = judge(text, world=world)
    assert ask(policies, "shell", {"command": "x"}).decision == "allow"
    assert ask(policies, "shell", {"command": "x"}, agent="bot").decision == "allow"
    assert ask(policies, "shell", {"command": "x"}, agent="eve").decision == "deny"
    assert ask(policies, "shell", {"command": "x"}, agent="eve", groups=("dev",)).decision == "allow"
    assert ask(policies, "shell", {"command": "x"}, agent="eve").decision == "deny"


@pytest.mark.parametrize(
    ("scope", "tools"),
    [
        (
            'action in Action::"call", resource',
            {"fs.read", "fs.write", "pay", "shell", "github/create_issue", "github/delete_repo"},
        ),
        ('action in Action::"server:github", resource', {"github/create_issue", "github/delete_repo"}),
        ('action, resource in Server::"github"', {"github/create_issue", "github/delete_repo"}),
        ('action, resource is Tool in Server::"local"', {"fs.read", "fs.write", "pay", "shell"}),
        ('action in [Action::"tag:money", Action::"tag:read_only"], resource', {"fs.read", "pay"}),
        ('action == Action::"pay", resource == Tool::"pay"', {"pay"}),
    ],
)
def test_scopes(scope: str, tools: set[str]) -> None:
    policies = judge(f"permit(principal, {scope});")
    assert {tool.name for tool in TOOLS if ask(policies, tool.name).decision == "allow"} == tools


@pytest.mark.parametrize(
    ("condition", "tools"),
    [
        ("resource.read_only && !resource.destructive && !resource.open_world", {"fs.read"}),
        ('resource.name like "fs.*"', {"fs.read", "fs.write"}),
        ("resource.pinned", {"github/create_issue"}),
        ('resource.reversibility == "reversible"', {"fs.read"}),
        ('resource.tags.contains("danger")', {"github/delete_repo"}),
        ('resource.tags.contains("destructive") && !(resource in Server::"github")', {"fs.write", "pay", "shell"}),
        ("resource.idempotent", set()),
    ],
)
def test_attributes_of_tools(condition: str, tools: set[str]) -> None:
    policies = judge(f"permit(principal, action, resource is Tool) when {{ {condition} }};")
    assert {tool.name for tool in TOOLS if ask(policies, tool.name).decision == "allow"} == tools


def test_state_keys_and_hosts_are_resources() -> None:
    policies = judge("""
        permit(principal, action in [Action::"state_read", Action::"state_write"], resource is StateKey)
          when { resource.name like "build.*" };
        forbid(principal, action == Action::"state_write", resource == StateKey::"build.id");
        forbid(principal, action == Action::"state_write", resource)
          when { context.params has value && context.params.value == "bad" };
        permit(principal, action == Action::"connect", resource) when { resource has port && resource.port == 443 };
        forbid(principal, action == Action::"connect", resource) when { resource.host like "*.evil.org" };
        forbid(principal, action == Action::"connect", resource == Host::"example.org:443");
        forbid(principal, action == Action::"connect", resource)
          when { resource has ip && (resource.ip.isLoopback() || resource.ip.isInRange(ip("10.0.0.0/8"))) };""")

    def of(action: str, kind: str, name: str, **parameters: object) -> str:
        return ask(policies, action, parameters, resource_type=kind, resource=name).decision

    assert of("state_read", "StateKey", "build.id", key="build.id") == "allow"
    assert of("state_read", "StateKey", "other", key="other") == "deny"
    assert of("state_write", "StateKey", "build.id", key="build.id", value="x") == "deny"
    assert of("state_write", "StateKey", "build.n", key="build.n", value="x") == "allow"
    assert of("state_write", "StateKey", "build.n", key="build.n", value="bad") == "deny"
    assert of("state_write", "StateKey", "build.n", key="build.n", value={"not": "text"}) == "deny"
    assert of("connect", "Host", "index.example.net:443") == "allow"
    assert of("connect", "Host", "index.example.net:80") == "deny"
    assert of("connect", "Host", "8.8.8.8:443") == "allow"
    for name in ("a.evil.org:443", "A.EVIL.org:443", "a.evil.org.:443", "EXAMPLE.org.:443"):
        assert of("connect", "Host", name) == "deny"
    for name in ("10.1.2.3:443", "127.0.0.1:443", "[::1]:443"):
        assert of("connect", "Host", name) == "deny"


def test_session_proposal_and_flags() -> None:
    policies = judge("""
        permit(principal, action, resource);
        forbid(principal, action, resource) when { context.session has name && context.session.name == "x" };
        forbid(principal, action, resource) when { context.proposal.action_count > 10 };
        forbid(principal, action, resource) when { context.flags.contains("secret") };""")
    assert policies.wants_flags
    small = {"id": "p", "source": "s", "action_count": 10}
    assert ask(policies, "shell", {"command": "x"}, proposal=small).decision == "allow"
    assert ask(policies, "shell", {"command": "x"}, proposal=small, session={"name": "x"}).decision == "deny"
    assert ask(policies, "shell", {"command": "x"}, proposal={**small, "action_count": 11}).decision == "deny"
    assert ask(policies, "shell", {"command": "x"}, proposal=small, flags=("secret",)).decision == "deny"
    assert ask(policies, "shell", {"command": "x"}).reason == "policy_error"


def test_state_keys_are_those_that_policies_mention() -> None:
    policies = judge(
        PERMIT
        + 'forbid(principal, action, resource) when { context.state has "build.ok" && !context.state["build.ok"] };'
        'forbid(principal, action, resource) when { context.state has deep.flag && context.state.deep.flag == "on" };'
    )
    assert policies.state_keys == {"build.ok", "deep"}
    assert not policies.wants_flags
    assert ask(policies, "shell", {"command": "x"}, state={"build.ok": False}).decision == "deny"
    assert ask(policies, "shell", {"command": "x"}, state={"build.ok": True, "other": 1}).decision == "allow"
    assert ask(policies, "shell", {"command": "x"}, state={"build.ok": None}).decision == "allow"
    assert ask(policies, "shell", {"command": "x"}, state={"deep": {"flag": "on", "more": [1]}}).decision == "deny"


def test_what_is_constant_is_known_without_parameters() -> None:
    policies = judge(PERMIT + HOLD + '@id("no") forbid(principal, action == Action::"shell", resource);')
    assert policies.constant("coder", "fs.read", "fs.read").decision == "allow"
    assert policies.constant("coder", "shell", "shell").decision == "deny"
    assert policies.constant("coder", "pay", "pay") is None
    held = judge("", Rules(ask=("shell",)))
    assert held.constant("coder", "shell", "shell") is None
    assert ask(held, "shell", {"command": "x"}).decision == "hold"


def test_an_unknown_tool_is_denied() -> None:
    decision = ask(judge(PERMIT), "nope")
    assert (decision.decision, decision.reason) == ("deny", "policy_error")
    decision = ask(judge(PERMIT), "pay", resource_type="Host", resource="x:1")
    assert (decision.decision, decision.reason) == ("deny", "policy_error")


def test_more_kinds_of_requests_than_are_remembered() -> None:
    policies = judge('permit(principal, action == Action::"state_read", resource) when { resource.name like "a*" };')
    for number in range(5000):
        key = f"{'ab'[number % 2]}{number}"
        expected = "allow" if number % 2 == 0 else "deny"
        assert ask(policies, "state_read", resource_type="StateKey", resource=key).decision == expected


def test_a_judge_is_not_changed_by_deciding() -> None:
    policies = judge(PERMIT + HOLD)
    asked = request("pay", PAY)
    before = msgspec.to_builtins(asked)
    assert policies.decide(asked) == policies.decide(asked)
    assert msgspec.to_builtins(asked) == before


def test_the_example_rules() -> None:
    policies = judge("", Rules(allow=("fs.*", "tag:read_only"), ask=("shell",), deny=("github/*",)), WORLD)
    assert ask(policies, "fs.write", {"path": "a"}).decision == "allow"
    assert ask(policies, "shell", {"command": "x"}).decision == "hold"
    assert ask(policies, "github/create_issue").decision == "deny"
    assert ask(policies, "pay", PAY).decision == "deny"
    assert (
        policies.decide(Request(agent="a", action="state_read", resource_type="StateKey", resource="k")).decision
        == "deny"
    )


def test_looking_at_state_on_the_way_is_asked_together_with_the_action() -> None:
    policies = judge("""
        permit(principal, action == Action::"pay", resource);
        @id("big") @hold("ops") forbid(principal, action == Action::"pay", resource) when { context.params.to == "eve" };
        @id("ask-read:permit") permit(principal, action == Action::"state_read", resource == StateKey::"asked");
        @id("ask-read") @hold("sec") forbid(principal, action == Action::"state_read", resource == StateKey::"asked");
        @id("no-read") forbid(principal, action == Action::"state_read", resource == StateKey::"secret");""")
    asked = request("pay", {"amount": 1, "to": "eve"})
    alone = policies.decide(asked)
    assert policies.reads(asked, ["other"]) is None
    held = together(alone, policies.reads(asked, ["other", "asked"]))
    assert (held.decision, held.policies) == ("hold", ("ask-read", "big"))
    assert [each.group for each in held.requirements] == ["ops", "sec"]
    approved = msgspec.structs.replace(asked, discharged=frozenset(each.content for each in held.requirements))
    assert together(policies.decide(approved), policies.reads(approved, ["asked"])).decision == "allow"
    denied = policies.reads(asked, ["asked", "secret"])
    assert denied is not None
    assert (together(alone, denied).decision, denied.policies) == ("deny", ("no-read",))
    assert judge("permit(principal, action, resource);").reads(asked, ["secret"]) is None


def test_a_hold_of_reads_asks_about_looking_though_no_policy_permits_to_read() -> None:
    policies = judge("""
        permit(principal, action == Action::"pay", resource);
        permit(principal, action == Action::"state_read", resource) when { context.state has n && context.state.n + 1 > 0 };
        @id("ask-read") @hold("sec") forbid(principal, action == Action::"state_read", resource == StateKey::"asked");
        @id("no-read") forbid(principal, action == Action::"state_read", resource == StateKey::"secret");""")
    asked = request("pay", {"amount": 1, "to": "x"}, state={"n": 2**63 - 1})
    found = policies.reads(asked, ["asked", "other"])
    assert found is not None
    assert (found.decision, found.policies, found.requirements[0].group) == ("hold", ("ask-read",), "sec")
    assert found.requirements[0].reason == "it reads state key `asked`"
    approved = msgspec.structs.replace(asked, discharged=frozenset({found.requirements[0].content}))
    assert policies.reads(approved, ["asked"]) is None
    denied = policies.reads(approved, ["asked", "secret"])
    assert denied is not None
    assert denied.decision == "deny"


def test_a_question_about_many_keys_is_short() -> None:
    policies = judge("""
        permit(principal, action, resource);
        @id("ask-read") @hold @reason("state is private") forbid(principal, action == Action::"state_read", resource);""")
    found = policies.reads(request("pay", {"amount": 1, "to": "x"}), [f"key{number}" for number in range(1_000)])
    assert found is not None
    assert [each.reason for each in found.requirements] == ["it reads state key `key0` and 999 more: state is private"]
    assert len(found.detail) < 200


def test_a_forbid_of_reads_that_cannot_be_evaluated_denies() -> None:
    policies = judge("""
        permit(principal, action, resource);
        forbid(principal, action == Action::"state_read", resource) when { context.state has n && context.state.n + 1 > 0 };""")
    found = policies.reads(request("pay", {"amount": 1, "to": "eve"}, state={"n": 2**63 - 1}), ["k"])
    assert found is not None
    assert (found.decision, found.reason) == ("deny", "policy_error")


@pytest.mark.parametrize(
    "host",
    ["127.1:80", "0x7f.1:80", "0177.0.0.1:80", "2130706433:80", "[::ffff:7f00:1]:80", "127.0.0.1.:80", "127.0.0.1:080"],
)
def test_no_spelling_of_a_host_slips_a_forbid(host: str) -> None:
    connect = lambda policies, host: policies.decide(
        Request(agent="coder", action="connect", resource_type="Host", resource=host)
    )
    scope = 'forbid(principal, action == Action::"connect", resource'
    assert connect(judge(PERMIT + scope + ' == Host::"127.0.0.1:80");'), host).decision == "deny"
    assert connect(judge(PERMIT + scope + ') when { resource.host == "127.0.0.1" };'), host).decision == "deny"
    assert connect(judge(PERMIT), host).decision == "allow"
    refused = connect(judge(PERMIT), "exam%70le.org:80")
    assert (refused.decision, refused.reason) == ("deny", "policy_error")
