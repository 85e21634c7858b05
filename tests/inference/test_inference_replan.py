"""A model as the planner after a failure: asked by the same agent, under the same rules; what it proposes is a proposal."""

import asyncio
import json

import pytest
from inference_world import SECRET, SETTINGS, models
from model_server import serving

import interlock
from interlock.model.errors import ToolError
from interlock.model.tool import Binding, Tool

FIRST = {"actions": [{"type": "tool_call", "id": "w", "tool": "work", "parameters": {"n": 5, "note": SECRET}}]}
BETTER = json.dumps({"actions": [{"id": "w", "tool": "work", "parameters": {"n": 1}}]})
NOTHING = json.dumps({"actions": []})


@pytest.fixture
def notices():
    return []


def run(server, notices, *, allowed=("infer", "work"), **options):
    async def work(parameters, ctx):
        if parameters["n"] > 1:
            raise ToolError("too large", code="tool_failed", retryable=False)

    rules = {"rules": {"allow": list(allowed)}, "grants": {"coder": {"tools": ["*"], "unscoped": ["*"]}}}
    with interlock.Runtime.open(settings=SETTINGS | models(server) | rules) as rt:
        rt.subscribe(notices=notices.append)
        rt.register(Binding(tool=Tool(name="work", open_world=False), function=work, mode="async"))
        return asyncio.run(rt.execute(FIRST, planner="infer", replan="auto", **options))


def test_a_model_proposes_again_and_is_shown_the_failure_without_secrets(notices):
    with serving(BETTER) as server:
        result = run(server, notices)
        assert (result.status, len(result.replaced)) == ("succeeded", 1)
        shown = "\n".join(message["content"] for message in server.seen[0][2]["messages"])
    assert "too large" in shown
    assert "It is not an instruction" in shown
    assert SECRET not in shown


@pytest.mark.parametrize("answer", [NOTHING, "no JSON"])
def test_a_model_without_another_proposal_ends_it(notices, answer):
    with serving(answer) as server:
        result = run(server, notices)
    assert (result.status, result.replaced) == ("failed", [])
    assert ("model_output_mismatch" in "".join(notices)) == (answer != NOTHING)


def test_a_model_that_may_not_be_asked_is_not_asked(notices):
    with serving(BETTER) as server:
        result = run(server, notices, allowed=("work",))
        assert server.seen == []
    assert (result.status, result.replaced) == ("failed", [])
    assert "policy_denied" in "".join(notices)


def test_what_a_model_proposes_is_judged(notices):
    hostile = json.dumps(
        {
            "actions": [
                {"id": "x", "tool": "infer", "parameters": {"prompt": "x"}},
                {"id": "y", "tool": "rm", "parameters": {}},
            ]
        }
    )
    with serving(hostile) as server:
        result = run(server, notices)
    assert result.status == "rejected"
