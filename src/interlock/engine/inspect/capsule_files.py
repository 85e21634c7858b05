"""What people do with the capsules of a project: add one to the configuration, pin its build, configure it.

Needs no trusted configuration: what it changes has to be trusted afterwards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from interlock.disk import Disk
from interlock.engine.local.location import locate, open_database
from interlock.executors.capsules import component_file, interfaces
from interlock.executors.capsules.component_file import read_component
from interlock.executors.capsules.loading import coerce_value
from interlock.executors.mcp.lock import FILE, Lock, decode_lock, encode_lock
from interlock.model.capsule import LockedCapsule, Manifest
from interlock.model.errors import ConfigurationError, UsageError
from interlock.settings import Gathered, gather
from interlock.settings.file_bytes import read_bytes
from interlock.settings.manifest import decode_manifest
from interlock.settings.named import MANIFEST
from interlock.settings.project_file import PYPROJECT
from interlock.state.capsule_values import CapsuleValues

T = TypeVar("T")

OPTIONAL_EXPORTS: Final = {
    "init": "func() -> result<_, string>",
    "run": "func() -> result<_, string>",
    "on-message": "func(message: string) -> result<_, string>",
    "on-outbound": "func(message: string) -> result<_, string>",
}
"""Functions of a component that the host calls if they are there, and their types."""
ENTRY: Final = "call-tool"
_ENTRY_TYPE: Final = "func(name: string, args: string) -> result<string, string>"
WORLD: Final = Path(component_file.__file__).parent / "capsule.wit"
"""The world that components are made for."""


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """A capsule's build, and the one that was pinned before."""

    name: str
    now: LockedCapsule
    before: LockedCapsule | None

    @property
    def changed(self) -> bool:
        """True if it was another one, or none."""
        return self.now != self.before


class ConfigRow(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a capsule's configuration, for people."""

    key: str
    type: str
    value: str | None
    """None if it has none; of a secret only that it has one."""
    source: str
    """`set`, `default`, `missing` (and required) or `none`."""


def open_manifest(directory: Path) -> Manifest:
    """The manifest in a directory. Raises: ConfigurationError, UsageError."""
    data = read_bytes(directory / MANIFEST)
    if data is None:
        raise UsageError(
            f"there is no `{MANIFEST}` in `{directory}`",
            code="not_found",
            hint="`interlock capsule new NAME` makes a capsule",
        )
    return decode_manifest(data, str(directory / MANIFEST))


def world_of(manifest: Manifest, exports: Sequence[str]) -> str:
    """The text of the world that a component with this manifest is made for: `capsule.wit`, with those interfaces alone that the
    manifest declares, and besides `call-tool` those of the optional functions that are in `exports`.
    """
    text = WORLD.read_text(encoding="utf-8")
    head, _, _ = text.partition("/// All interfaces.")
    declared = [name for name in interfaces.INTERFACES if interfaces.is_declared(name, manifest)]
    lines = [*(f"  import {name};" for name in declared), f"  export {ENTRY}: {_ENTRY_TYPE};"]
    lines += [f"  export {name}: {OPTIONAL_EXPORTS[name]};" for name in exports]
    return "\n".join([head, "world capsule {", *lines, "}", ""])


def lock_capsules(start: Path, names: Sequence[str]) -> tuple[Path, list[Pinned]]:
    """Pin the present builds of the configured capsules (all, unless named). Others of the lock stay; what is gone is dropped.

    The lock counts once it is trusted. Raises: ConfigurationError, UsageError, StoreError.
    """
    gathered = gather(start, extra=(FILE,))
    for name in names:
        _manifest(gathered, name)
    lock = _lock_of(gathered)
    found = [
        Pinned(name=name, now=_build(gathered, name), before=lock.capsules.get(name))
        for name in (names or gathered.capsules)
    ]
    capsules = {name: locked for name, locked in lock.capsules.items() if name in gathered.capsules}
    capsules |= {one.name: one.now for one in found}
    path = gathered.root / FILE
    Disk().write_atomic(path, encode_lock(lock.servers, capsules), mode=0o644)
    return path, found


def add_capsule(start: Path, directory: Path) -> tuple[Path, str]:
    """Add a capsule to the configuration file, which keeps all that is in it. Returns the file and the capsule's name.

    Raises: ConfigurationError, UsageError, StoreError.
    """
    gathered = gather(start)
    manifest = open_manifest(directory)
    name = manifest.package.name
    path = os.path.relpath(directory.resolve(), gathered.root)
    known = gathered.settings.capsules.get(name)
    if known is not None:
        if os.path.normpath(known.path) == path:
            return gathered.path, name
        raise UsageError(f"another capsule `{name}` is configured already, in `{known.path}`", code="conflict")
    if not path.isprintable() or '"' in path or "\\" in path:
        raise UsageError(
            "the path of the capsule cannot be written into the configuration", hint="rename the directory"
        )
    head = "tool.interlock.capsules" if gathered.path.name == PYPROJECT else "capsules"
    data = read_bytes(gathered.path) or b""
    table = f'\n[{head}.{name}]\npath = "{path}"\n'.encode()
    mode = gathered.path.stat().st_mode & 0o777
    Disk().write_atomic(gathered.path, data + (b"" if data.endswith(b"\n") else b"\n") + table, mode=mode)
    return gathered.path, name


def list_config(start: Path, env: Mapping[str, str], name: str) -> list[ConfigRow]:
    """The configuration of a capsule. Raises: ConfigurationError, UsageError, StoreError, IntegrityError."""
    manifest = _manifest(gather(start), name)
    stored = _with_values(start, env, lambda values: values.config(name))
    rows = []
    for key, variable in manifest.env.items():
        data = stored.get(key)
        if data is not None:
            text, source = data.decode("utf-8", "replace"), "set"
        elif variable.default is not None:
            text, source = str(msgspec.json.encode(variable.default), "utf-8").strip('"'), "default"
        else:
            text, source = None, "missing" if variable.required else "none"
        shown = "(secret)" if variable.secret and text is not None else text
        rows.append(ConfigRow(key=key, type=variable.type, value=shown, source=source))
    return rows


def set_config(start: Path, env: Mapping[str, str], name: str, key: str, value: bytes | None) -> None:
    """Configure a value of a capsule, which counts when the capsule is loaded next; None removes it.

    Raises: ConfigurationError, UsageError, StoreError, IntegrityError.
    """
    variable = _manifest(gather(start), name).env.get(key)
    if variable is None:
        raise UsageError(
            f"the capsule `{name}` has no `{key}`", code="not_found", hint="its manifest lists them in `[env]`"
        )
    if value is not None:
        try:
            coerce_value(variable, value)
        except ValueError as error:
            raise UsageError(f"the value of `{key}` {error}") from None
    _with_values(start, env, lambda values: values.set_config(name, key, value))


def _with_values(start: Path, env: Mapping[str, str], use: Callable[[CapsuleValues], T]) -> T:
    disk = Disk()
    place = locate(start, env, disk)
    db = open_database(place.state / place.workspace_id, disk)
    try:
        return use(CapsuleValues(db, place.workspace_id))
    finally:
        db.close()


def _manifest(gathered: Gathered, name: str) -> Manifest:
    found = gathered.capsules.get(name)
    if found is None:
        raise UsageError(
            f"there is no capsule `{name}`",
            code="not_found",
            hint=f"configured are: {', '.join(gathered.capsules) or 'none'} (`interlock capsule install DIRECTORY` adds one)",
        )
    return found


def _lock_of(gathered: Gathered) -> Lock:
    data = next((file.data for file in gathered.files if file.name == FILE), None)
    return Lock() if data is None else decode_lock(data)


def _build(gathered: Gathered, name: str) -> LockedCapsule:
    manifest = gathered.capsules[name]
    directory = gathered.root / gathered.settings.capsules[name].path
    component = read_component(directory, manifest.component.file)
    if manifest.component.sha256 not in (None, component.sha256):
        raise ConfigurationError(
            f"`component.sha256` of the capsule `{name}` is not that of `{manifest.component.file}`",
            path=str(directory / MANIFEST),
            hint="correct it, or leave it out: the lock pins the build",
        )
    data = read_bytes(directory / MANIFEST)
    assert data is not None
    return LockedCapsule(
        version=manifest.package.version,
        manifest=hashlib.sha256(data).hexdigest(),
        component=component.sha256,
    )
