"""Variables that may make a program load code are asked about, whatever the rules allow; the user can name harmless ones."""

from __future__ import annotations

import pytest
from engine_world import SETTINGS, TOML, call, execute, reasons, statuses
from test_engine_approvals import answer, asked

import interlock
from interlock.approvals.hold import Standing

PERL = call("exec", "p", parameters={"argv": ["perl", "-e", "1"], "env": {"PERL5OPT": "-Mlib=.", "TZ": "UTC"}})
PRINT = {"argv": ["printenv", "APP_COLOR"], "env": {"APP_COLOR": "red"}}
ALLOWING = TOML % "" + '\n[isolation]\nenv_allow = ["APP_*"]\n'


def test_a_variable_that_may_load_code_is_asked_about(new_project):
    rt = new_project().open()
    answer(rt, "deny")
    result = execute(rt, PERL)
    assert (statuses(result), reasons(result)) == (["rejected"], ["approval_denied"])
    (hold,) = asked(rt)
    assert [each.policy for each in hold.requirements] == ["isolation.env_allow"]
    assert "`PERL5OPT`" in hold.requirements[0].reason
    assert "TZ" not in hold.requirements[0].reason


def test_approved_it_is_set(new_project):
    rt = new_project().open()
    answer(rt)
    result = execute(rt, call("exec", "p", parameters=PRINT))
    assert result.ok, result
    assert result["p"].output["stdout"] == "red\n"


def test_an_approval_for_always_is_for_these_variables(new_project):
    rt = new_project().open()
    answer(rt, standing=Standing(scope="always"))
    assert execute(rt, call("exec", "p", parameters=PRINT)).ok
    assert execute(rt, call("exec", "p", parameters={**PRINT, "env": {"APP_COLOR": "blue"}})).ok
    assert len(asked(rt)) == 1
    execute(rt, call("exec", "p", parameters={**PRINT, "env": {"APP_COLOR": "blue", "PERL5OPT": "-w"}}))
    assert len(asked(rt)) == 2


@pytest.mark.parametrize("tool", ["exec", "shell"])
def test_what_the_configuration_names_is_not_asked_about(new_project, tool):
    rt = new_project(toml=ALLOWING).open()
    first = {"argv": ["printenv", "APP_COLOR"]} if tool == "exec" else {"command": "echo $APP_COLOR"}
    result = execute(rt, call(tool, "p", parameters={**first, "env": {"APP_COLOR": "red", "NO_COLOR": "1"}}))
    assert result["p"].output["stdout"] == "red\n"
    assert asked(rt) == []


def test_what_rules_deny_is_not_asked_about(new_project):
    rt = new_project(toml=TOML % 'deny = ["exec"]\n').open()
    assert reasons(execute(rt, PERL)) == ["policy_denied"]
    assert asked(rt) == []


def test_a_loader_is_refused_though_everything_is_named(new_project):
    rt = new_project(toml=TOML % "" + '\n[isolation]\nenv_allow = ["*"]\n').open()
    result = execute(rt, call("exec", "p", parameters={"argv": ["true"], "env": {"LD_PRELOAD": "./x.so"}}))
    assert reasons(result) == ["environment_denied"]


def test_where_nobody_can_be_asked_it_does_not_run(tmp_path):
    with interlock.Runtime.open(settings=SETTINGS, workspace=tmp_path) as rt:
        result = execute(rt, call("exec", "p", parameters={"argv": ["touch", "ran"], "env": {"PERL5OPT": "-w"}}))
        assert not result.ok
        assert not (tmp_path / "ran").exists()
