"""What runs later is known by where the committed tree leads: through links at, above or behind a named path."""

import contextlib
import os
import subprocess

import pytest
from layer_world import NoOverlay, World, inside

from interlock.workspace.layer_mounts import LayerMounts
from interlock.workspace.layers import Layer


@pytest.fixture(params=["overlay", "copy"])
def repository(request, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    mounts = LayerMounts() if request.param == "overlay" else NoOverlay()
    with contextlib.closing(mounts), contextlib.closing(World(tmp_path, mounts)) as world:
        (world.root / "a").write_text("one\n")
        git(world, "init", "-q", "-b", "main")
        yield world


def git(world, *arguments, check=True):
    done = subprocess.run(
        ["git", "-c", "user.name=p", "-c", "user.email=p@example.org", *arguments],
        cwd=world.root, check=check, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"},
    )  # fmt: skip
    return done.stdout


def held(world, script):
    with world.layer() as layer:
        assert isinstance(layer, Layer)
        inside(layer, script)
        plan = world.commit(layer)
    return {one.path for one in plan.blocked if one.why == "runs_later"}


HOOK = 'mkdir -p {0}; printf "#!/bin/sh\\ntouch $PWD/../ran\\n" > {0}/pre-commit; chmod +x {0}/pre-commit;'


@pytest.mark.parametrize("present", [False, True], ids=["absent", "present"])
@pytest.mark.parametrize(
    "script",
    [
        HOOK.format("evil/gh") + "rm -rf tools; ln -s evil tools",
        HOOK.format("evil") + "rm -rf tools; mkdir tools; ln -s ../evil tools/gh",
        HOOK.format("evil/gh") + "ln -s evil more; rm -rf tools; ln -s more tools",
        HOOK.format("evil/gh") + "rm -rf tools; mv evil tools",
    ],
)
def test_git_runs_no_hook_to_which_a_link_of_the_agent_leads(repository, present, script):
    world = repository
    git(world, "config", "core.hooksPath", "tools/gh")
    if present:
        (world.root / "tools" / "gh").mkdir(parents=True)
        (world.root / "tools" / "gh" / "other").write_text("mine\n")
    assert held(world, script)
    git(world, "add", "a")
    git(world, "commit", "-qm", "mine", check=False)
    assert not (world.root.parent / "ran").exists()
    if present:
        assert (world.root / "tools" / "gh" / "other").exists() or "mv" in script or "mkdir tools" in script


@pytest.mark.parametrize("include", ["../cfg/inc", "{root}/cfg/inc"])
def test_git_obeys_no_configuration_to_which_a_link_of_the_agent_leads(repository, include):
    world = repository
    git(world, "config", "include.path", include.format(root=world.root))
    inc = 'mkdir e2; printf "[core]\\n fsmonitor = \\"touch $PWD/../ran; false\\"\\n" > e2/inc; ln -s e2 cfg'
    assert held(world, inc) >= {"cfg"}
    git(world, "status", check=False)
    assert not (world.root.parent / "ran").exists()


def test_a_link_that_leads_to_nothing_named_is_committed(repository):
    world = repository
    git(world, "config", "core.hooksPath", "tools/gh")
    assert (
        held(world, "mkdir lib; echo 1 > lib/x; ln -s lib other; ln -s a tool; mkdir tools; ln -s ../lib tools/lib")
        == set()
    )


def test_what_a_link_of_the_person_leads_to_is_held(repository):
    """The link itself has a name that programs know, and is not changed."""
    world = repository
    for name in ("ci", "dev", "team", "src"):
        (world.root / name).mkdir()
    (world.root / ".github").symlink_to("ci")
    (world.root / ".envrc").symlink_to("team/envrc")
    (world.root / "hooks").symlink_to("src")
    (world.root / ".git" / "hooks" / "pre-commit").symlink_to("../../dev/check.sh")
    assert held(
        world,
        "echo 1 > ci/workflow.yml; echo 1 > team/envrc; echo 1 > dev/check.sh; echo 1 > src/x; echo 1 > team/other",
    ) == {"ci/workflow.yml", "team/envrc", "dev/check.sh"}


def test_a_directory_in_the_place_of_gits_hooks_is_held(repository):
    world = repository
    os.rename(world.root / ".git" / "hooks", world.root / "scripts")
    (world.root / ".git" / "hooks").symlink_to("../scripts")
    assert held(world, "echo 1 > scripts/anything") == {"scripts/anything"}


def test_programs_that_git_starts_from_the_workspace_are_held(repository):
    world = repository
    git(world, "config", "core.fsmonitor", "tools/watch")
    git(world, "config", "filter.x.clean", "python3 tools/clean.py %f")
    git(world, "config", "core.editor", "vim")
    assert held(world, "mkdir tools; for f in watch clean.py other; do echo 1 > tools/$f; done; echo 1 > vim") == {
        "tools/watch", "tools/clean.py",
    }  # fmt: skip


@pytest.mark.parametrize(
    "setting", ["pager.log", "diff.x.command", "interactive.diffFilter", "gpg.ssh.defaultKeyCommand", "new.setting"]
)
@pytest.mark.parametrize(
    "value", ["./tools/run", "!cd lib && ./tools/run;", "sh -c 'LANG=C tools/run | cat'", "!(tools/run)"]
)
def test_any_setting_of_git_may_start_a_program_of_the_workspace(repository, setting, value):
    git(repository, "config", setting, value)
    assert held(repository, "mkdir tools; echo 1 > tools/run; echo 1 > tools/other") == {"tools/run"}


def test_what_git_only_names_is_not_held(repository):
    for setting in ("branch.x.description", "remote.x.url", "user.name", "branch.x.merge", "url.x.insteadOf"):
        git(repository, "config", setting, "src/run")
    assert held(repository, "mkdir src; echo 1 > src/run") == set()


def test_a_comment_or_the_name_of_a_section_hides_no_setting(repository):
    text = '# see x = C:\\\n[includeIf "gitdir:a=b#"] x = 1\n; y = \\\n[core] hooksPath = gh\n'
    (repository.root / ".git" / "config").write_text(text)
    assert held(repository, "mkdir gh; echo 1 > gh/anything") == {"gh/anything"}


@pytest.mark.parametrize("named", [".", "./", "src/.."])
def test_hooks_in_the_directory_of_the_workspace_itself_are_held(repository, named):
    """Nothing else there is: git runs only files with the names of hooks."""
    git(repository, "config", "core.hooksPath", named)
    script = HOOK.format(".") + "echo 1 > commit-msg; mkdir -p src; cp pre-commit src/pre-commit; cp pre-commit run"
    assert held(repository, script) == {"pre-commit", "commit-msg"}
    git(repository, "add", "a")
    git(repository, "commit", "-qm", "mine")
    assert not (repository.root.parent / "ran").exists()


def test_what_a_link_in_a_directory_of_hooks_leads_to_is_held(repository):
    git(repository, "config", "core.hooksPath", "gh")
    (repository.root / "gh").mkdir()
    (repository.root / "gh" / "pre-commit").symlink_to("../dev/check.sh")
    assert held(repository, "mkdir dev; echo 1 > dev/check.sh; echo 1 > dev/other") == {"dev/check.sh"}


@pytest.mark.parametrize("place", ["sub", "deep/er/sub"])
def test_programs_that_another_repository_of_the_workspace_runs_are_held(repository, place):
    """Its configuration, in its own directory, names hooks and programs elsewhere in the workspace."""
    world, up = repository, "../" * (place.count("/") + 1)
    (world.root / place).mkdir(parents=True)
    git(world, "-C", place, "init", "-q")
    git(world, "-C", place, "config", "core.hooksPath", f"{up}gh")
    git(world, "-C", place, "config", "core.fsmonitor", f"{up}tools/watch")
    (world.root / place / ".git" / "hooks" / "post-commit").symlink_to(f"../../{up}dev/check.sh")
    script = (
        HOOK.format("gh")
        + "for f in tools/watch dev/check.sh dev/other tools/data; do mkdir -p ${f%/*}; cp gh/pre-commit $f; done"
    )
    assert held(world, f"{script}; chmod -x tools/data") == {"gh/pre-commit", "tools/watch", "dev/check.sh"}


def test_programs_that_a_repository_above_the_workspace_runs_are_held(tmp_path, monkeypatch):
    """The workspace is a directory of a larger repository."""
    monkeypatch.setenv("HOME", "/nonexistent")
    with contextlib.closing(LayerMounts()) as mounts, contextlib.closing(World(tmp_path, mounts)) as world:
        name = world.root.name
        git(world, "-C", str(world.root.parent), "init", "-q")
        git(world, "-C", str(world.root.parent), "config", "core.hooksPath", f"{name}/gh")
        (world.root.parent / ".git" / "hooks" / "pre-push").symlink_to(f"../../{name}/dev/check.sh")
        script = HOOK.format("gh") + "mkdir dev; echo 1 > dev/check.sh; echo 1 > dev/other"
        assert held(world, script) == {"gh/pre-commit", "dev/check.sh"}


def test_a_link_in_the_place_of_the_directory_of_a_worktree_is_held(repository):
    world = repository
    git(world, "init", "-q", "--bare", "main.git")
    (world.root / "sub").mkdir()
    (world.root / "sub" / ".git").write_text("gitdir: ../main.git\n")
    assert "main.git" in held(world, "cp -r main.git other; rm -rf main.git; ln -s other main.git")


def test_what_is_in_a_directory_stays_with_the_link_that_would_replace_it(repository):
    world = repository
    git(world, "config", "core.hooksPath", "tools/gh")
    (world.root / "tools" / "gh").mkdir(parents=True)
    (world.root / "tools" / "gh" / "pre-push").write_text("mine\n")
    assert held(world, "mkdir evil; rm -rf tools; ln -s evil tools") >= {"tools", "tools/gh", "tools/gh/pre-push"}
    assert (world.root / "tools" / "gh" / "pre-push").read_text() == "mine\n"
