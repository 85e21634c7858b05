"""Calls of the gateway that nothing can hold or undo share a run: each is decided, recorded and stopped by itself as before."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from servers_world import CONFIGURATION, text_of, tool

from interlock.engine.kit import shared_runs
from interlock.model import events as e
from interlock.model.errors import HeldError

ECHO = tool("echo", "text")
GATEWAY = [sys.executable, "-c", "from interlock.surfaces.cli.main import main; main()"]


def call(runtime, name, session="one", **parameters):
    return runtime.call(name, parameters, session=session, wait=False, resume_held=True)


async def warm(runtime, *names, session="one") -> None:
    """The first call of a tool shows whether the rules allow all its calls; it has a run of its own."""
    for name in names:
        await call(runtime, name, session, text="warm")


def test_calls_share_a_run_which_ends_soon_after_the_last(project, monkeypatch):
    monkeypatch.setattr(shared_runs, "IDLE_S", 0.2)
    runtime = project.ready(ECHO, tool("fail"))

    async def use():
        await warm(runtime, "s/echo", "s/fail")
        done = [await call(runtime, "s/echo", text=str(n)) for n in range(3)]
        done += await asyncio.gather(*(call(runtime, "s/echo", text=str(n)) for n in range(3, 6)))
        refused = await call(runtime, "s/echo", other="x")
        failed = await call(runtime, "s/fail", text="")
        while runtime.runs.get(done[0].run_id).status == "running":
            await asyncio.sleep(0.05)
        later = await call(runtime, "s/echo", text="later")
        return done, refused, failed, later

    done, refused, failed, later = asyncio.run(use())
    assert [text_of(each) for each in done] == [f"echo: {n}" for n in range(6)]
    assert (refused.reason, failed.reason) == ("invalid_parameters", "tool_failed")
    assert len({each.run_id for each in (*done, refused, failed)}) == 1
    assert later.run_id != done[0].run_id
    runtime.close()
    with project.open() as again:
        row = again.runs.get(done[0].run_id)
        assert (row.status, row.source, row.actions, row.succeeded, row.failed, row.rejected) == (
            "failed", "calls", 8, 6, 1, 1,
        )  # fmt: skip
        assert again.runs.get(later.run_id).status == "succeeded"
        events = list(again.runs.events(row.run_id))
        results = again.runs.results(row.run_id)
    assert [each.results[0].status for each in results] == ["succeeded"] * 6 + ["rejected", "failed"]
    assert len({each.results[0].action_id for each in results}) == 8
    for each in results:
        own = [event for event in events if event.proposal == each.proposal_id]
        kinds = [type(event) for event in own]
        assert kinds[0] is e.ProposalReceived
        assert kinds[-1] is e.ProposalFinished
        if each.results[0].status == "succeeded":
            assert kinds.index(e.PolicyDecided) < kinds.index(e.ActionIntent) < kinds.index(e.ActionSucceeded)


@pytest.mark.parametrize(
    ("rules", "more"),
    [
        (CONFIGURATION, "writes = true\n"),
        (CONFIGURATION + "[budget.run]\ntool_calls = 1\n", ""),
        (CONFIGURATION + '[tools."s/echo"]\nrate_limit = { calls = 9, per = "1m" }\n', ""),
        (CONFIGURATION.replace('unscoped = ["s/*"]', 'unscoped = ["s/*"]\nuses_max = 9'), ""),
    ],
)
def test_calls_that_could_be_undone_counted_or_wait_have_runs_of_their_own(project, rules, more):
    runtime = project.ready(ECHO, rules=rules, more=more)

    async def use():
        return [await call(runtime, "s/echo", text=str(n)) for n in range(3)]

    done = asyncio.run(use())
    assert [each.status for each in done] == ["succeeded"] * 3
    assert len({each.run_id for each in done}) == 3


def test_agents_and_sessions_do_not_share(project):
    runtime = project.ready(ECHO)

    async def use():
        await warm(runtime, "s/echo")
        return [await call(runtime, "s/echo", session, text="x") for session in ("one", "two", "one")]

    one, two, again = asyncio.run(use())
    assert one.run_id == again.run_id != two.run_id
    assert runtime.runs.get(two.run_id).session == "two"


def test_a_cancelled_call_stops_and_the_others_of_its_run_continue(project):
    runtime = project.ready(ECHO, tool("never"))

    async def cancelled() -> None:
        waiting = asyncio.create_task(call(runtime, "s/never", text=""))
        await asyncio.sleep(0.3)
        assert text_of(await call(runtime, "s/echo", "two", text="beside")) == "echo: beside"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def use():
        await warm(runtime, "s/echo")
        await cancelled()  # the first call of the tool
        before = await call(runtime, "s/echo", text="before")
        await cancelled()
        return before, await call(runtime, "s/echo", text="after")

    before, after = asyncio.run(use())
    assert before.run_id == after.run_id
    assert (text_of(before), text_of(after)) == ("echo: before", "echo: after")
    found = runtime.runs.results(before.run_id)
    assert [each.status for each in found] == ["succeeded", "cancelled", "succeeded"]
    stops = [event for event in runtime.runs.events(before.run_id) if isinstance(event, e.StopRequested)]
    assert [(event.proposal, event.surface) for event in stops] == [(found[1].proposal_id, "call")]


def test_a_rule_that_begins_to_ask_holds_the_next_call_and_its_approval_gives_its_own_result(project):
    runtime = project.ready(ECHO)

    async def use():
        await warm(runtime, "s/echo")
        before = [await call(runtime, "s/echo", text=str(n)) for n in range(3)]
        project.configure(CONFIGURATION.replace("allow", "ask") + project.server)
        with pytest.raises(HeldError) as held:
            await call(runtime, "s/echo", text="asked")
        runtime.approvals.approve(held.value.approval)
        return before, held.value, await call(runtime, "s/echo", text="asked")

    before, held, approved = asyncio.run(use())
    assert held.run_id == approved.run_id != before[0].run_id
    assert text_of(approved) == "echo: asked"


def test_a_call_that_is_held_in_a_shared_run_after_all_ends_the_run_and_continues_in_it(project, monkeypatch):
    """The rules can change between the choice of the run and the judgement."""
    runtime = project.ready(ECHO)

    async def use():
        await warm(runtime, "s/echo")
        before = [await call(runtime, "s/echo", text=str(n)) for n in range(3)]
        monkeypatch.setattr(shared_runs.SharedRuns, "suits", lambda runs, *_: runs._services.refresh() or True)
        project.configure(CONFIGURATION.replace("allow", "ask") + project.server)
        with pytest.raises(HeldError) as held:
            await call(runtime, "s/echo", text="asked")
        assert runtime.runs.get(held.value.run_id).status == "held"
        monkeypatch.undo()
        runtime.approvals.approve(held.value.approval)
        await runtime.runs.resume(held.value.run_id)  # as `interlock serve` does, before the agent calls again
        return before, held.value, await call(runtime, "s/echo", text="asked")

    before, held, approved = asyncio.run(use())
    assert before[0].run_id == held.run_id == approved.run_id
    assert text_of(approved) == "echo: asked"
    assert runtime.runs.get(held.run_id).status == "succeeded"


class Killed:
    """A gateway that is killed."""

    def __init__(self, project) -> None:
        self._process = subprocess.Popen(
            [*GATEWAY, "gateway"], cwd=project.root, env=project.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._number = 0

    def send(self, method, **params) -> None:
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def request(self, method, **params):
        self.send(method, **params)
        while (message := json.loads(self._process.stdout.readline())).get("id") != self._number:
            pass
        return message["result"]

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.mark.parametrize("in_flight", [False, True])
def test_after_a_kill_only_what_was_under_way_is_unknown(project, in_flight):
    project.ready(ECHO, tool("never", "text")).close()
    gateway = Killed(project)
    gateway.request(
        "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "t", "version": "1"}
    )
    for number in range(4):
        said = gateway.request("tools/call", name="s_echo", arguments={"text": str(number)})
        assert said["content"][0]["text"] == f"echo: {number}"
    if in_flight:
        gateway.send("tools/call", name="s_never", arguments={"text": "x"})
        # Another answer after it: the call under way is in the journal.
        assert gateway.request("tools/call", name="s_echo", arguments={"text": "4"})["isError"] is False
    gateway.kill()
    with project.open() as runtime:
        left = runtime.runs.recover()
        rows = {row.run_id: row for row in runtime.runs.list()}
        shared = next(row for row in rows.values() if row.source == "calls")
        if not in_flight:
            assert left == []
            assert (shared.status, shared.actions, shared.succeeded) == ("succeeded", 3, 3)
            return
        unknown = [each for each in left if each.actions]
        assert [each.need for each in unknown] == ["settle"]
        run, (action,) = unknown[0].run_id, unknown[0].actions
        results = asyncio.run(runtime.runs.resume(run, {action: "failed"}))
        assert [each.results[0].status for each in results] == ["failed"]
        assert runtime.runs.get(run).status == "failed"
        assert runtime.runs.get(shared.run_id).succeeded >= 3
