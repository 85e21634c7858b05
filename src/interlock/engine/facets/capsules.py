"""`runtime.capsules`: the configured capsules, as doors see them."""

from __future__ import annotations

import msgspec

from interlock.engine.runs.run import Run
from interlock.engine.services import Services
from interlock.executors.capsules.capsules import Capsules
from interlock.model.capsule import SEPARATOR
from interlock.model.errors import ToolError, UsageError
from interlock.model.events import CapsuleUnloaded
from interlock.model.tool import Binding


class CapsuleState(msgspec.Struct, frozen=True, kw_only=True):
    """One capsule whose tools are offered."""

    name: str
    version: str
    description: str
    tools: tuple[str, ...]
    """By the names that agents call."""
    problem: str | None = None
    """Why it cannot be loaded."""


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
        return CapsuleState(
            name=name,
            version=manifest.package.version,
            description=manifest.package.description,
            tools=tuple(f"{name}/{tool.name}" for tool in manifest.tools),
            problem=problem,
        )

    def unload(self, name: str) -> int:
        """Take away a capsule's tools, end its calls (`cancelled`) and release its memory, until `load`. From any thread.

        Recorded in a run of its own. Returns how many calls were ended. Raises: UsageError `not_found`, StoreError.
        """
        capsules, registry = self._require(name), self._services.registry
        tools = [f"{name}{SEPARATOR}{tool.name}" for tool in capsules.manifest(name).tools]
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

    def _require(self, name: str) -> Capsules:
        if self._capsules is None or name not in self._capsules.names:
            raise UsageError(
                f"there is no capsule `{name}`", code="not_found", hint="`runtime.capsules.names` lists them"
            )
        return self._capsules
