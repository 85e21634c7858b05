"""Finds the paths and hosts among a call's arguments, by the marks of the tool's schema, and brings them to one spelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from interlock.model.decision import Refusal
from interlock.model.globs import workspace_path
from interlock.model.hosts import Endpoint, endpoint

Access = Literal["read", "write"]
Marks = Sequence[tuple[str, str]]
"""Pairs of a pointer pattern (RFC 6901, `*` for every element) and `path.read`, `path.write`, `host` or `secret`."""

Reach = tuple[str, Access, str] | tuple[str, Literal["host"], Endpoint]
"""Where it stands (`$.parameters.path`), how it is touched, and what it is."""


def reaches(marks: Marks, parameters: Any, root: str | None) -> list[Reach] | Refusal:
    """Every path and host that a call names; a Refusal if one cannot be read with certainty."""
    found: list[Reach] = []
    for pattern, mark in marks:
        if mark == "secret":
            continue
        for where, value in _select(pattern, parameters):
            reason = "host_denied" if mark == "host" else "path_denied"
            try:
                if mark == "host":
                    found.append((where, "host", endpoint(value)))
                elif mark == "path.read":
                    found.append((where, "read", workspace_path(value, root)))
                else:  # `path.write`, and whatever a later mark may mean
                    found.append((where, "write", workspace_path(value, root)))
            except ValueError as error:
                return Refusal(reason, f"the argument {error}", where)
    return found


def _select(pattern: str, parameters: Any) -> Iterator[tuple[str, Any]]:
    """The values at a pointer pattern. Absent ones and nulls are no arguments; a list stands for its elements."""
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
            # The agent chose these names, so they do not go into a message.
            yield from ((f"{where}.*", v) for v in node.values())
        elif name in node:
            yield f"{where}.{name}", node[name]
    elif isinstance(node, list):
        if name == "*":
            yield from ((f"{where}[{i}]", v) for i, v in enumerate(node))
        elif name.isdigit() and int(name) < len(node):
            yield f"{where}[{name}]", node[int(name)]
