"""Grants: nothing granted, nothing allowed; one call fits one grant as a whole; each refusal has its own reason."""

import pytest

from interlock.capability import compile_grants
from interlock.model.errors import ConfigurationError
from interlock.model.grant import Grant, Paths
from interlock.model.tool import Tool

NOW = 1_000
READ = Tool(name="fs.read", open_world=False, tags=("read_only",))
WRITE = Tool(name="fs.write", open_world=False)
FETCH = Tool(name="http.fetch")
REMOTE = Tool(name="github/create_issue")
SHELL = Tool(name="shell", isolation="process")
WRITES = (("/path", "path.write"),)
READS = (("/path", "path.read"),)
HOST = (("/url", "host"),)


def grant(name="g", agent="coder", **fields):
    return Grant(**{"id": name, "agent": agent, "tools": ("*",), **fields})


def reason(refusal):
    return refusal and refusal.reason


def test_no_grant_allows_nothing():
    judge = compile_grants([grant(agent="other")])
    assert reason(judge.proposal("coder", 1)) == "grant_missing"
    assert reason(judge.tool("coder", READ, NOW)) == "grant_missing"
    assert reason(judge.state_key("coder", "k", NOW)) == "grant_missing"
    assert reason(judge.arguments("coder", READ, READS, {"path": "a"}, NOW)) == "grant_missing"
    named = (judge.tool("coder", READ, NOW).detail, judge.state_key("coder", "k", NOW).detail)
    assert f"`coder` has no grant at all, so the tool `{READ.name}` is not allowed" in named[0]
    assert "state key `k`" in named[1]
    assert reason(judge.path("coder", READ, "a", "read", NOW)) == "path_denied"


@pytest.mark.parametrize(
    ("globs", "tool", "allowed"),
    [
        (("fs.*",), READ, True),
        (("fs.*",), REMOTE, False),
        (("github/*",), REMOTE, True),
        (("tag:read_only",), READ, True),
        (("tag:read_only",), WRITE, False),
        (("read_only",), READ, False),
        ((), READ, False),
        (("FS.*",), READ, False),
    ],
)
def test_tools_by_glob_and_tag(globs, tool, allowed):
    judge = compile_grants([grant(tools=globs)])
    assert reason(judge.tool("coder", tool, NOW)) == (None if allowed else "capability_denied")
    assert judge.tool_is_static("coder", tool)


def test_a_larger_proposal_is_refused_whole():
    judge = compile_grants([grant(actions_max=3)])
    assert judge.proposal("coder", 3) is None
    assert reason(judge.proposal("coder", 4)) == "too_many_actions"


def test_state_keys():
    judge = compile_grants([grant(state_keys=("build.*",))])
    assert judge.state_key("coder", "build.a.b", NOW) is None
    assert reason(judge.state_key("coder", "Build.a", NOW)) == "state_key_denied"


def test_a_grant_ends_at_its_time():
    judge = compile_grants([grant(expires_at_us=NOW)])
    assert judge.tool("coder", READ, NOW - 1) is None
    assert reason(judge.tool("coder", READ, NOW)) == "grant_expired"
    assert reason(judge.state_key("coder", "k", NOW)) == "grant_expired"
    assert reason(judge.arguments("coder", READ, READS, {"path": "a"}, NOW)) == "grant_expired"
    assert not judge.tool_is_static("coder", READ)


def test_an_expired_grant_does_not_hide_one_in_force():
    judge = compile_grants([grant("old", expires_at_us=1), grant("new")])
    assert judge.tool("coder", READ, NOW) is None
    assert judge.tool_is_static("coder", READ)


def test_a_revoked_grant_allows_nothing_and_says_so():
    judge = compile_grants([], revoked=[grant(tools=("fs.*",))])
    assert reason(judge.tool("coder", READ, NOW)) == "grant_revoked"
    assert reason(judge.tool("coder", REMOTE, NOW)) == "grant_missing"
    assert reason(judge.proposal("coder", 1)) == "grant_revoked"


def test_deny_tools_takes_out_of_tools_by_name_and_by_tag_whatever_else_the_grant_says():
    tagged = Tool(name="fs.write", tags=("writer",), open_world=False)
    for denied in ("fs.write", "fs.w*", "tag:writer"):
        judge = compile_grants([grant(tools=("*", "fs.write", "tag:writer"), deny_tools=(denied,))])
        assert reason(judge.tool("coder", tagged, NOW)) == "capability_denied"
        assert judge.tool("coder", READ, NOW) is None


def test_a_childs_denials_come_on_top_of_its_parents():
    parent = grant(tools=("*",), deny_tools=("fs.write",))
    child = grant(id="child", agent="child", tools=("*",), deny_tools=("http.*",), parent=parent.id)
    judge = compile_grants([parent, child])
    for tool in (WRITE, FETCH):
        assert reason(judge.tool("child", tool, NOW)) == "capability_denied", tool.name
    assert judge.tool("child", READ, NOW) is None


def test_one_grant_does_not_deny_what_another_of_the_agent_allows():
    judge = compile_grants([grant(tools=("*",), deny_tools=("fs.write",)), grant(id="more", tools=("fs.write",))])
    assert judge.tool("coder", WRITE, NOW) is None


def test_refusals_name_the_tool_or_the_state_key_and_the_grant_that_denies():
    judge = compile_grants([grant(tools=("*",), deny_tools=("fs.write",), state_keys=("build.*",), expires_at_us=NOW)])
    assert "`fs.write`" in judge.tool("coder", WRITE, NOW - 1).detail
    assert f"`deny_tools` of `{grant().id}`" in judge.tool("coder", WRITE, NOW - 1).detail
    assert "`fs.read`" in judge.tool("coder", READ, NOW).detail
    assert "`secret.x`" in judge.state_key("coder", "secret.x", NOW - 1).detail
    assert "`build.x`" in judge.state_key("coder", "build.x", NOW).detail
    gone = compile_grants([], revoked=[grant(tools=("fs.*",))])
    assert "`fs.read`" in gone.tool("coder", READ, NOW).detail


def test_paths_need_reading_or_writing_as_marked():
    judge = compile_grants([grant(paths=Paths(read=("**",), write=("src/**",)))])
    assert judge.arguments("coder", READ, READS, {"path": "docs/a"}, NOW) is None
    assert judge.arguments("coder", WRITE, WRITES, {"path": "src/a"}, NOW) is None
    assert reason(judge.arguments("coder", WRITE, WRITES, {"path": "docs/a"}, NOW)) == "path_denied"


@pytest.mark.parametrize(
    "path",
    [
        "docs/a",
        "src/../docs/a",
        "./docs/a",
        "/ws/docs/a",
        "src/../../ws/src/a",
        "..",
        "/etc/passwd",
        "~/x",
        "Src/a",
        "",
        "x\0",
    ],
)
def test_no_spelling_leads_outside_the_granted_paths(path):
    judge = compile_grants([grant(paths=Paths(write=("src/**",)))], root="/ws")
    refusal = judge.arguments("coder", WRITE, WRITES, {"path": path}, NOW)
    assert reason(refusal) == "path_denied"
    assert refusal.path == "$.parameters.path"
    assert "docs" not in refusal.detail


@pytest.mark.parametrize("path", ["src/a", "./src//a/", "docs/../src/a", "/ws/src/a", {"b64": "c3JjL//+"}])
def test_every_spelling_of_a_granted_path_is_allowed(path):
    judge = compile_grants([grant(paths=Paths(write=("src/**",)))], root="/ws")
    assert judge.arguments("coder", WRITE, WRITES, {"path": path}, NOW) is None


def test_marks_reach_into_lists_and_objects():
    judge = compile_grants([grant(paths=Paths(read=("src/**",)))])
    marks = (("/files/*/path", "path.read"), ("/more", "path.read"), ("/map/*", "path.read"))
    fine = {"files": [{"path": "src/a"}, {}, {"path": None}], "more": ["src/b"], "map": {"k": "src/c"}}
    assert judge.arguments("coder", READ, marks, fine, NOW) is None
    for bad, where in (
        ({"files": [{"path": "src/a"}, {"path": "b"}]}, "$.parameters.files[1].path"),
        ({"more": ["src/b", "b"]}, "$.parameters.more[1]"),
        ({"map": {"secret": "b"}}, "$.parameters.map.*"),
        ({"more": 7}, "$.parameters.more"),
        ({"more": [["src/a"]]}, "$.parameters.more[0]"),
    ):
        refusal = judge.arguments("coder", READ, marks, bad, NOW)
        assert (reason(refusal), refusal.path) == ("path_denied", where)


def test_a_parameter_named_with_slashes_is_found():
    judge = compile_grants([grant(paths=Paths(read=()))])
    marks = (("/a~1b~0c", "path.read"),)
    assert reason(judge.arguments("coder", READ, marks, {"a/b~c": "x"}, NOW)) == "path_denied"


def test_hosts():
    judge = compile_grants([grant(hosts=("*.example.org:443",))])
    assert judge.arguments("coder", FETCH, HOST, {"url": "https://api.example.org/x"}, NOW) is None
    for url in ("https://example.org/", "http://api.example.org/", "https://api.example.org@evil.org/", "x y", 7):
        refusal = judge.arguments("coder", FETCH, HOST, {"url": url}, NOW)
        assert (reason(refusal), refusal.path) == ("host_denied", "$.parameters.url")


def test_a_tool_that_reaches_the_world_unmarked_must_be_named_unscoped():
    judge = compile_grants([grant()])
    assert judge.tool("coder", REMOTE, NOW) is None
    assert reason(judge.arguments("coder", REMOTE, (), {}, NOW)) == "unscoped_denied"
    assert reason(judge.arguments("coder", REMOTE, (("/token", "secret"),), {}, NOW)) == "unscoped_denied"
    assert compile_grants([grant(unscoped=("github/*",))]).arguments("coder", REMOTE, (), {}, NOW) is None


def test_walls_replace_marks():
    judge = compile_grants([grant()])
    assert judge.arguments("coder", SHELL, (), {"command": "ls"}, NOW) is None
    unwalled = Tool(name="shell", isolation="none")
    assert reason(judge.arguments("coder", unwalled, (), {}, NOW)) == "unscoped_denied"


def test_a_call_must_fit_one_grant_as_a_whole():
    judge = compile_grants(
        [
            grant("a", tools=("fs.write",), paths=Paths(write=("src/**",))),
            grant("b", tools=("fs.read",), paths=Paths(read=("**",), write=("**",))),
            grant("c", tools=("fs.write",), paths=Paths(write=("docs/**",))),
        ]
    )
    assert reason(judge.arguments("coder", WRITE, WRITES, {"path": "x"}, NOW)) == "path_denied"
    both = (("/source", "path.write"), ("/destination", "path.write"))
    assert judge.arguments("coder", WRITE, both, {"source": "src/a", "destination": "src/b"}, NOW) is None
    refusal = judge.arguments("coder", WRITE, both, {"source": "src/a", "destination": "docs/a"}, NOW)
    assert reason(refusal) == "path_denied"
    assert "together" in refusal.detail


@pytest.mark.parametrize("path", ["interlock.toml", "policy/a.cedar", "policy", ".", "src/../interlock.toml"])
def test_what_the_loader_reads_is_never_written(path):
    judge = compile_grants([grant()], protected=["interlock.toml", "policy/*.cedar"])
    assert reason(judge.arguments("coder", WRITE, WRITES, {"path": path}, NOW)) == "path_denied"
    assert judge.arguments("coder", READ, READS, {"path": path}, NOW) is None
    assert reason(judge.path("coder", WRITE, path, "write", NOW)) == "path_denied"


def test_a_directory_above_what_the_loader_reads_is_written_where_what_is_beneath_is_judged_too():
    judge = compile_grants([grant()], protected=["interlock.toml", "policy/deep/*.cedar"])
    assert reason(judge.path("coder", WRITE, "policy", "write", NOW)) == "path_denied"
    assert judge.path("coder", WRITE, "policy", "write", NOW, alone=True) is None
    assert reason(judge.path("coder", WRITE, "policy/deep/a.cedar", "write", NOW, alone=True)) == "path_denied"


def test_a_path_that_turns_up_while_a_tool_runs():
    judge = compile_grants([grant(paths=Paths(read=("src/**",)))], root="/ws")
    assert judge.path("coder", READ, "/ws/src/a", "read", NOW) is None
    assert reason(judge.path("coder", READ, "/ws/src/../b", "read", NOW)) == "path_denied"
    assert reason(judge.path("coder", READ, "/etc", "read", NOW)) == "path_denied"


def test_a_group_grant_is_for_its_members():
    judge = compile_grants([grant(agent="group:ops")], groups={"coder": ["ops"], "other": ["dev"]})
    assert judge.tool("coder", READ, NOW) is None
    assert reason(judge.tool("other", READ, NOW)) == "grant_missing"


def test_a_child_needs_its_parents_and_all_of_them_say_yes():
    parent = grant("p", agent="boss", tools=("fs.*",), paths=Paths(read=("src/**",)), expires_at_us=NOW, actions_max=2)
    child = grant("c", parent="p")
    grandchild = grant("d", agent="deep", parent="c", tools=("fs.read",))
    judge = compile_grants([parent, child, grandchild])
    for agent in ("coder", "deep"):
        assert judge.tool(agent, READ, NOW - 1) is None
        assert reason(judge.tool(agent, READ, NOW)) == "grant_expired"
        assert reason(judge.tool(agent, REMOTE, NOW - 1)) == "capability_denied"
        assert reason(judge.arguments(agent, READ, READS, {"path": "docs"}, NOW - 1)) == "path_denied"
        assert reason(judge.proposal(agent, 3)) == "too_many_actions"
    orphaned = compile_grants([child, grandchild], revoked=[parent])
    assert reason(orphaned.tool("coder", READ, NOW - 1)) == "grant_revoked"
    assert reason(orphaned.tool("deep", READ, NOW - 1)) == "grant_revoked"


def test_grants_that_cost_nothing_come_first():
    judge = compile_grants([grant("counted", uses_max=3, parent="p"), grant("p", uses_max=9), grant("free")])
    found = judge.candidates("coder", READ, READS, {"path": "a"}, NOW)
    assert [g.counted for g in found] == [(), ("counted", "p"), ("p",)]
    assert judge.tool_is_static("coder", READ)
    assert not compile_grants([grant(uses_max=1)]).tool_is_static("coder", READ)


def test_a_tool_that_was_registered_anew_is_judged_anew():
    judge = compile_grants([grant(tools=("tag:read_only",))])
    assert judge.tool("coder", READ, NOW) is None
    assert reason(judge.tool("coder", Tool(name="fs.read", open_world=False), NOW)) == "capability_denied"


@pytest.mark.parametrize(
    "grants",
    [
        [grant(), grant()],
        [grant("a", parent="b"), grant("b", parent="a")],
        [grant(paths=Paths(read=("/etc",)))],
        [grant(hosts=("example.org",))],
    ],
)
def test_senseless_grants_are_configuration_errors(grants):
    with pytest.raises(ConfigurationError):
        compile_grants(grants)


def test_marks_of_fixed_places_in_a_list_and_of_secrets():
    judge = compile_grants([grant(paths=Paths(read=("src/**",)))])
    marks = (("/pair/1", "path.read"), ("/token", "secret"), ("/pair/7", "path.read"), ("/pair/x", "path.read"))
    assert judge.arguments("coder", READ, marks, {"pair": ["/etc", "src/a"], "token": "/etc"}, NOW) is None
    refusal = judge.arguments("coder", READ, marks, {"pair": ["src/a", "/etc"]}, NOW)
    assert (reason(refusal), refusal.path) == ("path_denied", "$.parameters.pair[1]")
    assert judge.arguments("coder", READ, (("/a/b", "path.read"),), {"a": "text"}, NOW) is None


def test_what_is_left_out_is_judged_as_what_the_tool_takes_for_it():
    defaults = {("path",): "secrets", ("options",): {}, ("options", "force"): True, ("steps", "*", "n"): 1}
    judge = compile_grants([])
    given = {"steps": [{"n": 2}, {}, "x"]}
    assert judge.normalize((), given, defaults) == {
        "path": "secrets",
        "options": {"force": True},
        "steps": [{"n": 2}, {"n": 1}, "x"],
    }
    assert given == {"steps": [{"n": 2}, {}, "x"]}
    named = {"path": None, "options": {"force": None}, "steps": {"n": 0}}
    assert judge.normalize((), named, defaults) is named


def test_a_mark_under_a_name_that_looks_like_a_number_is_not_a_list_index():
    tool = Tool(name="t")
    judge = compile_grants([Grant(id="g", agent="a", tools=("*",))])
    assert judge.arguments("a", tool, (("/list/\u00b2", "path.read"),), {"list": ["/etc", "/etc", "/etc"]}, 0) is None
