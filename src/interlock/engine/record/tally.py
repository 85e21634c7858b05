"""What a proposal spent and how it ended, as its rows say it: counted when it ends, and again when a journal is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from interlock.model.result import ActionResult, Cost, RunStatus

_WORST_FIRST: Final[tuple[RunStatus, ...]] = ("interrupted", "held", "cancelled", "failed", "rejected", "succeeded")


class Spending(Protocol):
    """What is not in the rows."""

    cost: float
    tokens: int
    cost_unknown: int


class Typed(Protocol):
    """An action, as far as its cost depends on it."""

    @property
    def type(self) -> str:
        """Its type."""


def cost_of(actions: Sequence[Typed], rows: Sequence[ActionResult], spending: Spending) -> Cost:
    """What was spent. A stored or cached result costs nothing.

    `tool_calls` counts each try of a call that began, as the budgets do: five tries of one action are five.
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
    """How the proposals of a run ended. Of the same size however many there were."""

    def __init__(self) -> None:
        """None yet."""
        self.statuses: set[RunStatus] = set()
        self.counts = dict.fromkeys(("actions", "succeeded", "failed", "rejected", "skipped", "not_undone"), 0)

    @property
    def status(self) -> RunStatus:
        """The worst of the proposals' statuses: that of the run."""
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
        """Count what another one has counted."""
        self.statuses |= other.statuses
        for name, count in other.counts.items():
            self.counts[name] += count
