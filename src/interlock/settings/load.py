"""Finds the configuration, reads each file once, decodes it, checks trust, and applies overrides that may only tighten.

The order: find the file; read it and every other file the loader needs; decode; compare the same bytes with the trusted
copies; apply the environment, then flags.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.lazy import lazy
from interlock.model.canonical import digest
from interlock.model.errors import ConfigurationError
from interlock.settings.decode import Locate, Place, decode, dotted, fields_of, shown
from interlock.settings.file_bytes import read_bytes
from interlock.settings.mcp_files import files_of, merged, read_servers
from interlock.settings.named import Named, component_names, named_files, protected_names
from interlock.settings.overlay import overlay
from interlock.settings.project_file import FILE, PYPROJECT, TABLE, Found, find, has_table, no_configuration
from interlock.settings.sections import Settings
from interlock.settings.source import locator, parse_toml, utf8
from interlock.settings.trust import SourceFile, TrustStore

if TYPE_CHECKING:
    from interlock.model.capsule import Manifest
    from interlock.settings import manifest
else:
    manifest = lazy("interlock.settings.manifest")

LOCK: Final = "interlock.lock"
"""The pinned definitions of the tools of MCP servers, and the pinned builds of capsules."""
FILES_MAX: Final = 1_000
GIVEN: Final = "settings="
"""The source name of settings passed by a program."""


class Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the loader read, decoded but not yet checked for trust."""

    root: Path
    """The project: the directory of the file, with links resolved."""
    path: Path
    settings: Settings
    files: tuple[SourceFile, ...]
    modules: Mapping[str, str]
    """The dotted name of each tool module and parent package, and its name in `files`; packages come first.

    Execute exactly these bytes: on disk, a cached `.pyc` or a sibling file could replace the source.
    """
    policies: tuple[str, ...]
    """The `files` that are policies: all that `policy.files` names, whatever their extension."""
    written: frozenset[Place]
    """The settings that the file sets."""
    locate: Locate
    """Finds the line of the file on which a setting is."""
    capsules: Mapping[str, Manifest] = {}
    """The manifests of the capsules by name, each after its dependencies."""

    @property
    def protected(self) -> tuple[str, ...]:
        """The paths that no agent may write, relative to the root: files that were read, and places of possible new ones."""
        components = component_names(self.settings, self.capsules, self.root)
        return protected_names((*(file.name for file in self.files), *components), self.settings, self.root)


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A trusted configuration with its overrides."""

    settings: Settings
    root: Path
    path: Path
    files: tuple[SourceFile, ...]
    modules: Mapping[str, str]
    """As in `Gathered`."""
    policies: tuple[str, ...]
    """As in `Gathered`."""
    protected: tuple[str, ...]
    """Paths that no agent may write, relative to the root, in addition to those that are always protected."""
    digest: str
    """Digest of the settings in force and of every file. Each run records it in its journal."""
    sources: Mapping[Place, str]
    """The source of each setting that is not a default."""
    overrides: frozenset[Place]
    """The settings changed by the environment or a flag."""
    capsules: Mapping[str, Manifest] = {}
    """As in `Gathered`."""

    def text(self, name: str) -> str:
        """The text of a file that was read (a policy, by its name in `files`). Raises: ConfigurationError, KeyError."""
        return utf8({file.name: file.data for file in self.files}[name], name)

    def overridden(self, *place: str) -> bool:
        """True if the environment or a flag changed the setting at `place`."""
        return place in self.overrides

    def explain(self) -> list[dict[str, Any]]:
        """Each setting with its value and source, for `interlock doctor --config`: `{path, value, source}`."""
        return [
            {"path": dotted(place), "value": value, "source": _source(place, self.sources)}
            for place, value in _leaves(self.settings, Settings, ())
        ]


def gather(start: Path, *, explicit: Path | None = None, extra: Sequence[str] = ()) -> Gathered:
    """Read and decode every file of the loader, trusted or not. `interlock trust` shows and records the result.

    `extra` names more files beside the configuration (`interlock.lock`, `.mcp.json`). Raises: ConfigurationError.
    """
    found = _explicit(explicit) if explicit is not None else find(start)
    if found is None:
        raise no_configuration(start.resolve())
    table = parse_toml(found.data, found.path.name)
    if found.path.name == PYPROJECT:
        table = table["tool"]["interlock"]
        # Only our table counts, so that a new dependency in the same file does not affect trust.
        seen = SourceFile(PYPROJECT, _as_text(table))
        locate = locator(found.data, PYPROJECT, TABLE)
    else:
        seen = SourceFile(found.path.name, found.data)
        locate = locator(found.data, found.path.name)
    return _gather(table, found.path, (seen,), locate, extra)


def _gather(
    table: Mapping[str, Any], path: Path, seen: Sequence[SourceFile], locate: Locate, extra: Sequence[str] = ()
) -> Gathered:
    """Decode a table and read every file that it names. `path` is the configuration file, which need not exist."""
    root = path.parent
    files = {file.name: file for file in seen}
    for index, name in enumerate(files_of(table)):
        file = _read(Named(("mcp", "files", index), root / name), root, locate)
        files[file.name] = file
        table = merged(table, read_servers(file.data, file.name), file.name)
    settings = decode(table, locate=locate)
    modules: dict[str, str] = {}
    policies: dict[str, None] = {}
    capsules: dict[str, Manifest] = {}
    for named in named_files(settings, root, locate):
        file = _read(named, root, locate)
        files[file.name] = file
        if named.module is not None:
            modules[named.module] = file.name
        if named.place[0] == "policy":
            policies[file.name] = None
        if named.place[0] == "capsules":
            capsule = str(named.place[1])
            capsules[capsule] = manifest.read_manifest(capsule, file.data, file.name, settings, locate)
        if len(files) > FILES_MAX:
            raise ConfigurationError(f"more than {FILES_MAX} files", path=locate(named.place))
    for name in (*((LOCK,) if settings.mcp.servers or capsules else ()), *extra):
        data = read_bytes(root / name)
        if data is not None:
            files[name] = SourceFile(name, data)
    return Gathered(
        root=root,
        path=path,
        settings=settings,
        files=tuple(files.values()),
        modules=modules,
        policies=tuple(policies),
        written=frozenset(_written(table, ())),
        locate=locate,
        capsules={name: capsules[name] for name in manifest.load_order(capsules, locate)} if capsules else {},
    )


def load(
    start: Path,
    *,
    explicit: Path | None = None,
    env: Mapping[str, str],
    flags: Mapping[str, Any],
    trust: TrustStore,
    extra: Sequence[str] = (),
    direct: bool = False,
) -> Loaded:
    """The configuration in force for a project. With `direct`, `workspace.mode` is `direct` unless the file sets it.

    Raises: ConfigurationError: `configuration`, `untrusted_configuration`, `override_loosens`; StoreError and IntegrityError
    from the trust record.
    """
    gathered = gather(start, explicit=explicit, extra=extra)
    trust.require(gathered.root, gathered.files)
    gathered = _directly(gathered) if direct else gathered
    return _loaded(gathered, gathered.path.name, env, flags)


def load_table(
    table: Mapping[str, Any], root: Path | None, *, env: Mapping[str, str], flags: Mapping[str, Any]
) -> Loaded:
    """The configuration for settings passed by a program instead of a file.

    Files that they name are read beneath `root`.

    The program trusts the files it names, so the trust record is not checked. Such a runtime stores nothing on disk, so
    `workspace.mode` is `direct` unless the table sets it. Raises: ConfigurationError, also if there are files to read
    and `root` is None.
    """
    if root is None:
        for section, key in (("policy", "files"), ("tools", "modules"), ("capsules", None)):
            part = table.get(section)
            if part if key is None or not isinstance(part, Mapping) else part.get(key):
                name = section if key is None else f"{section}.{key}"
                raise ConfigurationError(
                    f"`{name}` names files, but the runtime has no workspace",
                    path=name,
                    hint="open the runtime with `workspace=`",
                )
    base = Path("/") if root is None else root.resolve()
    return _loaded(_directly(_gather(table, base / FILE, (), dotted)), GIVEN, env, flags)


def _directly(gathered: Gathered) -> Gathered:
    """The same settings with `workspace.mode = "direct"`, unless the file sets the mode."""
    if ("workspace", "mode") in gathered.written:
        return gathered
    settings = gathered.settings
    workspace = msgspec.structs.replace(settings.workspace, mode="direct")
    return msgspec.structs.replace(gathered, settings=msgspec.structs.replace(settings, workspace=workspace))


def _loaded(gathered: Gathered, name: str, env: Mapping[str, str], flags: Mapping[str, Any]) -> Loaded:
    """Apply the environment and flags. `name` is the source of the settings in the file."""
    settings, overrides = overlay(gathered.settings, env, flags)
    return Loaded(
        settings=settings,
        root=gathered.root,
        path=gathered.path,
        files=gathered.files,
        modules=gathered.modules,
        policies=gathered.policies,
        protected=gathered.protected,
        digest=digest(
            "configuration", {"settings": settings.as_dict(), "files": {f.name: f.digest for f in gathered.files}}
        ),
        sources=dict.fromkeys(gathered.written, name) | overrides,
        overrides=frozenset(overrides),
        capsules=gathered.capsules,
    )


def _read(named: Named, root: Path, locate: Locate) -> SourceFile:
    path = Path(os.path.normpath(named.path))
    try:
        name = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
        name.encode()
        data = read_bytes(path)
    except UnicodeEncodeError:
        raise ConfigurationError("the name of a file is not UTF-8", path=locate(named.place)) from None
    if data is None:
        raise ConfigurationError(f"`{dotted(named.place)}`: the file does not exist", path=locate(named.place))
    return SourceFile(name, data)


def _explicit(path: Path) -> Found:
    data = read_bytes(path)
    if data is None:
        raise ConfigurationError(
            "the configuration file does not exist", path=str(path), hint="`interlock init` creates one"
        )
    if path.name == PYPROJECT and not has_table(data, path):
        raise ConfigurationError("there is no `[tool.interlock]` table", path=str(path))
    return Found(path.parent.resolve() / path.name, data)


def _as_text(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "replace")


def _written(value: Any, place: Place) -> Iterator[Place]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _written(item, (*place, key))
    else:
        yield place


def _leaves(value: Any, hint: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """Each setting with its value in the form used in the file."""
    if isinstance(value, msgspec.Struct):
        for key, (name, field) in fields_of(type(value)).items():
            yield from _leaves(getattr(value, name), field, place if name == "by_name" else (*place, key))
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, Any, (*place, key))
    else:
        yield place, shown(value, hint)


def _source(place: Place, sources: Mapping[Place, str]) -> str:
    """The source of a place, or of its longest known prefix."""
    for length in range(len(place), 0, -1):
        if place[:length] in sources:
            return sources[place[:length]]
    return "default"
