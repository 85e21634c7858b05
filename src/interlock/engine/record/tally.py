"""Counts a proposal's use and the statuses of its rows, when it ends and when a journal is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from interlock.model.result import ActionResult, Cost, RunStatus

_WORST_FIRST: Final[tuple[RunStatus, ...]] = ("interrupted", "held", "cancelled", "failed", "rejected", "succeeded")


class Spending(Protocol):
    """The use that is not in the rows."""

    cost: float
    tokens: int
    cost_unknown: int


class Typed(Protocol):
    """The part of an action on which its cost depends."""

    @property
    def type(self) -> str:
        """Its type."""


def cost_of(actions: Sequence[Typed], rows: Sequence[ActionResult], spending: Spending) -> Cost:
    """The use of the actions. A stored or cached result costs nothing.

    `tool_calls` counts each attempt that started, as the budgets do: five attempts at one action count as five.
    """
    spent = Cost(cost=spending.cost, tokens=spending.tokens, cost_unknown=spending.cost_unknown)
    calls = retries = executed = 0
    duration_ms = 0.0
    for action, row in zip(actions, rows, strict=True):
        status, fresh = row.status, row.deduplicated_from is None
        if fresh and (attempts := row.attempts):
            calls += attempts if action.type == "tool_call" else 0
            retries += attempts - 1
        if status == "skipped":
            spent.actions_skipped += 1
        elif status == "rejected":
            spent.actions_rejected += 1
        elif status != "held" and fresh:
            executed += 1
            duration_ms += row.duration_ms
    spent.tool_calls, spent.retries = calls, retries
    spent.actions_executed, spent.total_duration_ms = executed, duration_ms
    return spent


class Tally:
    """Counts how the proposals of a run ended. Its size does not depend on their number."""

    def __init__(self) -> None:
        """No proposal is counted yet."""
        self.statuses: set[RunStatus] = set()
        self.counts = dict.fromkeys(("actions", "succeeded", "failed", "rejected", "skipped", "not_undone"), 0)

    @property
    def status(self) -> RunStatus:
        """The status of the run, which is the worst status of its proposals."""
        return next((status for status in _WORST_FIRST if status in self.statuses), "succeeded")

    def add(self, status: RunStatus, rows: Iterable[ActionResult], not_undone: int) -> None:
        """Count a proposal."""
        counts = self.counts
        self.statuses.add(status)
        counts["not_undone"] += not_undone
        for row in rows:
            counts["actions"] += 1
            if row.status in counts:
                counts[row.status] += 1

    def join(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.statuses |= other.statuses
        for name, count in other.counts.items():
            self.counts[name] += count
