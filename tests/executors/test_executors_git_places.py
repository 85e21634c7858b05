"""A workspace that is a part of a repository, linked worktrees, and the user's own configuration."""

from __future__ import annotations

import os

import pytest
from git_world import Git, refused

from interlock.executors.git_places import outside_places
from interlock.workspace.tree import Workspace


@pytest.fixture
def above(runner, workspace, context, tmp_path):
    """A repository that begins above the workspace, with a file beside it."""
    git = Git(runner, workspace, context())
    (git.root / "a.txt").write_text("one\n")
    (tmp_path / "beside.txt").write_text("one\n")
    git.plain("init", "-q", "-b", "main", cwd=tmp_path)
    git.plain("add", ".", cwd=tmp_path)
    git.plain("commit", "-qm", "first", cwd=tmp_path)
    return git


def test_a_part_of_a_repository(above, tmp_path):
    git = above
    (git.root / "a.txt").write_text("two\n")
    (git.root / "new").write_text("x")
    (tmp_path / "beside.txt").write_text("two\n")
    assert {e["path"] for e in git.status()["entries"]} == {"a.txt", "new"}
    assert [f["path"] for f in git.diff()["files"]] == ["a.txt"]
    assert [f["path"] for f in git.diff(ref="HEAD")["files"]] == ["a.txt"]
    added = git.add(paths=["."])
    assert {e["path"] for e in added["staged"]} == {"a.txt", "new"}
    done = git.commit(message="second")
    assert {f["path"] for f in done["files"]} == {"a.txt", "new"}
    assert [c["subject"] for c in git.log()["commits"]] == ["second", "first"]
    git.commit(undo=done["undo"])
    git.add(restore=added["restore"])
    assert git.plain("status", "--porcelain", cwd=tmp_path).split("\n") == [
        "M beside.txt",
        " M workspace/a.txt",
        "?? workspace/new",
    ]


def test_nothing_beside_the_workspace_is_changed(above, tmp_path):
    git = above
    (tmp_path / "beside.txt").write_text("two\n")
    (git.root / "a.txt").write_text("two\n")
    assert refused(git.add, paths=["../beside.txt"]).code == "path_outside_workspace"
    git.plain("add", ".", cwd=tmp_path)
    assert refused(git.commit, message="both").code == "path_outside_workspace"
    assert git.plain("diff", "--cached", "--name-only", cwd=tmp_path).split() == ["beside.txt", "workspace/a.txt"]
    git.plain("commit", "-qm", "by a person", cwd=tmp_path)
    assert refused(git.revert, commit="HEAD").code == "path_outside_workspace"
    assert (tmp_path / "beside.txt").read_text() == "two\n"


def test_what_the_loader_reads_is_protected_in_a_part_too(above, tmp_path):
    git = above
    (git.root / "interlock.toml").write_text("strict")
    git.plain("add", ".", cwd=tmp_path)
    git.plain("commit", "-qm", "strict", cwd=tmp_path)
    assert refused(git.revert, commit="HEAD").code == "path_protected"


def test_programs_that_the_repository_above_is_configured_with_do_not_run(above, tmp_path):
    above.plain("config", "filter.x.clean", "touch /tmp/never", cwd=tmp_path)
    assert refused(above.status).code == "git_config_refused"


@pytest.fixture
def worktree(runner, context, tmp_path):
    """A workspace that is a linked worktree of a repository elsewhere."""
    main, linked = tmp_path / "main", tmp_path / "linked"
    main.mkdir()
    plain = Git.plain

    class At:
        root = main

    for arguments in (("init", "-q", "-b", "main"), ("commit", "-q", "--allow-empty", "-m", "first"),
                      ("worktree", "add", "-q", str(linked), "-b", "side")):  # fmt: skip
        plain(At, *arguments)
    with Workspace(linked) as workspace:
        from_here = context()
        from_here.workspace = workspace
        yield Git(runner, workspace, from_here)


def test_a_linked_worktree(worktree, tmp_path):
    git = worktree
    (git.root / "a.txt").write_text("one\n")
    assert git.status()["branch"] == "side"
    added = git.add(paths=["a.txt"])
    done = git.commit(message="here")
    assert git.plain("log", "-1", "--format=%s", "side", cwd=tmp_path / "main") == "here"
    git.commit(undo=done["undo"])
    git.add(restore=added["restore"])
    assert git.plain("status", "--porcelain") == "?? a.txt"
    assert git.plain("status", "--porcelain", cwd=tmp_path / "main") == ""


def test_a_repository_that_does_not_know_the_workspace_is_refused(worktree, tmp_path):
    """An agent can write a `.git` file that names any repository of the user's."""
    git = worktree
    other = tmp_path / "secret"
    other.mkdir()
    git.plain("init", "-q", cwd=other)
    for there in (other / ".git", tmp_path / "main" / ".git"):
        (git.root / ".git").write_text(f"gitdir: {there}\n")
        error = refused(git.status)
        assert error.code == "path_outside_workspace"
        assert "worktree" in error.message
        assert error.hint
    git.plain("worktree", "add", "-q", str(tmp_path / "third"), "-b", "third", cwd=tmp_path / "main")
    (git.root / ".git").write_text(f"gitdir: {tmp_path}/main/.git/worktrees/third\n")
    assert refused(git.status).code in {"path_outside_workspace", "not_a_repository"}


def test_a_configuration_in_the_workspace_does_not_lead_above_it(runner, workspace, context, tmp_path):
    git = Git(runner, workspace, context())
    git.plain("init", "-q", "-b", "main")
    git.plain("config", "core.worktree", str(tmp_path))
    (tmp_path / "secret").write_text("x")
    assert refused(git.status).code == "path_outside_workspace"


# --- the user's own configuration


@pytest.fixture
def home(tmp_path):
    directory = tmp_path / "home"
    (directory / ".config" / "git").mkdir(parents=True)
    return directory


def at_home(git, home):
    return Git(git.runner, git.workspace, git.context, environment={"HOME": str(home)})


def test_what_the_user_ignores_everywhere_is_not_committed(git, home):
    (home / ".config" / "git" / "ignore").write_text(".env\n")
    (git.root / ".env").write_text("TOKEN=1")
    (git.root / "new").write_text("x")
    mine = at_home(git, home)
    assert [e["path"] for e in mine.status()["entries"]] == ["new"]
    assert [e["path"] for e in mine.add(paths=["."])["staged"]] == ["new"]
    (home / ".gitconfig").write_text("[core]\n\texcludesFile = ~/mine\n")
    (home / "mine").write_text("other\n")
    (git.root / "other").write_text("x")
    assert ".env" in [e["path"] for e in mine.status()["entries"]]
    assert "other" not in [e["path"] for e in mine.status()["entries"]]


def test_the_user_commits_unless_the_repository_says_who(git, home):
    (home / ".gitconfig").write_text("[user]\n\tname = Owner\n\temail = owner@example.org\n")
    (git.root / "a.txt").write_text("two\n")
    mine = at_home(git, home)
    mine.add(paths=["."])
    mine.commit(message="x")
    assert git.plain("log", "-1", "--format=%an %ae") == "Owner owner@example.org"


def test_attributes_of_the_user_count(git, home):
    (home / ".config" / "git" / "attributes").write_text("*.big filter=lfs\n")
    (git.root / "x.big").write_text("large")
    assert refused(at_home(git, home).add, paths=["."]).code == "git_config_refused"


def test_what_is_not_read_of_the_user_is_reported_and_does_not_run(git, home):
    mark = home / "mark"
    (home / ".gitconfig").write_text(
        f"[alias]\n\tstatus = !touch {mark}\n[core]\n\tfsmonitor = touch {mark}\n\tautocrlf = true\n"
        f"[include]\n\tpath = more\n"
    )
    (home / "more").write_text(f'[filter "lfs"]\n\tclean = touch {mark}\n')
    (git.root / "a.txt").write_text("two\n")
    got = at_home(git, home).status()
    assert got["not_read"] == ["alias.status", "core.autocrlf", "core.fsmonitor", "filter.lfs.clean"]
    assert not mark.exists()


def test_a_worktree_file_that_leads_where_nothing_can_be_examined_names_no_directory(tmp_path):
    """For every user, root too, as another user's directory is for an ordinary one."""
    (tmp_path / "git").mkdir()
    (tmp_path / "git" / "commondir").write_text("x" * 300)
    (tmp_path / ".git").write_text(f"gitdir: {tmp_path / 'git'}\n")
    assert outside_places(tmp_path) == []


@pytest.mark.parametrize("made", ["a FIFO", "a huge file", "a link to a device", "a directory behind a link"])
def test_whatever_an_agent_puts_in_the_place_of_git_is_not_waited_for(tmp_path, made):
    marker = tmp_path / ".git"
    match made:
        case "a FIFO":
            os.mkfifo(marker)
        case "a huge file":
            marker.write_text("gitdir: x")
            os.truncate(marker, 1 << 40)
        case "a link to a device":
            marker.symlink_to("/dev/zero")
        case _:
            marker.symlink_to(tmp_path)
    assert outside_places(tmp_path) == []


@pytest.mark.parametrize("made", ["a FIFO", "a huge file"])
def test_an_index_that_an_agent_has_made_is_not_waited_for(above, tmp_path, made):
    index = tmp_path / ".git/index"
    index.unlink()
    if made == "a FIFO":
        os.mkfifo(index)
    else:
        index.touch()
        os.truncate(index, 1 << 40)
    assert refused(above.add, paths=["."]).code == "limit_exceeded"
