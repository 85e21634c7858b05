"""The files that `interlock capsule new` writes: a small capsule that greets, in each language."""

from __future__ import annotations

from typing import Final, NamedTuple

_MANIFEST: Final = """\
# A capsule: https://webassembly.org code behind a manifest. `interlock capsule build` builds the component.

[package]
name = "{name}"
version = "0.1.0"
description = "Greets."

[component]
file = "{name}.wasm"
abi = "{abi}"

[[tool]]
name = "greet"
description = "Greets someone by name."
read_only = true
input_schema = {{ type = "object", properties = {{ name = {{ type = "string" }} }}, required = ["name"] }}

[limits]
memory_mb = {memory_mb}
timeout_ms = 1000
"""

_WAT: Final = """\
;; The ABI of core modules: the runtime writes the tool's name and its arguments (JSON) into memory from `interlock_alloc`, and
;; `interlock_call` returns address and length of a reply: a byte, 0 for a result (JSON) or 1 for an error (text), then the rest.
(module
  (import "interlock:capsule/log@0.1.0" "write" (func $log (param i64 i32 i32) (result i64)))
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 1024))
  (data (i32.const 0) "\\00{{\\"hello\\":")
  (data (i32.const 64) "somebody is greeted")

  (func $alloc (export "interlock_alloc") (param $length i32) (result i32) (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $length)))
    (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.div_u (local.get $length) (i32.const 65536)) (i32.const 1))))))
    (local.get $at))

  ;; There is only one tool, so its name is ignored. The arguments are returned as `{{"hello": ARGUMENTS}}`.
  (func (export "interlock_call")
    (param $name i32) (param $name_length i32) (param $arguments i32) (param $length i32) (result i64) (local $at i32)
    (drop (call $log (i64.const 1) (i32.const 64) (i32.const 19)))
    (local.set $at (call $alloc (i32.add (local.get $length) (i32.const 11))))
    (memory.copy (local.get $at) (i32.const 0) (i32.const 10))
    (memory.copy (i32.add (local.get $at) (i32.const 10)) (local.get $arguments) (local.get $length))
    (i32.store8 (i32.add (local.get $at) (i32.add (local.get $length) (i32.const 10))) (i32.const 125))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (i32.add (local.get $length) (i32.const 11))))))
"""

_C: Final = """\
// The ABI of core modules: the runtime writes the tool's name and its arguments (JSON) into memory from `interlock_alloc`, and
// `interlock_call` returns address and length of a reply: a byte, 0 for a result (JSON) or 1 for an error (text), then the rest.
// There is no C library, which keeps the module small; `#include <stdlib.h>` links one.
#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define HOST(interface, name) __attribute__((import_module("interlock:capsule/" interface "@0.1.0"), import_name(name)))

HOST("log", "write") uint64_t host_log(int64_t level, const char *text, size_t length);

extern unsigned char __heap_base;

// Each call has its own memory, so nothing is ever freed.
EXPORT("interlock_alloc") void *interlock_alloc(size_t length) {{
    static size_t top;
    if (!top) top = (size_t)&__heap_base;
    size_t at = (top + 15) & ~(size_t)15, have = __builtin_wasm_memory_size(0) << 16;
    size_t more = at + length > have ? (at + length - have + 65535) >> 16 : 0;
    if (more && __builtin_wasm_memory_grow(0, more) == (size_t)-1) __builtin_trap();
    top = at + length;
    return (void *)at;
}}

// There is only one tool, so its name is ignored. The arguments are returned as {{"hello": ARGUMENTS}}.
EXPORT("interlock_call")
uint64_t interlock_call(const char *name, size_t name_length, const char *arguments, size_t length) {{
    (void)name, (void)name_length;
    host_log(1, "somebody is greeted", 19);
    char *reply = interlock_alloc(length + 11);
    reply[0] = 0;
    __builtin_memcpy(reply + 1, "{{\\"hello\\":", 9);
    __builtin_memcpy(reply + 10, arguments, length);
    reply[length + 10] = '}}';
    return (uint64_t)(uintptr_t)reply << 32 | (length + 11);
}}
"""


_PYTHON: Final = """\
import json

import wit_world
from wit_world.imports import log


class WitWorld(wit_world.WitWorld):
    def call_tool(self, name: str, args: str) -> str:
        # There is only one tool, so its name is ignored.
        given = json.loads(args)
        log.write(1, "somebody is greeted")
        return json.dumps({{"hello": given}})
"""


_JS: Final = """\
import {{ write }} from "interlock:capsule/log@0.1.0";

// There is only one tool, so its name is ignored.
export function callTool(name, args) {{
  write(1, "somebody is greeted");
  return JSON.stringify({{ hello: JSON.parse(args) }});
}}
"""


class Language(NamedTuple):
    """A language in which capsules are written."""

    abi: str
    source: str
    """Name of the source file."""
    text: str
    memory_mb: int = 4


LANGUAGES: Final = {
    "wat": Language("core", "capsule.wat", _WAT),
    "c": Language("core", "capsule.c", _C),
    "python": Language("component", "capsule.py", _PYTHON, 64),
    "js": Language("component", "capsule.js", _JS, 64),
}


def files(name: str, language: str) -> dict[str, str]:
    """The files of a new capsule, by name."""
    found = LANGUAGES[language]
    return {
        "capsule.toml": _MANIFEST.format(name=name, abi=found.abi, memory_mb=found.memory_mb),
        found.source: found.text.format(name=name),
    }
