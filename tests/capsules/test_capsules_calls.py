"""Calls of a capsule: each in memory of its own, within its limits, and through the same gate as any tool."""

from __future__ import annotations

import asyncio
import contextlib
import json

import psutil
import pytest
from capsules_world import FIND, call, name_of, wat

from interlock.disk import Database
from interlock.state.capsule_values import CapsuleValues


def set_config(runtime, key, value):
    runtime.services.capsules._values.set_config("c", key, value)


def logged(runtime, result):
    return [event["message"] for event in events(runtime, result) if event["kind"] == "action_log"]


def events(runtime, result):
    path = runtime.services.state_dir / "runs" / result.run_id / "journal.ndjson"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_call_goes_through_the_gate_and_gives_a_value(world):
    world.add()
    world.configure()
    runtime = world.open()
    assert runtime.warnings == ()
    got = call(runtime, "echo", {"a": [1, "x"]})
    assert got.output == {"a": [1, "x"]}
    assert got.posture["namespaces"] == "active"
    kinds = [event["kind"] for event in events(runtime, got)]
    assert kinds.index("action_intent") < kinds.index("action_succeeded")
    assert call(runtime, "clock").ok
    assert call(runtime, "times").output == 2
    refused = world.root / "interlock.toml"
    refused.write_text(refused.read_text().replace('allow = ["*"]', f'allow = ["*"]\ndeny = ["c/{name_of("echo")}"]'))
    world.trust()
    assert call(runtime, "echo").reason == "policy_denied"


def test_each_call_has_memory_of_its_own(runtime):
    assert [call(runtime, "count").output for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("tool", "reason", "words"),
    [
        ("recurse", "capsule_trapped", "stack overflow"),
        ("unreachable", "capsule_trapped", "unreachable"),
        ("fail", "tool_failed", "is wrong"),
        ("nothing", "capsule_invalid", "not a reply"),
        ("beyond", "capsule_invalid", "outside its memory"),
        ("much", "invalid_output", "more than 65536 bytes"),
        ("words", "invalid_output", "not JSON"),
        ("outside", "capsule_invalid", "not a reply"),  # the host function gave 0
    ],
)
def test_what_goes_wrong_in_a_capsule_is_a_failed_action_and_leaves_nothing_behind(runtime, tool, reason, words):
    call(runtime, "count")
    before = set(runtime.services.capsules._workers._idle)
    got = call(runtime, tool)
    assert (got.status, got.reason) == ("failed", reason)
    assert words in got.error
    assert call(runtime, "count").output == 1
    assert set(runtime.services.capsules._workers._idle) == before  # the same worker continues


TABLE = """
  (table $t 1 funcref)
  (func $tables
    (loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
    (if (i32.gt_u (table.size $t) (i32.const 100000)) (then (unreachable))))
"""


def test_tables_and_stacks_end_at_limits_too(world):
    tables = "(call $tables) (return (call $reply_ok (i32.const 32) (i32.const 4)))"
    world.add(source=wat(top=FIND + TABLE, more=tables), tools=["echo"])
    world.add("d", source=wat(top=FIND + "(table 200000 funcref)", more="(unreachable)"), tools=["echo"])
    many = "".join("(table 1 funcref)" for _ in range(5))
    world.add("e", source=wat(top=FIND + many, more="(unreachable)"), tools=["echo"])
    world.configure()
    runtime = world.open()
    assert call(runtime, "echo").ok
    assert call(runtime, "echo", capsule="d").reason == "capsule_invalid"
    assert call(runtime, "echo", capsule="e").reason == "capsule_invalid"


def test_values_are_bounded_by_size_and_in_all(runtime, monkeypatch):
    given = {"x": "1" * 600}
    assert "key_invalid" in call(runtime, "set", given).error  # the tool's arguments are key and value
    monkeypatch.setattr("interlock.executors.capsules.host.VALUE_BYTES_MAX", 8)
    assert "value_too_large" in call(runtime, "set", {"x": "123456789"}).error
    monkeypatch.undo()
    monkeypatch.setattr("interlock.state.capsule_values.BYTES_MAX", 100)
    assert call(runtime, "set", {"x": "1" * 30}).ok
    assert "kv_full" in call(runtime, "set", {"x": "2" * 30}).error
    assert call(runtime, "set", {"x": "1" * 30}).ok  # the same key again


def test_no_name_of_a_capsule_agent_or_key_reaches_the_values_of_another(tmp_path):
    db = Database(tmp_path / "db")
    values = CapsuleValues(db, "w")
    owners = [("a", "b/c"), ("a/b", "c"), ("a", "b"), ("a%", "b"), ("A", "b"), ("a", "b "), ("a", "*")]
    for number, owner in enumerate(owners):
        values.of(*owner).set("key", str(number).encode())
        values.of(*owner).set("%", b"x")
    values.set_config("a", "TOKEN", b"secret")
    for number, owner in enumerate(owners):
        mine = values.of(*owner)
        assert mine.get("key") == str(number).encode()
        assert mine.keys("", 10) == ["%", "key"]
        assert (mine.keys("%", 10), mine.keys("_", 10), mine.keys("k*", 10)) == (["%"], [], [])
        assert mine.get("TOKEN") is None
        mine.set("TOKEN", b"mine")
    values.of("a", "b").delete("key")
    assert values.of("a", "b ").get("key") is not None
    assert values.config("a") == {"TOKEN": b"secret"}
    db.close()


def test_a_missing_value_and_an_empty_one_are_different(tmp_path):
    db = Database(tmp_path / "db")
    mine = CapsuleValues(db, "w").of("c", "a")
    assert mine.get("k") is None
    assert mine.set("k", b"")
    assert mine.get("k") == b""
    db.close()


def test_a_call_that_is_cancelled_ends_at_once_and_the_next_one_works(runtime):
    async def main():
        running = asyncio.ensure_future(runtime.call(f"c/{name_of('loop')}"))
        while not runtime.services.capsules._calls._calls.get("c"):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running], timeout=10)
        return running

    assert asyncio.run(main()).cancelled()
    assert runtime.services.capsules._calls._calls["c"] == set()
    assert call(runtime, "count").output == 1


def test_a_capsule_that_is_not_trusted_does_not_run_without_walls(world):
    world.add(trust="none")
    world.add("d")
    world.configure('[isolation]\nprofile = "none"\n')
    runtime = world.open()
    assert call(runtime, "echo").reason == "isolation_failed"
    assert call(runtime, "echo", capsule="d").ok


def test_memory_ends_where_the_manifest_says(runtime):
    assert call(runtime, "grow").output == 1


@pytest.mark.parametrize("tool", ["loop", "host_loop"])
def test_a_loop_ends_at_the_time_out_and_the_worker_continues(world, tool):
    world.add(timeout_ms="700")
    world.configure()
    runtime = world.open()
    assert call(runtime, "count").output == 1
    got = call(runtime, tool)
    assert got.reason == "timeout"
    assert call(runtime, "count").output == 1
    assert len(runtime.services.capsules._workers._idle) == 1


def test_fuel_ends_a_call(world):
    world.add(limits="fuel = 100000")
    world.configure()
    runtime = world.open()
    assert call(runtime, "loop").reason == "fuel_limit"
    assert [call(runtime, "count").output for _ in range(2)] == [1, 1]


def test_a_start_function_is_held_to_the_time_out(world):
    world.add(source=wat(top="(func $start (loop (br 0))) (start $start)"), timeout_ms="700")
    world.configure()
    runtime = world.open()
    asyncio.run(runtime.services.capsules.load("c"))
    assert call(runtime, "echo").reason == "timeout"


def test_memory_lasts_for_a_capsule_that_says_so_until_a_trap(world):
    world.add(lifetime="capsule")
    world.configure()
    others = workers()
    runtime = world.open()
    assert [call(runtime, "count").output for _ in range(3)] == [1, 2, 3]
    assert [call(runtime, tool).reason for tool in ("fail", "much", "words")] == [
        "tool_failed", "invalid_output", "invalid_output"
    ]  # fmt: skip
    assert call(runtime, "count").output == 4  # those were errors of its own
    assert call(runtime, "count", agent="other").output == 1  # another agent has another store
    trapped = call(runtime, "unreachable")
    (reset,) = [event for event in events(runtime, trapped) if event["kind"] == "capsule_reset"]
    assert (reset["capsule"], reset["reason"], reset["agent"]) == ("c", "capsule_trapped", "agent")
    assert reset["instance"] in trapped.posture["capsule"]
    assert call(runtime, "count").output == 1
    assert call(runtime, "count", agent="other").output == 2
    for worker in workers(others):
        worker.kill()
    lost = call(runtime, "count")
    assert lost.output == 1
    (reset,) = [event for event in events(runtime, lost) if event["kind"] == "capsule_reset"]
    assert reset["reason"] == "process_lost"


def test_stores_that_last_are_not_ended_for_others_that_are_idle(world):
    names = [f"c{number}" for number in range(6)]
    for name in names:
        world.add(name, lifetime="capsule", tools=["count"])
    world.configure()
    runtime = world.open()
    assert [call(runtime, "count", capsule=name).output for name in names] == [1] * 6
    assert [call(runtime, "count", capsule=name).output for name in names] == [2] * 6


PRINTS = """
  (data (i32.const 120) "one\\0atwo, hunter22\\0athree") (data (i32.const 160) "x\\0a")
  (func $print (param $stream i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 400) (local.get $at)) (i32.store (i32.const 404) (local.get $length))
    (drop (call $write (local.get $stream) (i32.const 400) (i32.const 1) (i32.const 408))))
"""


def test_what_a_capsule_prints_is_in_the_log_also_when_it_is_ended(world):
    write = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
    body = "(call $print (i32.const 1) (i32.const 120) (i32.const 8))"
    body += "(drop (call $log (i64.const 1) (i32.const 65) (i32.const 8)))"
    body += "(call $print (i32.const 2) (i32.const 128) (i32.const 15)) (unreachable)"
    world.add(source=wat(imports=write, top=FIND + PRINTS, more=body), tools=["echo"])
    flood = "(loop $l (call $print (i32.const 1) (i32.const 160) (i32.const 2)) (br $l))"
    world.add("flood", source=wat(imports=write, top=FIND + PRINTS, more=flood), tools=["echo"], timeout_ms="600")
    world.configure()
    runtime = world.open()
    set_config(runtime, "TOKEN", b"hunter22")
    got = call(runtime, "echo")
    assert got.reason == "capsule_trapped"
    assert logged(runtime, got) == ["c: one", "c: is wrong", "c: two, [secret]", "c: three"]
    got = call(runtime, "echo", capsule="flood")
    assert got.reason == "timeout"
    assert len(logged(runtime, got)) == 101


def test_values_are_of_one_capsule_and_one_agent(world):
    world.add()
    world.add("d")
    world.configure()
    runtime = world.open()
    key = {"k": "v"}
    assert call(runtime, "get", key).output is None
    stored = call(runtime, "set", key)
    assert stored.ok
    assert any("values" in str(event.get("not_undoable")) for event in events(runtime, stored))
    assert call(runtime, "get", key).output == key
    assert call(runtime, "keys").output == ['{"k":"v"}']
    assert call(runtime, "get", key, capsule="d").output is None
    assert call(runtime, "get", key, agent="other").output is None
    assert world.open().call_sync(f"c/{name_of('get')}", key).output == key  # another process would find it too


@pytest.mark.parametrize(("tool", "words"), [("nul", "none is NUL"), ("bytes", "not UTF-8")])
def test_a_key_that_cannot_be_one_is_an_error_for_the_capsule(runtime, tool, words):
    got = call(runtime, tool)
    assert (got.reason, words in got.error) == ("tool_failed", True)


def test_a_flood_of_log_lines_is_cut_and_the_call_continues(runtime):
    got = call(runtime, "log")
    assert got.ok
    lines = logged(runtime, got)
    assert len(lines) == 101
    assert "are not kept" in lines[-1]


def test_configured_values_are_checked_and_secrets_are_not_shown(world):
    world.add()
    world.configure()
    runtime = world.open()
    set_config(runtime, "TOKEN", b"hunter22")
    set_config(runtime, "TIMES", b"7")
    got = call(runtime, "secret")
    assert got.ok
    assert "hunter22" not in (runtime.services.state_dir / "runs" / got.run_id / "journal.ndjson").read_text()
    assert logged(runtime, got) == ["c: [secret]"]
    assert call(runtime, "times").output == 7
    for value, why in [(b"\xff", "not UTF-8"), (b"1.5", "not of the type `integer`"), (b"", "not of the type")]:
        set_config(runtime, "TIMES", value)
        refused = call(world.open(), "times")
        assert (refused.reason, why in refused.error) == ("capsule_refused", True)


def test_a_missing_required_value_refuses_the_capsule(world):
    world.add(limits="[env.PLACE]\nrequired = true")
    world.configure()
    refused = call(world.open(), "echo")
    assert refused.reason == "capsule_refused"
    assert "lacks `PLACE`" in refused.error


def test_a_worker_that_is_killed_takes_one_call_with_it_and_no_more(world):
    world.add()
    world.configure()
    others = workers()
    runtime = world.open()
    assert call(runtime, "count").output == 1
    (idle,) = workers(others)
    idle.kill()
    assert call(runtime, "count").output == 1  # nothing was lost: it did nothing
    (worker,) = workers(others)
    before = worker.cpu_times().user

    async def main():
        lost = asyncio.ensure_future(runtime.call(f"c/{name_of('loop')}"))
        while worker.cpu_times().user < before + 0.1:
            await asyncio.sleep(0.02)
        worker.kill()
        return await lost

    got = asyncio.run(main())
    assert (got.status, got.reason) == ("failed", "process_lost")
    assert call(runtime, "count").output == 1


def workers(others=()):
    """The worker processes of this process, but for those of other runtimes."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if (
                "interlock.executors.capsules.worker" in " ".join(process.cmdline())
                and process.status() != psutil.STATUS_ZOMBIE
                and process not in others
            ):
                found.append(process)
    return found


def test_calls_side_by_side_are_all_right(runtime):
    async def main():
        names = [f"c/{name_of('echo')}"] * 40
        return await asyncio.gather(*(runtime.call(name, {"n": n}) for n, name in enumerate(names)))

    assert [one.output for one in asyncio.run(main())] == [{"n": n} for n in range(40)]
