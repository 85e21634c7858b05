"""Actions that use the same key or path, and that only their position in the list orders.

Two actions are ordered if one needs the other, directly or through others, or if both are in the declared chain
(`order: declared`: actions that may change something run one after the other).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import msgspec

from interlock.model.proposal import Proposal
from interlock.model.tool import Tool
from interlock.verify.graph import Graph, read_only, state_writes
from interlock.verify.paths import PathsTouched

ANYTHING: Final = ""
"""Stands for a path if a tool does not say what it changes."""


class Conflict(msgspec.Struct, frozen=True):
    """Two actions (in declared order) that write `key` without an order between them."""

    key: str
    actions: tuple[str, str]


class Unordered(msgspec.Struct, frozen=True):
    """Two actions (in declared order) that run in any order although one writes `path` and the other uses it.

    The path is `ANYTHING` if neither says what it changes.
    """

    path: str
    actions: tuple[str, str]


def find_conflicts(proposal: Proposal, tools: Mapping[str, Tool], graph: Graph) -> list[Conflict]:
    """Returns the conflicts between each writer of a key and the next one. Linear in actions and edges."""
    pairs: list[tuple[str, int, int]] = []
    last: dict[str, int] = {}
    for i in graph.order:
        action = proposal.actions[i]
        if i in graph.reserved:
            continue
        for key in dict.fromkeys(state_writes(action, tools.get(action.tool or ""))):
            if key in last:
                pairs.append((key, last[key], i))
            last[key] = i
    if not pairs:
        return []
    order = _Order(proposal, tools, graph)
    return [
        Conflict(key, (proposal.actions[u].id, proposal.actions[v].id)) for key, u, v in pairs if not order.before(u, v)
    ]


def find_unordered(proposal: Proposal, tools: Mapping[str, Tool], graph: Graph) -> list[Unordered]:
    """Returns calls that look ordered to a reader of the list, but that `order: free` does not order.

    Only the nearest earlier call counts, and of the calls that may change anything only the first pair is named. Linear
    in actions and edges.
    """
    if proposal.order == "declared":
        return []  # an action that may change something runs beside no earlier or later action
    touched, pairs = PathsTouched(tools), []
    last = -1
    for i in graph.order:
        action = proposal.actions[i]
        tool = tools.get(action.tool or "")
        if i in graph.reserved or tool is None:
            continue
        pairs += [(path, j, i) for path, j in touched.add(action, tool, i)]
        if not tool.read_only and not touched.names_what_it_writes(tool):
            if last >= 0:
                pairs.append((ANYTHING, last, i))
            last = i
    if not pairs:
        return []
    order = _Order(proposal, tools, graph)
    found: list[Unordered] = []
    reported = False
    for path, u, v in pairs:
        if (path == ANYTHING and reported) or order.before(u, v):
            continue
        reported = reported or path == ANYTHING
        found.append(Unordered(path, (proposal.actions[u].id, proposal.actions[v].id)))
    return found


class _Order:
    """Decides whether u certainly comes before v.

    Each node is put on a path: it continues that of a node right before it, or begins one. So most questions are
    answered by comparing two numbers. The rest are answered by a search, limited to a total number of steps linear in
    the graph; beyond that the answer is no, which gives a false warning rather than a missing one.
    """

    def __init__(self, proposal: Proposal, tools: Mapping[str, Tool], graph: Graph) -> None:
        self._graph = graph
        self._position = [0] * graph.size
        for position, i in enumerate(graph.order):
            self._position[i] = position
        self._next = self._chain(proposal, tools) if proposal.order == "declared" else {}
        self._path = self._paths()
        self._steps_left = 10_000 + 50 * (graph.size + sum(map(len, graph.dependents)))

    def before(self, u: int, v: int) -> bool:
        position, path, end = self._position, self._path, self._position[v]
        seen = {u}
        stack = [u]
        while stack and self._steps_left > 0:
            i = stack.pop()
            self._steps_left -= 1
            if path[i] == path[v] and position[i] <= end:
                return True
            for j in self._after(i):
                if j not in seen and position[j] <= end:
                    seen.add(j)
                    stack.append(j)
        return False

    def _after(self, i: int) -> list[int]:
        after = [j for j in self._graph.dependents[i] if j >= 0]
        if i in self._next:
            after.append(self._next[i])
        return after

    def _chain(self, proposal: Proposal, tools: Mapping[str, Tool]) -> dict[int, int]:
        chain = [
            i for i in self._graph.order if i not in self._graph.reserved and not read_only(proposal.actions[i], tools)
        ]
        return dict(pairwise(chain))

    def _paths(self) -> list[int]:
        path = list(range(self._graph.size))
        for i in self._graph.order:
            after = self._after(i)
            if after:  # the chain's successor is the last one, and gives the longest path
                path[after[-1]] = path[i]
        return path
