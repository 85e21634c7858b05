"""The manifest of a capsule, `capsule.toml`: what a WebAssembly component is, offers, needs and may do.

The keys have units in their names. What a type cannot express is checked by `interlock.settings.manifest`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, field

from interlock.model.limits import INTEGER_MAX

SEPARATOR: Final = "/"
"""Between the names of a capsule and of its tool: `hello/greet`."""

ON_MESSAGE: Final = "on-message"
ON_OUTBOUND: Final = "on-outbound"
RUN: Final = "run"
EVENT_TOOLS: Final = (ON_MESSAGE, ON_OUTBOUND)
"""Second parts of the names of the tools by which the host has messages handled; a manifest has no tool of that name."""

CapsuleName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Package(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the capsule is."""

    name: Annotated[CapsuleName, Meta(description="The first part of the names of its tools.")]
    version: Annotated[Text, Meta(description="A semantic version.")]
    description: Annotated[str, Meta(max_length=4096, description="One line for people.")] = ""


class Component(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The WebAssembly file."""

    file: Annotated[Text, Meta(description="Its path beneath the directory of the manifest; no link leads to it.")]
    abi: Annotated[
        Literal["component", "core"],
        Meta(
            description="`component`: a component of the world `interlock:capsule`; `core`: a core module that passes pointers "
            "and lengths."
        ),
    ] = "component"
    sha256: Annotated[Sha256 | None, Meta(description="The SHA-256 of the file, if it is to be one build only.")] = None


class CapsuleTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the capsule offers, and what calling it does."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="The second part of its name.")]
    description: Annotated[Text, Meta(description="What it does, for models and people.")]
    input_schema: Annotated[dict[str, Any], Meta(description="JSON Schema of its parameters.")]
    output_schema: Annotated[dict[str, Any] | None, Meta(description="JSON Schema of its result.")] = None
    read_only: Annotated[bool, Meta(description="A call changes nothing.")] = False
    destructive: Annotated[bool, Meta(description="A call may overwrite or remove something.")] = True
    idempotent: Annotated[bool, Meta(description="The same call twice does what it does once.")] = False


class Variable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of the capsule's configuration."""

    type: Annotated[Literal["string", "integer", "number", "boolean"], Meta(description="What it is.")] = "string"
    description: Annotated[str, Meta(max_length=4096, description="One line for people.")] = ""
    default: Annotated[str | int | float | bool | None, Meta(description="Its value if none was set.")] = None
    required: Annotated[bool, Meta(description="The capsule is not loaded until it has a value.")] = False
    secret: Annotated[bool, Meta(description="It is shown nowhere, and has no default.")] = False


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the capsule may use beyond `log`, `config` and `clock`. A grant can only narrow it."""

    fs_read: Annotated[tuple[Text, ...], Meta(description="Globs over paths in the workspace that it may read.")] = ()
    fs_write: Annotated[tuple[Text, ...], Meta(description="Globs over paths that it may write.")] = ()
    net: Annotated[tuple[Text, ...], Meta(description="Hosts: `name:port`, `*.example.org:443`.")] = ()
    kv: Annotated[bool, Meta(description="Keys and values of its own, per agent.")] = False
    ipc_publish: Annotated[tuple[Text, ...], Meta(description="Topics that it may publish to.")] = ()
    ipc_subscribe: Annotated[
        tuple[Text, ...], Meta(description="Topics that it may read; `*` is one segment of one.")
    ] = ()
    tools: Annotated[tuple[Text, ...], Meta(description="Tools that it may call, through the gate.")] = ()
    approval: Annotated[bool, Meta(description="It may ask a person.")] = False


class Uplink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way in and out for messages of people."""

    name: Annotated[CapsuleName, Meta(description="Its name in the capsule.")]
    platform: Annotated[Text, Meta(description="Where the messages come from, such as `matrix`.")]
    profile: Annotated[Text, Meta(description="How it is used there.")] = "default"


class CapsuleLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one call may take."""

    memory_mb: Annotated[int, Meta(ge=1, le=4096, description="MiB of all its linear memories.")] = 64
    timeout_ms: Annotated[int, Meta(ge=1, le=86_400_000, description="Time of one call, host functions included.")] = (
        10_000
    )
    fuel: Annotated[
        Annotated[int, Meta(ge=1, le=INTEGER_MAX)] | None, Meta(description="Instructions of one call, about.")
    ] = None
    output_bytes_max: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024, description="Bytes of one result.")] = 1024 * 1024


class Behavior(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the capsule is run."""

    lifetime: Annotated[
        Literal["call", "capsule"],
        Meta(
            description="`call`: each call has memory of its own; `capsule`: memory lasts from call to call, one call at a time."
        ),
    ] = "call"
    trust: Annotated[
        Literal["full", "none"], Meta(description="`none`: its worker process serves no other capsule.")
    ] = "full"
    on_message: Annotated[
        tuple[Text, ...],
        Meta(
            description="Topics of which each message has the capsule's `on-message` called; `ipc_subscribe` has them."
        ),
    ] = ()
    run: Annotated[
        bool,
        Meta(
            description="It exports `run`, which a program keeps running to bring in messages by its uplinks; then no tool has "
            "that name."
        ),
    ] = False
    dependencies: Annotated[
        dict[CapsuleName, Text], Meta(description="Capsules that are loaded before it, and the versions that will do.")
    ] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    package: Package
    component: Component
    tools: Annotated[tuple[CapsuleTool, ...], Meta(max_length=1000)] = field(default=(), name="tool")
    env: dict[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], Variable] = {}
    capabilities: Capabilities = Capabilities()
    uplinks: Annotated[tuple[Uplink, ...], Meta(max_length=64)] = field(default=(), name="uplink")
    limits: CapsuleLimits = CapsuleLimits()
    behavior: Behavior = field(default=Behavior(), name="capsule")


class LockedCapsule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `interlock.lock` pins of a capsule: the build that a person has agreed to."""

    version: str
    manifest: Sha256
    """SHA-256 of `capsule.toml`."""
    component: Sha256
    """SHA-256 of the WebAssembly file."""


def handlers_of(manifest: Manifest) -> tuple[str, ...]:
    """Second parts of the names of the tools by which the host calls functions of this capsule."""
    own = manifest.behavior
    offered = ((ON_MESSAGE, bool(own.on_message)), (ON_OUTBOUND, bool(manifest.uplinks)), (RUN, own.run))
    return tuple(name for name, offers in offered if offers)


def topic_matches(pattern: str, topic: str) -> bool:
    """True if a topic is one of a pattern, in which `*` is one segment."""
    wanted, given = pattern.split("."), topic.split(".")
    return len(wanted) == len(given) and all(a in ("*", b) for a, b in zip(wanted, given, strict=True))
