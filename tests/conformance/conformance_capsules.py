"""The rows of astrid-capsule. They share one project with capsules, which nothing changes."""

import asyncio
import atexit
import contextlib
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from conformance_table import ASTRID, row

sys.path.insert(0, str(Path(__file__).parents[1] / "capsules"))

from capsules_world import World, call, events, name_of, wat

from interlock.executors.capsules.bus import QUEUE_MESSAGES_MAX
from interlock.executors.capsules.uplinks import CHANNEL_MAX
from interlock.model.errors import ConfigurationError, UsageError
from interlock.settings.manifest import decode_manifest

SMALLEST = '[package]\nname = "hello"\nversion = "0.1.0"\n[component]\nfile = "hello.wasm"\n'
UPLINK = '[[uplink]]\nname = "chat"\nplatform = "test"\n'
FILES = 'fs_read = ["data/*"]\nfs_write = ["data/*"]'


class Shared:
    """The project, and its runtime."""

    def __init__(self, place: Path):
        self.world = World(place / "project", place / "state")
        self.world.add("c")
        self.world.add("lasting", lifetime="capsule")
        self.world.add("fueled", limits="fuel = 100000")
        self.world.add("gone")
        self.world.add("bad", (wat(imports='(import "env" "x" (func))')))
        self.world.add_host("files", FILES, "fs-read", "fs-write")
        self.world.add_host("post", 'ipc_publish = ["a"]', "ipc-publish", "uplink", limits=UPLINK)
        (self.world.root / "data").mkdir()
        (self.world.root / "data/a.json").write_text("1")
        self.world.configure("[grants.narrow]\ntools = ['*']\nunscoped = ['*']\npaths.read = []\n")
        (self.world.root / "gone/module.wasm").unlink()
        self.runtime = self.world.open()

    def call(self, tool, parameters=None, capsule="c", **options):
        return call(self.runtime, tool, parameters or {}, capsule, **options)


@cache
def shared() -> Shared:
    place = tempfile.TemporaryDirectory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERLOCK_STATE_DIR", f"{place.name}/state")
        made = Shared(Path(place.name))
    atexit.register(place.cleanup)
    atexit.register(made.runtime.close)
    return made


def decode(text):
    return decode_manifest(text.encode(), "capsule.toml")


def config_of(**values):
    """A runtime of the same project whose capsule `c` is configured so, by what `capsule config set` writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERLOCK_STATE_DIR", str(shared().world.state))
        runtime = shared().world.open()
    stored = runtime.services.capsules._values
    for key, value in values.items():
        stored.set_config("c", key, value)
    return runtime


# -- astrid-capsule


@row(
    ASTRID,
    "new",
    "an engine has a manifest, and nothing of the capsule is loaded",
    "the first call loads it",
    "start-up is quick",
)
def _(bench):
    runtime = config_of()
    assert {"c", "files"} <= set(runtime.capsules.names)
    assert runtime.services.capsules._loader.instance("c") is None
    assert call(runtime, "echo").ok
    assert runtime.services.capsules._loader.instance("c") is not None


@row(ASTRID, "load", "a manifest without a component is an error that says so")
def _(bench):
    with pytest.raises(ConfigurationError, match="`component` is missing"):
        decode(SMALLEST.partition("[component]")[0])


@row(
    ASTRID, "load", "an absolute path of the component is taken as it is", "it is refused, and so is `..` and a link",
    "a capsule is what a person has seen in its directory",
)  # fmt: skip
def _(bench):
    with pytest.raises(ConfigurationError, match="absolute"):
        decode(SMALLEST.replace("hello.wasm", "/hello.wasm"))


@row(ASTRID, "load", "another path is relative to the capsule's directory")
def _(bench):
    installed = shared().runtime.services.capsules._installed["c"]
    assert installed.directory == shared().world.root / "c"
    assert installed.manifest.component.file == "module.wasm"


@row(
    ASTRID, "load", "a configured value comes from the key-value store that the capsule itself may write",
    "from a table of its own, which people write", "a capsule must not configure itself",
)  # fmt: skip
def _(bench):
    runtime = config_of(TIMES=b"7")
    assert call(runtime, "set", {"TIMES": "8"}).ok
    assert call(runtime, "times").output == 7
    config_of(TIMES=None)


@row(
    ASTRID,
    "load",
    "a value that is not UTF-8 is left out",
    "the capsule is not loaded",
    "it would run as if nobody had configured it",
)
def _(bench):
    refused = call(config_of(TIMES=b"\xff"), "times")
    config_of(TIMES=None)
    assert (refused.reason, "not UTF-8" in refused.error) == ("capsule_refused", True)


@row(ASTRID, "load", "a value that was not stored has its default")
def _(bench):
    assert call(config_of(), "times").output == 2


@row(ASTRID, "load", "a component that cannot be read is an error with the reason")
def _(bench):
    refused = shared().call("echo", capsule="gone")
    assert (refused.reason, "does not exist" in refused.error) == ("capsule_refused", True)


@row(
    ASTRID, "load", "a capsule with uplinks has a channel for 128 inbound messages",
    "all capsules of a runtime have one, of 128", "the program has one place to read",
)  # fmt: skip
def _(bench):
    message = {"uplink": "chat", "user": "ann", "content": "hi"}
    runtime = config_of()
    assert CHANNEL_MAX == 128
    assert call(runtime, "bring", message, "post").ok

    async def read():
        return await anext(runtime.inbound())

    assert asyncio.run(read()).content == "hi"


@row(
    ASTRID, "load", "files are an overlay over the workspace whose two layers are the workspace itself",
    "they are those of the proposal's layer", "what a proposal has written is committed or dropped as a whole",
)  # fmt: skip
def _(bench):
    write = {
        "type": "tool_call",
        "id": "w",
        "tool": f"files/{name_of('fs_write')}",
        "parameters": {"p": "data/b.json", "d": "7"},
    }
    fails = {"type": "tool_call", "id": "f", "tool": "fs.read", "parameters": {"path": "none"}, "dependencies": ["w"]}
    assert shared().runtime.execute_sync({"actions": [write, fails]}).status != "succeeded"
    assert not (shared().world.root / "data/b.json").exists()


@row(
    ASTRID, "load", "a gate asks the manifest what a host function may do", "also the caller's grants and the policies",
    "a manifest is a stranger's word",
)  # fmt: skip
def _(bench):
    assert shared().call("fs_read", {"p": "data/a.json"}, "files").output == 1
    for path, agent in (("c/capsule.toml", "agent"), ("data/a.json", "narrow")):
        refused = shared().call("fs_read", {"p": path}, "files", agent=agent)
        assert "path_denied" in refused.error
        assert events(shared().runtime, refused.run_id, "capsule_denied")


@row(ASTRID, "load", "each loading has an id of its own")
def _(bench):
    found = {call(config_of(), "echo").posture["capsule"] for _ in range(2)}
    assert len(found) == 2


@row(ASTRID, "load", "a call has 10 seconds")
def _(bench):
    assert decode(SMALLEST).limits.timeout_ms == 10_000


@row(ASTRID, "load", "memory is at most 64 MiB")
def _(bench):
    assert decode(SMALLEST).limits.memory_mb == 64
    assert shared().call("grow").output == 1


@row(ASTRID, "load", "instructions are not limited", "`fuel` limits them", "time depends on the machine, fuel does not")
def _(bench):
    assert shared().call("loop", capsule="fueled").reason == "fuel_limit"


@row(
    ASTRID, "load", "messages to others are limited by a rate, and each capsule has its subscriptions",
    "also each queue, by number and bytes", "a reader that does not read must not fill the memory",
)  # fmt: skip
def _(bench):
    bus = shared().runtime.services.capsules.post.bus
    slow, quick = (bus.subscribe(bus_owner(name), "t") for name in ("slow", "quick"))
    for _ in range(QUEUE_MESSAGES_MAX + 1):
        with contextlib.suppress(Exception):
            bus.publish(bus_owner(""), "t", b"x")
        assert len(bus.poll(bus_owner("quick"), quick, 10)) == 1
    assert bus.poll(bus_owner("slow"), slow, 1000)[-1] == {"gap": 1}


def bus_owner(name):
    from interlock.executors.capsules.bus import Owner  # noqa: PLC0415 - only here

    return Owner(name, "agent" if name else "")


@row(ASTRID, "load", "a component that cannot be linked is an error with the reason")
def _(bench):
    refused = shared().call("echo", capsule="bad")
    assert (refused.reason, "`x` from `env`" in refused.error) == ("capsule_refused", True)


@row(
    ASTRID,
    "load",
    "each tool of the manifest is a tool with its name, description and schema",
    "named `capsule/tool`",
    "two capsules may have tools of one name",
)
def _(bench):
    tool = shared().runtime.services.registry.find(f"c/{name_of('echo')}").tool
    assert (tool.description, tool.parameters) == ("Does echo.", {"type": "object"})


@row(
    ASTRID, "load", "all tools of a capsule share one instance, and its memory lasts from call to call",
    'with `lifetime = "capsule"`, for each agent; else each call has fresh memory',
    "what one agent leaves there another would find",
)  # fmt: skip
def _(bench):
    assert [shared().call("count", capsule="lasting").output for _ in range(2)] == [1, 2]
    assert shared().call("count", capsule="lasting", agent="other").output == 1
    assert [shared().call("count").output for _ in range(2)] == [1, 1]


@row(ASTRID, "unload", "the instance is dropped, which releases its memory, and so are the tools")
def _(bench):
    runtime = config_of()
    assert call(runtime, "echo").ok
    runtime.capsules.unload("c")
    assert runtime.services.capsules._workers._idle == []
    assert runtime.services.registry.find(f"c/{name_of('echo')}") is None


@row(
    ASTRID,
    "take_inbound_rx",
    "the inbound messages are taken once, and the second gets nothing",
    "the second gets an error",
    "nothing is no answer to wait for",
)
def _(bench):
    runtime = config_of()

    async def read():
        first = asyncio.ensure_future(anext(runtime.inbound()))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="already have a reader"):
            await anext(runtime.inbound())
        first.cancel()

    asyncio.run(read())


@row(ASTRID, "tools", "the tools of a capsule can be listed")
def _(bench):
    state = asyncio.run(shared().runtime.capsules.load("c"))
    assert f"c/{name_of('echo')}" in state.tools
