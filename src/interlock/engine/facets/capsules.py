"""`runtime.capsules`: the configured capsules, as doors see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from interlock.engine.capsules.rights import handle_message
from interlock.engine.kit import calls
from interlock.engine.runs.run import Run
from interlock.engine.services import Services
from interlock.executors.capsules.bus import HOST, Owner
from interlock.executors.capsules.capsules import DRIVEN, Capsules
from interlock.executors.capsules.uplinks import Connector, Inbound
from interlock.model.capsule import ON_OUTBOUND, RUN, SEPARATOR, Manifest
from interlock.model.capsule_events import CapsuleUnloaded
from interlock.model.errors import ToolError, UsageError
from interlock.model.result import CallResult
from interlock.model.tool import Binding

_PROGRAM: Final = Owner("", "")
_PAUSE_S: Final = 0.5
"""Half of the first pause before a `run` that failed is started again."""
_PAUSE_MAX_S: Final = 60.0


class CapsuleState(msgspec.Struct, frozen=True, kw_only=True):
    """One configured capsule."""

    name: str
    version: str
    description: str
    tools: tuple[str, ...]
    """By the names that agents call."""
    problem: str | None = None
    """Why it cannot be loaded."""


class EventBus:
    """`runtime.bus`: messages between the program and capsules, whichever agent called them."""

    def __init__(self, services: Services, capsules: Capsules) -> None:
        """Use `runtime.bus`."""
        self._services = services
        self._capsules = capsules

    async def publish(self, topic: str, data: bytes | str = b"") -> None:
        """Publish a message, and have it handled by the capsules with that topic in `on_message`, each in a run of its own.

        Raises: UsageError for what is not a topic; ToolError if a subscriber's queue was full, after all others have it.
        """
        if not all(topic.split(".")) or "*" in topic or topic.split(".", maxsplit=1)[0] == HOST:
            raise UsageError(f"`{topic}` is not a topic to publish to", hint="names with dots, not `interlock.*`")
        message = self._capsules.post.bus.publish(_PROGRAM, topic, data.encode() if isinstance(data, str) else data)
        for tool in self._capsules.delivery.handlers(message):
            problem = await handle_message(self._services, tool, message.document(), self._services.agent)
            if problem is not None:
                self._services.hooks.notify(f"{tool}: {problem}")

    def subscribe(self, topic: str) -> int:
        """Subscribe to a topic, in which `*` is one segment; returns the id for `poll`. Raises: ToolError if there are many."""
        return self._capsules.post.bus.subscribe(_PROGRAM, topic)

    def unsubscribe(self, subscription: int) -> None:
        """End a subscription. Raises: ToolError `not_found`."""
        self._capsules.post.bus.unsubscribe(_PROGRAM, subscription)

    def poll(self, subscription: int, most: int = 100) -> list[dict[str, Any]]:
        """The next messages: `{topic, from, data}` (`data_b64` if it is not UTF-8), or `{gap}` where that many are missing.

        Raises: ToolError `not_found`.
        """
        return self._capsules.post.bus.poll(_PROGRAM, subscription, most)


class CapsuleParts:
    """The capsules of a runtime. Their tools are tools of the runtime; this is what there is besides."""

    def __init__(self, services: Services) -> None:
        """Use `runtime.capsules`."""
        self._services = services
        self._capsules = services.capsules
        self._taken: dict[str, list[Binding]] = {}
        """The tools of capsules that were unloaded."""

    @property
    def names(self) -> list[str]:
        """Those whose tools are offered; the runtime's warnings say why others are not."""
        return [] if self._capsules is None else self._capsules.names

    @property
    def absent(self) -> list[CapsuleState]:
        """Those that are configured and whose tools are not offered, each with its problem."""
        absent = {} if self._capsules is None else self._capsules.absent
        return [_state(name, one.manifest, one.problem) for name, one in absent.items()]

    @property
    def bus(self) -> EventBus:
        """The event bus. Raises: UsageError where no capsules are configured."""
        return EventBus(self._services, self._any())

    @property
    def connectors(self) -> list[Connector]:
        """The uplinks: those that manifests declare, and those that capsules have registered since."""
        return [] if self._capsules is None else self._capsules.post.uplinks.connectors

    def inbound(self) -> AsyncIterator[Inbound]:
        """What uplinks bring in, as it comes. One reader takes it: a second raises UsageError `conflict`."""
        return self._any().post.uplinks.inbound()

    async def send(self, uplink: str, user: str, content: str) -> CallResult:
        """Send a message out by an uplink (`capsule/uplink`): the capsule's `on-outbound`, through the gate, as a run.

        Raises: UsageError `not_found`; HeldError, StoreError.
        """
        capsule, _, name = uplink.partition(SEPARATOR)
        if not any((one.capsule, one.name) == (capsule, name) for one in self.connectors):
            raise UsageError(
                f"there is no uplink `{uplink}`", code="not_found", hint="`capsules.connectors` lists them"
            )
        message = {"uplink": name, "user": user, "content": content}
        caller = calls.Caller(self._services.agent, None)
        tool = f"{capsule}{SEPARATOR}{ON_OUTBOUND}"
        return await calls.call(self._services, tool, {"message": message}, caller, call_id=None)

    async def run(self, name: str) -> None:
        """Keep a capsule's `run` running, as the runtime's own agent, until it ends by itself or is stopped; cancel it to end it.

        One that fails is started again after a second, and after up to a minute if it fails again at once; the notices are
        given the reason. Each start is a run of its own.

        Raises: UsageError `not_found`, also for a capsule without `run`; ToolError if a rule or grant refuses it, or it runs
        already; HeldError, StoreError.
        """
        capsules = self._require(name)
        if not capsules.manifest(name).behavior.run:
            raise UsageError(f"the capsule `{name}` has no `run`", code="not_found", hint="`run = true` in `[capsule]`")
        caller, pause_s = calls.Caller(self._services.agent, None), _PAUSE_S
        token = DRIVEN.set(True)
        try:
            while True:
                begun = asyncio.get_running_loop().time()
                result = await calls.call(self._services, f"{name}{SEPARATOR}{RUN}", {}, caller, call_id=None)
                if result.ok or "cancelled" in (result.status, result.reason):
                    return
                if result.status == "rejected" or result.reason == "conflict":
                    raise ToolError(f"{result.reason}: {result.error}", code=str(result.reason), retryable=False)
                long = asyncio.get_running_loop().time() - begun > _PAUSE_MAX_S
                pause_s = _PAUSE_S if long else min(pause_s * 2, _PAUSE_MAX_S)
                self._services.hooks.notify(f"{name}: `run` is started again in {pause_s:g} s: {result.error}")
                await asyncio.sleep(pause_s)
        finally:
            DRIVEN.reset(token)

    async def load(self, name: str) -> CapsuleState:
        """Have a capsule ready: check its build, compile it if need be, check its imports and its configuration."""
        capsules = self._require(name)
        manifest = capsules.manifest(name)
        problem = None
        for binding in self._taken.pop(name, ()):
            self._services.register(binding)
        try:
            await capsules.load(name)
        except ToolError as error:
            problem = error.message
        return _state(name, manifest, problem)

    def unload(self, name: str) -> int:
        """Take away a capsule's tools, end its calls (`cancelled`) and release its memory, until `load`. From any thread.

        Recorded in a run of its own. Returns how many calls were ended. Raises: UsageError `not_found`, StoreError.
        """
        capsules, registry = self._require(name), self._services.registry
        tools = [
            binding.tool.name for binding in capsules.bindings() if binding.tool.name.startswith(f"{name}{SEPARATOR}")
        ]
        found = [known.binding for tool in tools if (known := registry.find(tool)) is not None]
        self._taken.setdefault(name, []).extend(found)
        for binding in found:
            registry.remove(binding.tool.name)
        self._services.judges.expire()
        instance, cancelled = capsules.unload(name)
        if instance is not None:
            run = Run.start(self._services, source="capsules")
            if run.recorder is not None:
                run.recorder.record(CapsuleUnloaded(capsule=name, instance=instance, cancelled=cancelled))
            run.finish()
        return cancelled

    def _any(self) -> Capsules:
        if self._capsules is None:
            raise UsageError("no capsules are configured", code="not_found", hint="`[capsules.NAME]` configures one")
        return self._capsules

    def _require(self, name: str) -> Capsules:
        if self._capsules is None or name not in self._capsules.names:
            raise UsageError(
                f"there is no capsule `{name}`", code="not_found", hint="`runtime.capsules.names` lists them"
            )
        return self._capsules


def _state(name: str, manifest: Manifest, problem: str | None) -> CapsuleState:
    return CapsuleState(
        name=name,
        version=manifest.package.version,
        description=manifest.package.description,
        tools=tuple(f"{name}{SEPARATOR}{tool.name}" for tool in manifest.tools),
        problem=problem,
    )
