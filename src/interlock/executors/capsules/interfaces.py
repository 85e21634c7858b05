"""The host functions of capsules: their interfaces, signatures, and what a manifest has to declare for each.

The world `interlock:capsule` is the same set for components. In a core module a function is imported from the interface's
name; `text` and `bytes` are passed as two `i32` (pointer, length) and `number` as an `i64`. Every function but `now` and
`monotonic` returns an `i64`, the pointer (high half) and the length of a reply that is in memory from the module's own
`interlock_alloc`: one byte that says which kind it is, then what belongs to it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

VERSION: Final = "0.1.0"
PACKAGE: Final = "interlock:capsule"
WASI_CORE: Final = "wasi_snapshot_preview1"
"""Linked with nothing behind it: no files, no environment, no arguments."""
WASI_COMPONENTS: Final = ("wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/")
"""The same for components."""

OK: Final = 0
"""Kind of a reply: the result follows."""
ERROR: Final = 1
"""A JSON object with `code` and `message` follows."""
NONE: Final = 2
"""There is no such thing, which is not an empty one."""

RUN: Final = "run"
"""The function that is called without a message."""
STORE_GOES_ON: Final = frozenset({"tool_failed", "invalid_output"})
"""Codes of failures after which a store that lasts is as good as before: the capsule has ended its call itself."""


class HostFunction(NamedTuple):
    """One function that a capsule can import."""

    parameters: tuple[str, ...]
    """Each `text`, `bytes` or `number`."""
    gives: str = ""
    """What it gives in WIT: `text?` (an option), or a result of `bytes`, `bytes?`, `text`, `texts`, `flag`, `number`, or nothing.
    See `capsule.wit`. In the reply to a core module `texts`, `flag` and `number` are JSON."""
    plain: bool = False
    """True if the result is an `i64` rather than a reply."""
    untimed: bool = False
    """True if the time that it takes is not time of the call: a person is asked."""


class Interface(NamedTuple):
    """Functions that are imported together."""

    functions: dict[str, HostFunction]
    capability: str = ""
    """What the manifest must declare, as a key of `[capabilities]`; empty if every capsule has it."""


INTERFACES: Final = {
    "log": Interface({"write": HostFunction(("number", "text"))}),
    "config": Interface({"get": HostFunction(("text",), "text?")}),
    "clock": Interface(
        {
            "now": HostFunction((), plain=True),
            "monotonic": HostFunction((), plain=True),
            "sleep": HostFunction(("number",)),
        }
    ),
    "kv": Interface(
        {
            "get": HostFunction(("text",), "bytes?"),
            "set": HostFunction(("text", "bytes")),
            "delete": HostFunction(("text",)),
            "list": HostFunction(("text",), "texts"),
        },
        "kv",
    ),
    "fs-read": Interface(
        {"read": HostFunction(("text",), "bytes"), "list": HostFunction(("text",), "texts")}, "fs_read"
    ),
    "fs-write": Interface({"write": HostFunction(("text", "bytes")), "delete": HostFunction(("text",))}, "fs_write"),
    "http": Interface({"fetch": HostFunction(("text",), "text")}, "net"),
    "tools": Interface({"call": HostFunction(("text", "text"), "text")}, "tools"),
    "ipc-publish": Interface({"publish": HostFunction(("text", "bytes"))}, "ipc_publish"),
    "ipc-subscribe": Interface(
        {
            "subscribe": HostFunction(("text",), "number"),
            "unsubscribe": HostFunction(("number",)),
            "poll": HostFunction(("number", "number"), "text"),
        },
        "ipc_subscribe",
    ),
    "uplink": Interface(
        {"register-connector": HostFunction(("text", "text", "text")), "send": HostFunction(("text",))}, "uplink"
    ),
    "approval": Interface({"request": HostFunction(("text", "text"), "flag", untimed=True)}, "approval"),
}
"""By the name after `interlock:capsule/`."""


def module_name(interface: str) -> str:
    """The full name of an interface: `interlock:capsule/kv@0.1.0`."""
    return f"{PACKAGE}/{interface}@{VERSION}"


BY_MODULE: Final = {module_name(name): name for name in INTERFACES}


def is_declared(interface: str, manifest: Any) -> bool:
    """True if a manifest declares the interface, or it needs no declaration."""
    capability = INTERFACES[interface].capability
    if capability == "uplink":
        return bool(manifest.uplinks)
    return not capability or bool(getattr(manifest.capabilities, capability))


def import_problem(imports: Iterable[tuple[str, str]], manifest: Any) -> str | None:
    """Why a module that imports these functions (interface, function) is not loaded; None if it is."""
    for module, function in imports:
        if module == WASI_CORE or module.startswith(WASI_COMPONENTS):
            continue
        name = BY_MODULE.get(module)
        if name is None or function not in INTERFACES[name].functions:
            return f"it imports `{function}` from `{module}`, which is not a function that capsules are given"
        if not is_declared(name, manifest):
            capability = INTERFACES[name].capability
            where = "an uplink" if capability == "uplink" else f"`capabilities.{capability}`"
            return f"it imports `{function}` from `{module}`, and its manifest does not declare {where}"
    return None
