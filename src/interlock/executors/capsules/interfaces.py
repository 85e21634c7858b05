"""The host functions of capsules: their interfaces and signatures, and what a manifest must declare for each.

Components get the same functions through the world `interlock:capsule`. A core module imports a function from the
interface's name; `text` and `bytes` are passed as two `i32` (pointer, length), and `number` as an `i64`. Every function
except `now` and `monotonic` returns an `i64`: the pointer (high half) and the length of a reply, in memory that the
module's own `interlock_alloc` returned. The reply's first byte is its kind, and its content follows. Uses only the
standard library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

VERSION: Final = "0.1.0"
PACKAGE: Final = "interlock:capsule"
WASI_CORE: Final = "wasi_snapshot_preview1"
"""WASI for core modules, linked without resources: no files, no environment, no arguments."""
WASI_COMPONENTS: Final = ("wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/")
"""WASI interfaces for components, also linked without resources."""

OK: Final = 0
"""Kind of a reply: the result follows."""
ERROR: Final = 1
"""Kind of a reply: a JSON object with `code` and `message` follows."""
NONE: Final = 2
"""Kind of a reply: no value, as opposed to an empty one."""

RUN: Final = "run"
"""The handler that is called without a message."""
STORE_GOES_ON: Final = frozenset({"tool_failed", "invalid_output"})
"""Codes of failures after which a lasting store can still be used, because the capsule ended its call itself."""


class HostFunction(NamedTuple):
    """One function that a capsule can import."""

    parameters: tuple[str, ...]
    """Each one `text`, `bytes` or `number`."""
    gives: str = ""
    """The result in WIT: `text?` (an option), or a result of `bytes`, `bytes?`, `text`, `texts`, `flag`, `number`, or empty.

    See `capsule.wit`. In a reply to a core module, `texts`, `flag` and `number` are JSON.
    """
    plain: bool = False
    """True if the function returns a plain `i64` instead of a reply."""
    untimed: bool = False
    """True if its duration does not count towards the call, because a person is asked."""


class Interface(NamedTuple):
    """Functions that are imported together."""

    functions: dict[str, HostFunction]
    capability: str = ""
    """The key of `[capabilities]` that the manifest must declare; empty if every capsule has the interface."""


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
"""Maps the name after `interlock:capsule/` to the interface."""


def module_name(interface: str) -> str:
    """Returns the full name of an interface, such as `interlock:capsule/kv@0.1.0`."""
    return f"{PACKAGE}/{interface}@{VERSION}"


BY_MODULE: Final = {module_name(name): name for name in INTERFACES}


def is_declared(interface: str, manifest: Any) -> bool:
    """Returns True if a manifest declares the interface, or the interface needs no declaration."""
    capability = INTERFACES[interface].capability
    if capability == "uplink":
        return bool(manifest.uplinks)
    return not capability or bool(getattr(manifest.capabilities, capability))


def import_problem(imports: Iterable[tuple[str, str]], manifest: Any) -> str | None:
    """Returns why a module with these imports (interface, function) cannot be loaded; None if it can."""
    for module, function in imports:
        if module == WASI_CORE or module.startswith(WASI_COMPONENTS):
            continue
        name = BY_MODULE.get(module)
        if name is None or function not in INTERFACES[name].functions:
            return f"it imports `{function}` from `{module}`, which is not a function available to capsules"
        if not is_declared(name, manifest):
            capability = INTERFACES[name].capability
            where = "an uplink" if capability == "uplink" else f"`capabilities.{capability}`"
            return f"it imports `{function}` from `{module}`, but its manifest does not declare {where}"
    return None
