"""Every caller comes through the same decoder, and a program's own tools stay its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

import pytest
from msgspec.structs import asdict

import interlock
from interlock import ProposalError
from interlock.executors.python import bind, define
from interlock.model.limits import Limits
from interlock.model.proposal import Action, Budget, Proposal
from interlock.verify.checks import verify

SETTINGS = {"rules": {"allow": ["*"]}, "grants": {"agent": {"tools": ["*"], "unscoped": ["*"]}}}


def noop() -> str:
    return "done"


@pytest.fixture
def run():
    with interlock.Runtime.open(settings=SETTINGS) as runtime:
        runtime.register(noop)
        started = runtime.runs.start()
        yield started
        started.finish()


def action(**fields):
    return Action(**{"type": "tool_call", "id": "a", "tool": "noop"} | fields)


@pytest.mark.parametrize(
    "proposal",
    [
        {"actions": [{"type": "tool_call", "tool": "noop"}]},
        '{"actions": [{"type": "tool_call", "tool": "noop"}]}',
        b'{"actions": [{"type": "tool_call", "tool": "noop"}]}',
        Proposal(actions=(action(),)),
    ],
    ids=["mapping", "text", "bytes", "proposal"],
)
def test_a_run_takes_every_form_of_a_proposal(run, proposal):
    result = asyncio.run(run.execute(proposal))
    assert result.results[0].output == "done"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"type": "bogus"}, "$.actions[0].type"),
        ({"id": "x" * 1800 + "/../y"}, "$.actions[0].id"),
        ({"max_retries": -5}, "$.actions[0].max_retries"),
        ({"timeout_ms": 0}, "$.actions[0].timeout_ms"),
        ({"parameters": {"x": 2**60}}, "$.actions[0].parameters.x"),
        ({"tool": None}, "$.actions[0].tool"),
    ],
)
def test_a_proposal_made_by_hand_is_checked_like_any_other(run, fields, path):
    with pytest.raises(ProposalError) as caught:
        asyncio.run(run.execute(Proposal(actions=(action(**fields),))))
    assert caught.value.path == path
    assert run.status == "rejected"


def test_a_malformed_proposal_of_a_run_is_on_record(project):
    runtime = project.open()
    started = runtime.runs.start()
    with pytest.raises(ProposalError):
        asyncio.run(started.execute("{"))
    started.finish()
    (recorded,) = project.runs()
    assert "proposal_rejected" in project.kinds(recorded)


MODULE = """
import interlock

@interlock.tool
def noop() -> str:
    return "of the module"

@interlock.tool
def other() -> str:
    return "of the module"
"""


TOML = """
[tools]
modules = ["mine"]

[rules]
allow = ["noop", "other"]

[grants.agent]
tools = ["*"]
unscoped = ["*"]
"""


def test_a_tool_registered_before_the_first_call_stays_and_a_run_has_the_modules_tools(new_project):
    project = new_project(toml=TOML, files=[("mine.py", MODULE)])
    started = project.open(noop).runs.start()
    proposal = {"actions": [{"type": "tool_call", "tool": name} for name in ("noop", "other")]}
    result = asyncio.run(started.execute(proposal))
    started.finish()
    assert [row.output for row in result.results] == ["done", "of the module"]


def book(day: dt.date, guests: dict[uuid.UUID, int]) -> str:
    raise AssertionError("never called")


WRONG = {"day": "soon", "guests": {"ann": 1}}


def test_what_a_type_demands_is_refused_in_step_3(run):
    run.services.registry.register(bind(book))
    row = asyncio.run(run.execute(Proposal(actions=(action(tool="book", parameters=WRONG),)))).results[0]
    assert (row.status, row.reason) == ("rejected", "invalid_parameters")
    assert "$.day" in row.error


def test_what_a_type_demands_is_refused_by_verify():
    report = verify(Proposal(actions=(action(tool="book", parameters=WRONG),)), {"book": define(book)})
    messages = [issue.message for issue in report.issues if issue.code == "invalid_parameters"]
    assert [message.partition(":")[0] for message in messages] == ["$.day", "$.guests"]


def test_services_are_built_complete_and_never_changed():
    """What changes while a runtime is in use is an object of its own: tools, judges, bounds, listeners."""
    with interlock.Runtime.open(settings=SETTINGS) as runtime:
        before = asdict(runtime.services.bounds)
        with pytest.raises(AttributeError):
            runtime.services.agent = "somebody"
        forked = runtime.fork("helper")
        forked.set_limits(Limits(actions=1))
        forked.set_budget(Budget(actions=1))
        assert forked.services.bounds.limits.actions == 1
        assert asdict(runtime.services.bounds) == before


TOKEN = "gh" + "p_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0cF3hJ6"
PLAIN = {"type": "tool_call", "id": "a", "tool": "noop"}


@pytest.mark.parametrize(
    ("proposal", "path"),
    [
        ({"session": TOKEN, "actions": [PLAIN]}, "$.session"),
        ({"agent": TOKEN, "actions": [PLAIN]}, "$.agent"),
        ({"actions": [PLAIN | {"id": f"use-{TOKEN}"}]}, "$.actions[0].id"),
        ({"actions": [PLAIN, {"type": "state_read", "id": "b", "parameters": {"key": TOKEN}}]}, "$.actions[1]"),
        ({"actions": [PLAIN | {"write_set": [TOKEN]}]}, "$.actions[0]"),
    ],
    ids=["session", "agent", "id", "key", "write_set"],
)
def test_a_name_that_is_a_secret_is_refused_because_names_cannot_be_redacted(run, proposal, path):
    with pytest.raises(ProposalError) as refused:
        asyncio.run(run.execute(proposal))
    assert (refused.value.code, refused.value.path) == ("secret_in_name", path)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("given", ["plan.yaml", "actions: []", b"plan.json"])
def test_a_file_name_in_place_of_a_proposal_is_explained(embedded, given):
    rt = embedded()
    with pytest.raises(ProposalError) as caught:
        rt.execute_sync(given)
    assert "not the name of a file" in caught.value.hint
