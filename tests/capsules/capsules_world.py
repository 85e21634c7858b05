"""A trusted project with a capsule: a core module in WAT whose tools each do one thing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import wasmtime

from interlock import Runtime
from interlock.engine.trust import review, trust
from interlock.executors.mcp.lock import encode_lock
from interlock.model.capsule import LockedCapsule

CONFIGURATION = """
[rules]
allow = ["*"]
[grants.agent]
tools = ["*"]
unscoped = ["*"]
[grants.other]
tools = ["*"]
unscoped = ["*"]
"""

HOST_TOOLS = {
    "fs_read": ("fs-read", "read", 1),
    "fs_list": ("fs-read", "list", 1),
    "fs_write": ("fs-write", "write", 2),
    "fs_delete": ("fs-write", "delete", 1),
    "fetch": ("http", "fetch", 0),
    "call_tool": ("tools", "call", 1),
    "ask": ("approval", "request", 2),
    "publish": ("ipc-publish", "publish", 2),
    "subscribe": ("ipc-subscribe", "subscribe", 1),
    "unsubscribe": ("ipc-subscribe", "unsubscribe", 1),
    "poll": ("ipc-subscribe", "poll", 2),
    "connect": ("uplink", "register-connector", 3),
    "bring": ("uplink", "send", 0),
    "sleep": ("clock", "sleep", 1),
}
_COUNTS = {"fs-write.write": 2, "call": 2, "request": 2, "publish": 2, "register-connector": 3}
_NUMBERS = {"unsubscribe": 1, "poll": 2, "sleep": 1}
"""Tool to the host function that it calls: with so many texts of its arguments, in their order, or with (0) all of them. What is
missing to the function's two parameters is all arguments, too."""

TOOLS = {
    "echo": "(return (call $reply_ok (local.get $args) (local.get $alen)))",
    "loop": "(loop (br 0))",
    "count": """
      (global.set $count (i32.add (global.get $count) (i32.const 1)))
      (i32.store8 (i32.const 16) (i32.add (global.get $count) (i32.const 48)))
      (return (call $reply_ok (i32.const 16) (i32.const 1)))""",
    "get": """
      (local.set $r (call $kv_get (local.get $args) (local.get $alen)))
      (if (i32.eq (i32.load8_u (call $at (local.get $r))) (i32.const 2))
        (then (return (call $reply_ok (i32.const 32) (i32.const 4)))))
      (return (local.get $r))""",
    "set": """
      (local.set $r (call $kv_set (local.get $args) (local.get $alen) (local.get $args) (local.get $alen)))
      (if (i32.eq (i32.load8_u (call $at (local.get $r))) (i32.const 0))
        (then (return (call $reply_ok (i32.const 32) (i32.const 4)))))
      (return (local.get $r))""",
    "keys": "(return (call $kv_list (i32.const 0) (i32.const 0)))",
    "nul": "(return (call $kv_get (i32.const 48) (i32.const 2)))",
    "bytes": "(return (call $kv_get (i32.const 60) (i32.const 1)))",
    "outside": "(return (call $kv_get (i32.const -8) (i32.const 100)))",
    "recurse": "(return (call $recurse (i64.const 0)))",
    "unreachable": "(unreachable)",
    "grow": """
      (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (i32.store8 (i32.const 16) (i32.const 49))
      (if (i32.gt_u (memory.size) (i32.const 64)) (then (unreachable)))
      (return (call $reply_ok (i32.const 16) (i32.const 1)))""",
    "fail": "(return (call $pack (i32.const 64) (i32.const 9)))",
    "nothing": "(return (i64.const 0))",
    "beyond": "(return (call $pack (i32.const -16) (i32.const 64)))",
    "much": "(return (call $pack (i32.const 0) (i32.const 100000)))",
    "words": "(return (call $reply_ok (i32.const 65) (i32.const 8)))",
    "log": """
      (local.set $n (i32.const 0))
      (loop
        (drop (call $log (i64.const 1) (i32.const 65) (i32.const 8)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if 0 (i32.lt_u (local.get $n) (i32.const 500))))
      (return (call $reply_ok (i32.const 32) (i32.const 4)))""",
    "secret": """
      (local.set $r (call $config_get (i32.const 86) (i32.const 5)))
      (drop (call $log (i64.const 1) (i32.add (call $at (local.get $r)) (i32.const 1))
        (i32.sub (i32.wrap_i64 (local.get $r)) (i32.const 1))))
      (return (call $reply_ok (i32.const 32) (i32.const 4)))""",
    "times": "(return (call $config_get (i32.const 80) (i32.const 5)))",
    "clock": """
      (if (i64.lt_s (call $now) (i64.const 1700000000000000)) (then (unreachable)))
      (if (i64.lt_s (call $monotonic) (i64.const 1)) (then (unreachable)))
      (return (call $reply_ok (i32.const 32) (i32.const 4)))""",
    "host_loop": "(loop (drop (call $kv_get (i32.const 65) (i32.const 8))) (br 0))",
}
"""Tool to the body of its function."""

KV = """
  (import "interlock:capsule/kv@0.1.0" "get" (func $kv_get (param i32 i32) (result i64)))
  (import "interlock:capsule/kv@0.1.0" "set" (func $kv_set (param i32 i32 i32 i32) (result i64)))
  (import "interlock:capsule/kv@0.1.0" "list" (func $kv_list (param i32 i32) (result i64)))"""


def wat(*, imports: str = "", top: str = "", memory: str = "2", more: str | None = None) -> str:
    """The module with all tools, or (`more`) other ones. `top` is more of it, and `imports` more imports."""
    branches = "".join(
        f"(if (i32.eq (local.get $tool) (i32.const {index})) (then {body}))\n"
        for index, body in enumerate(TOOLS.values())
    )
    branches = (
        branches if more is None else f"(global.set $ap (local.get $args)) (global.set $al (local.get $alen)) {more}"
    )
    return f"""(module
  (import "interlock:capsule/log@0.1.0" "write" (func $log (param i64 i32 i32) (result i64)))
  (import "interlock:capsule/config@0.1.0" "get" (func $config_get (param i32 i32) (result i64)))
  (import "interlock:capsule/clock@0.1.0" "now" (func $now (result i64)))
  (import "interlock:capsule/clock@0.1.0" "monotonic" (func $monotonic (result i64)))
  {KV if more is None else ""} {imports}
  (memory (export "memory") {memory})
  (global $top (mut i32) (i32.const 4096))
  (global $count (mut i32) (i32.const 0))
  (data (i32.const 32) "null") (data (i32.const 48) "a\\00") (data (i32.const 60) "\\ff")
  (data (i32.const 64) "\\01is wrong") (data (i32.const 80) "TIMES") (data (i32.const 86) "TOKEN")
  (func $alloc (export "interlock_alloc") (param $n i32) (result i32) (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $n)))
    (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.div_u (local.get $n) (i32.const 65536)) (i32.const 1))))))
    (local.get $at))
  (func $pack (param $p i32) (param $n i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $p)) (i64.const 32)) (i64.extend_i32_u (local.get $n))))
  (func $at (param $r i64) (result i32) (i32.wrap_i64 (i64.shr_u (local.get $r) (i64.const 32))))
  (func $reply_ok (param $p i32) (param $n i32) (result i64) (local $at i32)
    (local.set $at (call $alloc (i32.add (local.get $n) (i32.const 1))))
    (i32.store8 (local.get $at) (i32.const 0))
    (memory.copy (i32.add (local.get $at) (i32.const 1)) (local.get $p) (local.get $n))
    (call $pack (local.get $at) (i32.add (local.get $n) (i32.const 1))))
  (func $recurse (param i64) (result i64) (call $recurse (i64.add (local.get 0) (i64.const 1))))
  (func $number (param $p i32) (param $n i32) (result i32) (local $sum i32)
    (loop
      (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 10))
        (i32.sub (i32.load8_u (local.get $p)) (i32.const 48))))
      (local.set $p (i32.add (local.get $p) (i32.const 1)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if 0 (local.get $n)))
    (local.get $sum))
  (func (export "interlock_call") (param $name i32) (param $nlen i32) (param $args i32) (param $alen i32) (result i64)
    (local $tool i32) (local $r i64) (local $n i32)
    ;; a tool is named `NAME-NUMBER`, and the number is three digits
    (local.set $tool (call $number (i32.add (local.get $name) (i32.sub (local.get $nlen) (i32.const 3))) (i32.const 3)))
    {branches}
    (unreachable))
  {top})"""


def host_wat(*interfaces: str, imports: str = "", top: str = "") -> str:
    """A module with a tool for each host function of the interfaces, which gives what the function gave."""
    tools = {tool: found for tool, found in HOST_TOOLS.items() if found[0] in interfaces}
    branches = ""
    for tool, (interface, function, texts) in tools.items():
        index = list(HOST_TOOLS).index(tool)
        numbers = _NUMBERS.get(function, 0)
        count = _COUNTS.get(f"{interface}.{function}", _COUNTS.get(function, 1))
        kinds = "i64 " * numbers or "i32 i32 " * count
        imports += f"""
          (import "interlock:capsule/{interface}@0.1.0" "{function}" (func ${tool} (param {kinds}) (result i64)))"""
        found = [f"(call $find (i32.const {n}))" for n in range(texts)]
        if numbers:
            given = [f"{one} (i64.extend_i32_u (call $number (global.get $vp) (global.get $vl)))" for one in found]
        else:
            given = [f"{one} (global.get $vp) {one} (global.get $vl)" for one in found]
            given += ["(local.get $args) (local.get $alen)"] * (count - texts)
        branches += f"""(if (i32.eq (local.get $tool) (i32.const {index})) (then
          (return (call $done (call ${tool} {" ".join(given)})))))"""
    handlers = "" if "ipc-publish" not in interfaces else HANDLERS
    return wat(imports=imports, top=FIND + handlers + top, more=branches)


HANDLERS = """
  ;; Each message is published again, as `seen` or `sent`.
  (data (i32.const 100) "seen") (data (i32.const 104) "sent")
  (func (export "interlock_on_message") (param $p i32) (param $n i32) (result i64)
    (call $done (call $publish (i32.const 100) (i32.const 4) (local.get $p) (local.get $n))))
  (func (export "interlock_on_outbound") (param $p i32) (param $n i32) (result i64)
    (call $done (call $publish (i32.const 104) (i32.const 4) (local.get $p) (local.get $n))))"""


FIND = """
  ;; The text after the n-th `:"` of the arguments, up to the next quotation mark: no escapes.
  (global $vp (mut i32) (i32.const 0)) (global $vl (mut i32) (i32.const 0))
  (global $ap (mut i32) (i32.const 0)) (global $al (mut i32) (i32.const 0))
  (func $find (param $n i32) (local $p i32)
    (local.set $p (global.get $ap))
    (block $found (loop $next
      (if (i32.eq (i32.load16_u (local.get $p)) (i32.const 0x223a)) (then
        (br_if $found (i32.eqz (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))))
      (local.set $p (i32.add (local.get $p) (i32.const 1)))
      (br $next)))
    (local.set $p (i32.add (local.get $p) (i32.const 2)))
    (global.set $vp (local.get $p))
    (block $end (loop $next
      (br_if $end (i32.eq (i32.load8_u (local.get $p)) (i32.const 34)))
      (local.set $p (i32.add (local.get $p) (i32.const 1)))
      (br $next)))
    (global.set $vl (i32.sub (local.get $p) (global.get $vp))))
  ;; A reply without content becomes `null`.
  (func $done (param $r i64) (result i64)
    (if (i32.eq (i32.wrap_i64 (local.get $r)) (i32.const 1)) (then
      (return (call $reply_ok (i32.const 32) (i32.const 4)))))
    (local.get $r))"""


def name_of(tool: str) -> str:
    """The tool's name in the module."""
    return f"{tool}-{list(HOST_TOOLS if tool in HOST_TOOLS else TOOLS).index(tool):03}"


MANIFEST = """
[package]
name = "{name}"
version = "1.0.0"
[component]
file = "module.wasm"
abi = "core"
[env.TIMES]
type = "integer"
default = 2
[env.TOKEN]
secret = true
[capabilities]
kv = {kv}
{declared}
[limits]
memory_mb = 4
timeout_ms = {timeout_ms}
output_bytes_max = 65536
{limits}
[capsule]
lifetime = "{lifetime}"
trust = "{trust}"
{more}
"""


class World:
    """The project."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "INTERLOCK"))}
        self.env["INTERLOCK_STATE_DIR"] = str(state)
        self.state = state
        root.mkdir()
        self.opened: list[Runtime] = []
        self.capsules: list[str] = []

    def add(
        self, name: str = "c", source: str | None = None, tools: Iterable[str] | None = None, **options: str
    ) -> Path:
        """Write a capsule; returns its directory."""
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        values = {
            "kv": "true",
            "declared": "",
            "timeout_ms": "20000",
            "lifetime": "call",
            "trust": "full",
            "limits": "",
            "more": "",
        }
        manifest = MANIFEST.format(name=name, **{**values, **options})
        for tool in TOOLS if tools is None else tools:
            manifest += f'[[tool]]\nname = "{name_of(tool)}"\ndescription = "Does {tool}."\n'
            manifest += 'input_schema = { type = "object" }\n'
        (directory / "capsule.toml").write_text(manifest)
        (directory / "module.wasm").write_bytes(wasmtime.wat2wasm(source or wat()))
        self.capsules.append(name)
        return directory

    def add_host(
        self, name: str, declared: str, *interfaces: str, imports: str = "", top: str = "", **options: str
    ) -> Path:
        """Write a capsule with a tool for each host function of some interfaces. `declared` are capabilities."""
        tools = [tool for tool, found in HOST_TOOLS.items() if found[0] in interfaces]
        return self.add(
            name, host_wat(*interfaces, imports=imports, top=top), tools, kv="false", declared=declared, **options
        )

    def configure(self, more: str = "") -> None:
        """Write and trust the configuration, with every capsule locked as it is now."""
        tables = "".join(f"[capsules.{name}]\npath = '{name}'\n" for name in dict.fromkeys(self.capsules))
        (self.root / "interlock.toml").write_text(CONFIGURATION + tables + more)
        locked = {}
        for name in self.capsules:
            sums = [
                hashlib.sha256((self.root / name / file).read_bytes()).hexdigest()
                for file in ("capsule.toml", "module.wasm")
            ]
            locked[name] = LockedCapsule(version="1.0.0", manifest=sums[0], component=sums[1])
        (self.root / "interlock.lock").write_bytes(encode_lock({}, locked))
        self.trust()

    def trust(self) -> None:
        trust(review(self.root, self.env), self.env)

    def open(self) -> Runtime:
        """A runtime, closed with the test."""
        os.environ["INTERLOCK_STATE_DIR"] = str(self.state)
        self.opened.append(Runtime.open(self.root / "interlock.toml"))
        return self.opened[-1]


def call(runtime: Runtime, tool: str, parameters: dict | None = None, capsule: str = "c", **options):
    """One call of a tool of the capsule."""
    return runtime.call_sync(f"{capsule}/{name_of(tool)}", parameters or {}, **options)


def refusal(runtime: Runtime, tool: str, parameters: dict, **options) -> str:
    """The code with which a host function refused a call."""
    result = call(runtime, tool, parameters, **options)
    assert result.reason == "tool_failed", result
    return json.loads(result.error[result.error.index("{") :])["code"]


def events(runtime: Runtime, run_id: str, *kinds: str) -> list[dict]:
    """The events of these kinds in a run's journal."""
    journal = runtime.services.state_dir / "runs" / run_id / "journal.ndjson"
    found = [json.loads(line) for line in journal.read_text().splitlines()]
    return [event for event in found if event["kind"] in kinds]
