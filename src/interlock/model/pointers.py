"""Finds the values in a call's parameters that match a pointer pattern: RFC 6901, with `*` for every element or key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def values_at(pattern: str, parameters: Any) -> Iterator[tuple[str, Any]]:
    """The values at a pointer pattern, each with its place (`$.parameters.path`).

    Absent values and nulls are skipped; a list stands for its elements.
    """
    nodes: list[tuple[str, Any]] = [("$.parameters", parameters)]
    for token in pattern.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        nodes = [child for where, node in nodes for child in _children(where, node, name)]
    for where, value in nodes:
        if isinstance(value, list):
            yield from ((f"{where}[{i}]", v) for i, v in enumerate(value) if v is not None)
        elif value is not None:
            yield where, value


def _children(where: str, node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        if name == "*":
            # The agent chose these names, so they must not appear in messages.
            yield from ((f"{where}.*", v) for v in node.values())
        elif name in node:
            yield f"{where}.{name}", node[name]
    elif isinstance(node, list):
        if name == "*":
            yield from ((f"{where}[{i}]", v) for i, v in enumerate(node))
        elif name.isascii() and name.isdigit() and int(name) < len(node):
            yield f"{where}[{name}]", node[int(name)]
