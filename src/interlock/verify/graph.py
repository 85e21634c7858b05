"""The graph of a proposal: which action waits for which, and which parameter takes its value from which output.

There are two kinds of edge. A *need* (an id in `dependencies`, a `"$ID.output"` reference, or a state key that the
later action uses and the earlier one writes) passes failure on: if the earlier action did not succeed, the later one
cannot run. An *order* edge only says which goes first. Order edges come from state keys (write after read, write after
write, a condition after a write) and, with `order: declared`, from the list itself: actions that may change something
run alone, one after the other, and reading tools run side by side between them. Order edges follow the declared order
as far as the needs allow it, so they never close a cycle.

Everything is linear in actions and edges (a heap adds a logarithm only if a need points backwards).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from typing import Final

from interlock.model.errors import ProposalError
from interlock.model.proposal import Action, ActionCompensation, Proposal, ToolCompensation
from interlock.model.tool import Tool
from interlock.verify.references import References, has_dollar

_NO_REFERENCES: Final = References(())


class Graph:
    """The edges of one proposal, by index of the action in declared order.

    `waits[i]` counts the edges into action i. `dependents[i]` lists the actions that wait for i: `j` for a need, `~j`
    (a negative number) for an order edge. `order` is a topological order. `referring` is the set of actions with
    references, `stateful` the set of actions that name a state key or whose tool writes one. `reserved` holds the
    actions that run only as the compensation of another one.
    """

    __slots__ = (
        "dependents", "index", "needs", "order", "references", "referring", "reserved", "size", "stateful", "waits",
    )  # fmt: skip

    def __init__(self, size: int) -> None:
        """An empty graph of `size` actions."""
        self.size = size
        self.index: dict[str, int] = {}
        self.references = _NO_REFERENCES
        self.waits: list[int] = [0] * size
        self.needs: list[set[int] | None] = [None] * size
        """For each action, the actions that must succeed before it can run."""
        self.dependents: list[list[int]] = [[] for _ in range(size)]
        self.order: list[int] | range = range(size)
        self.referring: set[int] = set()
        self.reserved: set[int] = set()
        self.stateful: set[int] = set()

    def levels(self) -> list[list[int]]:
        """Returns the actions grouped by the length of the longest path into them."""
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
    """Returns the graph of a decoded proposal.

    Raises: ProposalError with `duplicate_id`, `dependency_unknown`, `reference_malformed` or `dependency_cycle` (the
    message names the cycle).
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
    """Returns True if the action changes nothing: such actions need not keep the declared order.

    An assertion changes nothing either, but it is meant to stop what follows it, so it keeps its position.
    """
    if action.type == "tool_call":
        tool = tools.get(action.tool or "")
        return tool is not None and tool.read_only
    return action.type == "state_read"


def needs(action: Action, names: References) -> set[str]:
    """Returns the ids of the actions that an action needs: its dependencies, and those that its parameters refer to."""
    return {reference.id for reference in names.of(action.parameters)} | set(action.dependencies)


def state_reads(action: Action) -> list[str]:
    """Returns the state keys that the action reads (possibly with duplicates)."""
    keys = [*action.state_dependencies, *action.read_set]
    if action.type in ("state_read", "assertion"):
        keys.append(action.parameters["key"])
    if action.preconditions:
        keys += [condition.key for condition in action.preconditions]
    if action.assumptions:
        keys += [assumption.key for assumption in action.assumptions]
    return keys


def state_writes(action: Action, tool: Tool | None) -> list[str]:
    """Returns the state keys that the action changes or claims to change (possibly with duplicates)."""
    keys = [*action.write_set, *action.expected_effects]
    if action.type == "state_write":
        keys.append(action.parameters["key"])
    if tool is not None and tool.effects:
        keys += tool.effects
    return keys


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
    graph.references = References(index)


def _needs(graph: Graph, actions: tuple[Action, ...]) -> tuple[list[set[int] | None], bool]:
    """Add the needs. Returns them per action, and whether one of them points to a later action."""
    index = graph.index
    needs = graph.needs
    backwards = False
    for i, action in enumerate(actions):
        sources: set[int] | None = None
        if action.dependencies:
            sources = {
                _find(index, name, f"$.actions[{i}].dependencies[{n}]") for n, name in enumerate(action.dependencies)
            }
        if action.parameters and has_dollar(action.parameters):
            graph.referring.add(i)
            for name, _ in graph.references.check(action.parameters, f"$.actions[{i}].parameters"):
                sources = sources or set()
                sources.add(index[name])
        if isinstance(action.compensation, ActionCompensation):
            graph.reserved.add(_find(index, action.compensation.action_id, f"$.actions[{i}].compensation.action_id"))
        elif isinstance(action.compensation, ToolCompensation) and has_dollar(action.compensation.parameters):
            for _ in graph.references.check(action.compensation.parameters, f"$.actions[{i}].compensation.parameters"):
                pass  # a compensation runs long after this graph: check only that its references can be resolved at all
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
        )
    return found


def _topological(graph: Graph, actions: tuple[Action, ...], needs: list[set[int] | None]) -> list[int]:
    """Returns the order closest to the declared one that the needs allow. Raises: ProposalError if there is none."""
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
            hint="remove one of these dependencies or references",
        )
    return order


def _circle(needs: list[set[int] | None], start: int, waits: list[int]) -> list[int]:
    """Returns a cycle among the actions that never became ready: follows needs until an action comes twice."""
    seen: dict[int, int] = {}
    path: list[int] = []
    i = start
    while i not in seen:
        seen[i] = len(path)
        path.append(i)
        i = min(j for j in needs[i] or () if waits[j])
    return [*path[seen[i] :], i]


def _order_edges(graph: Graph, proposal: Proposal, tools: Mapping[str, Tool], needs: list[set[int] | None]) -> None:
    """Add the edges of state keys and of the declared order, except those that a need already implies."""
    actions = proposal.actions
    waits, dependents, reserved = graph.waits, graph.dependents, graph.reserved
    declared = proposal.order == "declared"
    keys, places = _Keys(), _Places()
    for i in graph.order:
        action = actions[i]
        if i in reserved:
            continue
        tool = tools.get(action.tool) if action.tool else None
        before = places.before(action, tool, i) if declared and action.type != "state_read" else ()
        known: Collection[int] = needs[i] or ()
        if names_state(action) or (tool and tool.effects):
            graph.stateful.add(i)
            sources, earlier = keys.add(action, tool, i)
            before = earlier.union(before)
            for j in sources:
                if j not in known:
                    waits[i] += 1
                    dependents[j].append(i)
            if sources:
                known = needs[i] = sources.union(known)
        for j in before:
            if j not in known:
                waits[i] += 1
                dependents[j].append(~i)


def names_state(action: Action) -> bool:
    """Returns True if the action names a state key; False quickly for the plain tool calls that make up most proposals."""
    return (
        action.type != "tool_call"
        or bool(action.state_dependencies or action.read_set or action.write_set or action.expected_effects)
        or bool(action.preconditions or action.assumptions)
    )


class _Places:
    """The declared order so far: the last action that may have changed something, and the reading tools after it."""

    __slots__ = ("_last", "_readers")

    def __init__(self) -> None:
        self._last: tuple[int, ...] = ()
        self._readers: list[int] = []

    def before(self, action: Action, tool: Tool | None, i: int) -> Collection[int]:
        """Returns the actions that must have ended before this one, each once. Call it once per action, in order."""
        last = self._last
        if tool and tool.read_only:
            self._readers.append(i)
            return last
        self._last = (i,)
        if not self._readers or action.type != "tool_call":  # an action on state changes nothing that a tool has read
            return last
        readers, self._readers = self._readers, []
        return (*last, *readers)


class _Keys:
    """The last writer of each state key, and its readers since then."""

    __slots__ = ("_readers", "_writers")

    def __init__(self) -> None:
        self._writers: dict[str, int] = {}
        self._readers: dict[str, list[int]] = {}

    def add(self, action: Action, tool: Tool | None, i: int) -> tuple[set[int], set[int]]:
        """Returns the actions whose values this one uses, and the others that must have ended (some are in both).

        A condition is judged against the current state: a failed writer does not prevent an assertion or precondition
        from being evaluated, because otherwise the actions that they guard would run unguarded.
        """
        writers, readers = self._writers, self._readers
        sources: set[int] = set()
        before: set[int] = set()
        for key in _values_used(action):  # read after write
            if (writer := writers.get(key)) is not None:
                sources.add(writer)
        for key in state_reads(action):
            if (writer := writers.get(key)) is not None:
                before.add(writer)
            readers.setdefault(key, []).append(i)
        for key in state_writes(action, tool):
            if (writer := writers.get(key)) is not None:  # write after write
                before.add(writer)
            before.update(readers.pop(key, ()))  # write after read
            writers[key] = i
        sources.discard(i)
        before.discard(i)
        return sources, before


def _values_used(action: Action) -> tuple[str, ...]:
    """Returns the state keys whose values the action needs to do what its author intended."""
    if action.type == "state_read":
        return (*action.state_dependencies, *action.read_set, action.parameters["key"])
    return action.state_dependencies + action.read_set
