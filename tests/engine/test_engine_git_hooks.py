"""Git hooks through the gate: run only where the configuration and the rules let them, and undo says what they did."""

import asyncio
import subprocess

import pytest
from engine_world import AGENT, call, execute

TOML = f"""
agent = "{AGENT}"
[git]
hooks = "run"
[rules]
allow = ["git.*"%s]
ask = [%s]
[grants.{AGENT}]
tools = [%s]
"""


@pytest.fixture
def repository(project):
    def git(*arguments):
        identity = ("-c", "user.name=Human", "-c", "user.email=human@example.org")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=project.root, capture_output=True, check=True, text=True
        ).stdout.strip()

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    hook = project.root / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho x > by-hook; test ! -e stop\n")
    hook.chmod(0o755)
    (project.root / "a").write_text("a")
    git("add", "a")
    return git


def configured(project, allow="", ask="", tools='"*"'):
    (project.root / "interlock.toml").write_text(TOML % (allow and f', "{allow}"', ask and f'"{ask}"', tools))
    project.trust()
    return project.open()


def commit(rt, *more):
    return execute(rt, call("git.commit", "c", parameters={"message": "x"}), *more)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "policy_denied"),
        ({"ask": "exec"}, "approval_required"),
        ({"allow": "exec(.git/hooks/post-commit)"}, "policy_denied"),
        ({"allow": "exec", "tools": '"git.*"'}, "capability_denied"),
    ],
)
def test_a_hook_runs_only_if_the_agent_might_run_it_itself(project, repository, settings, why):
    (row,) = commit(configured(project, **settings)).results
    assert (row.status, row.reason, row.output) == ("failed", "hook_denied", {"hook": "pre-commit", "reason": why})
    assert not (project.root / "by-hook").exists()
    assert repository("log", "-1", "--format=%s") == "first"


def test_an_allowed_hook_decides_about_the_commit(project, repository):
    rt = configured(project, allow="exec(.git/hooks/pre-commit)")
    (project.root / "stop").touch()
    (row,) = commit(rt).results
    assert (row.status, row.reason) == ("failed", "hook_failed")
    assert repository("log", "-1", "--format=%s") == "first"
    (project.root / "stop").unlink()
    (row,) = commit(rt).results
    assert (row.status, row.output["hooks_run"]) == ("succeeded", [{"hook": "pre-commit", "exit_code": 0}])
    assert repository("log", "-1", "--format=%s") == "x"


def test_undo_takes_the_commit_back_and_says_that_a_hook_ran(project, repository):
    rt = configured(project, allow="exec(.git/hooks/pre-commit)")
    fails = call("git.revert", "f", parameters={"commit": "missing"}, dependencies=["c"])
    result = commit(rt, fails)
    assert repository("log", "-1", "--format=%s") == "first"
    left = [(one.reason, one.detail) for one in result.not_undone if one.action_id == "c"]
    assert left == [("not_exactly_undoable", "the git hook `pre-commit` ran")]
    assert not (project.root / "by-hook").exists()
    done = commit(rt)
    undone = asyncio.run(rt.runs.undo(done.run_id))
    assert repository("log", "-1", "--format=%s") == "first"
    assert ["pre-commit" in one.detail for one in undone.not_undone] == [True]


def test_without_the_setting_the_result_names_it(project, repository):
    (row,) = commit(project.open()).results
    assert (row.status, row.output["hooks_run"], row.output["hooks_not_run"]) == ("succeeded", [], ["pre-commit"])


@pytest.mark.parametrize("effect", ["deny", "ask"])
def test_a_rule_of_the_program_about_exec_is_asked_about_hooks(project, repository, effect):
    rt = configured(project, allow="exec")
    rt.rules.add("no-programs", lambda request: request.action == "exec", effect=effect)
    row = commit(rt).results[0]
    assert row.status == "failed", row
    assert not (project.root / "by-hook").exists()
