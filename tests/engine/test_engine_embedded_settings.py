"""`Runtime.open(settings=...)` reads settings as the file is read: each one is in force, or stops the start."""

import asyncio

import msgspec
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

    def make(root=tmp_path, flags=None, **sections):
        made.append(interlock.Runtime.open(settings=SETTINGS | sections, workspace=root, flags=flags))
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
        ("workspace.mode", {"workspace": {"mode": "layer"}}),
        ("workspace.commit", {"workspace": {"commit": "ask"}}),
        ("journal.durability", {"journal": {"durability": "full"}}),
        ("journal.keep", {"journal": {"keep": "1d"}}),
        ("journal.durability", {"journal": {"durability": "batch"}}),
        ("telemetry.otel", {"telemetry": {"otel": "http://127.0.0.1:4318"}}),
        ("mcp.servers", {"mcp": {"servers": {"x": {"command": ["x"]}}}}),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_what_cannot_be_honoured_stops_the_start(opened, tmp_path, path, sections, in_memory):
    refused(opened, path, root=None if in_memory else tmp_path, **sections)


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
        opened(root=None, **sections)


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
    monkeypatch.setenv("INTERLOCK_WORKSPACE_MODE", "layer")
    refused(opened, "workspace.mode")


def test_a_wish_from_the_environment_that_cannot_be_honoured_names_the_variable(opened, monkeypatch):
    monkeypatch.setenv("INTERLOCK_JOURNAL_DURABILITY", "batch")
    assert "INTERLOCK_JOURNAL_DURABILITY" in refused(opened, "journal.durability", journal={"durability": "off"}).path


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
    assert opened(root=None, guard={"zombies": 5}).services.guard is not None
    refused(opened, "guard.disk", root=None, guard={"disk": 0.9})


def test_a_question_that_nobody_can_be_asked_is_a_denial(opened):
    rules = {"rules": {"allow": ["*"], "ask": ["fs.list"]}}
    assert reasons(execute(opened(**rules), call("fs.list", parameters={}))) == ["approval_required"]


def test_nobody_is_asked_in_memory_with_wait_false(opened):
    """Nothing outlives the process, so a question that is left open could never let its action continue."""
    rt = opened(rules={"allow": ["*"], "ask": ["fs.list"]}, approvals={"ttl": "1m"})
    result = asyncio.run(rt.execute(plan(call("fs.list", parameters={})), wait=False))
    assert reasons(result) == ["approval_required"]


def test_on_question_is_asked_in_memory(opened):
    rt = opened(rules={"allow": ["*"], "ask": ["fs.list"]})
    asked = []

    def answer(hold):
        asked.append(hold.tool)
        return True

    assert asyncio.run(rt.execute(plan(call("fs.list", parameters={})), on_question=answer)).ok
    assert reasons(asyncio.run(rt.execute(plan(call("fs.list", parameters={})), on_question=lambda _: False))) == [
        "approval_denied"
    ]
    assert asked == ["fs.list"]


def test_with_settings_for_approvals_a_question_waits_for_the_program(opened):
    rt = opened(rules={"allow": ["*"], "ask": ["fs.list"]}, approvals={"ttl": "20s"})

    async def scene():
        running = asyncio.create_task(rt.execute(plan(call("fs.list", parameters={}))))
        while not rt.approvals.list():
            await asyncio.sleep(0.005)
        (hold,) = rt.approvals.list()
        rt.approvals.approve(hold)
        return await running

    assert asyncio.run(scene()).ok


def test_a_question_in_memory_expires_as_any_other(opened):
    rt = opened(rules={"allow": ["*"], "ask": ["fs.list"]}, approvals={"ttl": "30ms"})
    assert reasons(execute(rt, call("fs.list", parameters={}))) == ["approval_expired"]


def test_uses_of_a_grant_are_counted_in_memory(opened):
    """A limit that is accepted binds: it is not a matter of where it is counted."""
    grant = {"tools": ["*"], "state_keys": ["**"], "uses_max": 2}
    rt = opened(grants={AGENT: grant})
    actions = [call("fs.list", parameters={}, failure_behavior="skip") for _ in range(3)]
    assert sorted(map(str, reasons(execute(rt, *actions)))) == ["None", "None", "grant_used_up"]


def test_events_are_kept_in_memory_if_that_is_wanted(opened):
    rt = opened(journal={"durability": "memory"})
    heard = []
    rt.subscribe(events=lambda run_id, event: heard.append((run_id, event.seq)))
    result = execute(rt, write("k", 1))
    kept = list(rt.runs.events(result.run_id))
    kinds = [event.__struct_config__.tag for event in kept]
    assert kinds[:2] == ["run_started", "proposal_received"]
    assert kinds[-2:] == ["proposal_finished", "run_finished"]
    assert [event.seq for event in kept] == list(range(len(kept)))
    assert heard == [(result.run_id, event.seq) for event in kept]
    assert [row.run_id for row in rt.runs.list()] == [result.run_id]
    assert list(rt.runs.events(result.run_id, start=len(kept) - 1)) == kept[-1:]


def test_secrets_are_not_in_events_in_memory(opened):
    rt = opened(journal={"durability": "memory"})
    secret = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"
    result = execute(rt, write("k", secret))
    assert secret not in msgspec.json.encode(list(rt.runs.events(result.run_id))).decode()
    assert rt.state.get("k") == secret


def test_without_events_there_are_none_to_read(opened):
    rt = opened()
    result = execute(rt, write("k", 1))
    with pytest.raises(UsageError, match="no events") as caught:
        rt.runs.events(result.run_id)
    assert caught.value.code == "not_found"


def test_rows_are_measured_in_memory_if_that_is_wanted(opened):
    assert opened().services.sampler is None
    rt = opened(telemetry={"samples": True}, journal={"durability": "memory"})
    row = execute(rt, call("fs.write", parameters={"path": "f", "content": ""})).results[0]
    assert row.telemetry


def test_a_project_does_not_keep_its_journal_in_memory(new_project):
    project = new_project(toml=f'agent = "{AGENT}"\n[journal]\ndurability = "memory"\n')
    with pytest.raises(ConfigurationError) as caught:
        project.open()
    assert (caught.value.code, caught.value.path) == ("not_available", "journal.durability")


def test_the_same_settings_in_a_file_do_the_same(new_project):
    """One path reads settings: what the file refuses, code is refused for too."""
    manifest = "[package]\nname = 'x'\nversion = '1.0.0'\n[component]\nfile = 'x.wasm'\n"
    toml = f'agent = "{AGENT}"\n[capsules.x]\npath = "x"\n'
    project = new_project(toml=toml, files=[("x/capsule.toml", manifest)])
    assert any("capsules" in warning for warning in project.open().warnings)


def test_plain_settings_still_run(opened):
    assert opened(root=None).execute_sync(plan(write("k", 1))).ok
