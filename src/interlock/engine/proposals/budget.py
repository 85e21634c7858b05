"""The budgets of a proposal: its own, and those of its run, session and agent.

Reserved before dispatch, counting attempts, and refunded where nothing ran. A call of a model also reserves the most tokens and
money that it can use, and is settled by its actual use. The shared budgets are leased in blocks from the
database (`interlock.state.budgets`), so a step costs no transaction here.
"""

from __future__ import annotations

from typing import NamedTuple

from interlock.model.proposal import Budget
from interlock.model.tool import Estimate
from interlock.settings.sections import Amounts
from interlock.state.budgets import Exhausted, SharedBudget


class Use(NamedTuple):
    """The tokens and money that an attempt used."""

    cost: float = 0.0
    tokens: int = 0
    unknown: bool = False
    """True if the use was not reported: the amounts are those that were reserved."""
    reserved: Estimate | None = None
    """The reservation that this replaces."""


class Allowance:
    """The budgets of one proposal, checked as one."""

    __slots__ = (
        "_actions", "_budget", "_cost", "_duration_ms", "_shared", "_tokens", "_tool_calls", "counts_cost", "exhausted", "free"
    )  # fmt: skip

    def __init__(self, budget: Budget | None, shared: SharedBudget | None = None) -> None:
        """`budget` is the proposal's own; amounts are also taken from `shared`."""
        self._budget = budget
        self._shared = shared
        self.free = budget is None and shared is None
        """True if nothing is counted."""
        self._actions = 0
        self._tool_calls = 0
        self._duration_ms = 0.0
        self._cost = 0.0
        self._tokens = 0
        self.counts_cost = (budget is not None and budget.cost is not None) or (
            shared is not None and shared.counts("cost")
        )
        """True if a budget limits money."""
        self.exhausted = ""
        """After a failed `reserve`: a text for people that names the budget."""

    def reserve(self, tool_calls: int, most: Estimate | None = None) -> bool:
        """Take a place for one attempt in every budget, and the `most` that it can use, or nothing."""
        if self.free:
            return True
        tokens, cost = _amounts(most)
        if not self._own(tool_calls, tokens, cost):
            return False
        if self._shared is not None and not self._shared.reserve(1, tool_calls, tokens, cost):
            reached = self._shared.exhausted
            self.exhausted = _shortage(reached, most) if reached else ""
            return False
        self._actions += 1
        self._tool_calls += tool_calls
        self._tokens += tokens
        self._cost += cost
        return True

    def refund(self, tool_calls: int, most: Estimate | None = None) -> None:
        """Release a reservation, because nothing ran."""
        if self.free:
            return
        tokens, cost = _amounts(most)
        self._actions -= 1
        self._tool_calls -= tool_calls
        self._tokens -= tokens
        self._cost -= cost
        if self._shared is not None:
            self._shared.refund(1, tool_calls, tokens, cost)

    def settle(self, duration_ms: float, use: Use) -> None:
        """Count an attempt's use in place of its reservation."""
        if self.free:
            return
        tokens, cost = _amounts(use.reserved)
        self._duration_ms += duration_ms
        self._cost += use.cost - cost
        self._tokens += use.tokens - tokens
        if self._shared is not None:
            self._shared.settle(duration_ms, use.cost - cost, use.tokens - tokens)

    def release(self) -> None:
        """Release the unused part of the lease for other processes, before a long wait."""
        if self._shared is not None:
            self._shared.release()

    def spent(self, attempts: int, tool_calls: int, duration_ms: float, use: Use) -> None:
        """Count the use by an earlier process (after `resume`)."""
        self._actions += attempts
        self._tool_calls += tool_calls
        self._duration_ms += duration_ms
        self._cost += use.cost
        self._tokens += use.tokens

    def _own(self, tool_calls: int, tokens: int, cost: float) -> bool:
        budget = self._budget
        if budget is None:
            return True
        for name, limit, spent, need in (
            ("actions", budget.actions, self._actions, 0),
            ("tool_calls", budget.tool_calls if tool_calls else None, self._tool_calls, 0),
            ("duration_ms", budget.duration_ms, self._duration_ms, 0),
            ("cost", budget.cost, self._cost, cost),
            ("tokens", budget.tokens if tokens else None, self._tokens, tokens),
        ):
            if limit is None or (spent < limit and spent + need <= limit):
                continue
            what = f"the proposal's budget of {limit} {name}"
            left = limit - spent
            self.exhausted = (
                f"{what} is used up" if left <= 0 else f"{what} leaves {left:g}, and the call may take {need:g}"
            )
            return False
        return True


def _amounts(most: Estimate | None) -> tuple[int, float]:
    return (0, 0.0) if most is None else (most.tokens, most.cost or 0.0)


def _shortage(reached: Exhausted, most: Estimate | None) -> str:
    what = f"the budget of {reached.limit:g} {reached.kind} for `{reached.scope}`"
    need = None if most is None else getattr(most, reached.kind, None)
    return f"{what} is used up" if need is None else f"{what} leaves less than the {need:g} that the call may take"


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
    """The budget of a section of the settings; None if it limits nothing."""
    budget = Budget(
        actions=amounts.actions,
        tool_calls=amounts.tool_calls,
        duration_ms=amounts.duration_ms,
        cost=amounts.cost,
        tokens=amounts.tokens,
    )
    return None if budget == Budget() else budget
