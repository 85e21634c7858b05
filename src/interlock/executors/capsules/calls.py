"""One call of a capsule in a worker: chooses the worker, enforces the time-out, and tracks stores that last between calls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import msgspec

from interlock.executors.capsules import interfaces
from interlock.executors.capsules.host import LATE_S, Host
from interlock.executors.capsules.loading import Installed, Loaded, Loader, no_host
from interlock.executors.capsules.rights import Rights
from interlock.executors.capsules.workers import Reply, Worker, WorkerLostError, Workers
from interlock.model.capsule import RUN, handlers_of
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.tool import Context

_CHAIN: Final[ContextVar[tuple[str, ...]]] = ContextVar("capsules", default=())
"""The chain of capsule calls that led to this one."""


class Called(NamedTuple):
    """What a call calls."""

    name: str
    one: Installed
    loaded: Loaded
    tool: str
    parameters: dict[str, Any]

    @property
    def keeps(self) -> bool:
        """True if the store lasts between calls."""
        return self.one.manifest.behavior.lifetime == "capsule" and not self.runs

    @property
    def runs(self) -> bool:
        """True for `run`, which has its own store and worker, and a time-out only for its steps."""
        return self.tool == RUN and self.one.manifest.behavior.run


class Calls:
    """The calls of a runtime's capsules. Safe to use from several event loops."""

    def __init__(self, workers: Workers, loader: Loader, rights: Rights, clock: Clock) -> None:
        """Starts nothing."""
        self._workers = workers
        self._loader = loader
        self._rights = rights
        self._clock = clock
        self._calls: dict[str, set[_Running]] = {}
        self._stores: dict[tuple[str, str], str] = {}
        """Maps capsule and agent to the key of the code in their lasting store."""
        self._runs: set[tuple[str, str]] = set()
        """The capsules and agents whose `run` is running."""
        self._lock = threading.Lock()

    def end(self, name: str) -> int:
        """End the running calls of a capsule and forget its stores. Returns the number of ended calls. Safe on any thread."""
        with self._lock:
            calls = tuple(self._calls.get(name, ()))
            self._stores = {owner: key for owner, key in self._stores.items() if owner[0] != name}
        for call in calls:
            call.end()
        return len(calls)

    async def in_worker(self, call: Called, host: Host, ctx: Context) -> Reply:
        """Make a call and return its reply. Raises: ToolError."""
        async with self._chained(call.name) as depth, self._once(call, ctx):
            group = self._group(call, ctx, depth)
            alone = call.keeps or call.runs
            async with self._workers.lend(group, 1 if alone else None, lasting=call.keeps) as worker:
                if not alone:  # a lasting store serves one call at a time
                    host.parked = lambda: self._workers.parked(group)
                if not call.keeps:
                    return await self._call(call, worker, host, ctx)
                self._look_for_store(call, worker, ctx)
                try:
                    reply = await self._call(call, worker, host, ctx)
                except BaseException as error:
                    self._store_ended(call, ctx, error.code if isinstance(error, ToolError) else "cancelled")
                    raise
                code = str(reply.header.get("code", ""))
                if not code or code in interfaces.STORE_GOES_ON:
                    with self._lock:
                        self._stores[call.name, ctx.agent] = call.loaded.key
                else:
                    self._store_ended(call, ctx, code)
                return reply

    def _look_for_store(self, call: Called, worker: Worker, ctx: Context) -> None:
        """Record the loss of a store that should be in this worker but is not."""
        with self._lock:
            known = self._stores.get((call.name, ctx.agent))
        if known == call.loaded.key and known not in worker.loaded:
            self._store_ended(call, ctx, "process_lost")

    def _store_ended(self, call: Called, ctx: Context, reason: str) -> None:
        with self._lock:
            self._stores.pop((call.name, ctx.agent), None)
        self._rights.record_reset(ctx, call.name, call.loaded.instance, reason)

    def _group(self, call: Called, ctx: Context, depth: str) -> str:
        """Returns the group of workers that serves the call."""
        if call.runs:
            return f"{call.name}\0{ctx.agent}\0{RUN}"
        if call.keeps:
            return f"{call.name}\0{ctx.agent}"  # all callers share the store
        return f"{call.name}\0{depth}" if call.one.manifest.behavior.trust == "none" else depth

    async def _call(self, call: Called, worker: Worker, host: Host, ctx: Context) -> Reply:
        manifest, limits = call.one.manifest, call.one.manifest.limits
        event = call.tool if call.tool in handlers_of(manifest) else None
        try:
            loaded = await self._load_into(worker, call.name, call.one, call.loaded)
            left_ms = (ctx.deadline_ns - self._clock.mono_ns()) // 1_000_000
            request = {
                "do": "call",
                "key": loaded.key,
                "tool": call.tool,
                "event": event,
                "config": loaded.config,
                "allowed": [each for each in interfaces.INTERFACES if interfaces.is_declared(each, manifest)],
                "memory_bytes": limits.memory_mb * 1024 * 1024,
                "fuel": limits.fuel,
                "output_bytes": limits.output_bytes_max,
                "keep": call.keeps,
                "steps": call.runs,
                "timeout_ms": max(1, min(limits.timeout_ms, left_ms)),
            }
            parameters = call.parameters if event is None else call.parameters.get("message")
            return await self._request(call.name, worker, request, msgspec.json.encode(parameters), host, ctx)
        except WorkerLostError:
            raise ToolError(
                f"the worker of the capsule `{call.name}` ended during the call",
                code="process_lost",
                hint="WebAssembly crashed, or the worker ran out of memory; the next call uses another worker",
            ) from None

    @contextlib.asynccontextmanager
    async def _once(self, call: Called, ctx: Context) -> AsyncIterator[None]:
        """Ensure that at most one `run` per capsule and agent runs inside the block. Raises: ToolError `conflict`."""
        owner = (call.name, ctx.agent)
        with self._lock:
            if call.runs and owner in self._runs:
                raise ToolError(f"the capsule `{call.name}` is already running", code="conflict", retryable=False)
            if call.runs:
                self._runs.add(owner)
        try:
            yield
        finally:
            if call.runs:
                self._runs.discard(owner)

    @contextlib.asynccontextmanager
    async def _chained(self, name: str) -> AsyncIterator[str]:
        """Track nested capsule calls. Yields a part of the worker group's name.

        Nested calls get workers of their own groups; otherwise they could wait for workers that their callers hold.

        Raises: ToolError if a capsule calls itself.
        """
        chain = _CHAIN.get()
        if name in chain:
            raise ToolError(f"`{' -> '.join((*chain, name))}`: a capsule cannot call itself", code="not_available")
        token = _CHAIN.set((*chain, name))
        try:
            yield f"\0\0{len(chain)}" if chain else ""
        finally:
            _CHAIN.reset(token)

    async def _request(
        self, name: str, worker: Worker, request: dict[str, Any], body: bytes, host: Host, ctx: Context
    ) -> Reply:
        """Send one request of a call. At its time-out, the worker ends the call itself; it is killed only if it does not.

        Raises: ToolError `timeout`, or `cancelled` if the capsule is unloaded; WorkerLostError.
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
        """Load the module into the worker if necessary. Raises: ToolError, WorkerLostError."""
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
                worker.loaded.difference_update(map(str, reply.header.get("dropped", ())))
                worker.loaded.add(loaded.key)
                return loaded
            if again:
                raise ToolError(
                    f"the compiled code of the capsule `{name}` cannot be loaded: {reply.header['message']}",
                    code="capsule_invalid",
                    retryable=False,
                )
            loaded = await self._loader.load(name, one, anew=True)  # compiled for another processor, or removed
        return loaded


class _Running:
    """A running call that can be ended from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, running: asyncio.Future[Reply]) -> None:
        self._loop = loop
        self._running = running
        self.ended = False

    def end(self) -> None:
        """Stop waiting for the call, whose worker is then broken."""
        self.ended = True
        with contextlib.suppress(RuntimeError):  # its event loop has ended
            self._loop.call_soon_threadsafe(self._running.cancel)


async def _give_up(running: asyncio.Future[Reply]) -> None:
    """Stop waiting for a worker, which is then broken."""
    running.cancel()
    await asyncio.wait({running})
