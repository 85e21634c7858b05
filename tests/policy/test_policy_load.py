"""Loading: what is wrong with policies is found before they are in force, all of it, with file, line and nearest name."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_worlds import STRING, TOOLS, WORLD, ask, judge, problems, warnings_of

from interlock.model.errors import ConfigurationError
from interlock.model.tool import Tool
from interlock.policy import PolicyConfigurationError, Rules, World, load, read_cases
from interlock.policy import syntax as pst
from interlock.policy.compile import NotCoveredError
from interlock.policy.source import clauses, split
from interlock.policy.uses import uses

PERMIT = "permit(principal, action, resource);"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('permit(principal == Agnt::"x", action, resource);', "unknown entity type `Agnt`; did you mean `Agent`?"),
        (
            'permit(principal, action == Action::"pay", resource)\nwhen {\n context.params.amuont == decimal("1.0") };',
            "p.cedar:3: `context.params` of `pay` has no attribute `amuont`; did you mean `amount`?",
        ),
        (
            'forbid(principal, action == Action::"pay", resource)\nwhen { context.params has amuont };',
            "p.cedar:2: `context.params` of `pay` has no attribute `amuont`; did you mean `amount`?",
        ),
        (
            'forbid(principal, action == Action::"pay", resource) when { context.params.card has limt };',
            "`context.params.card` of `pay` has no attribute `limt`; did you mean `limit`?",
        ),
        (
            'forbid(principal, action == Action::"pay", resource) when { context.parms has amount };',
            "`context` of `pay` has no attribute `parms`; did you mean `params`?",
        ),
        (
            'forbid(principal, action == Action::"pay", resource) when { context.params.to has x };',
            "`context.params.to` of `pay` is not a record",
        ),
        (
            "permit(principal, action, resource) when {\n\n resource.nam == 1 };",
            "p.cedar:3: attribute `nam` on entity type",
        ),
        (
            'forbid(principal, action == Action::"pay", resource) when {\n context.params.amount > 5 };',
            "p.cedar:1: unexpected type: expected Long but saw decimal",
        ),
        (
            'forbid(principal, action == Action::"pay", resource) when { context.params.urgent };',
            "unable to guarantee safety of access to optional attribute",
        ),
        (
            'forbid(principal, action == Action::"pay", resource) when { context.proposal.action_cuont > 3 };',
            "did you mean `action_count`?",
        ),
        ("@hodl permit(principal, action, resource);", "unknown annotation `@hodl`; did you mean `hold`?"),
        ('@hold("ops") permit(principal, action, resource);', "`@hold` belongs on a forbid"),
        ('@quorum("2") forbid(principal, action, resource);', "`@quorum` needs `@hold`"),
        ('@hold("a")\n@quorum("0") forbid(principal, action, resource);', "p.cedar:2: `@quorum` must be a number"),
        ('@hold("a") @quorum("two") forbid(principal, action, resource);', "`@quorum` must be a number"),
        ('@hold("a") @quorum("٢") forbid(principal, action, resource);', "`@quorum` must be a number"),
        ('@hold("a") @ttl("10") forbid(principal, action, resource);', "`@ttl` must be a duration"),
        ('@hold("a") @ttl("31d") forbid(principal, action, resource);', "`@ttl` must be a duration"),
        ('@id("") permit(principal, action, resource);', "`@id` must be 1 to 256 characters"),
        ("permit(principal == ?principal, action, resource);", "a template"),
        ("permit(principal, action, resource) when {\n 1 + };", "p.cedar:2: unexpected token `}`"),
        ("permit(principal, action, resource)", "unexpected end of input"),
        ('permit(principal, action, resource) when { "unclosed };', "p.cedar:1"),
        ("permit(principal, action, resource) when { " + " || ".join(["true"] * 150) + " };", "more than 100 levels"),
        ("forbid(principal, action, resource) when { context == {} };", "`context` cannot be used as a whole"),
        (
            "forbid(principal, action, resource) when { context.state == {} };",
            "`context.state` cannot be used as a whole",
        ),
        (
            'forbid(principal, action == Action::"github/create_issue", resource) when { context.params == {a: 1} };',
            "has no declared fields",
        ),
        (
            "forbid(principal, action, resource)\n when { context.params has any && [context.params.any].isEmpty() };",
            "p.cedar:2: the type of `context.params.any` cannot be determined",
        ),
        (
            'forbid(principal, action == Action::"shell", resource) when { context.params.env["__entity"] == "x" };',
            "`__entity` is a reserved name",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    assert message in problems(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'permit(principal, action == Action::"pya", resource);',
            "p.cedar:1: no tool or action is named `pya`; did you mean `pay`?",
        ),
        ('permit(principal, action in Action::"tag:mony", resource);', "did you mean `tag:money`?"),
        (
            'permit(principal, action, resource == Tool::"fs.raed");',
            "no tool is named `fs.raed`; did you mean `fs.read`?",
        ),
        (
            'permit(principal, action, resource in Server::"githb");',
            "no server is named `githb`; did you mean `github`?",
        ),
        (
            'forbid(principal, action in Action::"call", resource) when { resource.tags.contains("read_onyl") };',
            "no tool has the tag `read_onyl`; did you mean `read_only`?",
        ),
    ],
)
def test_a_name_of_a_tool_that_nothing_has_is_a_warning(text: str, message: str) -> None:
    assert message in warnings_of(text)


def test_all_mistakes_are_reported_at_once() -> None:
    text = """permit(principal == Agnt::"x", action, resource);
        permit(principal, action == Action::"fs.read", resource) when { 1 + };
        forbid(principal, action == Action::"pay", resource) when { context.params.amuont == 3 };
        permit(principal, action == Action::"pay", resource) when { resource.nam == "x" };"""
    message = problems(text, Rules(allow=("path(x)",), deny=("shell( x)",)))
    places = ("rules.allow[0]", "rules.deny[0]", "p.cedar:1:", "p.cedar:2:", "p.cedar:3:", "p.cedar:4:")
    found = [message.index(place) for place in places]
    assert found == sorted(found)


def test_the_error_carries_its_problems() -> None:
    with pytest.raises(PolicyConfigurationError) as caught:
        judge("permit(principal, action, resource) when { 1 + };\n@hodl permit(principal, action, resource);")
    assert [problem.place for problem in caught.value.problems] == ["p.cedar:1", "p.cedar:2"]
    assert caught.value.as_dict()["path"] == "p.cedar:1"


def test_syntax_of_a_newer_cedar_is_refused() -> None:
    ((tree,), _) = pst.parse(PERMIT)
    newer = msgspec.structs.replace(tree, clauses=(pst.When(pst.Slot("principal")),))
    with pytest.raises(NotCoveredError):
        list(uses(newer))


def test_an_id_stands_once_in_all_files() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load([("a.cedar", f'@id("x")\n{PERMIT}'), ("b.cedar", f'\n@id("x") {PERMIT}')], world=WORLD)
    assert caught.value.path == "b.cedar:2"
    assert "b.cedar:2: the id `x` is already used at a.cedar:1" in caught.value.message


def test_a_policy_without_id_is_named_by_its_content() -> None:
    one, other = judge(PERMIT), judge("// a comment\npermit (principal,action,  resource)\n;")
    assert one.policies[0].content == other.policies[0].content
    assert one.policies[0].id == one.policies[0].content[:19]
    assert "the same policy is already used at p.cedar:1" in problems(f"{PERMIT}\n{PERMIT}")


def test_annotations_are_part_of_what_an_approval_discharges() -> None:
    one = judge('@hold("a") forbid(principal, action, resource);').policies[0]
    other = judge('@hold("b") forbid(principal, action, resource);').policies[0]
    assert one.content != other.content


def test_groups_and_agents_are_checked_where_they_are_known() -> None:
    text = '@hold("opps") forbid(principal in Group::"devs", action, resource);'
    judge(text)
    world = World(tools=TOOLS, agents={"coder": ("dev",)}, approval_groups=frozenset({"ops"}))
    message = problems(text, world=world)
    assert "no group of agents is named `devs`; did you mean `dev`?" in message
    assert "no group of approvers is named `opps`; did you mean `ops`?" in message


def test_a_name_that_only_some_tools_have_needs_a_guard_and_has_each_tools_type() -> None:
    forbid = "forbid(principal, action, resource) when { context.params has path && context.params.path like"
    policies = judge(f'{forbid} "*.env" }};' + PERMIT)
    assert ask(policies, "fs.read", {"path": "a/.env"}).decision == "deny"
    assert ask(policies, "fs.write", {"path": "a/.env"}).decision == "deny"
    assert ask(policies, "shell", {"command": "x"}).decision == "allow"
    assert "attribute `params.path`" in problems(
        'forbid(principal, action, resource) when { context.params.path == "x" };'
    )


def test_an_open_schema_takes_the_type_at_which_policies_use_it() -> None:
    policies = judge(
        'forbid(principal, action == Action::"github/create_issue", resource) '
        "when { context.params has count && context.params.count > 3 };" + PERMIT
    )
    assert ask(policies, "github/create_issue", {"count": 3}).decision == "allow"
    assert ask(policies, "github/create_issue", {}).decision == "allow"
    assert ask(policies, "github/create_issue", {"count": 4}).reason == "policy_denied"
    for value in ("4", 4.5, True, [4], {"__entity": {"type": "Agent", "id": "x"}}):
        assert ask(policies, "github/create_issue", {"count": value}).reason == "policy_error"


def test_one_state_key_has_one_type() -> None:
    text = """forbid(principal, action == Action::"pay", resource) when { context.state has n && context.state.n > 3 };
        forbid(principal, action == Action::"shell", resource) when { context.state has n && context.state.n == "x" };"""
    assert "`context.state.n` is used with different types, at p.cedar:1 and p.cedar:2" in problems(text)


def test_a_tool_cannot_have_the_name_of_something_else() -> None:
    for name in ("call", "state_write", "connect", "server:local", "tag:read_only"):
        assert f"a tool cannot be named `{name}`" in problems("", world=World(tools=(Tool(name=name),)))
    assert "two tools are named `a`" in problems("", world=World(tools=(Tool(name="a"), Tool(name="a"))))


def test_a_schema_that_grows_without_end_is_cut() -> None:
    many = {f"a{n}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/a{n + 1}"}, "y": {"$ref": f"#/$defs/a{n + 1}"}}}
            for n in range(40)}  # fmt: skip
    schema = {"type": "object", "properties": {"p": {"$ref": "#/$defs/a0"}}, "$defs": {**many, "a40": STRING}}
    loop = {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/l"}},
        "$defs": {"l": {"anyOf": [{"$ref": "#/$defs/l"}] * 4}},
    }
    judge(PERMIT, world=World(tools=(Tool(name="a", parameters=schema), Tool(name="b", parameters=loop))))


def test_nothing_at_all_denies() -> None:
    assert ask(judge(), "fs.read", {"path": "x"}).detail == "no policy permits it"


PIECES = st.sampled_from(['"a;b"', '"\\";"', "// c;\n", "when", "{", "}", "x", "&&", "\n", " ", "1", "@id", "("])


@given(st.lists(st.lists(PIECES, min_size=1).map(" ".join), max_size=5))
def test_statements_end_at_semicolons_outside_strings_and_comments(parts: list[str]) -> None:
    text = "".join(f"{part}\n;" for part in parts)
    found = split("f", text)
    assert len(found) == len(parts)
    for statement in found:
        first = text.splitlines()[statement.line - 1]
        assert statement.tokens[0].text in first


@given(st.text())
def test_any_text_can_be_split_without_losing_a_character(text: str) -> None:
    for statement in split("f", text):
        assert statement.text in text
        clauses(statement)


@given(st.text(alphabet='permitforbd(),action;"{}@\\/ \n=:&|', max_size=60))
def test_any_text_loads_or_is_refused_with_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        judge(text)


@pytest.mark.parametrize(
    "condition",
    [
        'context.flags.contains("secrets")',
        'context.flags.containsAny(["path_escape", "secrets"])',
        '["secrets"].containsAll(context.flags)',
        'context.params.to == "x" || !context.flags.contains("secrets")',
    ],
)
def test_a_misspelt_flag_is_an_error_with_its_line(condition: str) -> None:
    found = problems(f'forbid(principal, action == Action::"pay", resource)\nwhen {{ {condition} }};')
    assert "p.cedar:2: no detector has the flag `secrets`; did you mean `secret`?" in found
    judge('forbid(principal, action == Action::"pay", resource) when { context.flags.contains("secret") };')


def test_a_case_with_a_misspelt_flag_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no detector has the flag `secrets`"):
        read_cases([{"action": "pay", "expect": "deny", "flags": ["secrets"]}], "c.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "EXAMPLE.org:443",
            "the host `EXAMPLE.org:443` always appears as `example.org:443` in requests; write `example.org:443`",
        ),
        ("127.1:80", "the host `127.1:80` always appears as `127.0.0.1:80` in requests; write `127.0.0.1:80`"),
        ("*.example.org:443", "the host `*.example.org:443` is not a host name"),
    ],
)
def test_a_host_that_is_never_asked_about_is_an_error(name: str, message: str) -> None:
    assert message in problems(f'forbid(principal, action == Action::"connect", resource == Host::"{name}");')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'forbid(principal, action, resource) when { context.params has comand && context.params.comand like "*rm*" };',
            "`context.params` of `shell` has no attribute `comand`; did you mean `command`?",
        ),
        (
            'forbid(principal, action, resource) when { context.session has nam && context.session.nam == "x" };',
            "has no attribute `nam`; did you mean `name`?",
        ),
        ("forbid(principal, action in [], resource);", "`action in []` covers no action"),
    ],
)
def test_a_forbid_that_could_never_match_is_an_error(text: str, message: str) -> None:
    closed = World(
        tools=tuple(tool for tool in TOOLS if tool.name in ("fs.read", "shell"))
    )  # others take any parameter
    assert message in problems(text, world=closed)


def test_a_mistake_is_reported_once_and_not_for_every_tool() -> None:
    found = problems('forbid(principal, action in Action::"call", resource) when { context.session.name == "x" };')
    assert "(1 problem)" in found


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 5000 + "true" + ")" * 5000,
        "[" * 5000 + "1" + "]" * 5000 + ".isEmpty()",
        "{a:" * 5000 + "1" + "}" * 5000 + " has a",
        "!(" * 5000 + "true" + ")" * 5000,
        " && ".join(["true"] * 20_000),
        "+".join(["1"] * 20_000) + " == 1",
        "context" + ".a" * 20_000 + " == 1",
        "context" + '["a"]' * 20_000 + " == 1",
        "if true then " * 20_000 + "true" + " else true" * 20_000,
        "(" * 150 + " && ".join(["true"] * 900) + ")" * 150,
        "(" * 100_000,
    ],
)
def test_a_condition_that_is_too_deep_for_the_parser_is_an_error_and_not_the_end_of_the_process(condition: str) -> None:
    found = problems(f"permit(principal, action, resource) when {{ {condition} }};")
    assert "p.cedar:1: the condition is nested more than 100 levels deep" in found


def test_long_lists_are_not_deep() -> None:
    names = ", ".join(f'"n{number}"' for number in range(5000))
    text = f'permit(principal, action == Action::"pay", resource) when {{ [{names}].contains(context.params.to) }};'
    assert ask(judge(text), "pay", {"amount": 1, "to": "n4999"}).decision == "allow"
