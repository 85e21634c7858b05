"""Budgets shared by processes: how much a proposal, a run, a session and an agent may spend in total.

The database holds one number per scope and kind: what has been *taken*. A process takes a block, spends it in memory
without a transaction per action, and returns the rest. Blocks shrink as a budget runs out, so that processes do not
starve each other. A process that dies returns nothing: its block counts as spent, so a crash can waste a few actions of
a budget but never overspends it.

`actions` and `tool_calls` are exact: an action that exceeds them is not started. So are `tokens` and `cost` of a call
with a known maximum, as calls of models have; settling returns the difference. Otherwise `duration_ms` and `cost` are
known only afterwards: nothing is started once the limit is reached, and actions that are already running are counted
and may exceed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from interlock.disk import Database
from interlock.model.proposal import Budget

Kind = Literal["actions", "tool_calls", "duration_ms", "cost", "tokens"]
KINDS: Final[tuple[Kind, ...]] = ("actions", "tool_calls", "duration_ms", "cost", "tokens")

BLOCK_MAX: Final = 64
"""Maximum number of actions or tool calls in a block."""
BLOCK_SHARE: Final = 1 / 16
"""The largest share of the rest that a block may take, unless more is needed at once."""

_SCHEMA: Final = (
    """create table budgets (
        scope text not null, kind text not null, taken double precision not null, primary key (scope, kind)
    )""",
)


class Exhausted(msgspec.Struct, frozen=True):
    """The limit that was reached, such as `session:nightly`, `actions`, 500."""

    scope: str
    kind: Kind
    limit: float


class _Purse:
    """The block that this process holds of one scope and kind. Negative only within a call, before the debt is paid."""

    __slots__ = ("exact", "held", "kind", "limit", "scope")

    def __init__(self, scope: str, kind: Kind, limit: float) -> None:
        self.scope = scope
        self.kind = kind
        self.limit = limit
        self.held: float = 0
        self.exact = kind in {"actions", "tool_calls"}

    def lacks(self, amount: float) -> bool:
        return self.held < amount if amount else self.held <= 0


_Needs = list[tuple[_Purse, float]]


class BudgetStore:
    """The counters of a workspace."""

    def __init__(self, database: Database) -> None:
        """Create the table if it is missing."""
        self._database = database
        database.migrate("budgets", _SCHEMA)

    def open(self, limits: Mapping[str, Budget]) -> SharedBudget:
        """A budget over several scopes at once (`{"session:nightly": Budget(actions=500), "run:...": ...}`).

        A scope is any name that processes agree on. Nothing is taken yet.
        """
        return SharedBudget(self._database, limits)

    def spent(self, scope: str) -> dict[Kind, float]:
        """What is taken from a scope: spent, or held by a process that is running or died."""
        rows = dict(self._database.execute("select kind, taken from budgets where scope = ?", (scope,)))
        return {kind: float(rows.get(kind, 0)) for kind in KINDS}


class SharedBudget:
    """One process's share of some budgets. Not thread-safe."""

    def __init__(self, database: Database, limits: Mapping[str, Budget]) -> None:
        """Called by `BudgetStore.open`."""
        self._database = database
        self._purses = [
            _Purse(scope, kind, limit)
            for scope, budget in limits.items()
            for kind in KINDS
            if (limit := getattr(budget, kind)) is not None
        ]
        self._timed = [p for p in self._purses if not p.exact]
        self._known: dict[tuple[int, int], _Needs] = {}
        self.exhausted: Exhausted | None = None
        """The limit that made the last `reserve` fail."""

    def counts(self, kind: Kind) -> bool:
        """True if one of the budgets limits this kind."""
        return any(purse.kind == kind for purse in self._purses)

    def reserve(self, actions: int = 1, tool_calls: int = 1, tokens: int = 0, cost: float = 0.0) -> bool:
        """Reserve before dispatch, once per attempt: everything in every scope, or nothing. True if it succeeded.

        `tokens` and `cost` are the maximum of the attempt, if known. Raises: StoreError.
        """
        needs = self._needs(actions, tool_calls, tokens, cost)
        for purse, amount in needs:
            if purse.lacks(amount):
                self.exhausted = self._take(needs)
                if self.exhausted is not None:
                    return False
                break
        for purse, amount in needs:
            purse.held -= amount
        return True

    def refund(self, actions: int = 1, tool_calls: int = 1, tokens: int = 0, cost: float = 0.0) -> None:
        """Return an unused reservation."""
        for purse, amount in self._needs(actions, tool_calls, tokens, cost):
            purse.held += amount

    def settle(self, duration_ms: float = 0, cost: float = 0, tokens: int = 0) -> None:
        """Add what an attempt spent beyond its reservation (a negative amount returns some). Raises: StoreError."""
        spent = {"duration_ms": duration_ms, "cost": cost, "tokens": tokens}
        debts = []
        for purse in self._timed:
            purse.held -= spent[purse.kind]
            if purse.held < 0:
                debts.append(purse)
        self._pay(debts)

    def release(self) -> None:
        """Return unspent blocks for other processes; the budget stays open. Call it before a long wait."""
        self._pay([p for p in self._purses if p.held])

    close = release

    def preview(self) -> SharedBudget:
        """A copy of these budgets that is spent only in memory, for a dry run."""
        return _Preview(self._database, self._purses)

    def _needs(self, actions: int, tool_calls: int, tokens: int = 0, cost: float = 0.0) -> _Needs:
        """What a reservation takes from each purse.

        Time and unknown costs take nothing, but their limit must not be reached yet.
        """
        if tokens or cost:
            return self._work_out(actions, tool_calls, tokens, cost)
        found = self._known.get((actions, tool_calls))
        if found is None:
            found = self._known[actions, tool_calls] = self._work_out(actions, tool_calls, 0, 0.0)
        return found

    def _work_out(self, actions: int, tool_calls: int, tokens: int, cost: float) -> _Needs:
        exact: dict[str, float] = {"actions": actions, "tool_calls": tool_calls, "tokens": tokens}
        amounts = {**exact, "duration_ms": 0.0, "cost": cost}
        return [(p, float(amounts[p.kind])) for p in self._purses if amounts[p.kind] or p.kind not in exact]

    def _take(self, needs: _Needs) -> Exhausted | None:
        """Fill every short purse from the database, or none if one cannot be filled."""
        blocks: _Needs = []
        with self._database.transaction():
            for purse, need in needs:
                if not purse.lacks(need):
                    continue
                block = _block(purse, need - purse.held, purse.limit - self._spent_so_far(purse))
                if block is None:
                    return Exhausted(purse.scope, purse.kind, purse.limit)
                blocks.append((purse, block))
            for purse, block in blocks:
                self._add(purse, block)
        for purse, block in blocks:
            purse.held += block
        return None

    def _pay(self, purses: list[_Purse]) -> None:
        """Settle with the database: return what is held, or take what is owed."""
        if not purses:
            return
        with self._database.transaction():
            for purse in purses:
                self._add(purse, -purse.held)
        for purse in purses:
            purse.held = 0

    def _spent_so_far(self, purse: _Purse) -> float:
        rows = self._database.execute(
            "select taken from budgets where scope = ? and kind = ?", (purse.scope, purse.kind)
        )
        return float(rows[0][0]) if rows else 0.0

    def _add(self, purse: _Purse, amount: float) -> None:
        self._database.execute(
            "insert into budgets values (?, ?, ?) on conflict (scope, kind) do update set taken = taken + excluded.taken",
            (purse.scope, purse.kind, amount),
        )


class _Preview(SharedBudget):
    """Holds everything that is left, and does not use the database."""

    def __init__(self, database: Database, purses: list[_Purse]) -> None:
        super().__init__(database, {})
        for purse in purses:
            mine = _Purse(purse.scope, purse.kind, purse.limit)
            mine.held = purse.limit - self._spent_so_far(purse) + purse.held
            self._purses.append(mine)

    def _take(self, needs: _Needs) -> Exhausted | None:
        return next((Exhausted(p.scope, p.kind, p.limit) for p, need in needs if p.lacks(need)), None)

    def _pay(self, purses: list[_Purse]) -> None:
        pass


def _block(purse: _Purse, missing: float, free: float) -> float | None:
    """The amount to take: what is missing, or a share of the rest (a whole number for counts). None if too little is left."""
    if purse.exact:
        return None if free < missing else max(missing, min(BLOCK_MAX, int(free * BLOCK_SHARE)))
    return None if free <= 0 or free < missing else max(missing, free * BLOCK_SHARE)
