"""Groups of agents: their grants are their members', policies see them, and nobody becomes a member by a name."""

import pytest
from engine_world import call, execute, reasons

from interlock import Grant, Runtime
from interlock.model.errors import ConfigurationError

MEMBERS = {
    "groups": {"crew": ["coder", "helper"], "empty": []},
    "grants": {"group:crew": {"tools": ["fs.list"]}, "loner": {"tools": ["fs.list"]}},
    "rules": {"allow": ["fs.list"]},
}
LIST = call("fs.list", "a", parameters={})


@pytest.fixture
def opened(tmp_path):
    runtimes = []

    def make(**settings):
        runtimes.append(Runtime.open(settings=MEMBERS | settings, workspace=tmp_path))
        return runtimes[-1]

    yield make
    for one in runtimes:
        one.close()


def test_a_grant_of_a_group_is_each_members(opened):
    rt = opened()
    for agent, said in (("coder", [None]), ("helper", [None]), ("loner", [None]), ("other", ["grant_missing"])):
        assert reasons(execute(rt, LIST, agent=agent)) == said


@pytest.mark.parametrize("agent", ["group:crew", "crew", "Group::crew", "group:group:crew"])
def test_nobody_is_a_group_by_its_name(opened, agent):
    assert reasons(execute(opened(), LIST, agent=agent)) == ["grant_missing"]


def test_the_grants_of_an_agent_and_its_groups_add_up(opened):
    rt = opened(grants=MEMBERS["grants"] | {"coder": {"tools": ["fs.read"]}}, rules={"allow": ["fs.*"]})
    read = call("fs.read", "b", parameters={"path": "there is none"})
    assert reasons(execute(rt, LIST, read, agent="coder"))[1] not in ("capability_denied", "grant_missing")
    assert reasons(execute(rt, read, agent="helper")) == ["capability_denied"]
    wrong = call("fs.write", "b", parameters={"path": "x", "content": ""})
    assert reasons(execute(rt, wrong, agent="coder")) == ["capability_denied"]


def test_a_grant_set_in_code_stands_for_those_of_the_groups_too(opened):
    rt = opened()
    rt.grants.set(Grant(id="less", agent="coder", tools=("fs.read",)))
    assert reasons(execute(rt, LIST, agent="coder")) == ["capability_denied"]
    assert reasons(execute(rt, LIST, agent="helper")) == [None]


def test_a_fork_gets_a_part_of_what_the_group_of_its_parent_has_and_no_more(opened):
    rt = opened(agent="coder", grants={"group:crew": {"tools": ["fs.list"], "actions_max": 1}})
    part = Grant(id="part", agent="", tools=("fs.*",))
    for name in ("child", "helper"):  # a member too: its group does not give back what the part leaves out
        child = rt.fork(name, part)
        assert reasons(execute(child, LIST)) == [None]
        assert reasons(execute(child, LIST, call("fs.list", "b", parameters={}))) == ["too_many_actions"] * 2
        assert reasons(execute(child, call("fs.read", "c", parameters={"path": "x"}))) == ["capability_denied"]
    none = rt.fork("helper", Grant(id="none", agent="", tools=("fs.read",)))
    assert reasons(execute(none, LIST)) == ["capability_denied"]
    with pytest.raises(ConfigurationError, match="has no grant"):
        rt.fork("other").fork("child", part)


def test_a_stored_result_is_not_shared_by_agents_whose_groups_grant_different_things(opened):
    rt = opened(
        groups={"crew": ["coder"], "crew2": ["helper"]}, grants={"group:crew": {}, "group:crew2": {"tools": ["x"]}}
    )
    gate = rt.services.judges.current()
    assert len({gate.grants_digest(name) for name in ("coder", "helper", "other")}) == 3


@pytest.mark.parametrize("grant", [None, Grant(id="g", agent="", tools=("fs.list",))])
def test_nobody_is_the_operator(opened, grant):
    with pytest.raises(ConfigurationError, match="not an agent"):
        opened(agent="coder").fork("operator", grant)


PROJECT = """
agent = "coder"
[rules]
allow = ["fs.list"]
[policy]
files = ["policy/*.cedar"]
[groups]
crew = ["coder"]
night = ["helper"]
[grants."group:crew"]
tools = ["fs.list"]
[grants."group:night"]
tools = ["fs.list"]
"""
FORBID = 'forbid (principal in Group::"night", action, resource);'


def test_policies_see_the_groups_and_an_edit_takes_effect_on_a_running_process(new_project):
    project = new_project(toml=PROJECT, files=[("policy/a.cedar", FORBID)])
    rt = project.open()
    assert reasons(execute(rt, LIST)) == [None]
    assert reasons(execute(rt, LIST, agent="helper")) == ["policy_denied"]
    text = PROJECT.replace('night = ["helper"]', 'night = ["coder"]').replace('crew = ["coder"]', 'crew = ["helper"]')
    (project.root / "interlock.toml").write_text(text)
    project.trust()
    assert reasons(execute(rt, LIST)) == ["policy_denied"]
    assert reasons(execute(rt, LIST, agent="helper")) == [None]


def test_a_group_that_does_not_exist_is_an_error_in_a_policy(new_project):
    project = new_project(toml=PROJECT, files=[("policy/a.cedar", FORBID.replace("night", "nigth"))])
    with pytest.raises(ConfigurationError, match="no group of agents is named `nigth`; did you mean `night`"):
        execute(project.open(), LIST)
