"""Many capsules, many threads, and capsules that take all that they can: nobody else notices."""

from __future__ import annotations

import asyncio
import os
import threading

import psutil
import wasmtime
from capsules_world import call, events, name_of, wat

from interlock.executors.capsules.code_cache import code_name
from interlock.executors.capsules.loading import _compiler
from interlock.executors.capsules.worker import configuration


def test_eight_threads_call_four_capsules_as_two_agents_and_every_record_is_right(world):
    names = ["a", "b", "c", "d"]
    for name in names:
        world.add(name)
    world.configure()
    runtime = world.open()
    results, errors = [], []

    def work(number):
        async def calls():
            for turn in range(4):
                name, agent = names[(number + turn) % 4], ("agent", "other")[number % 2]
                given = {"n": number, "t": turn}
                stored = await runtime.call(f"{name}/{name_of('set')}", given, agent=agent)
                found = await runtime.call(f"{name}/{name_of('get')}", given, agent=agent)
                missing = await runtime.call(f"{name}/{name_of('get')}", {"n": number, "t": turn, "x": 1}, agent=agent)
                results.append((name, agent, given, stored, found, missing))

        try:
            asyncio.run(calls())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(results) == 32
    instances: dict[str, set[str]] = {}
    for name, agent, given, stored, found, missing in results:
        assert stored.ok, stored
        assert (found.output, missing.output) == (given, None)
        instances.setdefault(name, set()).add(found.posture["capsule"])
        (received,) = events(runtime, found.run_id, "proposal_received")
        (ended,) = events(runtime, found.run_id, "action_succeeded")
        assert received["agent"] == agent
        assert ended["posture"]["capsule"] == found.posture["capsule"]
        assert found.posture["capsule"].startswith(f"active({name} 1.0.0, ")
    assert [len(seen) for seen in instances.values()] == [1] * 4
    assert len({one for seen in instances.values() for one in seen}) == 4


def test_floods_end_at_their_limits_and_a_bystander_loses_nothing(world):
    world.add("flood", timeout_ms="1000")
    world.add("by")
    world.configure()
    runtime = world.open()
    call(runtime, "echo", capsule="flood"), call(runtime, "echo", capsule="by")

    async def both():
        tools = ["loop", "host_loop", "log", "grow", "recurse", "unreachable"]
        floods = [asyncio.ensure_future(runtime.call(f"flood/{name_of(tool)}", {})) for tool in tools]
        seen = []
        while not all(flood.done() for flood in floods) or len(seen) < 20:
            given = {"n": len(seen)}
            seen.append(((await runtime.call(f"by/{name_of('echo')}", given)).output, given))
        return seen, [flood.result() for flood in floods]

    seen, floods = asyncio.run(both())
    assert all(output == given for output, given in seen)
    loop, host_loop, log, grow, recurse, unreachable = floods
    assert (loop.reason, host_loop.reason) == ("timeout", "timeout")
    assert (recurse.reason, unreachable.reason) == ("capsule_trapped", "capsule_trapped")
    assert grow.ok
    assert len(events(runtime, log.run_id, "action_log")) <= 101
    assert call(runtime, "echo", {"a": 1}, "flood").output == {"a": 1}


def words_of(process: psutil.Process) -> list[str]:
    """The command line of a process; nothing of one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_hundred_small_capsules_are_loaded_in_less_than_300_mb(world):
    names = [f"c{number}" for number in range(100)]
    for name in names:
        world.add(name, wat(top=f'(data (i32.const 2000) "{name}")'), tools=["echo"])
    world.configure()
    runtime = world.open()
    # Each would be compiled in a process of its own, which is not what is measured here.
    capsules = runtime.services.capsules
    engine = wasmtime.Engine(configuration("core", fuel=False))
    for name in names:
        sha256 = capsules._installed[name].locked.component
        module = wasmtime.Module(engine, (world.root / name / "module.wasm").read_bytes())
        imports = [(one.module, one.name) for one in module.imports]
        code = code_name(sha256, "core", _compiler(), fuel=False)
        capsules._loader._cache.keep(code, bytes(module.serialize()), imports)
    before = psutil.Process().memory_info().rss
    for name in names:
        assert call(runtime, "echo", {"n": name}, name).output == {"n": name}
    (idle,) = capsules._workers._idle
    assert len(idle[1].loaded) == 100
    own = psutil.Process(os.getpid())
    started = own.children(recursive=True)
    workers = [one for one in started if any("executors.capsules.worker" in part for part in words_of(one))]
    assert workers
    taken = sum(one.memory_info().rss for one in workers) + own.memory_info().rss - before
    assert taken < 300 * 1024 * 1024
