"""The capsules of a runtime: their tools as the engine calls them, how a capsule is loaded, and one call."""

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
from interlock.executors.capsules.host import Host, KeyValues
from interlock.executors.capsules.workers import Reply, WalledStart, Worker, WorkerLostError, Workers
from interlock.model.capsule import SEPARATOR, LockedCapsule, Manifest, Variable
from interlock.model.clock import Clock
from interlock.model.errors import ConfigurationError, ProposalError, ToolError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.tool import Binding, Context, Tool
from interlock.model.values import check_value, parse_json

TAG: Final = "capsule"
"""The tag of every tool of a capsule."""
COMPILE_S: Final = 60
_LOADING_MS: Final = 90_000
"""Added to the time-out of a tool: the first call may have to compile the module and to start a worker. The call itself has the
time of the manifest, which its worker keeps."""
_LATE_S: Final = 0.25
"""How long a worker has to end a late call by itself."""
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")


class Values(Protocol):
    """What the runtime keeps for capsules."""

    def of(self, capsule: str, agent: str) -> KeyValues:
        """The keys and values of one capsule and agent."""
        ...

    def config(self, capsule: str) -> Mapping[str, bytes]:
        """The values that `interlock capsule config set` stored for a capsule."""
        ...


class Installed(NamedTuple):
    """A configured capsule whose manifest is the locked one."""

    manifest: Manifest
    directory: Path
    locked: LockedCapsule


class _Loaded(NamedTuple):
    identity: Identity
    code: Code
    key: str
    config: dict[str, str]


class Capsules:
    """The capsules of one runtime. Must be closed. Safe to use from several event loops."""

    def __init__(
        self,
        installed: Mapping[str, Installed],
        cache: CodeCache,
        start: WalledStart,
        values: Values,
        clock: Clock,
        *,
        workers_max: int,
        tell: Callable[[str], None],
    ) -> None:
        """Start nothing. `tell` gets sentences for people."""
        self._installed = dict(installed)
        self._cache = cache
        self._start = start
        self._values = values
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}
        self._workers = Workers(start, str(cache.directory), workers_max)

    @property
    def names(self) -> list[str]:
        """The capsules whose tools are offered."""
        return list(self._installed)

    def manifest(self, name: str) -> Manifest:
        """The manifest of one of them."""
        return self._installed[name].manifest

    def bindings(self) -> list[Binding]:
        """The tools of all capsules."""
        return [
            self._binding(name, one.manifest, index)
            for name, one in self._installed.items()
            for index in range(len(one.manifest.tools))
        ]

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    async def load(self, name: str) -> None:
        """Have a capsule ready: check the file against the lock, compile it if need be, check its imports and configuration.

        Raises: ToolError `capsule_refused`.
        """
        await self._load(name, self._installed[name])

    def _binding(self, name: str, manifest: Manifest, index: int) -> Binding:
        declared = manifest.tools[index]
        tool = Tool(
            name=f"{name}{SEPARATOR}{declared.name}",
            description=declared.description,
            parameters=declared.input_schema,
            returns=declared.output_schema,
            read_only=declared.read_only,
            destructive=declared.destructive and not declared.read_only,
            open_world=False,
            idempotent=declared.idempotent,
            timeout_ms=manifest.limits.timeout_ms + _LOADING_MS,
            tags=(TAG,),
        )

        async def call(parameters: dict[str, Any], ctx: Context) -> Any:
            return await self._call(name, declared.name, parameters, ctx)

        return Binding(tool=tool, function=call, mode="async", writes="nothing", in_layer=True)

    async def _call(self, name: str, tool: str, parameters: dict[str, Any], ctx: Context) -> Any:
        one = self._installed[name]
        limits, keeps = one.manifest.limits, one.manifest.behavior.lifetime == "capsule"
        loaded = await self._load(name, one)
        secrets = {key: text for key, text in loaded.config.items() if one.manifest.env[key].secret}
        declared = one.manifest.capabilities
        host = Host(name, ctx, self._values.of(name, ctx.agent) if declared.kv else None, secrets)
        ctx.posture(**self._start.posture())
        request = {
            "do": "call",
            "key": loaded.key,
            "tool": tool,
            "config": loaded.config,
            "allowed": _allowed(one.manifest),
            "memory_bytes": limits.memory_mb * 1024 * 1024,
            "fuel": limits.fuel,
            "output_bytes": limits.output_bytes_max,
            "keep": keeps,
        }
        group = f"{name}\0{ctx.agent}" if keeps else name if one.manifest.behavior.trust == "none" else ""
        async with self._workers.lend(group, 1 if keeps else None) as worker:
            try:
                loaded = await self._load_into(worker, name, one, loaded)
                left_ms = (ctx.deadline_ns - self._clock.mono_ns()) // 1_000_000
                request |= {"key": loaded.key, "timeout_ms": max(1, min(limits.timeout_ms, left_ms))}
                reply = await self._request(worker, request, msgspec.json.encode(parameters), host, ctx)
            except WorkerLostError:
                raise ToolError(
                    f"the worker of the capsule `{name}` ended during the call",
                    code="process_lost",
                    hint="a crash inside of WebAssembly, or its memory was used up; the next call has another worker",
                ) from None
        if reply.header["done"] == "error":
            code = str(reply.header["code"])
            raise ToolError(str(reply.header["message"]), code=code, retryable=code in ("tool_failed", "timeout"))
        return _value(name, reply.body)

    async def _request(self, worker: Worker, request: dict[str, Any], body: bytes, host: Host, ctx: Context) -> Reply:
        """One request of a call. At its time-out the worker ends the call itself; only if it does not, it is killed.

        Raises: ToolError `timeout`, WorkerLostError.
        """
        running = asyncio.ensure_future(worker.request(request, body, host.answer))
        try:
            done, _ = await asyncio.wait({running}, timeout=request["timeout_ms"] / 1000 + _LATE_S)
        except asyncio.CancelledError:
            if self._clock.mono_ns() < ctx.deadline_ns:
                await _give_up(running)
                raise
            done, _ = await asyncio.wait({running}, timeout=_LATE_S)
        if not done:
            await _give_up(running)
            raise ToolError("stopped at its time-out", code="timeout")
        return running.result()

    async def _load_into(self, worker: Worker, name: str, one: Installed, loaded: _Loaded) -> _Loaded:
        """See that the worker has the module. Raises: ToolError, WorkerLostError."""
        for again in (False, True):
            if loaded.key in worker.loaded:
                return loaded
            request = {
                "do": "load",
                "key": loaded.key,
                "abi": one.manifest.component.abi,
                "path": str(loaded.code.path),
                "fuel": one.manifest.limits.fuel is not None,
            }
            reply = await worker.request(request, b"", _no_host)
            if reply.header["done"] == "ok":
                worker.loaded.add(loaded.key)
                return loaded
            if again:
                raise ToolError(
                    f"the compiled code of the capsule `{name}` cannot be loaded: {reply.header['message']}",
                    code="capsule_invalid",
                    retryable=False,
                )
            loaded = await self._load(name, one, anew=True)  # made by another processor, or removed meanwhile
        return loaded

    async def _load(self, name: str, one: Installed, *, anew: bool = False) -> _Loaded:
        """The compiled code of the locked build. Raises: ToolError."""
        manifest = one.manifest
        try:
            identity = identify(one.directory, manifest.component.file)
            with self._lock:
                found = self._loaded.get(name)
            if found is not None and found.identity == identity and not anew:
                return found
            component = await asyncio.to_thread(read_component, one.directory, manifest.component.file)
        except ConfigurationError as error:
            raise _refused(name, error.message, error.hint) from None
        for pinned, where in ((manifest.component.sha256, "its manifest"), (one.locked.component, "`interlock.lock`")):
            if pinned is not None and component.sha256 != pinned:
                raise _refused(
                    name,
                    f"the component `{manifest.component.file}` is another build than the one in {where}",
                    f"if you built it, `interlock capsule lock {name}` pins it, and `interlock trust` agrees to it",
                )
        fuel = manifest.limits.fuel is not None
        key = code_name(component.sha256, manifest.component.abi, _compiler(), fuel=fuel)
        code = None if anew else await asyncio.to_thread(self._cache.find, key)
        if code is None:
            code = await self._compile(name, key, component.data, manifest)
        problem = interfaces.import_problem(code.imports, manifest.capabilities)
        if problem is not None:
            raise _refused(name, problem, "an import of a capsule must be declared; nothing of it has run")
        loaded = _Loaded(component.identity, code, key, self._config(name, manifest))
        with self._lock:
            self._loaded[name] = loaded
        return loaded

    async def _compile(self, name: str, key: str, source: bytes, manifest: Manifest) -> Code:
        self._tell(f"compiling the capsule `{name}`, which is done once for a build (up to {COMPILE_S} s)")
        try:
            async with asyncio.timeout(COMPILE_S):
                fuel = manifest.limits.fuel is not None
                reply = await self._workers.compile(source, manifest.component.abi, fuel=fuel, answer=_no_host)
        except TimeoutError:
            raise _refused(name, f"compiling it took longer than {COMPILE_S} s", None) from None
        except WorkerLostError:
            raise _refused(name, "the compiler ended; its memory may have been used up", None) from None
        if reply.header["done"] != "ok":
            raise _refused(name, str(reply.header["message"]), None)
        imports = [(str(module), str(function)) for module, function in reply.header["imports"]]
        return await asyncio.to_thread(self._cache.keep, key, reply.body, imports)

    def _config(self, name: str, manifest: Manifest) -> dict[str, str]:
        """The configuration of a capsule as text. Raises: ToolError `capsule_refused`."""
        stored = self._values.config(name)
        found: dict[str, str] = {}
        for key, variable in manifest.env.items():
            data = stored.get(key)
            if data is None:
                if variable.default is not None:
                    found[key] = _as_text(variable.default)
                elif variable.required:
                    raise _refused(
                        name, f"its configuration lacks `{key}`", f"`interlock capsule config set {name} {key}` sets it"
                    )
                continue
            try:
                found[key] = coerce_value(variable, data)
            except ValueError as error:
                raise _refused(
                    name,
                    f"`{key}` in its configuration {error}",
                    f"`interlock capsule config set {name} {key}` sets it",
                ) from None
        return found


def coerce_value(variable: Variable, data: bytes) -> str:
    """A stored value as the text that the capsule is given. Raises: ValueError, without the value."""
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


def _allowed(manifest: Manifest) -> list[str]:
    return [
        name
        for name, interface in interfaces.INTERFACES.items()
        if not interface.capability or getattr(manifest.capabilities, interface.capability)
    ]


def _value(name: str, body: bytes) -> Any:
    try:
        value = parse_json(body)
        check_value([value], "$", DEFAULT_LIMITS)
    except ProposalError as error:
        raise ToolError(
            f"the result of the capsule `{name}` is not JSON: {error.message}", code="invalid_output", retryable=False
        ) from None
    return value


def _refused(name: str, why: str, hint: str | None) -> ToolError:
    return ToolError(f"the capsule `{name}` was not loaded: {why}", code="capsule_refused", retryable=False, hint=hint)


async def _give_up(running: asyncio.Future[Reply]) -> None:
    """Stop waiting for a worker, which is then broken."""
    running.cancel()
    await asyncio.wait({running})


async def _no_host(function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
    del function, arguments, body
    return interfaces.ERROR, b""


def _compiler() -> str:
    return f"wasmtime {importlib.metadata.version('wasmtime')}"
