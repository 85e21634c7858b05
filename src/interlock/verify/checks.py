"""`interlock verify`: finds every problem of a proposal, without running or reserving anything.

An error means that the proposal, or one of its actions, cannot run. A warning means that it can, but probably not as
intended. Linear in the size of the proposal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from interlock.model.canonical import canonical
from interlock.model.errors import ProposalError
from interlock.model.limits import DEFAULT_LIMITS, Limits
from interlock.model.proposal import Proposal
from interlock.model.tool import Tool
from interlock.verify.calls import Calls
from interlock.verify.conflicts import ANYTHING, Conflict, find_conflicts, find_unordered
from interlock.verify.graph import Graph, build_graph, state_writes
from interlock.verify.references import References
from interlock.verify.simulate import play

REPEATS: Final = 3
"""This number of identical calls of a tool that is not idempotent looks like a loop."""

_ON_STATE: Final = frozenset(("precondition_failed", "state_missing", "assertion_failed"))


class Issue(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. `code` is a key of `REASONS` or of `WARNINGS` in `interlock.model.codes`."""

    action_id: str | None
    """None if the issue concerns the whole proposal."""
    severity: Literal["error", "warning"]
    code: str
    message: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify`."""

    valid: bool
    """True if there is no error; warnings do not count."""
    issues: list[Issue]
    execution_levels: list[list[str]]
    """Ids of the actions that could run at the same time, level by level; empty if the proposal has no graph."""
    conflicts: list[Conflict]


def verify(
    proposal: Proposal,
    tools: Mapping[str, Tool],
    *,
    state: Mapping[str, tuple[Any, int]] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Report:
    """Check a decoded proposal against the registered tools and the state (value and version by key; None: unknown).

    Raises: SchemaError if the definition of a called tool cannot be compiled.
    """
    issues: list[Issue] = list(_limits(proposal, limits))
    calls = Calls(tools, References(action.id for action in proposal.actions))
    for action in proposal.actions:
        if problems := calls.problems(action):
            issues += [_error(action.id, *problem) for problem in problems]
    try:
        graph = build_graph(proposal, tools)
    except ProposalError as error:
        issues.append(_error(_action_at(proposal, error.path), error.code, error.message))
        return Report(valid=False, issues=issues, execution_levels=[], conflicts=[])
    issues += _state(proposal, tools, state, graph)
    issues += _repeats(proposal, tools)
    conflicts = find_conflicts(proposal, tools, graph)
    issues += [
        _warning(
            c.actions[1],
            "unordered_writers",
            f"only its position in the list orders the action after `{c.actions[0]}`; both write `{c.key}`",
        )
        for c in conflicts
    ]
    issues += [_unordered(*one.actions, one.path) for one in find_unordered(proposal, tools, graph)]
    return Report(
        valid=not any(issue.severity == "error" for issue in issues),
        issues=issues,
        execution_levels=[[proposal.actions[i].id for i in level] for level in graph.levels()],
        conflicts=conflicts,
    )


def _limits(proposal: Proposal, limits: Limits) -> Iterator[Issue]:
    count = len(proposal.actions)
    if count > limits.actions:
        yield _error(None, "limit_exceeded", f"{count} actions, more than {limits.actions} (limit `actions`)")
    budget = proposal.budget
    if budget is None:
        return
    calls = sum(action.type == "tool_call" for action in proposal.actions)
    for name, needed, most in (("actions", count, budget.actions), ("tool_calls", calls, budget.tool_calls)):
        if most is not None and needed > most:
            yield _warning(
                None, "budget_exceeded", f"the proposal has {needed} {name}, but its own budget allows {most}"
            )


def _state(
    proposal: Proposal, tools: Mapping[str, Tool], state: Mapping[str, tuple[Any, int]] | None, graph: Graph
) -> Iterator[Issue]:
    """Yields conditions that cannot hold, and conditions that depend on the unknown state."""
    for dropped in play(proposal, tools, state, graph, lambda _: None).dropped:
        if dropped.reason in _ON_STATE:
            yield _error(dropped.action_id, dropped.reason, dropped.detail)
    if state is not None:
        return
    established: set[str] = set()
    for i in graph.order:
        action = proposal.actions[i]
        keys = [c.key for c in action.preconditions if c.operator != "not_exists"] if action.preconditions else []
        for key in dict.fromkeys((*keys, *action.state_dependencies)):
            if key not in established:
                message = f"nothing before it sets state key `{key}`: the state must have it already"
                yield _warning(action.id, "unestablished_precondition", message)
        established.update(state_writes(action, tools.get(action.tool or "")))


def _unordered(earlier: str, later: str, path: str) -> Issue:
    what = f"both use `{path}`, and one writes it" if path != ANYTHING else "neither says what it changes"
    return _warning(
        later, "unordered_calls", f"nothing makes the action wait for `{earlier}`, because the order is `free`; {what}"
    )


def _repeats(proposal: Proposal, tools: Mapping[str, Tool]) -> Iterator[Issue]:
    """Yields one warning for each call that is made `REPEATS` times or more, at the action that reaches this number."""
    seen: dict[tuple[str, bytes], int] = {}
    for action in proposal.actions:
        tool = tools.get(action.tool or "")
        if tool is None or tool.read_only or (tool.idempotent and action.idempotent):
            continue
        call = (tool.name, canonical(action.parameters))
        seen[call] = seen.get(call, 0) + 1
        if seen[call] == REPEATS:
            message = (
                f"`{tool.name}` is called with the same parameters for the {REPEATS}rd time, and it is not idempotent"
            )
            yield _warning(action.id, "repeated_call", message)


def _action_at(proposal: Proposal, path: str | None) -> str | None:
    """Returns the id of the action that a path such as `$.actions[3].id` leads to."""
    number = (path or "").removeprefix("$.actions[").partition("]")[0]
    return proposal.actions[int(number)].id if number.isdigit() else None


def _error(action_id: str | None, code: str, message: str) -> Issue:
    return Issue(action_id=action_id, severity="error", code=code, message=message)


def _warning(action_id: str | None, code: str, message: str) -> Issue:
    return Issue(action_id=action_id, severity="warning", code=code, message=message)
