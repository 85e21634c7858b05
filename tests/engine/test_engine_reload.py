"""A rule that is added while a proposal runs reaches its later actions; what is broken or not trusted changes nothing.

The file is looked at before each action, at most every 100 ms, so the tests move the clock.
"""

import os

import pytest
from engine_world import TOML, binding, call, execute, nothing, reasons, statuses

from interlock.testing.clock import FakeClock

DENY = 'deny = ["second"]'


@pytest.fixture
def clock():
    return FakeClock()


def edit(project, text=TOML % DENY):
    (project.root / "interlock.toml").write_text(text)


def running(project, clock, during):
    """A runtime whose tool `first` does something, after which 200 ms have passed; the tool `second` does nothing."""

    async def first(parameters, ctx):
        during()
        clock.advance(0.2)

    return project.open(binding("first", first), binding("second", nothing), clock=clock)


def announced(project, result):
    return [e for e in project.journal(result.run_id) if e["kind"] == "configuration_changed"]


def test_a_forbid_that_is_trusted_while_an_action_runs_reaches_the_next_action(project, clock):
    def forbid():
        edit(project)
        project.trust()

    result = execute(running(project, clock, forbid), call("first"), call("second", failure_behavior="skip"))
    assert (statuses(result), reasons(result)) == (["succeeded", "rejected"], [None, "policy_denied"])
    [event] = announced(project, result)
    assert "problem" not in event


def test_another_process_may_be_the_one_that_forbids(project, clock):
    def forbid():
        process = project.script(
            """
            (project.root / "interlock.toml").write_text(TOML % 'deny = ["second"]')
            project.trust()
            """
        )
        assert process.communicate(timeout=25) == ("", "")

    result = execute(running(project, clock, forbid), call("first"), call("second", failure_behavior="skip"))
    assert reasons(result) == [None, "policy_denied"]


def test_a_grant_that_is_taken_away_reaches_the_next_action(project, clock):
    def take_away():
        edit(project, (TOML % "").replace('tools = ["*"]', 'tools = ["first"]'))
        project.trust()

    result = execute(running(project, clock, take_away), call("first"), call("second", failure_behavior="skip"))
    assert statuses(result) == ["succeeded", "rejected"]


def test_a_compensation_is_judged_by_the_rules_of_its_own_moment(project, clock):
    def forbid():
        edit(project, TOML % 'deny = ["back"]')
        project.trust()

    async def fails(parameters, ctx):
        raise RuntimeError

    rt = running(project, clock, forbid)
    for name, function in (("back", nothing), ("fails", fails)):
        rt.register(binding(name, function))
    back = {"type": "tool", "tool": "back", "parameters": {}}
    done = call("first", "done", reversibility="compensable", compensation=back)
    result = execute(rt, done, call("fails", max_retries=0))
    [left] = [one for one in result.not_undone if one.action_id == "done"]
    assert "policy_denied" in left.detail


def test_an_edit_that_is_not_trusted_changes_nothing_and_is_announced_once(project, clock):
    rt = running(project, clock, lambda: edit(project))
    told = []
    rt.subscribe(notices=told.append)
    result = execute(rt, call("first"), call("first"), call("second"))
    assert result.ok
    [event] = announced(project, result)
    assert "what was last trusted stays in force" in event["problem"]
    assert told == [event["problem"]]


def test_a_broken_edit_changes_nothing_and_a_deleted_file_does_not_either(project, clock):
    rt = running(project, clock, lambda: edit(project, "rules = ["))
    assert execute(rt, call("first"), call("second")).ok
    (project.root / "interlock.toml").unlink()
    assert execute(rt, call("first"), call("second")).ok


def test_an_edit_that_keeps_size_and_time_of_the_file_is_seen(new_project, clock):
    project = new_project(toml=TOML % 'deny = ["others"]')
    path = project.root / "interlock.toml"

    def forbid():
        before = path.stat()
        edit(project, TOML % 'deny = ["second"]')
        project.trust()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size

    rt = running(project, clock, forbid)
    rt.register(binding("others", nothing))
    assert reasons(execute(rt, call("first"), call("second", failure_behavior="skip"))) == [None, "policy_denied"]


def test_the_files_are_looked_at_no_more_than_every_100_ms(project, clock, monkeypatch):
    rt = project.open(binding("second", nothing), clock=clock)
    looks = []
    reload = rt.services.reload
    monkeypatch.setattr(reload, "_look", lambda look=reload._look: looks.append(None) or look())
    execute(rt, *[call("second") for _ in range(500)])
    assert len(looks) == 1, "at the beginning of the run"
