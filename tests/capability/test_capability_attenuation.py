"""Attenuation: whatever a child's grant says, it never allows what the parent's refuses."""

from hypothesis import example, given
from hypothesis import strategies as st

from interlock.capability import attenuate, compile_grants
from interlock.model.grant import Grant, Paths
from interlock.model.tool import Tool

NAMES = st.lists(st.sampled_from(["*", "a*", "*b", "ab", "a", "tag:x", "tag:y", ""]), max_size=3).map(tuple)
PATHS = st.lists(st.sampled_from(["**", "a/**", "*/b", "**/b", "a/b", "a", "?", "a/?"]), max_size=3).map(tuple)
HOSTS = st.lists(st.sampled_from(["*:*", "*.a:1", "b.a:1", "b.a:*", "*:1"]), max_size=3).map(tuple)
LIMIT = st.none() | st.integers(1, 3)


def grants(name):
    return st.builds(
        Grant,
        id=st.just(name),
        agent=st.just(name),
        tools=NAMES,
        deny_tools=NAMES,
        state_keys=NAMES,
        paths=st.builds(Paths, read=PATHS, write=PATHS),
        hosts=HOSTS,
        unscoped=NAMES,
        actions_max=LIMIT,
        expires_at_us=LIMIT,
        uses_max=LIMIT,
    )


TOOLS = st.builds(
    Tool,
    name=st.sampled_from(["a", "ab", "b", "cb"]),
    tags=st.sampled_from([(), ("x",), ("x", "y")]),
    open_world=st.booleans(),
)
MARKS = st.sampled_from([(), (("/p", "path.read"),), (("/p", "path.write"), ("/h", "host"))])
PARAMETERS = st.fixed_dictionaries(
    {"p": st.sampled_from(["a", "b", "a/b", "a/b/c", "c", "."]), "h": st.sampled_from(["b.a:1", "a:1", "c.a:2", "a:2"])}
)


@given(grants("parent"), grants("child"), TOOLS, MARKS, PARAMETERS, st.integers(0, 4))
@example(
    Grant(id="parent", agent="parent", tools=("a*",)),
    Grant(id="child", agent="child", tools=("*b",)),
    Tool(name="cb", open_world=False),
    (),
    {"p": "a", "h": "a:1"},
    0,
)
@example(
    Grant(id="parent", agent="parent", tools=("tag:x",)),
    Grant(id="child", agent="child", tools=("",)),  # matches nothing, as everywhere
    Tool(name="a", tags=("x",), open_world=False),
    (),
    {"p": "a", "h": "a:1"},
    0,
)
def test_a_child_allows_exactly_what_both_allow(parent, asked, tool, marks, parameters, now):
    child = attenuate(parent, asked)
    judge = compile_grants([parent, child])
    alone = compile_grants([asked])
    limits = [g.actions_max for g in (parent, asked) if g.actions_max is not None]

    def both(question):
        return question(judge, "parent") is None and question(alone, "child") is None

    for question in (
        lambda j, agent: j.tool(agent, tool, now),
        lambda j, agent: j.state_key(agent, tool.name, now),
        lambda j, agent: j.arguments(agent, tool, marks, parameters, now),
        lambda j, agent: j.path(agent, tool, parameters["p"], "write", now),
    ):
        assert (question(judge, "child") is None) == both(question)
    for count in range(1, 5):
        assert (judge.proposal("child", count) is None) == all(count <= limit for limit in limits)


@given(grants("parent"), grants("child"))
def test_a_childs_limits_are_no_larger_than_its_parents(parent, asked):
    child = attenuate(parent, asked)
    assert {*child.deny_tools} == {*parent.deny_tools, *asked.deny_tools}
    for name in ("actions_max", "expires_at_us", "uses_max"):
        limit, got = getattr(parent, name), getattr(child, name)
        assert limit is None or (got is not None and got <= limit)
    assert child.parent == parent.id


@given(grants("parent"), grants("child"), grants("grandchild"), TOOLS, PARAMETERS, st.integers(0, 4))
def test_attenuation_goes_down_the_line(parent, asked, deeper, tool, parameters, now):
    child = attenuate(parent, asked)
    grandchild = attenuate(child, deeper)
    judge = compile_grants([parent, child, grandchild])
    if judge.arguments("grandchild", tool, (("/p", "path.write"),), parameters, now) is None:
        assert judge.arguments("child", tool, (("/p", "path.write"),), parameters, now) is None
        assert judge.arguments("parent", tool, (("/p", "path.write"),), parameters, now) is None


def test_globs_are_narrowed_for_those_who_read_the_grant():
    parent = Grant(
        id="p", agent="p", tools=("fs.*", "shell"), hosts=("*.example.org:443",), paths=Paths(read=("src/**",))
    )
    asked = Grant(
        id="c",
        agent="c",
        tools=("*", "github/*"),
        hosts=("api.example.org:*", "evil.org:443"),
        paths=Paths(read=("**", "docs/a"), write=("**",)),
        uses_max=3,
    )
    child = attenuate(parent, asked)
    assert child.tools == (
        "fs.*",
        "shell",
        "github/*",
    )  # `github/*` and `fs.*` might share a name, as far as globs tell
    assert child.paths == Paths(read=("src/**",), write=())
    assert child.hosts == ("api.example.org:*",)
    assert child.uses_max == 3
    assert child.source == "parent"
