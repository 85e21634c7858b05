"""Capsules compared with raw `wasmtime` and `extism`: a fresh store and one call of a small echo module.

    python benchmarks/capsules.py [--quick] [--json]

All three have compiled and linked the module before. `in the worker` is our code around wasmtime without the process in
between; `through the gate` is a whole call with rules, grants and journal, into a worker behind walls. `a loop is
stopped` is the time after its budget. `two at once` compares two callers with one, for calls of 5 ms, and two plain
processes with one, to show what the machine can give. The Python component is that of the examples, if it was built
(`examples/capsules/build`).
"""

import asyncio
import hashlib
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import psutil
import wasmtime
from measuring import ROOT, ROUNDS, Peer, alternate, options, scratch, show

import interlock
from interlock import Runtime
from interlock.disk import Disk
from interlock.engine.trust import review, trust
from interlock.executors.capsules.code_cache import CodeCache
from interlock.executors.capsules.core_module import Answers, Bounds, CoreInstance, LinkedModule
from interlock.executors.capsules.worker import configuration
from interlock.executors.mcp.lock import encode_lock
from interlock.model.capsule import LockedCapsule

CALLS = 300
ARGUMENTS = b'{"a":1}'
ECHO = """(module
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 1024))
  (func $alloc (export "interlock_alloc") (param $n i32) (result i32) (local $at i32)
    (local.set $at (global.get $top)) (global.set $top (i32.add (global.get $top) (local.get $n))) (local.get $at))
  (func (export "interlock_call") (param $name i32) (param $nl i32) (param $a i32) (param $al i32) (result i64)
    (local $at i32) (local $n i64)
    ;; `loop` forever, `busy` for some milliseconds, else return the arguments
    (if (i32.eq (i32.load8_u (local.get $name)) (i32.const 108)) (then (loop (br 0))))
    (if (i32.eq (i32.load8_u (local.get $name)) (i32.const 98)) (then
      (loop (local.set $n (i64.add (local.get $n) (i64.const 1)))
        (br_if 0 (i64.lt_u (local.get $n) (i64.const 10000000))))))
    (local.set $at (call $alloc (i32.add (local.get $al) (i32.const 1))))
    (memory.copy (i32.add (local.get $at) (i32.const 1)) (local.get $a) (local.get $al))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (i32.add (local.get $al) (i32.const 1))))))"""
EXTISM = """(module
  (import "extism:host/env" "input_offset" (func $at (result i64)))
  (import "extism:host/env" "input_length" (func $n (result i64)))
  (import "extism:host/env" "output_set" (func $out (param i64 i64)))
  (memory (export "memory") 1)
  (func (export "call") (result i32) (call $out (call $at) (call $n)) (i32.const 0)))"""
MANIFEST = """
[package]
name = "{name}"
version = "1.0.0"
[component]
file = "module.wasm"
abi = "core"
[limits]
memory_mb = 4
timeout_ms = {timeout_ms}
"""
TOOL = '[[tool]]\nname = "{tool}"\ndescription = "{tool}"\nread_only = true\ninput_schema = {{ type = "object" }}\n'


@interlock.tool(read_only=True)
def plain(a: int) -> dict:
    """Return the argument."""
    return {"a": a}


class Raw:
    """Plain wasmtime, as its users would write it."""

    def __init__(self) -> None:
        self.engine = wasmtime.Engine(configuration("core", fuel=False))
        self.module = wasmtime.Module(self.engine, ECHO)
        self.linked = wasmtime.Linker(self.engine).instantiate_pre(self.module)

    def seconds(self) -> float:
        begun = time.perf_counter()
        for _ in range(CALLS):
            store = wasmtime.Store(self.engine)
            store.set_epoch_deadline(1)
            exports = self.linked.instantiate(store).exports(store)
            memory, alloc, call = exports["memory"], exports["interlock_alloc"], exports["interlock_call"]
            name, at = alloc(store, 4), alloc(store, len(ARGUMENTS))
            memory.write(store, b"echo", name)
            memory.write(store, ARGUMENTS, at)
            packed = call(store, name, 4, at, len(ARGUMENTS))
            assert memory.read(store, (packed >> 32) + 1, (packed >> 32) + (packed & 0xFFFFFFFF)) == ARGUMENTS
        return (time.perf_counter() - begun) / CALLS

    def ours(self) -> float:
        linked = LinkedModule(self.engine, self.module, ["log", "config", "clock"], Answers(None, {}))
        bounds = Bounds(4 << 20, None, 1 << 20)
        begun = time.perf_counter()
        for _ in range(CALLS):
            found = CoreInstance(linked, bounds)
            assert found.call("echo", ARGUMENTS) == ARGUMENTS
        return (time.perf_counter() - begun) / CALLS


def extism(room: Path) -> Peer:
    module = room / "extism.wasm"
    module.write_bytes(wasmtime.wat2wasm(EXTISM))
    peer = Peer("extism")
    peer.ask(module=str(module))
    return peer


def project(room: Path) -> Runtime:
    root = room / "project"
    locked = {}
    for name, timeout_ms in (("c", 20_000), ("short", 200)):
        directory = root / name
        directory.mkdir(parents=True)
        text = MANIFEST.format(name=name, timeout_ms=timeout_ms)
        text += "".join(TOOL.format(tool=tool) for tool in ("echo", "busy", "loop"))
        (directory / "capsule.toml").write_text(text)
        (directory / "module.wasm").write_bytes(wasmtime.wat2wasm(ECHO))
        sums = [hashlib.sha256((directory / file).read_bytes()).hexdigest() for file in ("capsule.toml", "module.wasm")]
        locked[name] = LockedCapsule(version="1.0.0", manifest=sums[0], component=sums[1])
    (root / "interlock.lock").write_bytes(encode_lock({}, locked))
    (root / "interlock.toml").write_text(
        '[rules]\nallow = ["*"]\n[grants.agent]\ntools = ["*"]\nunscoped = ["*"]\n[journal]\ndurability = "batch"\n'
        '[capsules.c]\npath = "c"\n[capsules.short]\npath = "short"\n'
    )
    os.environ["INTERLOCK_STATE_DIR"] = str(room / "state")
    trust(review(root, os.environ), os.environ)
    return Runtime.open(root / "interlock.toml")


def stopped(runtime: Runtime) -> float:
    """The time in seconds after its budget at which a loop ends, while another capsule is called."""

    async def run() -> float:
        begun = time.perf_counter()
        loop = asyncio.ensure_future(runtime.call("short/loop"))
        while not loop.done():
            assert (await runtime.call("c/echo", {"a": 1})).output == {"a": 1}
        assert loop.result().reason == "timeout"
        return time.perf_counter() - begun - 0.2

    return asyncio.run(run())


def chains(tool: str, count: int, length: int) -> dict:
    """A proposal with this many parallel chains of calls; each call has different arguments."""
    actions = []
    for number in range(count * length):
        action = {"type": "tool_call", "id": f"a{number}", "tool": tool, "parameters": {"n": number}}
        actions.append(action if number < count else action | {"dependencies": [f"a{number - count}"]})
    return {"actions": actions}


def wrong_of(result: object) -> int:
    return sum(one.output != {"n": number} for number, one in enumerate(result.results))


def gain_of_two(runtime: Runtime, calls: int) -> tuple[float, float]:
    """How much faster two callers are than one: with a run for each call, and with one proposal."""

    async def run(callers: int) -> float:
        async def some() -> None:
            for _ in range(calls // callers):
                assert (await runtime.call("c/busy", {"a": 1})).output == {"a": 1}

        begun = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(callers)))
        return time.perf_counter() - begun

    def propose(callers: int) -> float:
        begun = time.perf_counter()
        assert wrong_of(runtime.execute_sync(chains("c/busy", callers, calls // callers))) == 0
        return time.perf_counter() - begun

    found = alternate(
        {
            "runs 1": lambda: asyncio.run(run(1)),
            "runs 2": lambda: asyncio.run(run(2)),
            "one 1": lambda: propose(1),
            "one 2": lambda: propose(2),
        },
        5,
    )
    return found["runs 1"] / found["runs 2"], found["one 1"] / found["one 2"]


def gain_of_processes(calls: int) -> float:
    """The same for two plain processes with wasmtime, which shows what the machine can give at that moment."""

    def busy(count: int) -> None:
        raw = Raw()
        for _ in range(count):
            store = wasmtime.Store(raw.engine)
            store.set_epoch_deadline(1)
            exports = raw.linked.instantiate(store).exports(store)
            name = exports["interlock_alloc"](store, 4)
            exports["memory"].write(store, b"busy", name)
            exports["interlock_call"](store, name, 4, name, 4)

    def seconds(processes: int) -> float:
        context = multiprocessing.get_context("fork")
        each = [context.Process(target=busy, args=(calls // processes,)) for _ in range(processes)]
        begun = time.perf_counter()
        for process in each:
            process.start()
        for process in each:
            process.join()
        return time.perf_counter() - begun

    found = alternate({"1": lambda: seconds(1), "2": lambda: seconds(2)}, 5)
    return found["1"] / found["2"]


def wrong_results(runtime: Runtime, calls: int) -> int:
    """The number of wrong results among this many calls of four parallel callers, 200 per proposal."""
    wrong = 0

    async def some() -> None:
        nonlocal wrong
        for _ in range(calls // 800):
            wrong += wrong_of(await runtime.execute(chains("c/echo", 8, 25)))

    async def all_of_them() -> None:
        await asyncio.gather(*(some() for _ in range(4)))

    asyncio.run(all_of_them())
    return wrong


def loading(room: Path) -> list[dict]:
    """Load the code of a Python component: found in the cache, and mapped."""
    source = ROOT / "examples/capsules/courier/courier.wasm"
    if not source.exists():
        return []
    engine = wasmtime.Engine(configuration("component", fuel=False))
    cache = CodeCache(room / "code", os.urandom(32), Disk())
    cache.keep("courier", bytes(wasmtime.component.Component(engine, source.read_bytes()).serialize()), [])
    samples = []
    for _ in range(20):
        begun = time.perf_counter()
        wasmtime.component.Component.deserialize_file(engine, str(cache.find("courier").path))
        samples.append(time.perf_counter() - begun)
    return [row("load a component from Python, compiled", statistics.median(samples), to_reach="10 ms")]


def memory_of_each(room: Path, count: int = 100) -> float:
    """The memory in KiB that each of this many small modules takes in the process that has loaded it."""
    engine = wasmtime.Engine(configuration("core", fuel=False))
    codes = []
    for number in range(count):
        code = room / f"{number}.cwasm"
        code.write_bytes(wasmtime.Module(engine, ECHO[:-1] + f'(data (i32.const 0) "{number}"))').serialize())
        codes.append(str(code))
    before = psutil.Process().memory_info().rss
    kept = [wasmtime.Module.deserialize_file(engine, code) for code in codes]
    return (psutil.Process().memory_info().rss - before) / len(kept) / 1024


def row(work: str, seconds: float, other: str = "", its: float | None = None, to_reach: str = "") -> dict:
    compared = {"compared with": other, "it": "" if its is None else shown(its)}
    ratio = "" if its is None else f"{seconds / its:.2f}"
    return {"work": work, "interlock": shown(seconds), **compared, "ratio": ratio, "to reach": to_reach}


def told(work: str, ours: str, to_reach: str, other: str = "", its: str = "") -> dict:
    return {"work": work, "interlock": ours, "compared with": other, "it": its, "ratio": "", "to reach": to_reach}


def shown(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} us" if seconds < 0.01 else f"{seconds * 1e3:,.1f} ms"


def main() -> None:
    chosen = options(__doc__)
    rounds, many = (3, 800) if chosen.quick else (ROUNDS, 100_000)
    with scratch() as room:
        raw, peer, runtime = Raw(), extism(room), project(room)
        runtime.call_sync("c/echo", {"a": 1})
        runtime.call_sync("short/echo", {"a": 1})

        runtime.register(plain)

        def gate(tool: str) -> float:
            begun = time.perf_counter()
            for _ in range(50):
                assert runtime.call_sync(tool, {"a": 1}).output == {"a": 1}
            return (time.perf_counter() - begun) / 50

        found = alternate(
            {
                "raw": raw.seconds,
                "worker": raw.ours,
                "extism": lambda: peer.ask(data=ARGUMENTS.decode(), calls=CALLS)["seconds"] / CALLS,
                "gate": lambda: gate("c/echo"),
                "plain": lambda: gate("plain"),
            },
            rounds,
        )
        calls = 40 if chosen.quick else 120
        of_runs, of_one = gain_of_two(runtime, calls)
        machine = f"{gain_of_processes(calls):.2f} x"
        late = statistics.median(stopped(runtime) for _ in range(rounds))
        rows = [
            row("a fresh store and a call, in the worker", found["worker"], "wasmtime", found["raw"], "1.3 x"),
            row("a fresh store and a call, in the worker", found["worker"], "extism", found["extism"], "less"),
            row("a call through the gate, a run of its own", found["gate"], "a Python function", found["plain"]),
            row("a loop is stopped after its budget", late, to_reach="50 ms"),
            *loading(room),
            told("two at once, 5 ms each, in one proposal", f"{of_one:.2f} x", "1.7 x", "two plain processes", machine),
            told("two at once, 5 ms each, runs of their own", f"{of_runs:.2f} x", "", "two plain processes", machine),
            told("memory of each small capsule", f"{memory_of_each(room):,.0f} KiB", "3 MiB"),
            told(f"wrong results of {many:,} calls", str(wrong_results(runtime, many)), "0"),
        ]
        runtime.close()
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
