"""Capability checks that come up only while a tool runs: a link, a redirect, a file or a key that an undo writes.

Step 3 judges the parameters. Whatever a tool encounters beyond them is judged here, by the grants that are in force at that time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlock.engine.judges.judges import Judges
from interlock.engine.tools.registry import Registered
from interlock.model.decision import Refusal
from interlock.workspace.tree import Access


class Reach:
    """Checks paths, hosts and state keys against the grants of an agent, for one call of a tool."""

    __slots__ = ("_agent", "_judges", "_tool")

    def __init__(self, judges: Callable[[], Judges], agent: str, tool: Registered | None) -> None:
        """`judges` returns those in force; `tool` is None for a state action, which reaches no path and no host."""
        self._judges = judges
        self._agent = agent
        self._tool = tool

    def path(self, path: Any, field: str, access: Access | None = None) -> Refusal | None:
        """A refusal if the tool may not use this path (JSON form). By default, the marks of `field` give the access."""
        tool = self._tool
        if tool is None:
            return None
        if access is None:
            written = any(mark == "path.write" and pointer.split("/")[1] == field for pointer, mark in tool.marks)
            access = "write" if written else "read"
        judges = self._judges()
        alone = access == "write_alone"
        judged = "write" if access == "write_alone" else access
        return judges.grants.path(self._agent, tool.tool, path, judged, judges.now_us(), alone=alone)

    def globs(self, access: Access) -> tuple[str, ...]:
        """The globs of the paths that a process of this call may read or write."""
        tool = self._tool
        if tool is None:
            return ()
        judges = self._judges()
        find = judges.grants.written if access == "write" else judges.grants.readable
        return find(self._agent, tool.tool, judges.now_us())

    def url(self, url: str) -> Refusal | None:
        """A refusal if the tool may not connect to this URL."""
        tool = self._tool
        if tool is None:
            return Refusal("host_denied", "a state action reaches no host")
        judges = self._judges()
        return judges.grants.arguments(self._agent, tool.tool, tool.marks, {"url": url}, judges.now_us())

    def state_key(self, key: str) -> Refusal | None:
        """A refusal if the agent may not use this state key."""
        judges = self._judges()
        return judges.grants.state_key(self._agent, key, judges.now_us())
