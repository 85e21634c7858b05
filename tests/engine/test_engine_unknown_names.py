"""A rule may name a tool that only another process registers: that is a warning, and undo works in any case."""

from __future__ import annotations

import asyncio

import pytest

import interlock
from interlock import ConfigurationError

RULES = """
[rules]
allow = ["fs.write", "mytool", "mine.*", "tag:mine", "state_write"]
deny = ["other", "tag:unknown"]

[tools."mytool"]
timeout = "5s"

[grants.agent]
tools = ["*"]
state_keys = ["*"]
paths = { read = ["**"], write = ["**"] }
unscoped = ["*"]
"""
POLICY = """
@id("mixed")
forbid (principal, action in [Action::"fs.delete", Action::"mytool"], resource);
@id("servers")
forbid (principal, action, resource) when { resource in Server::"githb" };
permit (principal, action == Action::"fs.delete", resource);
"""


def mytool() -> str:
    return "done"


def plan(*actions):
    return {"actions": [{"type": "tool_call", "tool": tool, "parameters": parameters} for tool, parameters in actions]}


@pytest.fixture
def known(new_project):
    return new_project(toml=RULES + '[policy]\nfiles = ["p.cedar"]\n', files=[("p.cedar", POLICY)])


def test_names_that_nothing_has_are_warnings(known):
    runtime = known.open()
    assert runtime.execute_sync(plan(("fs.write", {"path": "a", "content": "x"}))).ok
    (told,) = runtime.warnings  # one line: they are many, and each run of the project says it
    assert told.startswith(
        "8 names in the rules are of nothing that is here, the first: rules.allow[1]: no tool is named `mytool`"
    )
    assert "interlock policy check" in told


def test_a_few_names_that_nothing_has_are_reported_one_by_one(new_project):
    runtime = new_project(toml=RULES.replace('"mine.*", "tag:mine", ', "").replace('"other", "tag:unknown"', "")).open()
    assert runtime.execute_sync(plan(("fs.write", {"path": "a", "content": "x"}))).ok
    assert [text.partition(":")[0] for text in runtime.warnings] == ["rules.allow[1]", "tools.mytool"]


def test_a_policy_that_names_an_unknown_tool_still_forbids_the_known_one(known):
    runtime = known.open()
    assert runtime.execute_sync(plan(("fs.write", {"path": "a", "content": "x"}))).ok
    row = runtime.execute_sync(plan(("fs.delete", {"path": "a"}))).results[0]
    assert (row.status, row.reason) == ("rejected", "policy_denied")


def test_the_rule_holds_once_the_tool_is_there(known):
    runtime = known.open()
    assert runtime.execute_sync(plan(("mytool", {}))).results[0].reason == "unknown_tool"
    runtime.register(interlock.tool(open_world=False)(mytool))
    row = runtime.execute_sync(plan(("mytool", {}))).results[0]
    assert (row.status, row.reason) == ("rejected", "policy_denied"), "the policy forbids it"


@pytest.mark.parametrize(
    ("toml", "files"),
    [
        (RULES + '[policy]\nfiles = ["p.cedar"]\n', [("p.cedar", "permit (principal, action")]),
        (RULES.replace("[tools", "[tools]\nmodules = ['broken']\n[tools"), [("broken.py", "raise RuntimeError")]),
    ],
    ids=["rules", "modules"],
)
def test_undo_needs_neither_rules_nor_tools(new_project, toml, files):
    project = new_project(toml=RULES)
    with project.open() as runtime:
        (project.root / "a").write_text("mine")
        assert runtime.execute_sync(plan(("fs.write", {"path": "a", "content": "x"}))).ok
    (run,) = project.runs()
    (project.root / "interlock.toml").write_text(toml)
    for name, text in files:
        (project.root / name).write_text(text)
    project.trust()
    runtime = project.open()
    with pytest.raises(ConfigurationError):
        runtime.execute_sync(plan(("fs.write", {"path": "b", "content": "x"})))
    told = []
    runtime.services.hooks.notices.append(told.append)
    result = asyncio.run(runtime.runs.undo(run))
    assert result.ok
    assert (project.root / "a").read_text() == "mine"
    assert "undo continues without" in told[0]
