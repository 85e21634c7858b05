"""The tools of the configured modules. Loading them needs an event loop, so they are loaded when a run first needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from interlock.engine.tools.registry import Registry
from interlock.model.tool import Binding


class PendingTools:
    """The tools that are still to be loaded into one registry."""

    __slots__ = ("_load",)

    def __init__(self, load: Callable[[], Awaitable[list[Binding]]] | None = None) -> None:
        """`load` returns the tools; None if no module is configured."""
        self._load = load

    @property
    def loaded(self) -> bool:
        """True once all tools are loaded."""
        return self._load is None

    async def load_into(self, registry: Registry) -> bool:
        """Load and register the tools, except for those that the program registered itself.

        True if there were any. Raises: ConfigurationError.
        """
        load = self._load
        if load is None:
            return False
        for binding in await load():
            if binding.tool.name not in registry.in_code:
                registry.register(binding)
        self._load = None
        return True

    def copy(self) -> PendingTools:
        """The same pending tools, for another registry."""
        return PendingTools(self._load)
