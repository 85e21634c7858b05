"""`Runtime.open(settings=...)` reads settings as the file is read: each one is in force, or stops the start."""

import pytest
from engine_world import AGENT, SETTINGS, call, execute, plan, reasons, statuses, write

import interlock
from interlock.model.errors import ConfigurationError, UsageError

FORBID = '@id("no:writes") forbid (principal, action == Action::"state_write", resource);\n'
MODULE = """
import interlock

@interlock.tool(read_only=True)
def twice(x: int) -> int:
    return 2 * x
"""


@pytest.fixture
def opened(tmp_path):
    """Opens runtimes over a workspace; `opened(isolation={...})`."""
    made = []

    def make(workspace=tmp_path, flags=None, **sections):
        made.append(interlock.Runtime.open(settings=SETTINGS | sections, workspace=workspace, flags=flags))
        return made[-1]

    yield make
    for rt in made:
        rt.close()


def refused(opened, path, **options):
    """The start was stopped, for the setting at `path`."""
    with pytest.raises(ConfigurationError) as caught:
        opened(**options)
    assert caught.value.code == "not_available"
    assert path in caught.value.path
    return caught.value


@pytest.mark.parametrize(
    ("path", "sections"),
    [
        ("isolation.require", {"isolation": {"require": ["fs", "net"]}}),
        ("isolation.profile", {"isolation": {"profile": "ns"}}),
        ("isolation.workspace", {"isolation": {"workspace": "layer"}}),
        ("isolation.commit", {"isolation": {"commit": "ask"}}),
        ("journal.durability", {"journal": {"durability": "full"}}),
        ("journal.keep", {"journal": {"keep": "1d"}}),
        ("telemetry.otel", {"telemetry": {"otel": "http://127.0.0.1:4318"}}),
        ("approvals.ttl", {"approvals": {"ttl": "1m"}}),
        ("approvals.separation", {"approvals": {"separation": True}}),
        ("approvals.groups", {"approvals": {"groups": {"ops": ["ann"]}}}),
        ("approvals.notify", {"approvals": {"notify": [{"kind": "bell"}]}}),
        ("mcp.servers", {"mcp": {"servers": {"x": {"command": ["x"]}}}}),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_what_cannot_be_honoured_stops_the_start(opened, tmp_path, path, sections, in_memory):
    refused(opened, path, workspace=None if in_memory else tmp_path, **sections)


def test_durability_off_is_what_it_does(opened):
    assert execute(opened(journal={"durability": "off"}), write("k", 1)).ok


def test_a_policy_file_binds(opened, tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "one.cedar").write_text(FORBID)
    rt = opened(policy={"files": ["policy/*.cedar"]})
    assert reasons(execute(rt, write("k", 1))) == ["policy_denied"]


def test_a_tool_module_is_loaded(opened, tmp_path):
    (tmp_path / "own.py").write_text(MODULE)
    rt = opened(tools={"modules": ["own"]})
    assert execute(rt, call("twice", "a", parameters={"x": 4}))["a"].output == 8


@pytest.mark.parametrize(
    "sections",
    [{"policy": {"files": ["a.cedar"]}}, {"tools": {"modules": ["own"]}}, {"capsules": {"c": {"path": "c"}}}],
)
def test_files_without_a_workspace_to_find_them_in_stop_the_start(opened, sections):
    with pytest.raises(ConfigurationError, match="no workspace"):
        opened(workspace=None, **sections)


def test_a_policy_file_that_is_not_there_stops_the_start(opened):
    with pytest.raises(ConfigurationError, match="does not exist"):
        opened(policy={"files": ["missing.cedar"]})


def test_the_files_that_were_read_are_protected(opened, tmp_path):
    (tmp_path / "rules.cedar").write_text(FORBID)
    rt = opened(policy={"files": ["rules.cedar"]})
    for path in ("rules.cedar", "interlock.toml"):
        assert statuses(execute(rt, call("fs.write", parameters={"path": path, "content": ""}))) == ["rejected"]
    assert (tmp_path / "rules.cedar").read_text() == FORBID


def test_the_environment_tightens_as_it_does_for_a_file(opened, monkeypatch):
    monkeypatch.setenv("INTERLOCK_RULES_DENY", "fs.list")
    assert reasons(execute(opened(), call("fs.list", parameters={}))) == ["policy_denied"]
    monkeypatch.setenv("INTERLOCK_ISOLATION_REQUIRE", "fs")
    refused(opened, "isolation.require")


def test_a_wish_from_the_environment_that_cannot_be_honoured_names_the_variable(opened, monkeypatch):
    monkeypatch.setenv("INTERLOCK_APPROVALS_TTL", "1m")
    assert "INTERLOCK_APPROVALS_TTL" in refused(opened, "approvals.ttl").path


def test_flags_tighten_too(opened):
    assert reasons(execute(opened(flags={"rules.deny": "fs.list"}), call("fs.list", parameters={}))) == [
        "policy_denied"
    ]


def test_a_configuration_file_and_settings_are_two_answers_to_one_question(tmp_path):
    with pytest.raises(UsageError, match="replaces the file"):
        interlock.Runtime.open(tmp_path / "interlock.toml", settings=SETTINGS)


def test_the_guard_is_there_if_it_was_asked_for(opened):
    assert opened().services.guard is None
    assert opened(guard={"cpu": 0.9}).services.guard is not None
    assert opened(workspace=None, guard={"zombies": 5}).services.guard is not None
    refused(opened, "guard.disk", workspace=None, guard={"disk": 0.9})


def test_a_question_that_nobody_can_be_asked_is_a_denial(opened):
    rules = {"rules": {"allow": ["*"], "ask": ["fs.list"]}}
    assert reasons(execute(opened(**rules), call("fs.list", parameters={}))) == ["approval_required"]


def test_the_same_settings_in_a_file_do_the_same(new_project):
    """One path reads settings: what the file refuses for lack of walls, code is refused for too."""
    project = new_project(toml=f'agent = "{AGENT}"\n[isolation]\nrequire = ["fs"]\n')
    with pytest.raises(ConfigurationError) as caught:
        project.open()
    assert (caught.value.code, caught.value.path) == ("not_available", "isolation.require")


def test_plain_settings_still_run(opened):
    assert opened(workspace=None).execute_sync(plan(write("k", 1))).ok
