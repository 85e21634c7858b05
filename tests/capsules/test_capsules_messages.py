"""Messages: the event bus between capsules and the program, and uplinks for messages of people."""

from __future__ import annotations

import asyncio
import json

import pytest
from capsules_world import call, refusal

from interlock.executors.capsules.bus import (
    PUBLISHED_PER_S,
    QUEUE_MESSAGES_MAX,
    SUBSCRIPTIONS_MAX,
    Bus,
    Owner,
)
from interlock.executors.capsules.uplinks import CHANNEL_MAX
from interlock.model.errors import ConfigurationError, ToolError, UsageError

IPC = 'ipc_publish = ["build.done", "seen", "sent"]\nipc_subscribe = ["build.*", "interlock.run.*", "news"]'
UPLINK = '[[uplink]]\nname = "chat"\nplatform = "test"\n'


def make(world, name="c", **options):
    world.add_host(name, IPC, "ipc-publish", "ipc-subscribe", "uplink", limits=UPLINK, **options)


def test_a_message_reaches_subscriptions_of_the_agent_and_of_the_program_by_topic(world):
    make(world)
    make(world, "d")
    world.configure()
    runtime = world.open()
    mine = call(runtime, "subscribe", {"t": "build.*"}, "d").output
    others = call(runtime, "subscribe", {"t": "build.*"}, "d", agent="other").output
    here, elsewhere = runtime.bus.subscribe("build.done"), runtime.bus.subscribe("build.done.twice")
    assert call(runtime, "publish", {"t": "build.done", "d": "1"}).ok
    assert call(runtime, "poll", {"i": str(mine), "n": "9"}, "d").output == [
        {"topic": "build.done", "from": "c", "data": "1"}
    ]
    assert [one["topic"] for one in runtime.bus.poll(here)] == ["build.done"]
    assert runtime.bus.poll(elsewhere) == []
    assert call(runtime, "poll", {"i": str(others), "n": "9"}, "d", agent="other").output == []
    # a subscription is its owner's
    assert refusal(runtime, "poll", {"i": str(mine), "n": "9"}, capsule="d", agent="other") == "not_found"
    assert refusal(runtime, "poll", {"i": str(mine), "n": "9"}) == "not_found"
    assert call(runtime, "unsubscribe", {"i": str(mine)}, "d").ok
    assert refusal(runtime, "poll", {"i": str(mine), "n": "9"}, capsule="d") == "not_found"


def test_topics_that_the_manifest_does_not_name_are_refused(world):
    make(world)
    world.configure()
    runtime = world.open()
    for topic in ("other", "interlock.run.started", "build.*", "build"):
        assert refusal(runtime, "publish", {"t": topic, "d": "1"}) == "not_declared"
    for topic in ("other", "*.done", "*.*", "interlock.hold.asked"):
        assert refusal(runtime, "subscribe", {"t": topic}) == "not_declared"


def test_a_capsule_hears_of_the_runs_of_its_agent(world):
    make(world)
    world.configure()
    runtime = world.open()
    number = call(runtime, "subscribe", {"t": "interlock.run.started"}).output
    call(runtime, "poll", {"i": str(number), "n": "99"})
    told = runtime.call_sync("fs.list", {"path": "."})
    runtime.call_sync("fs.list", {"path": "."}, agent="other")
    found = call(runtime, "poll", {"i": str(number), "n": "99"}).output
    assert told.run_id in [json.loads(one["data"])["run"] for one in found]
    assert {one["from"] for one in found} == {"interlock"}
    assert len(found) == 2  # that call, and the one that asks


def test_a_flood_is_told_to_its_sender_leaves_a_gap_and_loses_nothing_of_others():
    now = [0]
    bus = Bus(lambda: now[0])
    slow, quick = bus.subscribe(Owner("slow", "a"), "t"), bus.subscribe(Owner("quick", "a"), "t")
    refused = seen = 0
    for number in range(QUEUE_MESSAGES_MAX + 50):
        now[0] += 1_000_000_000
        try:
            bus.publish(Owner("c", "a"), "t", str(number).encode())
        except ToolError:
            refused += 1
        seen += len(bus.poll(Owner("quick", "a"), quick, 10))
    assert (refused, seen) == (50, QUEUE_MESSAGES_MAX + 50)
    found = bus.poll(Owner("slow", "a"), slow, 1_000)
    assert [one["data"] for one in found[:-1]] == [str(number) for number in range(QUEUE_MESSAGES_MAX)]
    assert found[-1] == {"gap": 50}
    # by bytes, too
    for _ in range(16):
        now[0] += 1_000_000_000
        bus.publish(Owner("c", "a"), "t", bytes(64 * 1024))
    with pytest.raises(ToolError, match="queues are full"):
        bus.publish(Owner("c", "a"), "t", b"x" * 1024)
    with pytest.raises(ToolError, match="at most"):
        bus.publish(Owner("c", "a"), "t", bytes(64 * 1024 + 1))


def test_a_capsule_that_publishes_too_quickly_is_slowed_and_others_are_not():
    now = [0]
    bus = Bus(lambda: now[0])
    for _ in range(PUBLISHED_PER_S):
        bus.publish(Owner("c", "a"), "t", b"")
    with pytest.raises(ToolError, match="a second"):
        bus.publish(Owner("c", "a"), "t", b"")
    bus.publish(Owner("d", "a"), "t", b"")
    now[0] += 1_000_000_000 // PUBLISHED_PER_S
    bus.publish(Owner("c", "a"), "t", b"")


def test_subscriptions_are_bounded_and_end_with_the_capsule():
    bus = Bus(lambda: 0)
    owner = Owner("c", "a")
    numbers = [bus.subscribe(owner, "t") for _ in range(SUBSCRIPTIONS_MAX)]
    with pytest.raises(ToolError, match="already"):
        bus.subscribe(owner, "t")
    bus.drop("c")
    with pytest.raises(ToolError, match="no subscription"):
        bus.poll(owner, numbers[0], 1)


def test_a_message_has_on_message_called_through_the_gate_before_the_publisher_has_its_result(world):
    make(world, more='on_message = ["news", "build.done"]')
    world.configure()
    runtime = world.open()
    seen = runtime.bus.subscribe("seen")
    asyncio.run(runtime.bus.publish("news", "hello"))
    assert [json.loads(one["data"]) for one in runtime.bus.poll(seen)] == [
        {"topic": "news", "from": "program", "data": "hello"}
    ]
    assert call(runtime, "publish", {"t": "build.done", "d": "1"}, agent="other").ok
    assert [json.loads(one["data"])["from"] for one in runtime.bus.poll(seen)] == ["c"]
    with pytest.raises(UsageError, match="not a topic"):
        asyncio.run(runtime.bus.publish("interlock.run.started"))


def test_messages_that_lead_to_one_another_end(world):
    make(world, more='on_message = ["build.done"]')
    manifest = world.root / "c/capsule.toml"
    manifest.write_text(
        manifest.read_text()
        .replace('"build.*"', '"seen", "build.*"')
        .replace("on_message = [", 'on_message = ["seen", ')
    )
    world.configure()
    runtime = world.open()
    seen = runtime.bus.subscribe("seen")
    result = call(runtime, "publish", {"t": "build.done", "d": "1"})
    assert result.ok
    assert 2 <= len(runtime.bus.poll(seen)) <= 5


def test_on_message_needs_a_topic_that_is_subscribed(world):
    make(world, more='on_message = ["other"]')
    with pytest.raises(ConfigurationError, match="ipc_subscribe"):
        world.configure()


def test_what_an_uplink_brings_in_is_read_once_and_a_full_channel_is_told_to_the_sender(world):
    make(world)
    world.configure()
    runtime = world.open()
    message = {"uplink": "chat", "user": "ann", "content": "hi", "context": {"room": 1}}
    assert call(runtime, "bring", message).ok
    assert refusal(runtime, "bring", {**message, "uplink": "none"}) == "not_found"
    assert refusal(runtime, "bring", {"uplink": "chat"}) == "invalid_parameters"
    assert call(runtime, "connect", {"n": "more", "p": "irc", "f": "bot"}).ok
    assert refusal(runtime, "connect", {"n": "chat", "p": "irc", "f": "bot"}) == "conflict"
    assert refusal(runtime, "connect", {"n": "No Name", "p": "irc", "f": "bot"}) == "invalid_parameters"
    assert [(one.name, one.platform, one.declared) for one in runtime.capsules.connectors] == [
        ("chat", "test", True),
        ("more", "irc", False),
    ]
    uplinks = runtime.services.capsules.post.uplinks
    for _ in range(CHANNEL_MAX - 1):
        uplinks.receive("c", "chat", "ann", "more", None)
    assert refusal(runtime, "bring", message) == "limit_exceeded"

    async def read():
        found = [await anext(stream := runtime.inbound())]
        with pytest.raises(UsageError, match="already have a reader"):
            await anext(runtime.inbound())
        found += [await anext(stream) for _ in range(CHANNEL_MAX - 1)]
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        uplinks.receive("c", "chat", "bob", "last", None)
        return found, await waiting

    found, last = asyncio.run(read())
    assert (found[0].uplink, found[0].platform, found[0].user, found[0].content) == ("c/chat", "test", "ann", "hi")
    assert (found[0].context, found[0].received_us > 0) == ({"room": 1}, True)
    assert (len(found), last.user) == (CHANNEL_MAX, "bob")


def test_a_message_is_sent_out_through_the_gate(world):
    make(world)
    world.configure()
    runtime = world.open()
    sent = runtime.bus.subscribe("sent")
    assert asyncio.run(runtime.send("c/chat", "ann", "hello")).ok
    assert json.loads(runtime.bus.poll(sent)[0]["data"]) == {"uplink": "chat", "user": "ann", "content": "hello"}
    with pytest.raises(UsageError, match="no uplink"):
        asyncio.run(runtime.send("c/none", "ann", "hello"))
