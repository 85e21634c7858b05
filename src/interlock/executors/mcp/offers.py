"""Compares the tools and prompts that a server offers with the lock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from interlock.executors.mcp.definitions import read_definition, read_list
from interlock.executors.mcp.lock import LockedServer
from interlock.executors.mcp.prompts import read_prompt


class Mismatch(NamedTuple):
    """How a server's tools differ from the lock. `tools` maps locked tools that changed or are missing to the reason."""

    tools: Mapping[str, str]
    unlocked: tuple[str, ...]
    """Tools that are not locked, and so not offered."""
    prompts: Mapping[str, str]
    """As `tools`, for prompts."""


class Offers:
    """The tools and prompts that a server last listed."""

    def __init__(self, listed: Iterable[Any], prompts: Iterable[Any] = ()) -> None:
        """`listed` are the entries of `tools/list`, `prompts` those of `prompts/list`."""
        tools, self._unusable = read_list(listed, read_definition)
        self._digests = {tool.name: tool.digest for tool in tools}
        usable, _ = read_list(prompts, read_prompt)  # the others count as missing
        self._prompts = {prompt.name: prompt.digest for prompt in usable}

    def against(self, locked: LockedServer) -> Mismatch:
        """Returns the differences between the locked and the listed tools."""
        differing: dict[str, str] = {}
        for tool in locked.tools:
            now = self._digests.get(tool.name)
            if now is None and tool.name in self._unusable:
                differing[tool.name] = f"its definition has changed, and is unusable: {self._unusable[tool.name]}"
            elif now is None:
                differing[tool.name] = "the server no longer has it"
            elif now != tool.digest:
                differing[tool.name] = "its definition has changed since it was locked"
        known = locked.by_name()
        prompts = {
            prompt.name: "the prompt has changed since it was locked, or is missing"
            for prompt in locked.prompts
            if self._prompts.get(prompt.name) != prompt.digest
        }
        return Mismatch(differing, tuple(name for name in self._digests if name not in known), prompts)
