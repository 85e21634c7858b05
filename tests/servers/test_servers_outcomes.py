"""What is known about a call that was given up: a server that has it may carry it out nevertheless."""

from __future__ import annotations

import asyncio
import time

import pytest
from servers_world import SAME_PIDS, tool

from interlock.model import events as e

LATE = tool("late", "path")
SHORT = '[tools."s/late"]\ntimeout = "200ms"\n'


def started(project, **options):
    """A runtime whose server is running, so that a time-out is that of the call."""
    runtime = project.ready(LATE, tool("say"), rules=SAME_PIDS, **options)
    assert runtime.call_sync("s/say").ok
    return runtime


def effects(project, count: int) -> int:
    """How often the tool had its effect, once it had it `count` times."""
    path, until = project.root / "effects", time.monotonic() + 20
    while (found := len(path.read_text()) if path.exists() else 0) < count and time.monotonic() < until:
        time.sleep(0.02)
    return found


def last_event(runtime, run_id: str) -> e.Event:
    return [each for each in runtime.runs.events(run_id) if type(each).__name__.startswith("Action")][-1]


def test_a_call_that_timed_out_at_its_server_has_an_unknown_outcome(project):
    runtime = started(project, more=SHORT)
    late = runtime.call_sync("s/late", {"path": "effects"})
    assert (late.status, late.reason) == ("unknown_outcome", "timeout")
    assert "the MCP server `s` had received the call, and may carry it out" in late.error
    assert effects(project, 1) == 1
    event = last_event(runtime, late.run_id)
    assert (type(event), event.reason) == (e.ActionUnknown, "timeout")


def test_a_call_that_timed_out_at_its_server_is_not_sent_again(project):
    runtime = started(project, more=SHORT)
    action = {"type": "tool_call", "id": "a", "tool": "s/late", "parameters": {"path": "effects"}}
    found = runtime.execute_sync({"actions": [{**action, "failure_behavior": "retry", "max_retries": 3}]})
    row = found.results[0]
    assert (row.status, row.attempts) == ("unknown_outcome", 1)
    assert effects(project, 1) == 1


def test_a_call_that_its_caller_gave_up_has_an_unknown_outcome(project):
    runtime = started(project)

    async def use() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await runtime.call("s/late", {"path": "effects"}, wait=False, resume_held=True)

    asyncio.run(use())
    assert effects(project, 1) == 1
    run_id = max(runtime.runs.list(), key=lambda run: run.started_us).run_id
    assert isinstance(last_event(runtime, run_id), e.ActionUnknown)


def test_a_call_whose_server_was_lost_has_an_unknown_outcome(project):
    runtime = project.ready(LATE, rules=SAME_PIDS)
    lost = runtime.call_sync("s/late", {"path": "effects", "dies": True})
    assert (lost.status, lost.reason) == ("unknown_outcome", "server_lost")
    assert "whether it had any effect is unknown" in lost.for_model()
    assert effects(project, 1) == 1


def test_a_call_that_was_not_sent_failed(project):
    """Nothing is unknown about a call that its server never got."""
    runtime = project.ready(LATE, more=SHORT, rules=SAME_PIDS)
    project.script(LATE, delay=1)
    never = runtime.call_sync("s/late", {"path": "effects"})
    assert (never.status, never.reason) == ("failed", "timeout")
    time.sleep(1.5)
    assert effects(project, 0) == 0


def test_a_call_that_only_reads_has_no_outcome_to_know(project):
    more = 'read_only = ["*"]\n' + SHORT
    late = started(project, more=more).call_sync("s/late", {"path": "effects"})
    assert (late.status, late.reason) == ("failed", "timeout")
