"""A held call, answered from anywhere, with anything killed in between: what was approved is done once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from gateway_world import COMMAND, Gateway

ASKING = '[rules]\nask = ["shell"]\n[grants.agent]\ntools = ["shell"]\n'
CALL = {"command": "echo done >> log"}


class Rest:
    """`interlock serve` beside the gateway, and an approver's client of it."""

    def __init__(self, project, token: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--json"], cwd=project.root, env=project.env, stdout=subprocess.PIPE
        )
        url = json.loads(self.process.stdout.readline())["url"]
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def answer(self, hold: str, answer: str) -> None:
        where = f"/api/v1/approvals/{hold}"
        digest = self.client.get(where).raise_for_status().json()["digest"]
        self.client.post(f"{where}/{answer}", json={"digest": digest}).raise_for_status()

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def asking(project):
    """A project in which each command is asked about."""
    project.configure(ASKING)
    return project


@pytest.fixture
def rest(asking) -> Iterator[Rest]:
    token = json.loads(asking.interlock("approvers", "add", "ann", "--json"))["token"]
    served = Rest(asking, token)
    yield served
    served.close()


def log(project) -> str:
    path = project.root / "log"
    return path.read_text() if path.exists() else ""


def begin(gateway: Gateway) -> str:
    """Make the call, and return the id of its question while it waits."""
    params = {"name": "shell", "arguments": CALL, "_meta": {"progressToken": "p"}}
    gateway.send({"jsonrpc": "2.0", "id": "held", "method": "tools/call", "params": params})
    told = gateway.read()
    assert told["method"] == "notifications/progress"
    return told["params"]["message"].partition("interlock approvals approve ")[2].partition("`")[0]


def end(gateway: Gateway) -> dict:
    while (message := gateway.read()).get("id") != "held":
        pass
    return message["result"]


@pytest.mark.parametrize("answer", ["approve", "deny"])
def test_an_answer_over_rest_while_the_agent_waits(asking, rest, answer):
    with asking.gateway("--wait", "1h") as gateway:
        gateway.initialize()
        rest.answer(begin(gateway), answer)
        assert end(gateway)["isError"] is (answer == "deny")
    assert log(asking) == ("done\n" if answer == "approve" else "")


def test_the_gateway_is_killed_and_the_answer_comes_over_rest(asking, rest):
    """`interlock serve` may carry the approved call out before the client calls again: it is done once either way."""
    with asking.gateway("--wait", "1h") as gateway:
        gateway.initialize()
        hold = begin(gateway)
        gateway.process.kill()
        gateway.process.wait()
    rest.answer(hold, "approve")
    with asking.gateway() as gateway:
        gateway.initialize()
        text, is_error = gateway.call("shell", **CALL)
        assert is_error is False, text
    assert log(asking) == "done\n"
    assert json.loads(asking.interlock("approvals", "list", "--json")) == []


def test_the_one_who_answers_is_killed_before_the_agent_comes_back(asking, rest):
    with asking.gateway("--wait", "0s") as gateway:
        gateway.initialize()
        text, _ = gateway.call("shell", **CALL)
        hold = text.partition("interlock approvals approve ")[2].partition("`")[0]
        rest.answer(hold, "approve")
        rest.process.kill()
        rest.process.wait()
        text, is_error = gateway.call("shell", **CALL)
        assert is_error is False, text
        assert log(asking) == "done\n"
        assert gateway.call("shell", **CALL)[0].startswith("[HELD]"), "an approval is for one call"
    assert log(asking) == "done\n"


def test_a_denial_is_reported_when_the_agent_returns_to_another_gateway(asking):
    with asking.gateway("--wait", "0s") as gateway:
        gateway.initialize()
        text, _ = gateway.call("shell", **CALL)
        gateway.process.kill()
        gateway.process.wait()
    hold = text.partition("interlock approvals approve ")[2].partition("`")[0]
    asking.interlock("approvals", "deny", hold, "--reason", "not today")
    with asking.gateway("--wait", "0s") as gateway:
        gateway.initialize()
        text, is_error = gateway.call("shell", **CALL)
        assert is_error
        assert "not today" in text
    assert log(asking) == ""
