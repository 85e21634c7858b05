"""What the git tools did is undone, and nothing else: a person's files, staging and commits stay as they are."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from git_world import Git, refused

from interlock.executors import git_index
from interlock.verify.templates import fill


def undo(git, name, output):
    """Carry out the compensation of a call, as the tool's definition has it."""
    template = git.bindings[f"git.{name}"].tool.compensation
    return git.__getattr__(template.tool.removeprefix("git."))(**fill(template.parameters, {}, output))


def cannot_undo(git, name, output):
    template = git.bindings[f"git.{name}"].tool.compensation
    before = picture(git)
    error = refused(git.__getattr__(template.tool.removeprefix("git.")), **fill(template.parameters, {}, output))
    assert picture(git) == before, "nothing was touched"
    return error


def picture(git):
    """Everything that a person sees: branch, commits, index with its flags, working tree, what is in progress."""
    files = {}
    for directory, names, found in os.walk(git.root):
        names[:] = [n for n in names if n != ".git"]
        for name in found:
            path = os.path.join(directory, name)
            files[os.path.relpath(path, git.root)] = (os.lstat(path).st_mode, Path(path).read_bytes())
    return (
        git.plain("for-each-ref"),
        (git.root / ".git" / "HEAD").read_text(),
        git.plain("ls-files", "-s", "-v"),
        git.plain("status", "--porcelain=v2", "--ignored"),
        files,
        sorted(
            n
            for n in os.listdir(git.root / ".git")
            if n.isupper() and n.endswith(("_HEAD", "_MSG")) and n not in ("ORIG_HEAD", "FETCH_HEAD")
        ),
    )


def test_a_file_that_was_never_committed_stays(git):
    (git.root / "mine.txt").write_text("mine")
    (git.root / "a.txt").write_text("my uncommitted change\n")
    before = picture(git)
    added = git.add(paths=["mine.txt", "a.txt"])
    done = git.commit(message="both")
    undo(git, "commit", done)
    undo(git, "add", added)
    assert picture(git) == before


def test_what_was_staged_before_is_staged_again(git):
    (git.root / "a.txt").write_text("staged\n")
    (git.root / "b.txt").write_text("staged too\n")
    git.plain("add", ".")
    (git.root / "a.txt").write_text("and changed again\n")
    before = picture(git)
    added = git.add(paths=["a.txt"])
    done = git.commit(message="with what a person had staged")
    undo(git, "commit", done)
    undo(git, "add", added)
    assert picture(git) == before


def test_the_first_commit_of_all(runner, workspace, context):
    git = Git(runner, workspace, context())
    git.plain("init", "-q", "-b", "main")
    (git.root / "f").write_text("x")
    before = picture(git)
    added = git.add(paths=["f"])
    done = git.commit(message="first")
    undo(git, "commit", done)
    undo(git, "add", added)
    assert picture(git) == before


def test_a_detached_head(git):
    git.plain("checkout", "-q", "--detach")
    (git.root / "a.txt").write_text("two\n")
    before = picture(git)
    added = git.add(paths=["a.txt"])
    done = git.commit(message="x")
    assert done["branch"] is None
    undo(git, "commit", done)
    undo(git, "add", added)
    assert picture(git) == before


def test_an_undo_can_be_undone(git):
    (git.root / "new").write_text("x")
    added = git.add(paths=["new"])
    done = git.commit(message="x")
    after = picture(git)
    unmade = undo(git, "commit", done)
    unstaged = undo(git, "add", added)
    undo(git, "add", unstaged)
    undo(git, "commit", unmade)
    assert picture(git) == after


def test_what_somebody_staged_since_stays(git):
    for name in ("theirs", "skipped", "assumed"):
        (git.root / name).write_text("1")
    git.plain("add", "skipped", "assumed")
    git.plain("commit", "-qm", "some more")
    (git.root / "a.txt").write_text("two\n")
    added = git.add(paths=["a.txt"])
    git.plain("add", "theirs")
    (git.root / "intended").write_text("x")
    git.plain("add", "-N", "intended")
    git.plain("update-index", "--skip-worktree", "skipped")
    git.plain("update-index", "--assume-unchanged", "assumed")
    listed = git.plain("ls-files", "-s", "-v", "--debug", "--", "theirs", "intended", "skipped", "assumed")
    undo(git, "add", added)
    assert git.plain("ls-files", "-s", "-v", "--debug", "--", "theirs", "intended", "skipped", "assumed") == listed
    assert git.plain("diff", "--cached", "--name-only") == "theirs"


def test_two_stagings_are_undone_independently(git):
    (git.root / "b").write_text("b")
    (git.root / "c").write_text("c")
    first, second = git.add(paths=["b"]), git.add(paths=["c"])
    undo(git, "add", first)
    assert git.plain("diff", "--cached", "--name-only") == "c"
    undo(git, "add", second)
    assert git.plain("diff", "--cached", "--name-only") == ""


def test_what_was_only_intended_to_be_added_is_so_again(git):
    (git.root / "new").write_text("x")
    git.plain("add", "-N", "new")
    before = picture(git)
    added = git.add(paths=["."])
    assert picture(git) != before
    undo(git, "add", added)
    assert picture(git) == before


def test_the_same_path_staged_again_by_somebody_is_a_conflict(git):
    (git.root / "a.txt").write_text("two\n")
    added = git.add(paths=["a.txt"])
    (git.root / "a.txt").write_text("three\n")
    git.plain("add", "a.txt")
    assert cannot_undo(git, "add", added).code == "undo_conflict"


@pytest.mark.parametrize("then", ["commit", "branch", "reset"])
def test_a_commit_or_a_change_of_branch_by_somebody_is_a_conflict(git, then):
    git.plain("branch", "other")
    (git.root / "b").write_text("b")
    added = git.add(paths=["b"])
    if then == "commit":
        git.plain("commit", "-qm", "by a person")
    elif then == "branch":
        git.plain("commit", "-qm", "by a person")
        git.plain("checkout", "-q", "other")
    else:
        git.plain("reset", "-q")
    assert cannot_undo(git, "add", added).code == "undo_conflict"


def test_a_commit_is_not_undone_from_under_another(git):
    (git.root / "b").write_text("b")
    added = git.add(paths=["b"])
    done = git.commit(message="by the run")
    (git.root / "c").write_text("c")
    git.plain("add", "c")
    git.plain("commit", "-qm", "by a person")
    assert cannot_undo(git, "commit", done).code == "undo_conflict"
    assert cannot_undo(git, "add", added).code == "undo_conflict"


@pytest.mark.parametrize(
    "how", ["other branch", "detached", "published", "merge in progress", "removed since", "amended"]
)
def test_a_commit_that_is_not_alone_with_the_run_stays(git, tmp_path, how):
    git.plain("branch", "other")
    (git.root / "b").write_text("b")
    git.add(paths=["b"])
    done = git.commit(message="by the run")
    if how == "other branch":
        git.plain("checkout", "-q", "other")
    elif how == "detached":
        git.plain("checkout", "-q", "--detach")
    elif how == "published":
        git.plain("init", "-q", "--bare", str(tmp_path / "there"))
        git.plain("remote", "add", "origin", str(tmp_path / "there"))
        git.plain("push", "-q", "origin", "main")
    elif how == "merge in progress":
        (git.root / ".git" / "MERGE_HEAD").write_text(git.plain("rev-parse", "other") + "\n")
    elif how == "removed since":
        git.plain("rm", "-q", "b")  # it is in the commit, so nothing seemed to be lost
    else:
        git.plain("commit", "-q", "--amend", "-m", "by a person")
    assert cannot_undo(git, "commit", done).code == "undo_conflict"


def test_a_commit_that_a_person_made_is_not_taken_off_the_branch(git):
    (git.root / "b").write_text("b")
    git.plain("add", "b")
    git.plain("commit", "-qm", "by a person")
    head, before = git.plain("rev-parse", "HEAD", "HEAD~1").split()
    move = {"ref": "refs/heads/main", "from": head, "to": before, "concluded": None}
    assert cannot_undo(git, "commit", {"undo": move, "path": "."}).code == "undo_conflict"


def test_a_commit_that_concluded_a_merge_stays(git):
    git.plain("checkout", "-qb", "other")
    (git.root / "b").write_text("b")
    git.plain("add", "b")
    git.plain("commit", "-qm", "b")
    git.plain("checkout", "-q", "main")
    git.plain("merge", "-q", "--no-ff", "--no-commit", "other")
    done = git.commit(message="merged")
    error = cannot_undo(git, "commit", done)
    assert error.code == "undo_conflict"
    assert "merge" in error.message


def test_the_only_copy_of_a_file_is_not_dropped(git):
    (git.root / "mine.txt").write_text("mine")
    added = git.add(paths=["mine.txt"])
    done = git.commit(message="x")
    (git.root / "mine.txt").unlink()  # it is in the commit, after all
    undo(git, "commit", done)
    assert cannot_undo(git, "add", added).code == "undo_conflict"
    assert git.plain("show", ":mine.txt") == "mine"


def test_a_resolved_conflict_is_staged_and_unstaged_again(git):
    git.plain("checkout", "-qb", "other")
    for branch, text in (("other", "theirs\n"), ("main", "ours\n")):
        git.plain("checkout", "-q", branch)
        for name in ("a.txt", "b.txt"):
            (git.root / name).write_text(text)
        git.plain("add", ".")
        git.plain("commit", "-qm", branch)
    with pytest.raises(Exception, match="merge"):
        git.plain("merge", "-q", "other")
    (git.root / "a.txt").write_text("both\n")
    before = picture(git)
    added = git.add(paths=["a.txt"])  # while `b.txt` is still unmerged
    assert {"path": "a.txt", "status": "modified"} in added["staged"]
    undo(git, "add", added)
    assert picture(git) == before
    git.add(paths=["a.txt", "b.txt"])
    assert git.commit(message="merged")["commit"] == git.plain("rev-parse", "HEAD")


def unmerged(git, how):
    """`a.txt` in conflict, by a merge or by a stash that does not apply."""
    (git.root / "a.txt").write_text("theirs\n")
    if how == "merge":
        git.plain("checkout", "-qb", "other")
        git.plain("commit", "-qam", "theirs")
        git.plain("checkout", "-q", "main")
    else:
        git.plain("stash", "-q")
    (git.root / "a.txt").write_text("ours\n")
    git.plain("commit", "-qam", "ours")
    with pytest.raises(Exception, match=how):
        git.plain(*(("merge", "-q", "other") if how == "merge" else ("stash", "pop")))
    (git.root / "a.txt").write_text("ours\n")


@pytest.mark.parametrize(
    ("how", "then"),
    [
        ("merge", ("commit", "-qm", "merged")),
        ("merge", ("merge", "--abort")),
        ("merge", ("reset", "-q", "--hard")),
        ("stash", ("commit", "-q", "--allow-empty", "-m", "mine")),
    ],
)
def test_a_conflict_that_is_over_does_not_come_back(git, how, then):
    unmerged(git, how)
    added = git.add(paths=["a.txt"])
    git.plain(*then)
    error = cannot_undo(git, "add", added)
    assert error.code == "undo_conflict"
    assert "is over" in error.message


@pytest.mark.parametrize("how", ["merge", "stash"])
def test_a_conflict_that_continues_comes_back(git, how):
    unmerged(git, how)
    before = picture(git)
    undo(git, "add", git.add(paths=["a.txt"]))
    assert picture(git) == before


def test_a_revert_is_undone_with_its_files_and_without_a_new_commit(git):
    (git.root / "a.txt").write_text("two\n")
    (git.root / "b").write_text("b")
    git.plain("add", ".")
    git.plain("commit", "-qm", "second")
    (git.root / "c").write_text("untracked")
    before = picture(git)
    done = git.revert(commit="HEAD")
    assert not (git.root / "b").exists()
    (git.root / "d").write_text("staged since")
    git.plain("add", "d")
    undone = undo(git, "revert", done)
    git.plain("rm", "-q", "-f", "d")
    assert picture(git) == before
    undo(git, "revert", undone)
    assert (git.root / "a.txt").read_text() == "one\n"


@pytest.mark.parametrize("how", ["changed", "in the way", "ignored and in the way"])
def test_a_revert_is_not_undone_over_somebodys_files(git, how):
    (git.root / "a.txt").write_text("two\n")
    (git.root / "b").write_text("b")
    git.plain("add", ".")
    git.plain("commit", "-qm", "second")
    done = git.revert(commit="HEAD")
    if how == "changed":
        (git.root / "a.txt").write_text("mine\n")
    else:
        (git.root / "b").write_text("mine\n")
    if how == "ignored and in the way":
        (git.root / ".git" / "info" / "exclude").write_text("b\n")
    assert cannot_undo(git, "revert", done).code == "undo_conflict"


def test_a_revert_does_not_write_over_an_ignored_file(git):
    (git.root / "b").write_text("b")
    git.plain("add", ".")
    git.plain("commit", "-qm", "b")
    git.plain("rm", "-q", "b")
    git.plain("commit", "-qm", "no b")
    (git.root / "b").write_text("mine, and ignored\n")
    (git.root / ".git" / "info" / "exclude").write_text("b\n")
    assert refused(git.revert, commit="HEAD").code == "git_conflict"
    assert (git.root / "b").read_text() == "mine, and ignored\n"


def test_a_revert_does_not_give_up_what_somebody_is_in_the_middle_of(git):
    (git.root / "a.txt").write_text("two\n")
    git.plain("commit", "-qam", "second")
    (git.root / "a.txt").write_text("three\n")
    git.plain("commit", "-qam", "third")
    with pytest.raises(Exception, match="revert"):
        git.plain("revert", "--no-edit", "HEAD~1")
    (git.root / "a.txt").write_text("half resolved\n")
    before = picture(git)
    assert refused(git.revert, commit="HEAD~1").code == "git_conflict"
    assert picture(git) == before


def test_a_record_that_is_not_one(git):
    blob = git.plain("hash-object", "-w", "--stdin", stdin=b'{"version":1}')
    for given in ("0" * 40, blob):
        assert refused(git.add, restore=given).code == "ref_invalid"


def test_an_index_that_another_git_is_changing(git):
    (git.root / "a.txt").write_text("two\n")
    (git.root / ".git" / "index.lock").touch()
    error = refused(git.add, paths=["a.txt"])
    assert (error.code, error.retryable) == ("file_changed", True)
    assert (git.root / ".git" / "index.lock").exists(), "it is not ours"
    assert git.plain("diff", "--cached", "--name-only") == ""


def test_an_index_that_changes_meanwhile_is_not_replaced(git, monkeypatch):
    (git.root / "a.txt").write_text("two\n")
    (git.root / "b").write_text("b")
    keep = git_index.write_record

    async def meanwhile(*arguments):
        git.plain("add", "b")
        return await keep(*arguments)

    monkeypatch.setattr(git_index, "write_record", meanwhile)
    assert refused(git.add, paths=["a.txt"]).code == "file_changed"
    assert git.plain("diff", "--cached", "--name-only") == "b"


def test_an_index_in_two_parts(git):
    git.plain("update-index", "--split-index")
    (git.root / "mine.txt").write_text("mine")
    before = picture(git)
    added = git.add(paths=["mine.txt"])
    undo(git, "add", added)
    assert picture(git) == before


def test_another_worktree_keeps_its_own_index(git, tmp_path):
    git.plain("worktree", "add", "-q", str(tmp_path / "beside"), "-b", "beside")
    (git.root / "b").write_text("b")
    added = git.add(paths=["b"])
    done = git.commit(message="x")
    (tmp_path / "beside" / "theirs").write_text("x")
    git.plain("add", "theirs", cwd=tmp_path / "beside")
    undo(git, "commit", done)
    undo(git, "add", added)
    assert git.plain("status", "--porcelain", cwd=tmp_path / "beside") == "A  theirs"


def test_many_at_once(git):
    """Two calls on one index: each is whole, or says that it came too late."""
    for name in "bcdefgh":
        (git.root / name).write_text(name)

    async def all_of_them():
        function = git.bindings["git.add"].function
        return await asyncio.gather(
            *(function({"paths": [name]}, git.context) for name in "bcdefgh"), return_exceptions=True
        )

    done = asyncio.run(all_of_them())
    staged = git.plain("diff", "--cached", "--name-only").split()
    assert len(staged) == sum(isinstance(one, dict) for one in done) > 0
