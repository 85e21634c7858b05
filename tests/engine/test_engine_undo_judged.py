"""What an agent's undo writes is asked like any other write: capability and policy of each path and key; force is asked too."""

import asyncio

import pytest
from engine_world import call, execute, reasons, statuses, write
from test_engine_approvals import ME

TOML = """
agent = "coder"

[rules]
allow = ["*", "state_read", "state_write", "assert"]
{rules}
[policy]
files = ["own.cedar"]

[grants.coder]
tools = {tools}
unscoped = ["*"]
paths = {paths}

[guard]
cpu = 1.0
memory = 1.0
disk = 1.0
zombies = 100000
"""
CHANGES = [
    call("fs.write", "w", parameters={"path": "secret/key", "content": "new"}),
    call("fs.write", "n", parameters={"path": "fresh", "content": "new"}),
    write("gate", "closed", "c"),
]


@pytest.fixture
def world(new_project):
    """Opens a runtime in which the agent has made its changes under mild rules, and then the given ones hold."""

    def make(policy="", rules="", tools='["*"]', paths='{ read = ["**"], write = ["**"] }'):
        mild = TOML.format(rules="", tools='["*"]', paths='{ read = ["**"], write = ["**"] }')
        project = new_project(toml=mild, files=[("secret/key", "old"), ("own.cedar", "// none")])
        with project.open() as rt:
            done = execute(rt, write("gate", "open"), *CHANGES)
            assert done.status == "succeeded", done.results
        (project.root / "interlock.toml").write_text(TOML.format(rules=rules, tools=tools, paths=paths))
        (project.root / "own.cedar").write_text(policy or "// none")
        project.trust()
        rt = project.open()
        rt.services.desk.wait = False
        return project, rt, done.run_id

    return make


def undo(rt, run, **parameters):
    return execute(rt, call("undo", "u", parameters={"run": run, **parameters}))


def untouched(project, rt):
    assert (project.root / "secret/key").read_text() == "new"
    assert (project.root / "fresh").read_text() == "new"
    assert rt.services.store.get("gate").value == "closed"


@pytest.mark.parametrize(
    ("given", "reason", "named"),
    [
        ({"policy": 'forbid (principal, action == Action::"fs.write", resource);'}, "policy_denied", "secret/key"),
        ({"policy": 'forbid (principal, action == Action::"fs.delete", resource);'}, "policy_denied", "fresh"),
        ({"policy": 'forbid (principal, action == Action::"state_write", resource);'}, "policy_denied", "gate"),
        ({"tools": '["undo", "fs.delete"]'}, "capability_denied", "secret/key"),
        ({"paths": '{ read = ["**"], write = ["fresh"] }'}, "path_denied", "secret/key"),
    ],
)
def test_one_write_that_is_refused_refuses_the_undo_and_nothing_is_touched(world, given, reason, named):
    project, rt, run = world(**given)
    result = undo(rt, run)
    assert (statuses(result), reasons(result)) == (["rejected"], [reason])
    assert named in result.results[0].error
    untouched(project, rt)


def test_state_that_is_asked_about_is_asked_about_in_an_undo(world):
    """An agent opens no gate again by undoing the closing of it."""
    project, rt, run = world(rules='ask = ["state_write"]')
    result = undo(rt, run)
    assert (statuses(result), reasons(result)) == (["held"], ["held"])
    (hold,) = rt.services.desk.store.list_holds()
    assert "`state_write` of `gate`" in hold.reason
    untouched(project, rt)


def test_the_question_names_what_is_written_and_an_approval_lets_it_through(world):
    project, rt, run = world(rules='ask = ["fs.write", "fs.delete"]')
    result = undo(rt, run)
    (hold,) = rt.services.desk.store.list_holds()
    assert "secret/key" in hold.reason
    assert "fresh" in hold.reason
    rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)
    (after,) = asyncio.run(rt.runs.resume(result.run_id))
    assert statuses(after) == ["succeeded"], after.results
    assert (project.root / "secret/key").read_text() == "old"
    assert not (project.root / "fresh").exists()


def test_what_was_approved_is_what_is_undone(world):
    """The files are part of the question: if one of them changes before the undo begins, it is asked anew."""
    project, rt, run = world(rules='ask = ["fs.write"]')
    result = undo(rt, run, force=True)
    (hold,) = rt.services.desk.store.list_holds()
    assert [file.path for file in hold.files] == ["fresh", "secret/key"]
    rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)
    (project.root / "secret/key").write_text("a person's")
    (after,) = asyncio.run(rt.runs.resume(result.run_id))
    assert statuses(after) == ["held"]
    assert (project.root / "secret/key").read_text() == "a person's"


def test_one_action_is_judged_by_what_it_writes(world):
    _, rt, run = world(policy='forbid (principal, action == Action::"fs.write", resource);')
    assert statuses(undo(rt, run, action="n")) == ["succeeded"]


def test_force_by_an_agent_is_asked_even_where_everything_is_allowed(world):
    project, rt, run = world()
    (project.root / "fresh").write_text("a person's")
    result = undo(rt, run, force=True)
    assert statuses(result) == ["held"]
    (hold,) = rt.services.desk.store.list_holds()
    assert "force" in hold.reason
    assert (project.root / "fresh").read_text() == "a person's"


def test_a_compensation_does_not_get_around_the_rules(world):
    """An undo that is named as a compensation is judged as well."""
    project, rt, run = world(policy='forbid (principal, action == Action::"fs.write", resource);')
    result = execute(
        rt,
        call("shell", "s", parameters={"command": "true"},
             compensation={"type": "tool", "tool": "undo", "parameters": {"run": run}}),
        call("shell", "f", parameters={"command": "false"}),
    )  # fmt: skip
    assert result.status == "failed"
    untouched(project, rt)


def test_a_persons_own_undo_is_not_asked(world):
    project, rt, run = world(
        policy='forbid (principal, action == Action::"fs.write", resource);', rules='ask = ["state_write"]'
    )
    assert asyncio.run(rt.runs.undo(run, force=True)).status == "succeeded"
    assert (project.root / "secret/key").read_text() == "old"


def test_a_rule_of_the_program_about_writes_is_asked_about_an_undo(world):
    project, rt, run = world()
    rt.rules.add("frozen", lambda request: "secret" in str(request.parameters.get("path")), tools=["fs.write"])
    row = undo(rt, run).results[0]
    assert (row.status, row.reason) == ("rejected", "policy_denied")
    assert "code:frozen" in row.error
    untouched(project, rt)
