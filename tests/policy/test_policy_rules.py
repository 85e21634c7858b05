"""Short rules are Cedar: what they become, what they mean, and which mistakes are caught."""

from __future__ import annotations

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_worlds import TOOLS, ask, judge, problems, warnings_of

from interlock.model.decision import Request
from interlock.policy import DenyParam, Rules, to_cedar
from interlock.policy.rules import pattern

RULES = Rules(
    allow=("fs.*", "tag:read_only", "state_write"),
    ask=("shell",),
    deny=("github/*",),
    deny_param=(DenyParam(tool="shell", param="command", like="*rm -rf*"),),
)


def test_rules_become_cedar_text() -> None:
    assert to_cedar(RULES) == (
        '@id("allow:fs.*")\n'
        'permit(principal, action in Action::"call", resource)\n'
        'when { resource.name like "fs.*" };\n'
        "\n"
        '@id("allow:tag:read_only")\n'
        'permit(principal, action in Action::"tag:read_only", resource);\n'
        "\n"
        '@id("allow:state_write")\n'
        'permit(principal, action == Action::"state_write", resource);\n'
        "\n"
        '@id("ask:shell:permit")\n'
        'permit(principal, action == Action::"shell", resource);\n'
        "\n"
        '@id("ask:shell")\n'
        "@hold\n"
        '@reason("the rules say to ask: shell")\n'
        'forbid(principal, action == Action::"shell", resource);\n'
        "\n"
        '@id("deny:github/*")\n'
        'forbid(principal, action in Action::"call", resource)\n'
        'when { resource.name like "github/*" };\n'
        "\n"
        '@id("deny_param:shell:command:*rm -rf*")\n'
        'forbid(principal, action == Action::"shell", resource)\n'
        'when { context.params has "command" && context.params["command"] like "*rm -rf*" };\n'
    )


def test_rules_and_the_cedar_they_become_decide_alike() -> None:
    one, other = judge("", RULES), judge(to_cedar(RULES))
    for tool in TOOLS:
        for parameters in ({"command": "rm -rf /", "path": "x"}, {"command": "ls", "path": "x"}):
            assert ask(one, tool.name, parameters) == ask(other, tool.name, parameters)


def test_a_denied_parameter_denies_even_what_would_be_asked() -> None:
    policies = judge("", RULES)
    assert ask(policies, "shell", {"command": "ls"}).decision == "hold"
    assert ask(policies, "shell", {"command": "sudo rm -rf /"}).decision == "deny"
    assert ask(policies, "shell", {"command": ["rm -rf"]}).reason == "policy_error"


def test_a_denied_parameter_of_a_glob_skips_tools_without_it() -> None:
    rules = Rules(allow=("*",), deny_param=(DenyParam(tool="*", param="path", like="*.env"),))
    policies = judge("", rules)
    assert ask(policies, "fs.write", {"path": "a.env"}).decision == "deny"
    assert ask(policies, "fs.write", {"content": "x"}).decision == "allow"
    assert ask(policies, "shell", {"command": "cat a.env"}).decision == "allow"


@pytest.mark.parametrize("action", ["state_read", "state_write", "assert"])
@pytest.mark.parametrize(("entry", "other", "answer"), [
    ("allow", None, "allow"), ("ask", "allow", "hold"), ("deny", "allow", "deny"),
])  # fmt: skip
def test_a_star_alone_means_the_actions_on_state_too(action: str, entry: str, other: str | None, answer: str) -> None:
    """As a person reads it; `deny = ["*"]` that let writes to state through would be an open door."""
    lists = {entry: ("*",), **({other: (action,)} if other else {})}
    policies = judge("", Rules(**lists))
    key = Request(agent="coder", action=action, resource_type="StateKey", resource="k", parameters={"key": "k"})
    assert policies.decide(key).decision == answer
    assert ask(policies, "shell", {"command": "ls"}).decision == answer


def test_an_entry_listed_twice_is_one_policy() -> None:
    assert len(judge("", Rules(allow=("shell", "shell"))).policies) == 1


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(deny_param=(DenyParam(tool="shell", param="comand", like="*"),)), "did you mean `command`?"),
        (Rules(deny_param=(DenyParam(tool="pay", param="amount", like="*"),)), "expected String but saw decimal"),
        (Rules(deny=("shell(rm *",)), "rules.deny[0]: `shell(rm *` is not a rule; write `TOOL(PATTERN)`"),
        (Rules(allow=("fs.read", "path()")), "rules.allow[1]: `path()` is not a rule"),
    ],
)
def test_a_rule_that_means_nothing_is_an_error(rules: Rules, message: str) -> None:
    assert message in problems("", rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(allow=("fs.raed",)), "rules.allow[0]: no tool is named `fs.raed`; did you mean `fs.read`?"),
        (Rules(ask=("shell", "sf.*")), "rules.ask[1]: no tool matches `sf.*`"),
        (Rules(deny=("tag:dangr",)), "rules.deny[0]: no tool has the tag of `tag:dangr`; did you mean `tag:danger`?"),
        (
            Rules(deny_param=(DenyParam(tool="shel", param="command", like="*"),)),
            "rules.deny_param[0]: no tool is named `shel`",
        ),
    ],
)
def test_a_rule_about_a_tool_that_nothing_has_is_a_warning(rules: Rules, message: str) -> None:
    assert message in warnings_of("", rules)


def test_implied_tags_exist_even_without_a_tool() -> None:
    judge("", Rules(allow=("tag:idempotent",)))


@given(st.text(max_size=12), st.text(max_size=12))
def test_a_pattern_without_stars_matches_itself_and_nothing_else(text: str, other: str) -> None:
    text = text.replace("*", "").replace("\\", "")
    assert _like(text, pattern(text))
    assert _like(other, pattern(text)) == (other == text)
    assert _like(text + other, pattern(text + "*"))
    assert _like("a*b", pattern("a\\*b"))
    assert not _like("axb", pattern("a\\*b"))
    assert _like("a\\b", pattern("a\\b"))


def _like(text: str, literal: str) -> bool:
    policy = f"permit(principal, action, resource) when {{ context.t like {literal} }};"
    uid = {"type": "A", "id": "a"}
    asked = {"principal": uid, "action": {"type": "Action", "id": "a"}, "resource": uid, "context": {"t": text}}
    return cedarpy.is_authorized(asked, policy, []).allowed


@given(st.lists(st.text(max_size=10), max_size=3), st.text(max_size=8))
def test_any_entry_gives_text_that_parses(entries: list[str], like: str) -> None:
    rules = Rules(
        allow=tuple(entries),
        ask=tuple(entries),
        deny_param=tuple(DenyParam(tool=e, param=e, like=like) for e in entries),
    )
    text = to_cedar(rules)
    cedarpy.policies_to_pst(text)


def test_rules_print_the_same_text_every_time() -> None:
    assert to_cedar(RULES) == to_cedar(RULES)
    assert [policy.content for policy in judge("", RULES).policies] == [
        policy.content for policy in judge("", RULES).policies
    ]
