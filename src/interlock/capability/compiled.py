"""One compiled grant: its globs as matchers, its limits as plain numbers. A child also checks its parents."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from interlock.capability.arguments import Reach
from interlock.model.globs import PathGlob, name_matcher, path_matcher
from interlock.model.grant import Grant
from interlock.model.hosts import endpoint_matcher
from interlock.model.tool import Tool

TAG = "tag:"


class Compiled:
    """The checks of a grant. `chain` is the grant itself and its ancestors; all of them must allow."""

    def __init__(self, grant: Grant) -> None:
        """Compile. Raises: ConfigurationError for an invalid glob or host pattern."""
        self.grant = grant
        self.chain: tuple[Compiled, ...] = (self,)
        self.allowed = _tool_matcher(grant.tools)
        self.denied = _tool_matcher(grant.deny_tools)
        self.unscoped_names = name_matcher(grant.unscoped)
        self.keys = name_matcher(grant.state_keys)
        self.readable = path_matcher(grant.paths.read)
        self.writable = path_matcher(grant.paths.write)
        self.hosts = endpoint_matcher(grant.hosts)

    def link(self, ancestors: Iterable[Compiled]) -> None:
        """Set the chain, once all grants are compiled."""
        self.chain = (self, *ancestors)
        self.expires_at_us = min((g for c in self.chain if (g := c.grant.expires_at_us) is not None), default=None)
        self.actions_max = min((g for c in self.chain if (g := c.grant.actions_max) is not None), default=None)
        self.counted = tuple(c.grant.id for c in self.chain if c.grant.uses_max is not None)
        """Ids of the grants in the chain that count an action as a use."""

    def tool(self, tool: Tool) -> bool:
        """Returns True if this tool may be called."""
        return all(c.allowed(tool) and not c.denied(tool) for c in self.chain)

    def denies(self, tool: Tool) -> bool:
        """Returns True if `deny_tools` of the grant or an ancestor names this tool."""
        return any(c.denied(tool) for c in self.chain)

    def unscoped(self, tool: Tool) -> bool:
        """Returns True if this tool may be called although it marks no paths or hosts."""
        return all(c.unscoped_names(tool.name) for c in self.chain)

    def key(self, key: str) -> bool:
        """Returns True if this state key may be read and written."""
        for c in self.chain:  # noqa: SIM110 - runs for every key of every action
            if not c.keys(key):
                return False
        return True

    def writes_all(self, glob: str) -> bool:
        """Returns True if the grant and its ancestors allow writing every path that the glob matches."""
        inner = PathGlob(glob)
        return all(any(PathGlob(g).covers(inner) for g in c.grant.paths.write) for c in self.chain)

    def reads_all(self, glob: str) -> bool:
        """Returns True if the grant and its ancestors allow reading every path that the glob matches."""
        inner = PathGlob(glob)
        return all(any(PathGlob(g).covers(inner) for g in c.grant.paths.read) for c in self.chain)

    def reach(self, reach: Reach) -> bool:
        """Returns True if this path or host may be accessed."""
        if reach[1] == "host":
            return all(c.hosts(reach[2]) for c in self.chain)
        if reach[1] == "read":
            return all(c.readable(reach[2]) for c in self.chain)
        return all(c.writable(reach[2]) for c in self.chain)


def _tool_matcher(globs: Iterable[str]) -> Callable[[Tool], bool]:
    """Returns a test that a tool matches one of these globs over names, or has one of the tags."""
    globs = tuple(globs)
    names = name_matcher(g for g in globs if not g.startswith(TAG))
    tags = frozenset(g.removeprefix(TAG) for g in globs if g.startswith(TAG))
    return lambda tool: names(tool.name) or not tags.isdisjoint(tool.tags)
