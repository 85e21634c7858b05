"""Predicts the state after a proposal, without running any tool.

Values that only a tool can supply are unknown, and conditions on them are assumed to hold. An action that cannot run is
dropped, with everything that needs it, and the rest continues, so that one simulation shows every problem. (The engine
would stop there if the action's failure behaviour is to abort.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from interlock.model.decision import Refusal
from interlock.model.proposal import Action, Proposal
from interlock.model.tool import Tool
from interlock.verify.calls import Calls
from interlock.verify.conditions import check_assumptions, check_preconditions, equal
from interlock.verify.graph import Graph, build_graph
from interlock.verify.references import References
from interlock.verify.templates import fill, mentions

_UNKNOWN: Final = object()
_RESERVED: Final = Refusal("reserved", "the action runs only as the compensation of another one")


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """An action that cannot run, and why: a code of `REASONS`, and a sentence."""

    action_id: str
    reason: str
    detail: str


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """The predicted result."""

    state: dict[str, Any]
    """Keys whose value is known."""
    unknown: list[str]
    """Keys written with a value that only a tool can supply."""
    dropped: list[Dropped]
    """Dropped actions, in declared order."""


def simulate(
    proposal: Proposal,
    tools: Mapping[str, Tool],
    state: Mapping[str, tuple[Any, int]] | None,
    graph: Graph | None = None,
) -> Simulation:
    """Simulate a proposal on `state`: the value and version of every key; None if the state is not known at all.

    Pass `graph` to avoid building it again. Raises: ProposalError if the proposal has no graph.
    """
    graph = graph or build_graph(proposal, tools)
    calls = Calls(tools, graph.references)

    def refusal(action: Action) -> Refusal | None:
        problems = calls.problems(action)
        return Refusal(*problems[0]) if problems else None

    return play(proposal, tools, state, graph, refusal)


def play(
    proposal: Proposal,
    tools: Mapping[str, Tool],
    state: Mapping[str, tuple[Any, int]] | None,
    graph: Graph,
    refuse: Callable[[Action], Refusal | None],
) -> Simulation:
    """As `simulate`; `refuse` returns a reason, other than the state, why an action cannot run."""
    world = _World(state, graph.references)
    dropped: dict[int, Dropped] = {}
    for i in graph.order:
        action = proposal.actions[i]
        if i not in dropped:
            refusal = _RESERVED if i in graph.reserved else refuse(action) or world.check(action)
            if refusal is None:
                world.perform(action, tools.get(action.tool or ""))
                continue
            dropped[i] = Dropped(action_id=action.id, reason=refusal.reason, detail=refusal.detail)
        for j in graph.dependents[i]:
            if j >= 0 and j not in dropped:
                detail = f"the action needs `{action.id}`, which cannot run"
                dropped[j] = Dropped(action_id=proposal.actions[j].id, reason="dependency_failed", detail=detail)
    return Simulation(
        state={key: value for key, (value, _) in sorted(world.values.items()) if value is not _UNKNOWN},
        unknown=sorted(key for key, (value, _) in world.values.items() if value is _UNKNOWN),
        dropped=[dropped[i] for i in sorted(dropped)],
    )


class _World:
    """The predicted state at one point, and the proposal's claims about it."""

    def __init__(self, state: Mapping[str, tuple[Any, int]] | None, references: References) -> None:
        self._references = references
        self._complete = state is not None
        self.values: dict[str, tuple[Any, int]] = dict(state or {})
        self._claims: dict[str, tuple[Any, int]] = {}

    def check(self, action: Action) -> Refusal | None:
        """Check step 4, as far as it can be predicted, and the result of an assertion."""
        for key in action.state_dependencies:
            if self._is_known(key) and self._claimed(key) is None:
                return Refusal("state_missing", f"the state has no key `{key}`")
        if action.preconditions or action.assumptions:
            preconditions = [c for c in action.preconditions if self._is_known(c.key)]
            assumptions = [a for a in action.assumptions if self._is_known(a.key)]
            refusal = check_preconditions(preconditions, self._claimed) or check_assumptions(assumptions, self._claimed)
            if refusal is not None:
                return refusal
        return self._assertion(action) if action.type == "assertion" else None

    def perform(self, action: Action, tool: Tool | None) -> None:
        """Write what a success of the action would write."""
        written: dict[str, Any] = {}
        if action.type == "state_write":
            value = action.parameters.get("value")
            written[action.parameters["key"]] = self._value(value)
        elif tool is not None:
            for key, template in tool.effects.items():
                known = not mentions(template, "output") and not (
                    mentions(template, "parameters") and self._references.any_in(action.parameters)
                )
                written[key] = fill(template, action.parameters, None) if known else _UNKNOWN
        for key, value in written.items():
            found = self.values.get(key)
            self.values[key] = (value, found[1] + 1 if found else 1)
            self._claims.pop(key, None)
        for key, value in action.expected_effects.items():
            if key not in written:
                self._claims[key] = (value, 0)

    def _assertion(self, action: Action) -> Refusal | None:
        key, expected = action.parameters["key"], action.parameters.get("expected")
        known = key in self.values or self._complete
        value = self.values.get(key, (None, 0))[0]
        expected = self._value(expected)
        if not known or value is _UNKNOWN or expected is _UNKNOWN or equal(value, expected):
            return None
        return Refusal("assertion_failed", f"state key `{key}` would not have the asserted value")

    def _value(self, value: Any) -> Any:
        """Returns the value that a parameter will have; unknown if it contains an output."""
        return _UNKNOWN if self._references.any_in(value) else self._references.resolve(value, _never)

    def _is_known(self, key: str) -> bool:
        if key in self._claims:
            return True
        found = self.values.get(key)
        return self._complete if found is None else found[0] is not _UNKNOWN

    def _claimed(self, key: str) -> tuple[Any, int] | None:
        return self._claims.get(key) or self.values.get(key)


def _never(_id: str, _path: tuple[str | int, ...]) -> Any:
    raise AssertionError("a value with references was resolved as a plain one")
