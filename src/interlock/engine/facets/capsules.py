"""`runtime.capsules`: the configured capsules, as doors see them."""

from __future__ import annotations

import msgspec

from interlock.engine.services import Services
from interlock.model.errors import ToolError


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
        self._capsules = services.capsules

    @property
    def names(self) -> list[str]:
        """Those whose tools are offered; the runtime's warnings say why others are not."""
        return [] if self._capsules is None else self._capsules.names

    async def load(self, name: str) -> CapsuleState:
        """Have a capsule ready: check its build, compile it if need be, check its imports and its configuration."""
        assert self._capsules is not None
        manifest = self._capsules.manifest(name)
        problem = None
        try:
            await self._capsules.load(name)
        except ToolError as error:
            problem = error.message
        return CapsuleState(
            name=name,
            version=manifest.package.version,
            description=manifest.package.description,
            tools=tuple(f"{name}/{tool.name}" for tool in manifest.tools),
            problem=problem,
        )
