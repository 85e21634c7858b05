"""Decodes the manifests of capsules (`capsule.toml`), strictly, and sorts capsules into the order in which they are loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePosixPath
from typing import Any, Final

from interlock.detect import find_unseen
from interlock.model.capsule import EVENT_TOOLS, RUN, Manifest, Variable, topic_matches
from interlock.model.errors import ConfigurationError
from interlock.model.globs import PathGlob
from interlock.model.hosts import parse_pattern
from interlock.model.schema import Schema, SchemaError
from interlock.model.versions import parse_version, version_range
from interlock.settings.decode import Locate, decode_section, dotted
from interlock.settings.named import MANIFEST
from interlock.settings.sections import Settings
from interlock.settings.source import locator, parse_toml

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
}  # fmt: skip
_TOPIC_CHARS_MAX: Final = 256
_ENTRY: Final = (
    'a capsule needs `[component]` with `file = "NAME.wasm"`, and `abi`: `component` (a WebAssembly component, the default) or '
    "`core` (a core module)"
)

Raise = Callable[..., ConfigurationError]


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Decode the bytes of a manifest. `name` is shown in errors. Raises: ConfigurationError with the file, line and field."""
    table = parse_toml(data, name)
    locate = locator(data, name)
    if "component" not in table:
        raise ConfigurationError("`component` is missing", path=name, hint=_ENTRY)
    manifest: Manifest = decode_section(table, Manifest, locate)

    def error(message: str, *at: str | int, hint: str | None = None) -> ConfigurationError:
        return ConfigurationError(f"`{dotted(at)}`: {message}", path=locate(at), hint=hint)

    _check_component(manifest, error)
    _check_tools(manifest, error)
    for key, variable in manifest.env.items():
        wrong = _variable_problem(variable)
        if wrong is not None:
            raise error(wrong, "env", key, "default")
    _check_capabilities(manifest, error)
    for index, topic in enumerate(manifest.behavior.on_message):
        if not any(topic_matches(allowed, topic) for allowed in manifest.capabilities.ipc_subscribe):
            raise error("the topic is not listed in `capabilities.ipc_subscribe`", "capsule", "on_message", index)
    if manifest.behavior.run and not manifest.uplinks:
        raise error(
            "a capsule that runs by itself receives messages, but this one has no uplink",
            "capsule",
            "run",
            hint="declare one with `[[uplink]]`, or leave `run` out",
        )
    names = [uplink.name for uplink in manifest.uplinks]
    for index, uplink in enumerate(names):
        if uplink in names[:index]:
            raise error("there is another uplink with this name", "uplink", index, "name")
    for dependency, versions in manifest.behavior.dependencies.items():
        try:
            version_range(versions)
        except ValueError as problem:
            raise error(str(problem), "capsule", "dependencies", dependency) from None
    return manifest


def read_manifest(name: str, data: bytes, file: str, settings: Settings, locate: Locate) -> Manifest:
    """The manifest of the capsule with this name in the settings. Raises: ConfigurationError."""
    manifest = decode_manifest(data, file)
    if manifest.package.name != name:
        raise ConfigurationError(
            f"the capsule's manifest has another name, `{manifest.package.name}`",
            path=locate(("capsules", name)),
            hint=f"write `[capsules.{manifest.package.name}]`, because its tools are named after it",
        )
    if name in settings.mcp.servers:
        raise ConfigurationError(
            f"a capsule and an MCP server are both named `{name}`, so their tools could have the same names",
            path=locate(("capsules", name)),
            hint="rename the server",
        )
    return manifest


def load_order(capsules: Mapping[str, Manifest], locate: Locate) -> tuple[str, ...]:
    """The names of the capsules, each after its dependencies, otherwise sorted by name.

    `locate` finds the place of a capsule in the configuration. Raises: ConfigurationError, which names a capsule that
    is missing or has another version, or all capsules of a cycle.
    """
    for name, manifest in capsules.items():
        for dependency, versions in manifest.behavior.dependencies.items():
            found = capsules.get(dependency)
            if found is None:
                raise ConfigurationError(
                    f"the capsule `{name}` depends on `{dependency}`, which is not configured",
                    path=locate(("capsules", name)),
                    hint=f"`[capsules.{dependency}]` with a `path` configures it",
                )
            if not version_range(versions)(parse_version(found.package.version)):
                raise ConfigurationError(
                    f"the capsule `{name}` depends on `{dependency}` {versions}, but its version is {found.package.version}",
                    path=locate(("capsules", name)),
                )
    sorter = TopologicalSorter({name: one.behavior.dependencies for name, one in capsules.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        members: list[str] = error.args[1][::-1]  # graphlib yields dependencies before their dependents
        cycle = " -> ".join(f"`{name}`" for name in members)
        raise ConfigurationError(
            f"capsules depend on each other: {cycle}", path=locate(("capsules", members[0]))
        ) from None
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return tuple(order)


def _check_component(manifest: Manifest, error: Raise) -> None:
    try:
        parse_version(manifest.package.version)
    except ValueError as problem:
        raise error(str(problem), "package", "version") from None
    file = manifest.component.file
    if file.startswith("/"):
        raise error(
            "the path is absolute", "component", "file", hint=f"make it relative to the directory of `{MANIFEST}`"
        )
    parts = PurePosixPath(file).parts
    if ".." in parts or os.path.normpath(file) in (".", MANIFEST):
        raise error("expected a file beneath the directory of the manifest", "component", "file")


def _check_tools(manifest: Manifest, error: Raise) -> None:
    names: set[str] = set()
    for index, tool in enumerate(manifest.tools):
        if tool.name in names:
            raise error("there is another tool with this name", "tool", index, "name")
        if tool.name in EVENT_TOOLS or (tool.name == RUN and manifest.behavior.run):
            raise error("the name is reserved for a function that the host calls", "tool", index, "name")
        names.add(tool.name)
        if tool.read_only and manifest.capabilities.fs_write:
            raise error(
                "a read-only tool cannot be in a capsule that may write files",
                "tool",
                index,
                "read_only",
                hint="remove `read_only` or `capabilities.fs_write`",
            )
        for key, schema in (("input_schema", tool.input_schema), ("output_schema", tool.output_schema)):
            if schema is not None:
                problem = _schema_problem(schema, any_type=key == "output_schema")
                if problem is not None:
                    raise error(problem, "tool", index, key)


def _schema_problem(schema: dict[str, Any], *, any_type: bool) -> str | None:
    if not any_type and schema.get("type") != "object":
        return '`type` is not `"object"`'
    try:
        Schema.compile(schema)
    except SchemaError as problem:
        return f"the schema cannot be used: {problem.message}"
    return None


def _variable_problem(variable: Variable) -> str | None:
    """The problem with the default of a variable; None if there is none."""
    default = variable.default
    if default is None:
        return None
    if variable.secret:
        return "a secret cannot have a default"
    if variable.required:
        return "a required value cannot have a default"
    if (isinstance(default, bool) and variable.type != "boolean") or not isinstance(default, _TYPES[variable.type]):
        return f"the default does not have the type `{variable.type}`"
    return None


def _check_capabilities(manifest: Manifest, error: Raise) -> None:
    own = manifest.capabilities
    checks: list[tuple[str, tuple[str, ...], Callable[[str], object]]] = [
        ("fs_read", own.fs_read, PathGlob),
        ("fs_write", own.fs_write, PathGlob),
        ("net", own.net, parse_pattern),
        ("ipc_publish", own.ipc_publish, lambda text: _check_topic(text, pattern=False)),
        ("ipc_subscribe", own.ipc_subscribe, lambda text: _check_topic(text, pattern=True)),
    ]
    for key, values, check in checks:
        for index, value in enumerate(values):
            try:
                check(value)
            except ConfigurationError as refusal:
                raise error(refusal.message, "capabilities", key, index, hint=refusal.hint) from None


def _check_topic(text: str, *, pattern: bool) -> None:
    """Raises: ConfigurationError."""
    segments = text.split(".")
    if len(text) > _TOPIC_CHARS_MAX or not all(segments) or find_unseen(text) or " " in text:
        raise ConfigurationError("expected a topic such as `build.finished`: names separated by dots")
    if any("*" in segment and (segment != "*" or not pattern) for segment in segments):
        raise ConfigurationError(
            "`*` stands for one whole segment of a topic" if pattern else "a topic for publishing cannot contain `*`"
        )
    if not pattern and segments[0] == "interlock":
        raise ConfigurationError("topics that begin with `interlock` are reserved for the host")
