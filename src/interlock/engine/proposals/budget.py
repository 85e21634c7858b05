"""What a proposal may still spend: its own budget, and those of its run, session and agent.

Reserved before dispatch, counting attempts, and refunded where nothing ran. The shared budgets are leased in blocks from the
database (`interlock.state.budgets`), so a step costs no transaction here.
"""

from __future__ import annotations

from interlock.model.proposal import Budget
from interlock.settings.sections import Amounts
from interlock.state.budgets import SharedBudget


class Allowance:
    """The budgets of one proposal, checked as one."""

    __slots__ = ("_actions", "_budget", "_cost", "_duration_ms", "_shared", "_tool_calls", "exhausted", "free")

    def __init__(self, budget: Budget | None, shared: SharedBudget | None = None) -> None:
        """`budget` is the proposal's own; `shared` is drawn from beside it."""
        self._budget = budget
        self._shared = shared
        self.free = budget is None and shared is None
        """True if nothing is counted."""
        self._actions = 0
        self._tool_calls = 0
        self._duration_ms = 0.0
        self._cost = 0.0
        self.exhausted = ""
        """After a failed `reserve`: which budget, for people."""

    def reserve(self, tool_calls: int) -> bool:
        """Take a place for one attempt in every budget, or in none."""
        if self.free:
            return True
        if not self._own(tool_calls):
            return False
        if self._shared is not None and not self._shared.reserve(1, tool_calls):
            reached = self._shared.exhausted
            self.exhausted = (
                f"the budget of {reached.limit:g} {reached.kind} for `{reached.scope}` is used up" if reached else ""
            )
            return False
        self._actions += 1
        self._tool_calls += tool_calls
        return True

    def refund(self, tool_calls: int) -> None:
        """Give back what `reserve` took: nothing ran."""
        if self.free:
            return
        self._actions -= 1
        self._tool_calls -= tool_calls
        if self._shared is not None:
            self._shared.refund(1, tool_calls)

    def settle(self, duration_ms: float, cost: float) -> None:
        """Count what an attempt took."""
        if self.free:
            return
        self._duration_ms += duration_ms
        self._cost += cost
        if self._shared is not None:
            self._shared.settle(duration_ms, cost)

    def release(self) -> None:
        """Give back what is leased and not used, for other processes: a long wait begins."""
        if self._shared is not None:
            self._shared.release()

    def spent(self, attempts: int, tool_calls: int, duration_ms: float, cost: float) -> None:
        """Count what an earlier process spent on this proposal (after `resume`)."""
        self._actions += attempts
        self._tool_calls += tool_calls
        self._duration_ms += duration_ms
        self._cost += cost

    def _own(self, tool_calls: int) -> bool:
        budget = self._budget
        if budget is None:
            return True
        for name, limit, spent in (
            ("actions", budget.actions, self._actions),
            ("tool_calls", budget.tool_calls if tool_calls else None, self._tool_calls),
            ("duration_ms", budget.duration_ms, self._duration_ms),
            ("cost", budget.cost, self._cost),
        ):
            if limit is not None and spent >= limit:
                self.exhausted = f"the proposal's budget of {limit} {name} is used up"
                return False
        return True


def tighter(a: Budget | None, b: Budget | None) -> Budget | None:
    """The smaller of two budgets, field by field."""
    if a is None or b is None:
        return a or b
    fields = {}
    for name in Budget.__struct_fields__:
        bounds = [bound for bound in (getattr(a, name), getattr(b, name)) if bound is not None]
        fields[name] = min(bounds) if bounds else None
    return Budget(**fields)


def budget_of(amounts: Amounts) -> Budget | None:
    """The budget that a section of the settings gives; None if it bounds nothing."""
    budget = Budget(
        actions=amounts.actions, tool_calls=amounts.tool_calls, duration_ms=amounts.duration_ms, cost=amounts.cost
    )
    return None if budget == Budget() else budget
