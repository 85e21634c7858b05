"""Undo and rollback of git actions: what a person had in the working tree, index or branch is never lost."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from engine_world import binding, call, execute, statuses

from interlock.model.errors import ToolError
from interlock.model.tool import CompensationTemplate


def git(project, *arguments):
    options = ("-c", "user.name=Human", "-c", "user.email=human@example.org")
    done = subprocess.run(["git", *options, *arguments], cwd=project.root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(project):
    git(project, "init", "-q", "-b", "main")
    (project.root / "a.txt").write_text("one\n")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    return project


def picture(project):
    files = {p.name: p.read_text() for p in project.root.iterdir() if p.is_file()}
    return git(project, "rev-parse", "HEAD"), git(project, "ls-files", "-s"), git(project, "status", "-s"), files


ADD = call("git.add", "add", parameters={"paths": ["mine.txt", "a.txt"]})
COMMIT = call("git.commit", "commit", parameters={"message": "x"})
FAIL = call("shell", "fail", parameters={"command": "exit 3"})


@pytest.fixture
def before(repository):
    (repository.root / "mine.txt").write_text("never committed")
    (repository.root / "a.txt").write_text("my uncommitted change\n")
    return picture(repository)


def test_undo_of_a_commit_keeps_files_that_were_there_before(repository, before):
    rt = repository.open()
    done = execute(rt, ADD, COMMIT)
    assert statuses(done) == ["succeeded", "succeeded"]
    result = asyncio.run(rt.runs.undo(done.run_id))
    assert (result.status, result.results[0].output["not_undone"]) == ("succeeded", [])
    assert picture(repository) == before
    assert asyncio.run(rt.runs.undo(result.run_id)).status == "succeeded", "and can be undone in turn"
    assert git(repository, "show", "HEAD:mine.txt") == "never committed"


def test_rollback_of_a_commit_keeps_files_that_were_there_before(repository, before):
    done = execute(repository.open(), ADD, COMMIT, FAIL)
    assert statuses(done) == ["compensated", "compensated", "failed"]
    assert picture(repository) == before


def test_a_commit_on_top_keeps_both_in_force(repository, before):
    rt = repository.open()
    done = execute(rt, ADD, COMMIT)
    git(repository, "commit", "-q", "--allow-empty", "-m", "by a person")
    now = picture(repository)
    result = asyncio.run(rt.runs.undo(done.run_id))
    left = {(one["action"], one["reason"]) for one in result.results[0].output["not_undone"]}
    assert left == {("commit", "undo_conflict"), ("add", "undo_conflict")}
    assert picture(repository) == now


def test_what_somebody_staged_meanwhile_stays(repository, before):
    rt = repository.open()
    done = execute(rt, ADD)
    (repository.root / "theirs").write_text("x")
    git(repository, "add", "theirs")
    assert asyncio.run(rt.runs.undo(done.run_id)).status == "succeeded"
    assert git(repository, "diff", "--cached", "--name-only") == "theirs"


def steps(done, *, stuck):
    """Three tools that note what they do, each with its own undo; that of `stuck` fails."""

    def one(name):
        async def act(parameters, ctx):
            done.append(name)
            return {}

        async def back(parameters, ctx):
            if name == stuck:
                raise ToolError("it cannot be undone", code="no")
            done.append(f"un{name}")
            return {}

        template = CompensationTemplate(tool=f"un{name}")
        return [binding(name, act, compensation=template), binding(f"un{name}", back)]

    return [each for name in ("a", "b", "c") for each in one(name)]


CHAIN = [call("a", "a"), call("b", "b", dependencies=["a"]), call("c", "c")]


def test_what_a_failed_compensation_depends_on_is_not_compensated(project):
    done = []
    rt = project.open(*steps(done, stuck="b"))
    result = execute(rt, *CHAIN, FAIL)
    assert done == ["a", "b", "c", "unc"]
    assert [(one.action_id, one.reason) for one in result.not_undone][:2] == [
        ("a", "compensation_failed"),
        ("b", "compensation_failed"),
    ]
    assert "depended on it" in result.not_undone[0].detail


def test_nor_by_the_undo_of_the_run(project):
    done = []
    rt = project.open(*steps(done, stuck="b"))
    result = asyncio.run(rt.runs.undo(execute(rt, *CHAIN).run_id))
    assert done == ["a", "b", "c", "unc"]
    assert [one["action"] for one in result.results[0].output["not_undone"]] == ["b", "a"]
