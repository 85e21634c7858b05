"""A capsule that runs by itself and brings in messages, until the program ends it."""

from __future__ import annotations

import asyncio
import json

import pytest
from capsules_world import call, name_of

from interlock.model.errors import ConfigurationError, ToolError, UsageError

SLEEP = '(import "interlock:capsule/clock@0.1.0" "sleep" (func $sleep (param i64) (result i64)))'
MESSAGE = '{"uplink":"chat","user":"ann","content":"hi"}'
DATA = f"(data (i32.const 200) {json.dumps(MESSAGE)})"
SEND = f"(drop (call $bring (i32.const 200) (i32.const {len(MESSAGE)})))"
PUBLISH = "(drop (call $publish (i32.const 100) (i32.const 4) (i32.const 32) (i32.const 4)))"
WAIT = "(drop (call $sleep (i64.const 20)))"


def make(world, *body, more="run = true", imports="", declared="", **options):
    loop = f"(loop {' '.join(body)} (br 0)) (unreachable)"
    world.add_host(
        "c",
        'ipc_publish = ["seen", "sent"]\nipc_subscribe = ["seen", "sent"]\n' + declared,
        "ipc-publish",
        "uplink",
        imports=SLEEP + imports,
        top=f'{DATA} (func (export "interlock_run") (result i64) {loop})',
        **{"limits": '[[uplink]]\nname = "chat"\nplatform = "test"\n', "more": more} | options,
    )
    world.configure()
    return world.open()


def journals(runtime):
    """The events of all runs."""
    paths = (runtime.services.state_dir / "runs").glob("*/journal.ndjson")
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


async def ended(task):
    task.cancel()
    await asyncio.wait([task])


def test_it_brings_in_messages_for_longer_than_a_call_may_take(world):
    runtime = make(world, SEND, PUBLISH, WAIT, timeout_ms="800")
    seen = runtime.bus.subscribe("seen")

    async def main():
        loop = asyncio.get_running_loop()
        running = asyncio.ensure_future(runtime.capsules.run("c"))
        first = loop.time()
        async for message in runtime.inbound():
            assert (message.uplink, message.user, message.content) == ("c/chat", "ann", "hi")
            if loop.time() - first > 1.2:
                break
        with pytest.raises(ToolError, match="is already running"):
            await runtime.capsules.run("c")
        assert (
            await runtime.call(f"c/{name_of('bring')}", {"uplink": "chat", "user": "u", "content": "x"})
        ).ok  # beside it
        assert not running.done()
        await ended(running)

    asyncio.run(main())
    assert len(runtime.bus.poll(seen)) > 5
    kinds = [event["kind"] for event in journals(runtime)]
    assert kinds.count("capsule_loaded") == 1


def test_what_it_publishes_is_handled_while_it_runs(world):
    runtime = make(world, PUBLISH.replace("100", "104"), WAIT, more='run = true\non_message = ["sent"]')
    seen = runtime.bus.subscribe("seen")

    async def main():
        running = asyncio.ensure_future(runtime.capsules.run("c"))
        found = []
        while len(found) < 2:
            await asyncio.wait([running], timeout=0.02)
            assert not running.done()
            found += runtime.bus.poll(seen)
        await ended(running)
        return found

    assert {json.loads(one["data"])["topic"] for one in asyncio.run(main())} == {"sent"}


def test_it_ends_with_the_capsule(world):
    runtime = make(world, WAIT)

    async def main():
        running = asyncio.ensure_future(runtime.capsules.run("c"))
        while not runtime.services.capsules._calls._calls.get("c"):
            await asyncio.sleep(0.01)
        assert runtime.capsules.unload("c") == 1
        await running

    asyncio.run(main())
    assert runtime.services.capsules._workers._idle == []


@pytest.mark.parametrize(("body", "reason"), [("(unreachable)", "unreachable"), ("(loop (br 0))", "time-out")])
def test_one_that_fails_is_started_again(world, monkeypatch, body, reason):
    monkeypatch.setattr("interlock.engine.facets.capsules._PAUSE_S", 0.005)
    runtime = make(world, SEND, body, timeout_ms="200")
    told = []
    runtime.services.hooks.notices.append(told.append)

    async def main():
        running = asyncio.ensure_future(runtime.capsules.run("c"))
        stream = runtime.inbound()
        for _ in range(3):
            await anext(stream)
        await ended(running)

    asyncio.run(main())
    assert [reason in line for line in told if "started again" in line][:2] == [True, True]


def test_only_the_program_runs_it_and_the_rules_hold(world):
    runtime = make(world, WAIT)
    assert runtime.call_sync("c/run", {}).reason == "not_available"
    with pytest.raises(UsageError, match="no capsule"):
        asyncio.run(runtime.capsules.run("none"))
    configuration = world.root / "interlock.toml"
    configuration.write_text(configuration.read_text().replace('allow = ["*"]', 'allow = ["*"]\ndeny = ["c/run"]'))
    world.trust()
    with pytest.raises(ToolError, match="policy_denied"):
        asyncio.run(world.open().capsules.run("c"))


def test_it_has_no_files_and_no_tools(world):
    read = '(import "interlock:capsule/fs-read@0.1.0" "read" (func $read (param i32 i32) (result i64)))'
    body = "(drop (call $read (i32.const 32) (i32.const 4)))"
    runtime = make(world, body, SEND, WAIT, imports=read, declared='fs_read = ["**"]')

    async def main():
        running = asyncio.ensure_future(runtime.capsules.run("c"))
        await anext(runtime.inbound())
        await ended(running)

    asyncio.run(main())
    (denied, *_) = [event for event in journals(runtime) if event["kind"] == "capsule_denied"]
    assert (denied["function"], denied["reason"]) == ("fs-read.read", "not_available")


def test_a_manifest_with_run_needs_an_uplink(world):
    with pytest.raises(ConfigurationError, match="no uplink"):
        make(world, WAIT, limits="")


def test_a_call_sleeps_no_longer_than_it_may(world):
    world.add_host("c", "", "clock", timeout_ms="400")
    world.configure()
    runtime = world.open()
    assert call(runtime, "sleep", {"n": "1"}).ok
    assert call(runtime, "sleep", {"n": "5000"}).reason in ("timeout", "tool_failed")
