"""The manifest of a capsule, `capsule.toml`: what a WebAssembly component is, offers, needs and may do.

The keys have units in their names. Rules that types cannot express are checked by `interlock.settings.manifest`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, field

from interlock.model.limits import INTEGER_MAX

SEPARATOR: Final = "/"
"""Separates the names of a capsule and its tool: `hello/greet`."""

ON_MESSAGE: Final = "on-message"
ON_OUTBOUND: Final = "on-outbound"
RUN: Final = "run"
EVENT_TOOLS: Final = (ON_MESSAGE, ON_OUTBOUND)
"""The names of tools through which the host delivers messages. A manifest cannot have tools with these names."""

CapsuleName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Package(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name and version of the capsule."""

    name: Annotated[CapsuleName, Meta(description="The first part of the names of its tools.")]
    version: Annotated[Text, Meta(description="A semantic version.")]
    description: Annotated[str, Meta(max_length=4096, description="One line for people.")] = ""


class Component(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The WebAssembly file."""

    file: Annotated[Text, Meta(description="Its path beneath the directory of the manifest, without links.")]
    abi: Annotated[
        Literal["component", "core"],
        Meta(
            description="`component`: a component of the world `interlock:capsule`; `core`: a core module that passes "
            "pointers and lengths."
        ),
    ] = "component"
    sha256: Annotated[Sha256 | None, Meta(description="The SHA-256 of the file, to allow only this build.")] = None


class CapsuleTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the capsule offers."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="The second part of its name.")]
    description: Annotated[Text, Meta(description="What it does, for models and people.")]
    input_schema: Annotated[dict[str, Any], Meta(description="JSON Schema of its parameters.")]
    output_schema: Annotated[dict[str, Any] | None, Meta(description="JSON Schema of its result.")] = None
    read_only: Annotated[bool, Meta(description="A call changes nothing.")] = False
    destructive: Annotated[bool, Meta(description="A call may overwrite or remove something.")] = True
    idempotent: Annotated[bool, Meta(description="Calling it twice has the same effect as calling it once.")] = False


class Variable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of the capsule's configuration."""

    type: Annotated[Literal["string", "integer", "number", "boolean"], Meta(description="The type.")] = "string"
    description: Annotated[str, Meta(max_length=4096, description="One line for people.")] = ""
    default: Annotated[str | int | float | bool | None, Meta(description="The value if none is set.")] = None
    required: Annotated[bool, Meta(description="The capsule is not loaded without a value.")] = False
    secret: Annotated[bool, Meta(description="The value is never shown, and has no default.")] = False


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the capsule may use in addition to `log`, `config` and `clock`. A grant can only narrow it."""

    fs_read: Annotated[tuple[Text, ...], Meta(description="Globs over paths in the workspace that it may read.")] = ()
    fs_write: Annotated[tuple[Text, ...], Meta(description="Globs over paths that it may write.")] = ()
    net: Annotated[tuple[Text, ...], Meta(description="Hosts: `name:port`, `*.example.org:443`.")] = ()
    kv: Annotated[bool, Meta(description="Its own keys and values, per agent.")] = False
    ipc_publish: Annotated[tuple[Text, ...], Meta(description="Topics that it may publish to.")] = ()
    ipc_subscribe: Annotated[
        tuple[Text, ...], Meta(description="Topics that it may read; `*` matches one segment.")
    ] = ()
    tools: Annotated[tuple[Text, ...], Meta(description="Tools that it may call, through the gate.")] = ()
    approval: Annotated[bool, Meta(description="It may ask people for approval.")] = False


class Uplink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A connection for messages to and from people."""

    name: Annotated[CapsuleName, Meta(description="Its name in the capsule.")]
    platform: Annotated[Text, Meta(description="Where the messages come from, such as `matrix`.")]
    profile: Annotated[Text, Meta(description="The profile on the platform.")] = "default"


class CapsuleLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one call."""

    memory_mb: Annotated[int, Meta(ge=1, le=4096, description="MiB of all linear memories together.")] = 64
    timeout_ms: Annotated[int, Meta(ge=1, le=86_400_000, description="Time of one call, host functions included.")] = (
        10_000
    )
    fuel: Annotated[
        Annotated[int, Meta(ge=1, le=INTEGER_MAX)] | None,
        Meta(description="Approximate number of instructions of one call."),
    ] = None
    output_bytes_max: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024, description="Bytes of one result.")] = 1024 * 1024


class Behavior(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the capsule is run."""

    lifetime: Annotated[
        Literal["call", "capsule"],
        Meta(
            description="`call`: each call has its own memory; `capsule`: memory is kept between calls, one call at a time."
        ),
    ] = "call"
    trust: Annotated[
        Literal["full", "none"], Meta(description="`none`: its worker process serves no other capsule.")
    ] = "full"
    on_message: Annotated[
        tuple[Text, ...],
        Meta(
            description="Topics whose messages are delivered to the capsule's `on-message`; they must be in `ipc_subscribe`."
        ),
    ] = ()
    run: Annotated[
        bool,
        Meta(
            description="It exports `run`, which is kept running to receive messages through its uplinks; then no tool "
            "may have this name."
        ),
    ] = False
    dependencies: Annotated[
        dict[CapsuleName, Text], Meta(description="Capsules to load before it, with the accepted versions.")
    ] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole manifest."""

    package: Package
    component: Component
    tools: Annotated[tuple[CapsuleTool, ...], Meta(max_length=1000)] = field(default=(), name="tool")
    env: dict[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], Variable] = {}
    capabilities: Capabilities = Capabilities()
    uplinks: Annotated[tuple[Uplink, ...], Meta(max_length=64)] = field(default=(), name="uplink")
    limits: CapsuleLimits = CapsuleLimits()
    behavior: Behavior = field(default=Behavior(), name="capsule")


class LockedCapsule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `interlock.lock` pins of a capsule: the build that a person has approved."""

    version: str
    manifest: Sha256
    """SHA-256 of `capsule.toml`."""
    component: Sha256
    """SHA-256 of the WebAssembly file."""


def handlers_of(manifest: Manifest) -> tuple[str, ...]:
    """The names of the tools through which the host calls functions of this capsule."""
    own = manifest.behavior
    offered = ((ON_MESSAGE, bool(own.on_message)), (ON_OUTBOUND, bool(manifest.uplinks)), (RUN, own.run))
    return tuple(name for name, offers in offered if offers)


def topic_matches(pattern: str, topic: str) -> bool:
    """True if a topic matches a pattern, in which `*` stands for one segment."""
    wanted, given = pattern.split("."), topic.split(".")
    return len(wanted) == len(given) and all(a in ("*", b) for a, b in zip(wanted, given, strict=True))
