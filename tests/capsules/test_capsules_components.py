"""Components of the world `interlock:capsule`: the same calls, limits and host functions as for core modules."""

from __future__ import annotations

import pytest
import wasmtime
from capsules_world import wat

WORLD = """(component
  (import "interlock:capsule/log@0.1.0" (instance $log
    (export "write" (func (param "level" s64) (param "text" string) (result (result (error string)))))))
  (import "interlock:capsule/kv@0.1.0" (instance $kv
    (type $error (variant (case "missing") (case "refused" string)))
    (export "kv-error" (type $kv-error (eq $error)))
    (export "get" (func (param "key" string) (result (result (list u8) (error $kv-error)))))
    (export "set" (func (param "key" string) (param "value" (list u8)) (result (result (error string)))))))
  (import "interlock:capsule/config@0.1.0" (instance $config
    (export "get" (func (param "key" string) (result (option string))))))
  (core module $libc
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32) (param $n i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get $n)))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $write (canon lower (func $log "write") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $get (canon lower (func $kv "get") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $set (canon lower (func $kv "set") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $config_get (canon lower (func $config "get") (memory (core memory $libc "memory"))
    (realloc (core func $libc "realloc"))))
  (core module $code
    (import "libc" "memory" (memory 1))
    (import "host" "write" (func $write (param i64 i32 i32 i32)))
    (import "host" "get" (func $get (param i32 i32 i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i32)))
    (import "host" "config" (func $config (param i32 i32 i32)))
    (data (i32.const 64) "a line") (data (i32.const 80) "null") (data (i32.const 96) "TIMES")
    (func $reply (param $kind i32) (param $p i32) (param $n i32) (result i32)
      (i32.store8 (i32.const 16) (local.get $kind))
      (i32.store (i32.const 20) (local.get $p))
      (i32.store (i32.const 24) (local.get $n))
      (i32.const 16))
    (func (export "call-tool") (param $name i32) (param $l i32) (param $args i32) (param $n i32) (result i32)
      (local $tool i32)
      (local.set $tool (i32.load8_u (local.get $name)))
      (if (i32.eq (local.get $tool) (i32.const 101)) (then  ;; e
        (call $write (i64.const 1) (i32.const 64) (i32.const 6) (i32.const 128))
        (return (call $reply (i32.const 0) (local.get $args) (local.get $n)))))
      (if (i32.eq (local.get $tool) (i32.const 102)) (then  ;; f
        (return (call $reply (i32.const 1) (local.get $args) (local.get $n)))))
      (if (i32.eq (local.get $tool) (i32.const 108)) (then (loop (br 0))))  ;; l
      (if (i32.eq (local.get $tool) (i32.const 115)) (then  ;; s
        (call $set (local.get $args) (local.get $n) (local.get $args) (local.get $n) (i32.const 128))
        (return (call $reply (i32.load8_u (i32.const 128)) (i32.const 80) (i32.const 4)))))
      (if (i32.eq (local.get $tool) (i32.const 103)) (then  ;; g
        (call $get (local.get $args) (local.get $n) (i32.const 128))
        (if (i32.eqz (i32.load8_u (i32.const 128)))
          (then (return (call $reply (i32.const 0) (i32.load (i32.const 132)) (i32.load (i32.const 136))))))
        (if (i32.load8_u (i32.const 132)) (then (unreachable)))
        (return (call $reply (i32.const 0) (i32.const 80) (i32.const 4)))))
      (if (i32.eq (local.get $tool) (i32.const 116)) (then  ;; t
        (call $config (i32.const 96) (i32.const 5) (i32.const 128))
        (return (call $reply (i32.const 0) (i32.load (i32.const 132)) (i32.load (i32.const 136))))))
      (unreachable)))
  (core instance $host
    (export "write" (func $write)) (export "get" (func $get)) (export "set" (func $set))
    (export "config" (func $config_get)))
  (core instance $code (instantiate $code (with "libc" (instance $libc)) (with "host" (instance $host))))
  (func (export "call-tool") (param "name" string) (param "args" string) (result (result string (error string)))
    (canon lift (core func $code "call-tool") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc")))))"""

TOOLS = ("echo", "fail", "loop", "set", "get", "times", "unreachable")


def add(world, source=WORLD, **options):
    directory = world.add(source=wat(), **options)
    (directory / "module.wasm").write_bytes(wasmtime.wat2wasm(source))
    manifest = (directory / "capsule.toml").read_text().partition("[[tool]]")[0].replace('"core"', '"component"')
    for tool in TOOLS:
        manifest += f'[[tool]]\nname = "{tool}"\ndescription = "A tool."\ninput_schema = {{ type = "object" }}\n'
    (directory / "capsule.toml").write_text(manifest)
    world.configure()
    return world.open()


def test_a_component_answers_and_uses_the_host(world):
    runtime = add(world)
    assert runtime.warnings == ()
    assert runtime.call_sync("c/echo", {"a": "x"}).output == {"a": "x"}
    failed = runtime.call_sync("c/fail", {"a": "x"})
    assert (failed.reason, failed.error) == ("tool_failed", '{"a":"x"}')
    assert runtime.call_sync("c/get", {"k": 1}).output is None
    assert runtime.call_sync("c/set", {"k": 1}).ok
    assert runtime.call_sync("c/get", {"k": 1}).output == {"k": 1}
    assert runtime.call_sync("c/times").output == 2


def test_a_trap_and_a_loop_leave_nothing_behind(world):
    runtime = add(world, timeout_ms="700")
    for tool, reason in (("unreachable", "capsule_trapped"), ("loop", "timeout")):
        assert runtime.call_sync(f"c/{tool}").reason == reason
        assert runtime.call_sync("c/echo", {"a": 1}).output == {"a": 1}
    assert len(runtime.services.capsules._workers._idle) == 1


def test_fuel_ends_a_call_of_a_component(world):
    assert add(world, limits="fuel = 100000").call_sync("c/loop").reason == "fuel_limit"


def test_an_import_that_is_not_declared_refuses_it_by_name(world):
    refused = add(world, kv="false").call_sync("c/echo")
    assert refused.reason == "capsule_refused"
    assert "`interlock:capsule/kv@0.1.0`" in refused.error


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('(component (import "other:thing/x@1.0.0" (instance (export "f" (func)))))', "does not export `call-tool`"),
        (WORLD.replace("interlock:capsule/config@0.1.0", "other:thing/x@1.0.0"), "from `other:thing/x@1.0.0`"),
        ("(module)", "not a usable WebAssembly"),
    ],
)
def test_what_is_not_a_component_for_capsules_is_refused(world, source, words):
    refused = add(world, source).call_sync("c/echo")
    assert (refused.reason, words in refused.error) == ("capsule_refused", True)


def test_a_component_with_other_types_than_the_host_is_refused_when_it_is_called(world):
    source = WORLD.replace(
        '(export "get" (func (param "key" string) (result (option string))))', '(export "get" (func))'
    )
    source = source.replace(
        '(import "host" "config" (func $config (param i32 i32 i32)))', '(import "host" "config" (func $c))'
    )
    source = source.replace("(call $config (i32.const 96) (i32.const 5) (i32.const 128))", "(call $c)")
    runtime = add(world, source)
    assert runtime.call_sync("c/times").reason in ("capsule_invalid", "invalid_output")
    assert runtime.call_sync("c/echo", {"a": 1}).output == {"a": 1}


GREEDY = """(component
  (core module $one
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "all") (result i32)
      (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (memory.size)))
  (core instance $a (instantiate $one))
  (core instance $b (instantiate $one))
  (core module $code
    (import "a" "memory" (memory 1))
    (import "a" "all" (func $a (result i32)))
    (import "b" "all" (func $b (result i32)))
    (func (export "call-tool") (param i32 i32 i32 i32) (result i32)
      ;; both have all that they can get: 64 pages are the 4 MiB of the manifest
      (if (i32.gt_u (i32.add (call $a) (call $b)) (i32.const 64)) (then (unreachable)))
      (i32.store (i32.const 16) (i32.const 0))
      (i32.store8 (i32.const 40) (i32.const 49))
      (i32.store (i32.const 20) (i32.const 40))
      (i32.store (i32.const 24) (i32.const 1))
      (i32.const 16)))
  (core instance $code (instantiate $code (with "a" (instance $a)) (with "b" (instance $b))))
  (func (export "call-tool") (param "name" string) (param "args" string) (result (result string (error string)))
    (canon lift (core func $code "call-tool") (memory (core memory $a "memory")) (realloc (core func $a "realloc")))))"""


def test_all_memories_of_a_component_together_are_held_to_the_manifest(world):
    runtime = add(world, GREEDY, kv="false")
    assert runtime.call_sync("c/echo", {}).output == 1
    third = GREEDY.replace("(core instance $b", "(core instance $c (instantiate $one)) (core instance $b")
    refused = add(world, third, name="d", kv="false").call_sync("d/echo", {})
    assert refused.reason in ("capsule_invalid", "capsule_refused"), refused
