"""Loads a capsule: compares its file with the lock, compiles it once, and checks its imports and configuration."""

from __future__ import annotations

import asyncio
import importlib.metadata
import re
import threading
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from interlock.executors.capsules import interfaces
from interlock.executors.capsules.code_cache import Code, CodeCache, code_name
from interlock.executors.capsules.component_file import Identity, identify, read_component
from interlock.executors.capsules.host import KeyValues
from interlock.executors.capsules.workers import WorkerLostError, Workers
from interlock.model.capsule import LockedCapsule, Manifest, Variable
from interlock.model.errors import ConfigurationError, StoreError, ToolError

COMPILE_S: Final = 60
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")


class Values(Protocol):
    """The values that the runtime stores for capsules."""

    def of(self, capsule: str, agent: str) -> KeyValues:
        """Returns the keys and values of one capsule and agent."""
        ...

    def config(self, capsule: str) -> Mapping[str, bytes]:
        """Returns the values that `interlock capsule config set` stored for a capsule."""
        ...


class Installed(NamedTuple):
    """A configured capsule whose manifest matches the lock."""

    manifest: Manifest
    directory: Path
    locked: LockedCapsule


class Loaded(NamedTuple):
    """A capsule that is ready to call."""

    instance: str
    """Id of this loading, valid until the capsule is unloaded or its file changes."""
    identity: Identity
    code: Code
    key: str
    config: dict[str, str]


class Loader:
    """Loads the capsules of one runtime and keeps track of them. Safe to use from several event loops."""

    def __init__(
        self,
        cache: CodeCache,
        workers: Workers,
        values: Values,
        *,
        tell: Callable[[str], None],
        new_instance: Callable[[], str],
    ) -> None:
        """Loads nothing. `tell` receives sentences for people; `new_instance` creates ids."""
        self._cache = cache
        self._workers = workers
        self._values = values
        self._tell = tell
        self._new_instance = new_instance
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}
        self._unloaded: set[str] = set()

    def instance(self, name: str) -> str | None:
        """Returns the instance id of a loaded capsule; None if it is not loaded."""
        with self._lock:
            found = self._loaded.get(name)
        return None if found is None else found.instance

    def unload(self, name: str) -> Loaded | None:
        """Forget a capsule and refuse it until `allow`. Returns what was loaded, or None."""
        with self._lock:
            self._unloaded.add(name)
            return self._loaded.pop(name, None)

    def allow(self, name: str) -> None:
        """Allow a capsule that was unloaded to be loaded again."""
        with self._lock:
            self._unloaded.discard(name)

    async def load(self, name: str, one: Installed, *, anew: bool = False) -> Loaded:
        """Load the locked build of a capsule, compiling it if necessary. Raises: ToolError."""
        manifest = one.manifest
        with self._lock:
            if name in self._unloaded:
                raise refused(name, "it was unloaded", "`runtime.capsules.load` loads it again")
        try:
            identity = identify(one.directory, manifest.component.file)
            with self._lock:
                found = self._loaded.get(name)
            if found is not None and found.identity == identity and not anew:
                return found
            component = await asyncio.to_thread(read_component, one.directory, manifest.component.file)
        except ConfigurationError as error:
            raise refused(name, error.message, error.hint) from None
        for pinned, where in ((manifest.component.sha256, "its manifest"), (one.locked.component, "`interlock.lock`")):
            if pinned is not None and component.sha256 != pinned:
                raise refused(
                    name,
                    f"the component `{manifest.component.file}` is a different build from the one in {where}",
                    f"if you built it, `interlock capsule lock {name}` pins it, and `interlock trust` accepts it",
                )
        fuel = manifest.limits.fuel is not None
        key = code_name(component.sha256, manifest.component.abi, _compiler(), fuel=fuel)
        code = None if anew else await asyncio.to_thread(self._cache.find, key)
        if code is None:
            code = await self._compile(name, key, component.data, manifest)
        problem = interfaces.import_problem(code.imports, manifest)
        if problem is not None:
            raise refused(name, problem, "the manifest of a capsule must declare its imports; none of its code has run")
        config = self._config(name, manifest)
        with self._lock:
            if name in self._unloaded:  # unloaded while it was compiled
                raise refused(name, "it was unloaded", "`runtime.capsules.load` loads it again")
            found = self._loaded.get(name)
            same = found is not None and found.identity == component.identity  # loaded by a concurrent call
            instance = found.instance if found is not None and same else self._new_instance()
            loaded = self._loaded[name] = Loaded(instance, component.identity, code, key, config)
        return loaded

    async def _compile(self, name: str, key: str, source: bytes, manifest: Manifest) -> Code:
        self._tell(f"compiling the capsule `{name}`, once per build (up to {COMPILE_S} s)")
        try:
            async with asyncio.timeout(COMPILE_S):
                fuel = manifest.limits.fuel is not None
                reply = await self._workers.compile(source, manifest.component.abi, fuel=fuel, answer=no_host)
        except TimeoutError:
            raise refused(name, f"compiling it took longer than {COMPILE_S} s", None) from None
        except WorkerLostError:
            raise refused(name, "the compiler ended; it may have run out of memory", None) from None
        if reply.header["done"] != "ok":
            raise refused(name, str(reply.header["message"]), None)
        imports = [(str(module), str(function)) for module, function in reply.header["imports"]]
        try:
            return await asyncio.to_thread(self._cache.keep, key, reply.body, imports)
        except StoreError as error:
            raise refused(name, f"its compiled code cannot be stored: {error.message}", error.hint) from None

    def _config(self, name: str, manifest: Manifest) -> dict[str, str]:
        """Returns the configuration of a capsule, with values as text. Raises: ToolError `capsule_refused`."""
        stored = self._values.config(name)
        found: dict[str, str] = {}
        for key, variable in manifest.env.items():
            data = stored.get(key)
            if data is None:
                if variable.default is not None:
                    found[key] = _as_text(variable.default)
                elif variable.required:
                    raise refused(
                        name, f"its configuration lacks `{key}`", f"`interlock capsule config set {name} {key}` sets it"
                    )
                continue
            try:
                found[key] = coerce_value(variable, data)
            except ValueError as error:
                raise refused(
                    name,
                    f"`{key}` in its configuration {error}",
                    f"`interlock capsule config set {name} {key}` sets it",
                ) from None
        return found


def coerce_value(variable: Variable, data: bytes) -> str:
    """Convert a stored value to the text that the capsule receives. Raises: ValueError, which does not contain the value."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    match variable.type:
        case "integer":
            good = bool(_INTEGER.fullmatch(text))
        case "number":
            good = _is_number(text)
        case "boolean":
            good = text in ("true", "false")
        case _:
            good = "\0" not in text
    if not good:
        raise ValueError(f"is not of the type `{variable.type}`")
    return text


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text)) and "_" not in text and text == text.strip()
    except ValueError:
        return False


def _as_text(value: str | float) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def refused(name: str, why: str, hint: str | None) -> ToolError:
    """Returns the error for a capsule that was not loaded."""
    return ToolError(f"the capsule `{name}` was not loaded: {why}", code="capsule_refused", retryable=False, hint=hint)


async def no_host(function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
    """Answer for a worker that must not call host functions now."""
    del function, arguments, body
    return interfaces.ERROR, b""


def _compiler() -> str:
    return f"wasmtime {importlib.metadata.version('wasmtime')}"
