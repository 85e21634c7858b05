"""The capsules of a runtime, and their tools as the engine calls them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from interlock.executors.capsules.bus import Bus
from interlock.executors.capsules.calls import Called, Calls
from interlock.executors.capsules.code_cache import CodeCache
from interlock.executors.capsules.delivery import Delivery, handler_tools
from interlock.executors.capsules.host import Caller, Host
from interlock.executors.capsules.host_messages import Post
from interlock.executors.capsules.loading import Installed, Loaded, Loader, Values
from interlock.executors.capsules.rights import Rights
from interlock.executors.capsules.uplinks import Uplinks
from interlock.executors.capsules.workers import WalledStart, Workers
from interlock.model.capsule import RUN, SEPARATOR, CapsuleTool, Manifest
from interlock.model.clock import Clock
from interlock.model.errors import ProposalError, ToolError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.tool import Binding, Context, Tool, Writes
from interlock.model.values import check_value, parse_json

TAG: Final = "capsule"
"""The tag of all tools of capsules."""
DRIVEN: Final[ContextVar[bool]] = ContextVar("driven", default=False)
"""True while the application itself keeps a capsule running."""
RUN_MS: Final = DEFAULT_LIMITS.timeout_ms
"""Maximum duration of a capsule's `run`, which is then started again."""
_LOADING_MS: Final = 90_000
"""Added to a tool's time-out, because its first call may have to compile the module and start a worker.

The worker itself enforces the manifest's time-out on the call.
"""


class Absent(NamedTuple):
    """A configured capsule whose tools are not offered, with the reason."""

    manifest: Manifest
    problem: str


def declared_tools(manifest: Manifest) -> list[CapsuleTool]:
    """Returns the tools of a capsule, those that handle messages included."""
    return [*manifest.tools, *handler_tools(manifest)]


def tool_of(name: str, manifest: Manifest, declared: CapsuleTool) -> Tool:
    """Returns the tool that a capsule's manifest declares."""
    own = manifest.capabilities
    return Tool(
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
        timeout_ms=RUN_MS if _runs(manifest, declared) else manifest.limits.timeout_ms + _LOADING_MS,
        tags=(TAG,),
    )


def _runs(manifest: Manifest, declared: CapsuleTool) -> bool:
    return declared.name == RUN and manifest.behavior.run


class Capsules:
    """The capsules of one runtime. Must be closed. Safe to use from several event loops."""

    def __init__(
        self,
        installed: Mapping[str, Installed],
        absent: Mapping[str, Absent],
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
        """Starts nothing. `tell` receives sentences for people; `new_instance` creates ids."""
        self._installed = dict(installed)
        self.absent = dict(absent)
        """Configured capsules that are not offered, by name."""
        self._start = start
        self._values = values
        self._rights = rights
        self._clock = clock
        self._workers = Workers(start, str(cache.directory), workers_max)
        self._loader = Loader(cache, self._workers, values, tell=tell, new_instance=new_instance)
        self._calls = Calls(self._workers, self._loader, rights, clock)
        self.post = Post(Bus(clock.mono_ns), Uplinks(clock.now_us))
        self.delivery = Delivery({name: one.manifest for name, one in installed.items()}, rights)
        for name, one in self._installed.items():
            self.post.uplinks.declare(name, one.manifest.uplinks)

    @property
    def names(self) -> list[str]:
        """The capsules whose tools are offered."""
        return list(self._installed)

    def manifest(self, name: str) -> Manifest:
        """Returns the manifest of an offered capsule."""
        return self._installed[name].manifest

    def bindings(self) -> list[Binding]:
        """Returns the tools of all capsules."""
        return [
            self._binding(name, one.manifest, declared)
            for name, one in self._installed.items()
            for declared in declared_tools(one.manifest)
        ]

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    async def load(self, name: str) -> None:
        """Load a capsule: check the file against the lock, compile it if necessary, check its imports and configuration.

        Raises: ToolError `capsule_refused`.
        """
        self._loader.allow(name)
        await self._loader.load(name, self._installed[name])

    def unload(self, name: str) -> tuple[str | None, int]:
        """End the calls of a capsule and release its resources. Its calls are refused until `load`. Safe on any thread.

        Returns the instance that was loaded (None if none was), and the number of ended calls.
        """
        loaded = self._loader.unload(name)
        ended = self._calls.end(name)
        self.post.bus.drop(name)
        self.post.uplinks.forget(name)
        if loaded is not None:
            self._workers.drop(loaded.key, f"{name}\0")
        return None if loaded is None else loaded.instance, ended

    def _binding(self, name: str, manifest: Manifest, declared: CapsuleTool) -> Binding:
        own, runs = manifest.capabilities, _runs(manifest, declared)
        tool = tool_of(name, manifest, declared)

        async def call(parameters: dict[str, Any], ctx: Context) -> Any:
            return await self._call(name, declared.name, parameters, ctx)

        # A capsule that calls tools may write anywhere; one that only reads files must see the layer's files.
        writes: Writes = "anywhere" if own.fs_write or own.tools else "marked" if own.fs_read else "nothing"
        if runs:  # `run` has no files; a write lease would block other writers for as long as it runs
            writes = "nothing"
        return Binding(tool=tool, function=call, mode="async", writes=writes, in_layer=True, walls=self._start.posture)

    async def _call(self, name: str, tool: str, parameters: dict[str, Any], ctx: Context) -> Any:
        one = self._installed[name]
        if tool == RUN and one.manifest.behavior.run and not DRIVEN.get():
            raise ToolError(
                "only the application can run it: `runtime.capsules.run`", code="not_available", retryable=False
            )
        if one.manifest.behavior.trust == "none" and not self._start.walled:
            raise ToolError(
                f'the capsule `{name}` has `trust = "none"`, so it runs only behind walls, and there are none',
                code="isolation_failed",
                retryable=False,
                hint="set `[isolation] profile` to `ns` or `nons`",
            )
        loaded = await self._load_for(ctx, name, one)
        call = Called(name, one, loaded, tool, parameters)
        host = self._host(call, ctx)
        version = one.manifest.package.version
        ctx.posture(**self._start.posture(), capsule=f"active({name} {version}, {loaded.instance})")
        lasts = self.delivery.as_published(host.messages, ctx) if call.runs else contextlib.nullcontext()
        async with lasts:
            reply = await self._calls.in_worker(call, host, ctx)
        if reply.header["done"] == "error":
            code = str(reply.header["code"])
            raise ToolError(str(reply.header["message"]), code=code, retryable=code in ("tool_failed", "timeout"))
        await self.delivery.deliver(host.messages.published, ctx)
        return _value(name, reply.body)

    def _host(self, call: Called, ctx: Context) -> Host:
        manifest, loaded = call.one.manifest, call.loaded
        secrets = {key: text for key, text in loaded.config.items() if manifest.env[key].secret}
        caller = Caller(call.name, loaded.instance, ctx, manifest, secrets)
        host = Host(caller, self._values.of(call.name, ctx.agent), self._rights, self._clock, self.post)
        if call.runs:
            host.step_s = manifest.limits.timeout_ms / 1000
        return host

    async def _load_for(self, ctx: Context, name: str, one: Installed) -> Loaded:
        """Returns the loaded capsule; a load or refusal caused by this call is recorded. Raises: ToolError."""
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


def _value(name: str, body: bytes) -> Any:
    try:
        value = parse_json(body)
        check_value([value], "$", DEFAULT_LIMITS)
    except ProposalError as error:
        raise ToolError(
            f"the result of the capsule `{name}` is not JSON: {error.message}", code="invalid_output", retryable=False
        ) from None
    return value
