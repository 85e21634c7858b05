"""Git hooks: named where they do not run, and run as processes of their own where the configuration says so."""

from __future__ import annotations

import os
import subprocess

import pytest
from git_world import Git, refused

from interlock.model.codes import REASONS
from interlock.model.decision import Refusal
from interlock.workspace.tree import Workspace


def allow(ctx, parameters):
    """A judge that lets every hook run."""


@pytest.fixture
def running(git, runner, workspace, context):
    """The tools with `hooks = "run"`, on the repository of `git`."""
    return Git(runner, workspace, context(), hook_judge=allow)


def hook(git, name, body, directory=".git/hooks"):
    path = git.root / directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def staged(git, text="changed\n"):
    (git.root / "a.txt").write_text(text)
    git.plain("add", "a.txt")


def test_results_name_the_hooks_that_git_would_have_run(git):
    for name in ("pre-commit", "commit-msg", "post-index-change", "post-rewrite", "reference-transaction"):
        hook(git, name, "exit 1")
    hook(git, "post-commit", "exit 1")
    (git.root / ".git/hooks/post-commit").chmod(0o644)  # git passes over this one, too
    (git.root / "a.txt").write_text("changed\n")
    added = git.add(paths=["a.txt"])
    assert (added["hooks_run"], added["hooks_not_run"]) == ([], ["post-index-change"])
    done = git.commit(message="x")
    assert done["hooks_run"] == []
    assert done["hooks_not_run"] == ["pre-commit", "commit-msg", "post-index-change", "reference-transaction"]
    reverted = git.revert(commit=done["commit"])
    assert reverted["hooks_not_run"] == ["post-index-change", "reference-transaction"]


def test_hooks_that_the_configuration_puts_elsewhere_are_found(git, runner, workspace, context, tmp_path):
    hook(git, "pre-commit", "exit 1", directory="own")
    git.plain("config", "core.hooksPath", "own")
    staged(git)
    assert git.commit(message="x")["hooks_not_run"] == ["pre-commit"]
    git.plain("config", "--unset", "core.hooksPath")
    home = tmp_path / "home"
    (home / "h").mkdir(parents=True)
    (home / ".gitconfig").write_text("[core]\n\thooksPath = ~/h\n")
    (home / "h/commit-msg").symlink_to(git.root / "own/pre-commit")
    users = Git(runner, workspace, context(), environment={"HOME": str(home)})
    staged(git, "again\n")
    assert users.commit(message="y")["hooks_not_run"] == ["commit-msg"]


def test_a_failing_pre_commit_stops_the_commit_and_says_what_it_said(git, running):
    hook(git, "pre-commit", "echo 'not like this' >&2; exit 1")
    staged(git)
    head = git.plain("rev-parse", "HEAD")
    with pytest.raises(subprocess.CalledProcessError):  # the case is not void: git stops, too
        git.plain("commit", "-qm", "natively")
    error = refused(running.commit, message="x")
    assert (error.code, error.output["hook"], error.output["exit_code"]) == ("hook_failed", "pre-commit", 1)
    assert error.output["stderr"] == "not like this\n"
    assert git.plain("rev-parse", "HEAD") == head
    assert git.plain("diff", "--cached", "--name-only") == "a.txt"


@pytest.mark.parametrize("name", ["prepare-commit-msg", "commit-msg"])
def test_a_failing_message_hook_stops_it_too(git, running, name):
    hook(git, name, "exit 2")
    staged(git)
    head = git.plain("rev-parse", "HEAD")
    assert refused(running.commit, message="x").output["hook"] == name
    assert git.plain("rev-parse", "HEAD") == head


def test_hooks_run_as_git_runs_them(git, running):
    log = git.root / "log"
    hook(git, "pre-commit", f"pwd >> '{log}'; echo from the hook > b.txt; git add b.txt")
    hook(git, "prepare-commit-msg", f'echo "prepare $2" >> "{log}"; echo "from the hook" >> "$1"')
    hook(git, "commit-msg", f'grep -c hook "$1" >> "{log}"')
    hook(git, "post-commit", f"git rev-parse HEAD >> '{log}'; exit 3")
    staged(git)
    done = running.commit(message="subject\n")
    assert [(one["hook"], one["exit_code"]) for one in done["hooks_run"]] == [
        ("pre-commit", 0), ("prepare-commit-msg", 0), ("commit-msg", 0), ("post-commit", 3),
    ]  # fmt: skip
    assert done["hooks_not_run"] == []
    assert log.read_text().splitlines() == [str(git.root), "prepare message", "1", done["commit"]]
    assert git.plain("log", "-1", "--format=%B") == "subject\nfrom the hook"
    assert [one["path"] for one in done["files"]] == ["a.txt", "b.txt"]
    assert "the git hook `pre-commit` ran" in running.context.undoable
    running.commit(undo=done["undo"])
    assert git.plain("log", "-1", "--format=%s") == "first"


def test_a_hook_finds_no_secrets_and_no_home_of_the_user(git, running):
    hook(git, "pre-commit", f"env > seen; test \"$HOME\" != '{os.environ.get('HOME')}'")
    staged(git)
    running.commit(message="x")
    names = {line.partition("=")[0] for line in (git.root / "seen").read_text().splitlines()}
    assert "GIT_INDEX_FILE" in names
    assert not {name for name in names if "TOKEN" in name or name.startswith("INTERLOCK")}


def test_what_the_rules_say_no_to_stops_it_before_any_hook_has_run(git, runner, workspace, context):
    asked = []

    def judge(ctx, parameters):
        asked.append(parameters)
        return Refusal("policy_denied", "no") if "commit-msg" in parameters["argv"][0] else None

    tools = Git(runner, workspace, context(), hook_judge=judge)
    hook(git, "pre-commit", "touch ran")
    hook(git, "commit-msg", "exit 0")
    staged(git)
    error = refused(tools.commit, message="x")
    assert error.code == "hook_denied"
    assert error.code in REASONS
    assert asked[0] == {"argv": [".git/hooks/pre-commit"], "cwd": "."}
    assert not (git.root / "ran").exists()
    assert git.plain("log", "-1", "--format=%s") == "first"


def test_a_hook_that_makes_the_repository_dangerous_is_noticed(git, running):
    hook(git, "pre-commit", "git config filter.x.clean 'touch ran'")
    staged(git)
    assert refused(running.commit, message="x").code == "git_config_refused"
    assert git.plain("log", "-1", "--format=%s") == "first"


def test_hooks_of_a_repository_that_begins_above_the_workspace(git, runner, context):
    (git.root / "part").mkdir()
    (git.root / "part/f").write_text("f")
    git.plain("add", "part")
    hook(git, "pre-commit", "exit 0")
    with Workspace(git.root / "part") as part:
        ctx = context()
        ctx.workspace = part
        assert refused(Git(runner, part, ctx, hook_judge=allow).commit, message="x").code == "path_outside_workspace"
        assert Git(runner, part, ctx).commit(message="x")["hooks_not_run"] == ["pre-commit"]


def including(home, name, condition, path):
    with (home / name).open("a") as file:
        file.write(f"[{condition}]\n\tpath = {path}\n")


@pytest.mark.parametrize(
    ("condition", "path"),
    [
        ("include", "work"),
        ("include", "~/work"),
        ('includeIf "gitdir:{root}/"', "~/work"),
        ('includeIf "gitdir/i:{root}/.git"', "{home}/work"),
        ('includeIf "onbranch:main"', "work"),
        ('includeIf "hasconfig:remote.*.url:https://example.test/**"', "work"),
    ],
)
def test_hooks_that_an_included_file_of_the_user_names_are_found(
    git, runner, workspace, context, tmp_path, condition, path
):
    home = tmp_path / "home"
    home.mkdir()
    git.plain("remote", "add", "origin", "https://example.test/x.git")
    including(home, ".gitconfig", condition.format(root=git.root), path.format(home=home))
    (home / "work").write_text("[include]\n\tpath = deeper\n")
    (home / "deeper").write_text("[core]\n\thooksPath = ~/h\n")
    hook(git, "commit-msg", "exit 1", home / "h")
    users = Git(runner, workspace, context(), environment={"HOME": str(home)})
    staged(git)
    assert users.commit(message="y")["hooks_not_run"] == ["commit-msg"]


def test_a_condition_that_does_not_hold_includes_nothing(git, runner, workspace, context, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    including(home, ".gitconfig", 'includeIf "gitdir:/elsewhere/"', "work")
    (home / "work").write_text("[core]\n\thooksPath = ~/h\n")
    hook(git, "commit-msg", "exit 1", home / "h")
    users = Git(runner, workspace, context(), environment={"HOME": str(home)})
    staged(git)
    assert users.commit(message="y")["hooks_not_run"] == []


@pytest.mark.parametrize("path", ["~/team", "{home}/team", "../team"])
def test_hooks_that_a_file_included_by_the_repository_names_are_found(git, runner, workspace, context, tmp_path, path):
    home = tmp_path / "home"
    home.mkdir()
    git.plain("config", "include.path", path.format(home=home))
    for place in (home / "team", git.root / "team"):
        place.write_text("[core]\n\thooksPath = own\n")
    hook(git, "pre-commit", "exit 1", "own")
    users = Git(runner, workspace, context(), environment={"HOME": str(home)})
    staged(git)
    assert users.commit(message="y")["hooks_not_run"] == ["pre-commit"]
