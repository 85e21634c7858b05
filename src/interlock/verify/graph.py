"""The graph of a proposal: which action waits for which, and which parameter takes its value from which output.

Two kinds of edge. A *need* (an id in `dependencies`, or a `"$ID.output"` reference) passes failure on: if the earlier
action did not succeed, the later one cannot run. An *order* edge only says who goes first: state keys (read after write,
write after read, write after write) and, with `order: declared`, the chain of actions that change something and abort on
failure. Order edges follow the declared order as far as the needs allow it, so they never close a cycle.

Everything is linear in actions and edges (a heap adds a logarithm only where a need points backwards).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from interlock.model.errors import ProposalError
from interlock.model.proposal import Action, ActionCompensation, Proposal
from interlock.model.tool import Tool

_REFERENCE: Final = re.compile(r"\$([A-Za-z0-9_.:-]+?)\.output((?:\.[^.\[\]$]+|\[[0-9]+\])*)", re.ASCII)
_ESCAPED: Final = re.compile(r"\$+" + _REFERENCE.pattern, re.ASCII)
_STEP: Final = re.compile(r"\.([^.\[\]$]+)|\[([0-9]+)\]")


class Graph:
    """The edges of one proposal, by index of the action in declared order.

    `waits[i]` counts the edges into action i. `dependents[i]` lists the actions that wait for i: `j` for a need, `~j` (a
    negative number) for an order edge. `order` is a topological order. `referring` is the set of actions with references,
    `stateful` of those that name a state key, or whose tool writes one. `reserved` holds the actions that run only as the
    compensation of another one.
    """

    __slots__ = ("dependents", "index", "order", "referring", "reserved", "size", "stateful", "waits")

    def __init__(self, size: int) -> None:
        """An empty graph of `size` actions."""
        self.size = size
        self.index: dict[str, int] = {}
        self.waits: list[int] = [0] * size
        self.dependents: list[list[int]] = [[] for _ in range(size)]
        self.order: list[int] | range = range(size)
        self.referring: set[int] = set()
        self.reserved: set[int] = set()
        self.stateful: set[int] = set()

    def levels(self) -> list[list[int]]:
        """Actions grouped by the length of the longest path into them."""
        depth = [0] * self.size
        for i in self.order:
            below = depth[i] + 1
            for j in self.dependents[i]:
                k = j if j >= 0 else ~j
                depth[k] = max(depth[k], below)
        levels: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
        for i in range(self.size):
            levels[depth[i]].append(i)
        return levels


def build_graph(proposal: Proposal, tools: Mapping[str, Tool]) -> Graph:
    """The graph of a decoded proposal.

    Raises: ProposalError with `duplicate_id`, `dependency_unknown` or `dependency_cycle` (the message names the circle).
    """
    actions = proposal.actions
    graph = Graph(len(actions))
    _index(graph, actions)
    needs, backwards = _needs(graph, actions)
    if backwards:
        graph.order = _topological(graph, actions, needs)
    _order_edges(graph, proposal, tools, needs)
    return graph


def read_only(action: Action, tools: Mapping[str, Tool]) -> bool:
    """True if the action changes nothing: such actions are not held to the declared order.

    An assertion changes nothing either, but it is there to stop what comes after it, so it keeps its place.
    """
    if action.type == "tool_call":
        tool = tools.get(action.tool or "")
        return tool is not None and tool.read_only
    return action.type == "state_read"


def references(parameters: Any) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """The references in parameters, at any depth: (action id, path into its output)."""
    for value in parameters.values() if parameters.__class__ is dict else parameters:
        if value.__class__ is str:
            if value[:1] == "$" and (found := _REFERENCE.fullmatch(value)):
                yield found[1], _path(found[2])
        elif value.__class__ is dict or value.__class__ is list:
            yield from references(value)


def needs(action: Action) -> set[str]:
    """The ids of the actions that an action says it needs: its dependencies, and what its parameters refer to."""
    found = {name for name, _ in references(action.parameters)} if has_dollar(action.parameters) else set()
    return found | set(action.dependencies)


def resolve(value: Any, lookup: Callable[[str, tuple[str | int, ...]], Any]) -> Any:
    """A copy of `value` in which each `$ID.output` reference is what `lookup(id, path)` gives, and `$$ID.output` loses a `$`."""
    if value.__class__ is str:
        if value[:1] != "$":
            return value
        if found := _REFERENCE.fullmatch(value):
            return lookup(found[1], _path(found[2]))
        return value[1:] if value[:2] == "$$" and _ESCAPED.fullmatch(value) else value
    if value.__class__ is dict:
        return {k: resolve(v, lookup) for k, v in value.items()}
    if value.__class__ is list:
        return [resolve(v, lookup) for v in value]
    return value


def escape(value: Any) -> Any:
    """A copy of `value` in which no text is a reference: what `resolve` makes the same value of again."""
    if value.__class__ is str:
        return f"${value}" if value[:1] == "$" and (_REFERENCE.fullmatch(value) or _ESCAPED.fullmatch(value)) else value
    if value.__class__ is dict:
        return {k: escape(v) for k, v in value.items()}
    return [escape(v) for v in value] if value.__class__ is list else value


def has_dollar(parameters: Any) -> bool:
    """True if some string in the parameters begins with `$`: only then is there something to resolve."""
    for value in parameters.values() if parameters.__class__ is dict else parameters:
        if value.__class__ is str:
            if value[:1] == "$":
                return True
        elif (value.__class__ is dict or value.__class__ is list) and has_dollar(value):
            return True
    return False


def state_reads(action: Action) -> list[str]:
    """State keys that the action looks at (a key may come twice)."""
    keys = [*action.state_dependencies, *action.read_set]
    if action.type in ("state_read", "assertion"):
        keys.append(action.parameters["key"])
    if action.preconditions:
        keys += [condition.key for condition in action.preconditions]
    if action.assumptions:
        keys += [assumption.key for assumption in action.assumptions]
    return keys


def state_writes(action: Action, tool: Tool | None) -> list[str]:
    """State keys that the action changes or claims to change (a key may come twice)."""
    keys = [*action.write_set, *action.expected_effects]
    if action.type == "state_write":
        keys.append(action.parameters["key"])
    if tool is not None and tool.effects:
        keys += tool.effects
    return keys


def _path(text: str) -> tuple[str | int, ...]:
    return tuple(name or int(number) for name, number in _STEP.findall(text))


def _index(graph: Graph, actions: tuple[Action, ...]) -> None:
    index = {action.id: i for i, action in enumerate(actions)}
    if len(index) != len(actions):
        first: dict[str, int] = {}
        for i, action in enumerate(actions):
            if action.id in first:
                raise ProposalError(
                    f"two actions have the id `{action.id}` (number {first[action.id]} and {i})",
                    code="duplicate_id",
                    path=f"$.actions[{i}].id",
                    hint="give each action its own id, or leave ids out",
                )
            first[action.id] = i
    graph.index = index


def _needs(graph: Graph, actions: tuple[Action, ...]) -> tuple[list[set[int] | None], bool]:
    """Add the needs; returns them per action, and whether one of them points to a later action."""
    index = graph.index
    needs: list[set[int] | None] = [None] * graph.size
    backwards = False
    for i, action in enumerate(actions):
        sources: set[int] | None = None
        if action.dependencies:
            sources = {
                _find(index, name, f"$.actions[{i}].dependencies[{n}]") for n, name in enumerate(action.dependencies)
            }
        if action.parameters and has_dollar(action.parameters):
            graph.referring.add(i)
            for name, _ in references(action.parameters):
                sources = sources or set()
                sources.add(_find(index, name, f"$.actions[{i}].parameters"))
        if isinstance(action.compensation, ActionCompensation):
            graph.reserved.add(_find(index, action.compensation.action_id, f"$.actions[{i}].compensation.action_id"))
        if sources:
            needs[i] = sources
            graph.waits[i] = len(sources)
            for j in sources:
                graph.dependents[j].append(i)
                backwards = backwards or j >= i
    return needs, backwards


def _find(index: dict[str, int], name: str, path: str) -> int:
    found = index.get(name)
    if found is None:
        raise ProposalError(
            f"there is no action `{name}` in this proposal",
            code="dependency_unknown",
            path=path,
            hint='write "$$" for a text that only looks like a reference' if path.endswith("parameters") else None,
        )
    return found


def _topological(graph: Graph, actions: tuple[Action, ...], needs: list[set[int] | None]) -> list[int]:
    """The order nearest to the declared one that the needs allow. Raises ProposalError if there is none."""
    waits = graph.waits.copy()
    ready = [i for i in range(graph.size) if not waits[i]]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in graph.dependents[i]:
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, j)
    if len(order) < graph.size:
        circle = _circle(needs, next(i for i in range(graph.size) if waits[i]), waits)
        names = " -> ".join(f"`{actions[i].id}`" for i in circle[:20])
        more = f" -> ... ({len(circle) - 1} actions)" if len(circle) > 20 else ""
        raise ProposalError(
            f"actions wait for each other: {names}{more}",
            code="dependency_cycle",
            path=f"$.actions[{circle[0]}].dependencies",
            hint="take one of these dependencies or references out",
        )
    return order


def _circle(needs: list[set[int] | None], start: int, waits: list[int]) -> list[int]:
    """A circle among the actions that never became ready: walk needs until an action comes twice."""
    seen: dict[int, int] = {}
    path: list[int] = []
    i = start
    while i not in seen:
        seen[i] = len(path)
        path.append(i)
        i = min(j for j in needs[i] or () if waits[j])
    return [*path[seen[i] :], i]


def _order_edges(graph: Graph, proposal: Proposal, tools: Mapping[str, Tool], needs: list[set[int] | None]) -> None:
    """Add the edges of state keys and of the declared order, skipping those that a need implies already."""
    actions = proposal.actions
    waits, dependents, reserved = graph.waits, graph.dependents, graph.reserved
    declared = proposal.order == "declared"
    writers: dict[str, int] = {}
    readers: dict[str, list[int]] = {}
    last = -1
    for i in graph.order:
        action = actions[i]
        if i in reserved:
            continue
        tool = tools.get(action.tool) if action.tool else None
        before: set[int] = set()
        if _touches_state(action, tool):
            graph.stateful.add(i)
            _state_edges(action, tool, i, writers, readers, before)
        if (
            declared
            and action.failure_behavior == "abort"
            and not (action.type == "state_read" or (tool and tool.read_only))
        ):
            if last >= 0:
                before.add(last)
            last = i
        known = needs[i]
        for j in before:
            if j != i and not (known and j in known):
                waits[i] += 1
                dependents[j].append(~i)


def _touches_state(action: Action, tool: Tool | None) -> bool:
    """A quick no for the plain tool calls that make up most proposals."""
    return (
        action.type != "tool_call"
        or bool(action.state_dependencies or action.read_set or action.write_set or action.expected_effects)
        or bool(action.preconditions or action.assumptions)
        or bool(tool and tool.effects)
    )


def _state_edges(
    action: Action, tool: Tool | None, i: int, writers: dict[str, int], readers: dict[str, list[int]], before: set[int]
) -> None:
    for key in state_reads(action):  # read after write
        if (writer := writers.get(key)) is not None:
            before.add(writer)
        readers.setdefault(key, []).append(i)
    for key in state_writes(action, tool):
        if (writer := writers.get(key)) is not None:  # write after write
            before.add(writer)
        before.update(readers.pop(key, ()))  # write after read
        writers[key] = i
