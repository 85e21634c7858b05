"""An agent that uses undo and compensation to do what it may not."""

import asyncio

import pytest
from engine_world import call, execute, expect, reasons, statuses, write

TWO = """
agent = "coder"

[rules]
allow = ["fs.*", "undo", "state_write", "assert"]

[grants.coder]
tools = ["fs.*", "undo"]

[grants.intern]
tools = ["undo", "fs.*"]
paths = { read = ["**"], write = ["docs/**"] }
state_keys = ["intern.*"]
"""


def test_an_agent_may_not_undo_what_another_did(victim):
    project = victim(TWO, {"src/a.txt": "old"})
    rt = project.open()
    done = execute(rt, call("fs.write", parameters={"path": "src/a.txt", "content": "new"}))
    for force in (False, True):
        undo = call("undo", parameters={"run": done.run_id, "force": force})
        assert reasons(execute(rt, undo, agent="intern")) == ["undo_denied"]
    assert (project.root / "src/a.txt").read_text() == "new"


def test_undo_reaches_no_further_than_the_grant_that_the_agent_has_now(victim):
    project = victim(TWO.replace('"docs/**"', '"**"').replace('"intern.*"', '"**"'), {"src/a.txt": "old"})
    rt = project.open()
    done = execute(
        rt, call("fs.write", parameters={"path": "src/a.txt", "content": "new"}), write("other.key", 1), agent="intern"
    )
    rt.close()
    (project.root / "interlock.toml").write_text(
        (project.root / "interlock.toml")
        .read_text()
        .replace('write = ["**"]', 'write = ["docs/**"]')
        .replace('state_keys = ["**"]', 'state_keys = ["intern.*"]')
    )
    project.trust()
    rt = project.open()
    result = execute(rt, call("undo", parameters={"run": done.run_id, "force": True}), agent="intern")
    assert reasons(result) == ["path_denied"]
    assert (project.root / "src/a.txt").read_text() == "new"
    assert rt.services.store.get("other.key").value == 1
    undone = rt.execute_sync({"actions": [call("undo", parameters={"run": done.run_id})], "agent": "coder"})
    assert reasons(undone) == ["undo_denied"]


def test_a_person_may_undo_what_any_agent_did(victim):
    project = victim(TWO, {"docs/a.txt": "old"})
    rt = project.open()
    done = execute(rt, call("fs.write", parameters={"path": "docs/a.txt", "content": "new"}), agent="intern")
    assert statuses(asyncio.run(rt.runs.undo(done.run_id))) == ["succeeded"]
    assert (project.root / "docs/a.txt").read_text() == "old"


def test_no_proposal_is_the_operators(victim):
    rt = victim(TWO).open()
    with pytest.raises(Exception, match="operator") as refused:
        execute(rt, call("undo", parameters={"run": "run_0"}), agent="operator")
    assert refused.value.code


LIMITED = """
agent = "coder"

[rules]
allow = ["fs.*", "state_write", "assert"]
%s

[grants.coder]
tools = ["fs.write"]
uses_max = 3
%s
"""
NOTE = {"type": "tool", "tool": "fs.write", "parameters": {"path": "log", "content": "x", "append": True}}


def test_compensations_use_up_what_a_grant_counts(victim):
    project = victim(LIMITED % ("", ""))
    rt = project.open()
    actions = [write(f"k{i}", 1, compensation=NOTE) for i in range(10)]
    result = execute(rt, *actions, expect("nothing", 1))
    assert (project.root / "log").read_text() == "xxx"
    assert sum("grant_used_up" in left.detail for left in result.not_undone) == 7


def test_compensations_keep_to_the_rate_limit(victim):
    toml = LIMITED % ("", '[tools."fs.write"]\nrate_limit = { calls = 2, per = "10m" }\n')
    project = victim(toml.replace("uses_max = 3", ""))
    rt = project.open()
    actions = [write(f"k{i}", 1, compensation=NOTE) for i in range(5)]
    result = execute(rt, *actions, expect("nothing", 1))
    assert (project.root / "log").read_text() == "xx"
    assert sum("rate_limited" in left.detail for left in result.not_undone) == 3


def test_a_policy_about_compensations_is_asked(victim):
    rule = 'deny = ["compensate"]'
    project = victim((LIMITED % (rule, "")).replace("uses_max = 3", ""))
    rt = project.open()
    result = execute(rt, write("k", 1, compensation=NOTE), expect("nothing", 1))
    assert [left.reason for left in result.not_undone] == ["compensation_failed"]
    assert not (project.root / "log").exists()


def test_a_policy_about_compensations_that_cannot_be_evaluated_denies(victim):
    policy = """@id("no_huge_notes")
forbid (principal, action == Action::"compensate", resource)
when { context.params has path && context.params.path > 5 };
"""
    toml = (LIMITED % ("", "")).replace("uses_max = 3", "") + '\n[policy]\nfiles = ["policy/*.cedar"]\n'
    project = victim(toml, {"policy/a.cedar": policy})
    rt = project.open()
    # The policy says that a path is a number. This one is none, so nobody knows what the policy would have said.
    result = execute(rt, write("k", 1, compensation=NOTE), expect("nothing", 1))
    assert [left.reason for left in result.not_undone] == ["compensation_failed"]
    assert not (project.root / "log").exists()


@pytest.mark.parametrize(
    "parameters",
    [{"path": "interlock.toml", "content": ""}, {"path": "../out", "content": ""}, {"path": "x"}, {"path": 5}],
)
def test_a_compensation_is_judged_like_an_action(victim, parameters):
    project = victim((LIMITED % ("", "")).replace("uses_max = 3", ""))
    before = (project.root / "interlock.toml").read_text()
    rt = project.open()
    given = {"type": "tool", "tool": "fs.write", "parameters": parameters}
    result = execute(rt, write("k", 1, compensation=given), expect("nothing", 1))
    assert [left.reason for left in result.not_undone] == ["compensation_failed"]
    assert (project.root / "interlock.toml").read_text() == before


def test_a_compensation_by_a_tool_that_is_denied_is_not_made(victim):
    project = victim((LIMITED % ("", "")).replace("uses_max = 3", ""))
    rt = project.open()
    given = {"type": "tool", "tool": "shell", "parameters": {"command": "touch owned"}}
    reference = call("shell", "bad", parameters={"command": "touch owned"})
    for compensation, more in ((given, []), ({"type": "action_ref", "action_id": "bad"}, [reference])):
        result = execute(rt, write("k", 1, compensation=compensation), *more, expect("nothing", 1))
        assert [left.reason for left in result.not_undone] == ["compensation_failed"]
    assert not (project.root / "owned").exists()


@pytest.mark.parametrize("mode", ["direct", "layer"])
def test_what_a_compensation_writes_stays_but_in_a_layer_that_is_dropped(victim, mode):
    toml = (LIMITED % ("", "")).replace("uses_max = 3", "")
    project = victim(f'{toml}\n[workspace]\nmode = "{mode}"\n', {"f": "one"})
    rt = project.open()
    given = {"type": "tool", "tool": "fs.write", "parameters": {"path": "f", "content": "three"}}
    change = call("fs.write", parameters={"path": "f", "content": "two"}, compensation=given)
    result = execute(rt, change, write("k", 1, compensation=NOTE), expect("nothing", 1))
    assert statuses(result)[:2] == ["compensated", "compensated"]
    assert (project.root / "f").read_text() == ("three" if mode == "direct" else "one")
    assert (project.root / "log").exists() == (mode == "direct")
