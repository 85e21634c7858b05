"""Determines which paths the calls of a proposal read and write, from their parameters. Pure text: accesses no file."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, Final

from interlock.model.proposal import Action
from interlock.model.schema_walk import marks
from interlock.model.tool import Tool

_DEPTH_MAX: Final = 64
"""Maximum number of directories above a path that are examined."""

_Marks = tuple[tuple[tuple[str, ...], bool], ...]
"""Steps to a path parameter, and whether it is written."""


class PathsTouched:
    """The last readers and writers of each path, and of anything beneath each directory, as calls are added in order."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        """`tools` by name: their schemas say which parameters are paths."""
        self._tools = tools
        self._marks: dict[str, _Marks] = {}
        self._at: dict[tuple[str, bool], int] = {}
        self._beneath: dict[tuple[str, bool], int] = {}

    def names_what_it_writes(self, tool: Tool) -> bool:
        """Returns True if some parameter of the tool is marked as a path that it writes."""
        return any(writes for _, writes in self._of(tool))

    def add(self, action: Action, tool: Tool, index: int) -> list[tuple[str, int]]:
        """Add a call. Returns (path, earlier call) if one of the two writes the path.

        For each path, there is at most one earlier call of each kind.
        """
        named: list[tuple[str, bool]] = []
        for steps, writes in self._of(tool):
            named += [
                (_normal(value), writes)
                for value in values_at(action.parameters, steps)
                if isinstance(value, str) and value[:1] != "$"
            ]
        found: dict[tuple[str, int], None] = {}
        for path, writes in named:
            above = _above(path)
            for earlier in (True, False) if writes else (True,):
                for table, key in ((self._at, path), (self._beneath, path), *((self._at, one) for one in above)):
                    before = table.get((key, earlier))
                    if before is not None and before != index:
                        found[path, before] = None
        for path, writes in named:
            self._at[path, writes] = index
            for one in _above(path):
                self._beneath[one, writes] = index
        return list(found)

    def _of(self, tool: Tool) -> _Marks:
        known = self._marks.get(tool.name)
        if known is None:
            known = self._marks[tool.name] = tuple(
                (tuple(pointer.split("/")[1:]), mark == "path.write")
                for pointer, mark in marks(tool.parameters)
                if mark.startswith("path.")
            )
        return known


def values_at(value: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    """Returns the values that the steps of a mark's pointer pattern lead to (`*` is any member)."""
    if not steps:
        yield value
        return
    step = steps[0].replace("~1", "/").replace("~0", "~")
    if isinstance(value, dict):
        for key, inner in value.items():
            if step in ("*", key):
                yield from values_at(inner, steps[1:])
    elif isinstance(value, list) and step == "*":
        for inner in value:
            yield from values_at(inner, steps[1:])


def _normal(path: str) -> str:
    return posixpath.normpath(path or ".")


def _above(path: str) -> list[str]:
    """Returns the directories that contain a path, including the workspace's root (`.`)."""
    found = ["."] if path not in (".", "/") and not path.startswith(("/", "..")) else []
    parts = path.split("/")[:_DEPTH_MAX]
    return found + ["/".join(parts[:length]) or "/" for length in range(1, len(parts))]
