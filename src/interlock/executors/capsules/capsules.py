"""The capsules of a runtime: their tools as the engine calls them, and one call."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from interlock.executors.capsules import interfaces
from interlock.executors.capsules.bus import Bus
from interlock.executors.capsules.code_cache import CodeCache
from interlock.executors.capsules.delivery import Delivery, handler_tools
from interlock.executors.capsules.host import LATE_S, Caller, Host
from interlock.executors.capsules.host_messages import Post
from interlock.executors.capsules.loading import Installed, Loaded, Loader, Values, no_host
from interlock.executors.capsules.rights import Rights
from interlock.executors.capsules.uplinks import Uplinks
from interlock.executors.capsules.workers import Reply, WalledStart, Worker, WorkerLostError, Workers
from interlock.model.capsule import (
    EVENT_TOOLS,
    SEPARATOR,
    CapsuleTool,
    Manifest,
)
from interlock.model.clock import Clock
from interlock.model.errors import ProposalError, ToolError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.tool import Binding, Context, Tool, Writes
from interlock.model.values import check_value, parse_json

_CHAIN: Final[ContextVar[tuple[str, ...]]] = ContextVar("capsules", default=())
"""The capsules whose calls have led to this one."""
TAG: Final = "capsule"
"""The tag of every tool of a capsule."""
_LOADING_MS: Final = 90_000
"""Added to the time-out of a tool: the first call may have to compile the module and to start a worker. The call itself has the
time of the manifest, which its worker keeps."""


class Capsules:
    """The capsules of one runtime. Must be closed. Safe to use from several event loops."""

    def __init__(
        self,
        installed: Mapping[str, Installed],
        cache: CodeCache,
        start: WalledStart,
        values: Values,
        rights: Rights,
        clock: Clock,
        *,
        workers_max: int,
        tell: Callable[[str], None],
        new_instance: Callable[[], str],
    ) -> None:
        """Start nothing. `tell` gets sentences for people, `new_instance` makes ids."""
        self._installed = dict(installed)
        self._start = start
        self._values = values
        self._rights = rights
        self._clock = clock
        self._calls: dict[str, set[_Running]] = {}
        self._lock = threading.Lock()
        self._workers = Workers(start, str(cache.directory), workers_max)
        self._loader = Loader(cache, self._workers, values, tell=tell, new_instance=new_instance)
        self.post = Post(Bus(clock.mono_ns), Uplinks(clock.now_us))
        self.delivery = Delivery({name: one.manifest for name, one in installed.items()}, rights)
        for name, one in self._installed.items():
            self.post.uplinks.declare(name, one.manifest.uplinks)

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
            self._binding(name, one.manifest, declared)
            for name, one in self._installed.items()
            for declared in (*one.manifest.tools, *handler_tools(one.manifest))
        ]

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    async def load(self, name: str) -> None:
        """Have a capsule ready: check the file against the lock, compile it if need be, check its imports and configuration.

        Raises: ToolError `capsule_refused`.
        """
        self._loader.allow(name)
        await self._loader.load(name, self._installed[name])

    def unload(self, name: str) -> tuple[str | None, int]:
        """End the calls of a capsule and release what it takes; its calls are refused until `load`. From any thread.

        Returns the instance that was loaded, if any, and how many calls were ended.
        """
        loaded = self._loader.unload(name)
        with self._lock:
            calls = tuple(self._calls.get(name, ()))
        for call in calls:
            call.end()
        self.post.bus.drop(name)
        self.post.uplinks.forget(name)
        if loaded is not None:
            self._workers.drop(loaded.key, f"{name}\0")
        return None if loaded is None else loaded.instance, len(calls)

    def _binding(self, name: str, manifest: Manifest, declared: CapsuleTool) -> Binding:
        own = manifest.capabilities
        tool = Tool(
            name=f"{name}{SEPARATOR}{declared.name}",
            description=declared.description,
            parameters=declared.input_schema,
            returns=declared.output_schema,
            read_only=declared.read_only,
            destructive=declared.destructive and not declared.read_only,
            open_world=bool(own.net or own.tools or manifest.uplinks),
            reversibility="reversible"
            if own.fs_write and not (own.kv or own.net or own.tools or own.ipc_publish or manifest.uplinks)
            else "irreversible",
            idempotent=declared.idempotent,
            timeout_ms=manifest.limits.timeout_ms + _LOADING_MS,
            tags=(TAG,),
        )

        async def call(parameters: dict[str, Any], ctx: Context) -> Any:
            return await self._call(name, declared.name, parameters, ctx)

        # What a tool that it calls writes is not known either. A capsule that only reads files is to see the layer's.
        writes: Writes = "anywhere" if own.fs_write or own.tools else "marked" if own.fs_read else "nothing"
        return Binding(tool=tool, function=call, mode="async", writes=writes, in_layer=True)

    async def _call(self, name: str, tool: str, parameters: dict[str, Any], ctx: Context) -> Any:
        one = self._installed[name]
        loaded = await self._load_for(ctx, name, one)
        secrets = {key: text for key, text in loaded.config.items() if one.manifest.env[key].secret}
        caller = Caller(name, ctx, one.manifest, secrets)
        host = Host(caller, self._values.of(name, ctx.agent), self._rights, self._clock, self.post)
        version = one.manifest.package.version
        ctx.posture(**self._start.posture(), capsule=f"active({name} {version}, {loaded.instance})")
        reply = await self._in_worker(name, one, loaded, tool, parameters, host, ctx)
        if reply.header["done"] == "error":
            code = str(reply.header["code"])
            raise ToolError(str(reply.header["message"]), code=code, retryable=code in ("tool_failed", "timeout"))
        await self.delivery.deliver(host.messages.published, ctx)
        return _value(name, reply.body)

    async def _in_worker(
        self, name: str, one: Installed, loaded: Loaded, tool: str, parameters: dict[str, Any], host: Host, ctx: Context
    ) -> Reply:
        limits, keeps = one.manifest.limits, one.manifest.behavior.lifetime == "capsule"
        event = tool if tool in EVENT_TOOLS else None
        request = {
            "do": "call",
            "key": loaded.key,
            "tool": tool,
            "event": event,
            "config": loaded.config,
            "allowed": [each for each in interfaces.INTERFACES if interfaces.is_declared(each, one.manifest)],
            "memory_bytes": limits.memory_mb * 1024 * 1024,
            "fuel": limits.fuel,
            "output_bytes": limits.output_bytes_max,
            "keep": keeps,
        }
        body = msgspec.json.encode(parameters if event is None else parameters["message"])
        async with self._called(name) as depth:
            group = f"{name}\0" if one.manifest.behavior.trust == "none" else ""
            group = f"{name}\0{ctx.agent}" if keeps else f"{group}{depth}"  # a kept store is one, whoever calls
            async with self._workers.lend(group, 1 if keeps else None) as worker:
                if not keeps:  # a kept store serves one call after the other
                    host.parked = lambda: self._workers.parked(group)
                try:
                    loaded = await self._load_into(worker, name, one, loaded)
                    left_ms = (ctx.deadline_ns - self._clock.mono_ns()) // 1_000_000
                    request |= {"key": loaded.key, "timeout_ms": max(1, min(limits.timeout_ms, left_ms))}
                    return await self._request(name, worker, request, body, host, ctx)
                except WorkerLostError:
                    raise ToolError(
                        f"the worker of the capsule `{name}` ended during the call",
                        code="process_lost",
                        hint="a crash inside of WebAssembly, or its memory was used up; the next call has another worker",
                    ) from None

    @contextlib.asynccontextmanager
    async def _called(self, name: str) -> AsyncIterator[str]:
        """The block is a call of a capsule; gives what parts workers of calls that calls make, which would else wait for theirs.

        Raises: ToolError for a capsule that is called by itself.
        """
        chain = _CHAIN.get()
        if name in chain:
            raise ToolError(f"`{' -> '.join((*chain, name))}`: a capsule cannot call itself", code="not_available")
        token = _CHAIN.set((*chain, name))
        try:
            yield f"\0\0{len(chain)}" if chain else ""
        finally:
            _CHAIN.reset(token)

    async def _load_for(self, ctx: Context, name: str, one: Installed) -> Loaded:
        """The loaded capsule; what is loaded, or refused, because of a call is written down with it. Raises: ToolError."""
        before = self._loader.instance(name)
        try:
            loaded = await self._loader.load(name, one)
        except ToolError as error:
            self._rights.record_refused(ctx, name, error.message)
            raise
        if loaded.instance != before:
            version = one.manifest.package.version
            self._rights.record_loaded(ctx, name, version, loaded.instance, one.locked.component)
        return loaded

    async def _request(
        self, name: str, worker: Worker, request: dict[str, Any], body: bytes, host: Host, ctx: Context
    ) -> Reply:
        """One request of a call. At its time-out the worker ends the call itself; only if it does not, it is killed.

        Raises: ToolError `timeout`, and `cancelled` if the capsule is unloaded meanwhile; WorkerLostError.
        """
        running = asyncio.ensure_future(worker.request(request, body, host.answer))
        call = _Running(asyncio.get_running_loop(), running)
        with self._lock:
            self._calls.setdefault(name, set()).add(call)
        try:
            return await self._limited(running, request["timeout_ms"], host, ctx)
        except asyncio.CancelledError:
            if not call.ended:
                raise
            raise ToolError(f"the capsule `{name}` was unloaded", code="cancelled", retryable=False) from None
        finally:
            with self._lock:
                self._calls[name].discard(call)

    async def _limited(self, running: asyncio.Future[Reply], timeout_ms: int, host: Host, ctx: Context) -> Reply:
        try:
            async with asyncio.timeout(timeout_ms / 1000 + LATE_S) as host.limit:
                return await asyncio.shield(running)
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            if self._clock.mono_ns() < ctx.deadline_ns:
                await _give_up(running)
                raise
            await asyncio.wait({running}, timeout=LATE_S)
        if not running.done():
            await _give_up(running)
            raise ToolError("stopped at its time-out", code="timeout")
        return running.result()

    async def _load_into(self, worker: Worker, name: str, one: Installed, loaded: Loaded) -> Loaded:
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
            reply = await worker.request(request, b"", no_host)
            if reply.header["done"] == "ok":
                worker.loaded.add(loaded.key)
                return loaded
            if again:
                raise ToolError(
                    f"the compiled code of the capsule `{name}` cannot be loaded: {reply.header['message']}",
                    code="capsule_invalid",
                    retryable=False,
                )
            loaded = await self._loader.load(name, one, anew=True)  # made by another processor, or removed meanwhile
        return loaded


def _value(name: str, body: bytes) -> Any:
    try:
        value = parse_json(body)
        check_value([value], "$", DEFAULT_LIMITS)
    except ProposalError as error:
        raise ToolError(
            f"the result of the capsule `{name}` is not JSON: {error.message}", code="invalid_output", retryable=False
        ) from None
    return value


class _Running:
    """A call that can be ended from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, running: asyncio.Future[Reply]) -> None:
        self._loop = loop
        self._running = running
        self.ended = False

    def end(self) -> None:
        """Stop waiting for it; its worker is then broken."""
        self.ended = True
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._running.cancel)


async def _give_up(running: asyncio.Future[Reply]) -> None:
    """Stop waiting for a worker, which is then broken."""
    running.cancel()
    await asyncio.wait({running})
