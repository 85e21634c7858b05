"""The git tools on real repositories: what they do, what they parse, and what they refuse to run."""

from __future__ import annotations

import os
import subprocess

import pytest
from git_world import Git, refused

from interlock.executors.process import ProcessRunner


def test_definitions(git):
    tools = {name: binding.tool for name, binding in git.bindings.items()}
    assert set(tools) == {
        f"git.{n}" for n in ("status", "diff", "log", "add", "commit", "revert", "clone", "pull", "push")
    }
    for name, tool in tools.items():
        assert tool.read_only is (name in {"git.status", "git.diff", "git.log"})
        assert tool.timeout_ms == 120_000
    assert tools["git.commit"].reversibility == "compensable"
    assert {tools[f"git.{n}"].compensation.tool for n in ("add", "commit", "revert")} == {
        "git.add",
        "git.commit",
        "git.revert",
    }
    assert tools["git.push"].reversibility == "irreversible"
    for name in ("git.clone", "git.pull", "git.push"):
        assert tools[name].parameters["properties"]["url"]["x-interlock"] == "host"
        assert "url" in tools[name].parameters["required"]


# --- looking


def test_status(git):
    assert git.status() == {
        "branch": "main",
        "commit": git.plain("rev-parse", "HEAD"),
        "upstream": None,
        "ahead": None,
        "behind": None,
        "clean": True,
        "entries": [],
        "truncated": False,
        "not_read": [],
    }
    (git.root / "a.txt").write_text("two\n")
    (git.root / "new").mkdir()
    names = [b"new/x", b"new/\xff\n", b'new/ sp "ace']
    for name in names:
        with open(os.fsencode(git.root) + b"/" + name, "wb"):
            pass
    git.plain("mv", "a.txt", "b.txt")
    got = git.status()
    assert got["clean"] is False
    rows = {str(e["path"]): (e["index"], e["worktree"], e.get("from")) for e in got["entries"]}
    assert rows["b.txt"][0] in {"renamed", "added"}
    assert rows["new/x"] == ("untracked", "untracked", None)
    assert rows['new/ sp "ace'] == ("untracked", "untracked", None)
    assert rows["{'b64': 'bmV3L/8K'}"] == ("untracked", "untracked", None)


def test_status_of_a_repository_below(git):
    (git.root / "sub" / "deep").mkdir(parents=True)
    git.plain("init", "-q", "-b", "other", cwd=git.root / "sub")
    (git.root / "sub" / "f").write_text("x")
    for path in ("sub", "sub/deep"):
        got = git.status(path=path)
        assert (got["branch"], got["commit"]) == ("other", None)
        assert [e["path"] for e in got["entries"]] == ["sub/f"]


def test_looking_changes_nothing(git):
    (git.root / "a.txt").write_text("two\n")
    index = (git.root / ".git" / "index").read_bytes()
    git.status()
    git.diff()
    git.log()
    assert (git.root / ".git" / "index").read_bytes() == index
    assert git.context.undoable == []


def test_diff(git):
    (git.root / "a.txt").write_text("one\n--- a/x\n+++ b/x\ndiff --git a/q b/q\nend")
    (git.root / "bin").write_bytes(b"\0\1")
    git.plain("add", "-N", "bin")
    got = git.diff()
    (text, binary) = got["files"]
    assert (text["path"], text["status"], text["additions"], text["deletions"]) == ("a.txt", "modified", 4, 0)
    assert text["hunks"] == [
        {
            "old_start": 1,
            "old_lines": 1,
            "new_start": 1,
            "new_lines": 5,
            "lines": [
                " one",
                "+--- a/x",
                "++++ b/x",
                "+diff --git a/q b/q",
                "+end",
                "\\ No newline at end of file",
            ],
        }
    ]
    assert (binary["path"], binary["status"], binary["binary"]) == ("bin", "added", True)
    assert git.diff(staged=True)["files"] == []
    assert [f["path"] for f in git.diff(ref="HEAD", paths=["a.txt"])["files"]] == ["a.txt"]
    git.plain("rm", "-q", "-f", "a.txt")
    assert [(f["path"], f["status"]) for f in git.diff(staged=True)["files"]] == [("a.txt", "deleted")]


def test_a_diff_shows_modes(git):
    (git.root / "a.txt").chmod(0o755)
    (file,) = git.diff()["files"]
    assert (file["status"], file["old_mode"], file["new_mode"], file["hunks"]) == ("modified", "100644", "100755", [])
    (git.root / "a.txt").unlink()
    (git.root / "a.txt").symlink_to("b")
    (file,) = git.diff()["files"]
    assert (file["status"], file["new_mode"]) == ("type_changed", "120000")
    (git.root / "a.txt").unlink()
    (file,) = git.diff()["files"]
    assert (file["status"], file["new_mode"], file["deletions"]) == ("deleted", None, 1)


def test_a_diff_is_bounded_for_each_file(git):
    big = "".join(f"{n:07}\n" for n in range(400_000))  # 3 MiB
    for name in ("a.txt", "b.txt", "z.txt"):
        (git.root / name).write_text("small\n" if name == "z.txt" else big)
    git.plain("add", ".")
    got = git.diff(staged=True)
    assert got["truncated"] is True
    rows = [(f["path"], f["additions"], f["deletions"], f["truncated"]) for f in got["files"]]
    assert rows == [("a.txt", 400_000, 1, True), ("b.txt", 400_000, 0, True), ("z.txt", 1, 0, False)]
    assert 10_000 < len(got["files"][1]["hunks"][0]["lines"]) < 20_000
    assert got["files"][2]["hunks"][0]["lines"] == ["+small"]


def test_a_diff_of_what_is_unmerged_has_hunks(git):
    git.plain("checkout", "-qb", "other")
    for branch in ("other", "main"):
        git.plain("checkout", "-q", branch)
        (git.root / "a.txt").write_text(f"{branch}\n")
        git.plain("commit", "-qam", branch)
    with pytest.raises(subprocess.CalledProcessError):
        git.plain("merge", "-q", "other")
    (file,) = git.diff()["files"]
    assert (file["status"], file["additions"]) == ("unmerged", 4)
    assert "+other" in file["hunks"][0]["lines"]
    assert git.diff(staged=True)["files"][0]["status"] == "unmerged"
    assert "+other" in git.diff(ref="HEAD")["files"][0]["hunks"][0]["lines"]


def test_diff_names_that_git_quotes(git):
    names = [b'q"uote', b"t\tab", b"\xff\xfe", "ä".encode(), b"a b/ b c", b"back\\slash"]
    for name in names:
        path = os.fsencode(git.root) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x\n")
    git.plain("add", ".")
    found = git.diff(staged=True)["files"]
    expected = {'q"uote', "t\tab", "{'b64': '//4='}", "ä", "a b/ b c", "back\\slash"}
    assert {str(f["path"]) for f in found} == expected


def test_log(git):
    (git.root / "a.txt").write_text("two\n")
    git.plain("commit", "-qam", "sécond\n\nbody\nline 2\n")
    got = git.log()
    assert got["truncated"] is False
    newest, oldest = got["commits"]
    assert (newest["subject"], newest["body"]) == ("sécond", "body\nline 2")
    assert (newest["author"], newest["email"]) == ("Human", "human@example.org")
    assert newest["parents"] == [oldest["commit"]]
    assert newest["time"] == int(git.plain("log", "-1", "--format=%at")) * 1_000_000
    assert oldest["parents"] == []
    limited = git.log(max_count=1)
    assert (len(limited["commits"]), limited["truncated"]) == (1, True)
    assert [c["subject"] for c in git.log(ref="HEAD~1")["commits"]] == ["first"]
    assert git.log(paths=["none"])["commits"] == []


def test_an_empty_repository(runner, workspace, context):
    git = Git(runner, workspace, context())
    git.plain("init", "-q", "-b", "main")
    assert git.status()["commit"] is None
    assert git.log()["commits"] == []
    (git.root / "f").write_text("x")
    assert git.add(paths=["f"])["staged"] == [{"path": "f", "status": "added"}]
    assert git.commit(message="first")["files"] == [{"path": "f", "status": "added"}]


def test_no_repository(runner, workspace, context):
    git = Git(runner, workspace, context())
    assert refused(git.status).code == "not_a_repository"
    assert refused(git.status, path="none").code == "not_found"
    assert refused(git.status, path="..").code == "path_outside_workspace"


# --- changing, and taking it back


def test_add_and_commit(git):
    (git.root / "a.txt").write_text("two\n")
    (git.root / "-rf").write_text("a name like an option")
    (git.root / "*").write_text("a name like a pattern")
    (git.root / "other").write_text("not asked for")
    added = git.add(paths=["a.txt", "-rf", "*"])
    assert {e["path"] for e in added["staged"]} == {"a.txt", "-rf", "*"}
    done = git.commit(message="-m second\n\n# not a comment\n")
    assert done["branch"] == "main"
    assert {f["path"] for f in done["files"]} == {"a.txt", "-rf", "*"}
    assert done["commit"] == git.plain("rev-parse", "HEAD")
    assert git.plain("log", "-1", "--format=%B%an") == "-m second\n\n# not a comment\ncoder"
    assert [e["path"] for e in git.status()["entries"]] == ["other"]
    assert refused(git.commit, message="nothing").code == "git_failed"


def test_the_repositorys_own_user_commits(git):
    git.plain("config", "user.name", "Owner")
    git.plain("config", "user.email", "owner@example.org")
    (git.root / "a.txt").write_text("two\n")
    git.add(paths=["."])
    git.commit(message="second")
    assert git.plain("log", "-1", "--format=%an %ae") == "Owner owner@example.org"


def test_a_revert_that_conflicts_leaves_everything_as_it_was(git):
    (git.root / "a.txt").write_text("two\n")
    git.plain("commit", "-qam", "second")
    second = git.plain("rev-parse", "HEAD")
    (git.root / "a.txt").write_text("three\n")
    git.plain("commit", "-qam", "third")
    error = refused(git.revert, commit=second)
    assert error.code == "git_conflict"
    assert error.retryable is False
    assert git.status()["clean"] is True
    assert git.plain("log", "-1", "--format=%s") == "third"
    (git.root / "a.txt").write_text("dirty\n")
    assert refused(git.revert, commit="HEAD").code == "git_conflict"
    assert (git.root / "a.txt").read_text() == "dirty\n"


@pytest.mark.parametrize(
    "ref", ["-x", "--output=x", "HEAD..main", "a b", "", "HEAD:a.txt", "x\ny", ":/first", "@{u}..", "$(id)"]
)
def test_refs_that_are_something_else(git, ref):
    for call, parameters in (
        (git.diff, {"ref": ref}),
        (git.log, {"ref": ref}),
        (git.revert, {"commit": ref}),
    ):
        assert refused(call, **parameters).code == "ref_invalid"
    assert not (git.root / "x").exists()


# --- what is never run and never left


@pytest.fixture
def trap(git, tmp_path):
    """A program that leaves a mark if anybody runs it."""
    mark = tmp_path / "mark"
    path = git.root / "trap.sh"
    path.write_text(f"#!/bin/sh\necho ran >> {mark}\ncat\n")
    path.chmod(0o755)
    return path, mark


def everything(git):
    (git.root / "a.txt").write_text("changed\n")
    git.status()
    git.diff()
    git.log(ref="HEAD")
    git.add(paths=["a.txt"])
    done = git.commit(message="x")
    git.revert(commit=done["commit"])


def test_hooks_do_not_run(git, trap):
    path, mark = trap
    for hook in ("pre-commit", "commit-msg", "post-commit", "prepare-commit-msg", "post-index-change", "post-rewrite"):
        os.symlink(path, git.root / ".git" / "hooks" / hook)
    (git.root / "a.txt").write_text("natively\n")
    git.plain("commit", "-qam", "natively")
    assert mark.exists()  # else the case would be void
    mark.unlink()
    everything(git)
    assert not mark.exists()


SWITCHED_OFF = (
    "core.fsmonitor",
    "core.pager",
    "pager.log",
    "pager.status",
    "core.editor",
    "sequence.editor",
    "core.sshCommand",
    "core.askPass",
    "diff.external",
    "gpg.program",
    "credential.helper",
    "alias.status",
    "core.alternateRefsCommand",
    "diff.trap.textconv",
    "diff.trap.command",
    "trailer.sign.command",
)


def test_settings_that_run_programs_are_switched_off(git, trap):
    path, mark = trap
    for setting in SWITCHED_OFF:
        git.plain("config", setting, f"!{path}" if setting.startswith("alias") else str(path))
    git.plain("config", "commit.gpgSign", "true")
    git.plain("config", "log.showSignature", "true")
    (git.root / ".gitattributes").write_text("*.txt diff=trap\n")
    everything(git)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("setting", "command"),
    [
        ("core.fsmonitor", ["status"]),
        ("diff.external", ["diff"]),
        ("diff.trap.textconv", ["diff"]),
        ("diff.trap.command", ["diff"]),
        ("filter.trap.clean", ["status"]),
    ],
)
def test_the_trap_works_on_a_plain_git(git, trap, setting, command):
    """Otherwise the tests around this one would be void."""
    path, mark = trap
    git.plain("config", setting, str(path))
    (git.root / ".gitattributes").write_text("*.txt diff=trap filter=trap\n")
    (git.root / "a.txt").write_text("two\n")
    git.plain(*command)
    assert mark.exists()


@pytest.mark.parametrize(
    "setting",
    ["filter.trap.clean", "filter.trap.smudge", "filter.trap.process", "merge.trap.driver", "hook.trap.command"],
)
def test_settings_that_cannot_be_switched_off_are_refused(git, trap, setting):
    path, mark = trap
    (git.root / ".gitattributes").write_text("*.txt filter=trap merge=trap\n")
    git.plain("config", setting, str(path))
    for call, parameters in ((git.status, {}), (git.add, {"paths": ["a.txt"]}), (git.commit, {"message": "x"})):
        assert refused(call, **parameters).code == "git_config_refused"
    assert not mark.exists()


@pytest.fixture
def submodule(git, trap):
    """A repository inside this one, whose own configuration runs the trap as soon as git looks at its files."""
    inner = git.root / "inner"
    inner.mkdir()
    git.plain("init", "-q", cwd=inner)
    (inner / "f").write_text("one\n")
    (inner / ".gitattributes").write_text("* filter=trap\n")
    git.plain("add", ".", cwd=inner)
    git.plain("commit", "-qm", "inner", cwd=inner)
    git.plain("add", "inner")
    git.plain("commit", "-qm", "with a submodule")
    git.plain("config", "filter.trap.clean", str(trap[0]), cwd=inner)
    (inner / "f").write_text("two\n")
    return inner


def test_a_submodules_own_configuration_does_not_run(git, trap, submodule):
    _, mark = trap
    assert git.status()["entries"] == [{"path": "trap.sh", "index": "untracked", "worktree": "untracked"}]
    assert git.diff()["files"] == []
    everything(git)
    for call, parameters in ((git.add, {"paths": ["."]}), (git.commit, {"message": "nothing is staged"})):
        assert refused(call, **parameters).code == "git_config_refused"
    assert not mark.exists()
    git.plain("status")
    assert mark.exists()  # else the case would be void


def test_another_commit_in_a_submodule_is_a_change(git, submodule):
    git.plain("config", "--unset", "filter.trap.clean", cwd=submodule)
    git.plain("commit", "-qam", "second", cwd=submodule)
    assert {"path": "inner", "index": "unchanged", "worktree": "modified"} in git.status()["entries"]
    assert git.diff()["files"][0]["path"] == "inner"


def test_a_missing_object_is_not_fetched(git, trap):
    """A partial clone's git asks a remote for what is missing, and the remote may be a program."""
    _, mark = trap
    blob = git.plain("rev-parse", "HEAD:a.txt")
    (git.root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    for setting, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", f"ext::touch {mark}"),
        ("protocol.ext.allow", "always"),
    ):
        git.plain("config", setting, value)
    (git.root / "a.txt").write_text("two\n")
    assert refused(git.diff).code == "git_failed"
    assert git.status()["clean"] is False
    assert not mark.exists()
    with pytest.raises(subprocess.CalledProcessError):
        git.plain("diff")
    assert mark.exists()


@pytest.mark.parametrize("place", ["logs/HEAD", "index", "refs/heads/main", "objects/info"])
def test_links_where_git_writes_are_refused(git, tmp_path, place):
    there = git.root / ".git" / place
    there.rename(tmp_path / "outside")
    there.symlink_to(tmp_path / "outside")
    for call, parameters in ((git.status, {}), (git.commit, {"message": "x"})):
        assert refused(call, **parameters).code == "git_config_refused"


def test_objects_of_another_repository_are_refused(git, tmp_path):
    (git.root / ".git" / "objects" / "info" / "alternates").write_text(f"{tmp_path}/elsewhere/.git/objects\n")
    assert refused(git.log).code == "git_config_refused"


def test_a_configuration_too_large_to_look_at_is_refused(git):
    with (git.root / ".git" / "config").open("a") as file:
        file.writelines(f"[a]\n\t{'x' * 60}{i} = 1\n" for i in range(18_000))
    assert refused(git.status).code == "git_config_refused"


def test_settings_in_an_included_file_count(git, trap):
    (git.root / "extra").write_text('[Filter "trap"]\n\tCLEAN = ./trap.sh\n')
    git.plain("config", "include.path", "../extra")
    assert refused(git.status).code == "git_config_refused"


def test_a_filter_attribute_without_its_program_is_not_staged(git):
    (git.root / ".gitattributes").write_text("*.big filter=lfs\n")
    (git.root / "x.big").write_text("large")
    assert refused(git.add, paths=["."]).code == "git_config_refused"
    assert git.plain("diff", "--cached", "--name-only") == ""
    assert git.add(paths=[".gitattributes"])["staged"] == [{"path": ".gitattributes", "status": "added"}]


def test_variables_of_the_parent_do_not_reach_git(git, tmp_path, monkeypatch, clock, workspace, context):
    other = tmp_path / "other"
    other.mkdir()
    git.plain("init", "-q", cwd=other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    runner = ProcessRunner(clock)
    try:
        assert Git(runner, workspace, context()).status()["branch"] == "main"
    finally:
        runner.close()


def test_a_repository_that_lies_outside(git, tmp_path, runner, workspace, context):
    outside = tmp_path / "outside"
    outside.mkdir()
    git.plain("init", "-q", cwd=outside)
    (git.root / "sub").mkdir()
    (git.root / "sub" / ".git").write_text(f"gitdir: {outside}/.git\n")
    # Behind walls git cannot even see it.
    assert refused(git.status, path="sub").code in {"path_outside_workspace", "not_a_repository"}
    (git.root / "sub2").mkdir()
    (git.root / "sub2" / ".git").symlink_to(outside / ".git")
    # The link leads nowhere there, so this is a directory of the workspace's own repository.
    assert git.status(path="sub2")["branch"] == git.status()["branch"]
    git.plain("config", "core.worktree", str(outside))
    assert refused(git.status).code in {"path_outside_workspace", "not_a_repository"}


def test_a_revert_that_would_write_what_the_loader_reads(git):
    (git.root / "interlock.toml").write_text("strict")
    git.plain("add", ".")
    git.plain("commit", "-qm", "strict")
    (git.root / "interlock.toml").write_text("stricter")
    git.plain("commit", "-qam", "stricter")
    assert refused(git.revert, commit="HEAD").code == "path_protected"
    assert (git.root / "interlock.toml").read_text() == "stricter"


def test_paths_outside_the_repository(git):
    (git.root / "sub").mkdir()
    git.plain("init", "-q", cwd=git.root / "sub")
    assert refused(git.add, path="sub", paths=["a.txt"]).code == "path_outside_workspace"
    assert refused(git.add, paths=["../x"]).code == "path_outside_workspace"


def test_failure_keeps_gits_own_words(git):
    error = refused(git.add, paths=["none"])
    assert error.code == "git_failed"
    assert error.output["exit_code"] == 128
    assert "none" in error.output["stderr"]
    assert "none" not in error.message
