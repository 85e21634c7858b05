"""A shared run through the command line, with a server on the official SDK: finished, open, and after a kill in a call."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_servers_shared_runs import GATEWAY, Killed

SDK = Path(__file__).parent / "sdk_server.py"
RULES = """
[rules]
allow = ["sdk/*"]

[grants.agent]
tools = ["sdk/*"]
unscoped = ["sdk/*"]

[mcp.servers.sdk]
"""
pytestmark = pytest.mark.slow


class Client(Killed):
    """A client of a gateway in front of the server, whose first call of `add` had a run of its own."""

    def __init__(self, project) -> None:
        (project.root / "sdk.py").write_bytes(SDK.read_bytes())
        project.configure(RULES + f"command = {json.dumps([sys.executable, 'sdk.py'])}\n")
        project.lock()
        super().__init__(project)
        self._project = project
        who = {"name": "t", "version": "1"}
        self.request("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=who)
        self.add(0)

    def add(self, a: int) -> str:
        """Call `add`; the id of the call's run."""
        found = self.request("tools/call", name="sdk_add", arguments={"a": a, "b": 1})
        assert found["structuredContent"] == {"result": a + 1}, found
        return found["_meta"]["interlock/run"]

    def begin_to_wait(self) -> None:
        """Begin a call that takes a minute, in the shared run."""
        assert self.request("tools/call", name="sdk_wait", arguments={"seconds": 0})["isError"] is False
        self.send("tools/call", name="sdk_wait", arguments={"seconds": 60})

    def end(self) -> None:
        self._process.communicate(timeout=60)

    def interlock(self, *arguments: str, code: int = 0) -> str:
        """Run a command, which must end with this code; what it says."""
        done = subprocess.run(
            [*GATEWAY, *arguments],
            cwd=self._project.root,
            env=self._project.env,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done
        return done.stdout + done.stderr


@pytest.fixture
def agent(project):
    client = Client(project)
    yield client
    if client._process.poll() is None:
        client.kill()


def test_a_finished_one_is_shown_checked_and_not_undone(agent):
    run = agent.add(1)
    assert agent.add(2) == run
    agent.end()
    assert "2/2" in next(line for line in agent.interlock("runs", "list").splitlines() if run[:12] in line)
    shown = agent.interlock("runs", "show", run)
    assert f"{run}  succeeded, agent agent, from calls" in shown
    assert [line.split()[:3] for line in shown.splitlines() if "sdk/add" in line] == [
        ["ok", "call_1", "sdk/add"], ["ok", "call_2", "sdk/add"],
    ]  # fmt: skip
    checked = agent.interlock("runs", "check", run)
    assert checked.startswith("whole: ")
    assert "signed up to event" in checked
    undone = agent.interlock("undo", run, code=1)
    assert [line.split(":")[1].strip() for line in undone.splitlines() if line.startswith("not undone")] == [
        "call_2",
        "call_1",
    ]
    assert "nothing was undone: 2 not undone" in undone
    logged = [line for line in agent.interlock("log").splitlines() if run[:12] in line]
    assert [line.split()[4:6] for line in logged[:2]] == [["not", "undone"]] * 2
    assert agent.interlock("runs", "check", run).startswith("whole: ")


def test_the_undo_of_an_open_one_ends_it_and_the_agent_goes_on_in_another(agent):
    run = agent.add(1)
    undone = []
    while not undone or undone[0].poll() is None:  # calls follow each other more closely than the run waits for one
        if not undone:
            undone.append(
                subprocess.Popen(
                    [*GATEWAY, "undo", run],
                    cwd=agent._project.root,
                    env=agent._project.env,
                    text=True,
                    stdout=subprocess.PIPE,
                )
            )
        agent.add(2)
        time.sleep(0.1)
    said, _ = undone[0].communicate()
    assert undone[0].returncode == 1, said
    assert "not undone: call_1: irreversible" in said
    later = agent.add(3)  # the last call before it may still have been in the undone run
    assert agent.add(4) == later != run
    assert f"{run}  succeeded" in agent.interlock("runs", "show", run)
    assert agent.interlock("runs", "check", run).startswith("whole: ")


def test_one_that_is_stopped_takes_no_further_call(agent):
    run = agent.add(1)
    agent.begin_to_wait()
    assert agent.add(2) == run
    assert "running      call_2  sdk/wait" in agent.interlock("runs", "show", run)
    assert "`call_2` runs (run_locked)" in agent.interlock("undo", run, code=5)
    assert "call_2" in agent.interlock("stop", run, code=1)
    stopped = json.loads(agent._process.stdout.readline())
    assert "[UNKNOWN_OUTCOME] stopped" in stopped["result"]["content"][0]["text"], stopped
    assert agent.add(3) != run
    shown = agent.interlock("runs", "show", run)
    assert f"{run}  cancelled" in shown
    assert "unknown call_2 sdk/wait" in " ".join(shown.split())


def test_after_a_kill_in_a_call_that_call_alone_is_settled_by_a_person(agent):
    run = agent.add(1)
    agent.begin_to_wait()
    assert agent.add(2) == run
    running = [line for line in agent.interlock("log").splitlines() if "running" in line]
    assert [line.split()[-1] for line in running] == ["call_2"]
    agent.kill()
    assert agent.interlock("runs", "check", run).startswith("whole: ")
    assert f"interlock recover {run} --action call_2 --as" in agent.interlock("recover")
    shown = agent.interlock("runs", "show", run)
    assert f"{run}  interrupted" in shown
    assert "unknown      call_2  sdk/wait  interrupted" in shown
    assert "settled as failed" in agent.interlock("recover", run, "--action", "call_2", "--as", "failed", code=1)
    assert "no unfinished runs" in agent.interlock("recover")
    assert "nothing was undone: 3 not undone" in agent.interlock("undo", run, code=1)
    assert agent.interlock("runs", "check", run).startswith("whole: ")


def test_after_a_kill_in_a_call_it_can_be_undone_at_once(agent):
    run = agent.add(1)
    agent.begin_to_wait()
    assert agent.add(2) == run
    agent.kill()
    assert "3 not undone" in agent.interlock("undo", run, code=1)
    assert "no unfinished runs" in agent.interlock("recover")
    checked = agent.interlock("runs", "check", run)
    assert checked.startswith("whole: ")
