"""`runtime.memory`: the notes of agents and people, for a program or a person with full access."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interlock.engine.learning import embedding
from interlock.engine.services import Services
from interlock.learning.context import Context, render
from interlock.learning.facts import WORKSPACE, Fact, FactStore, Found


class Memory:
    """Reads and corrects the facts of a workspace. Nothing here goes through the gate: it is the person's own view."""

    def __init__(self, services: Services) -> None:
        """Created as `runtime.memory`."""
        self._services = services
        self._store = FactStore(services.db, services.workspace_id, services.clock)

    def scopes_of(self, agent: str) -> list[str]:
        """The scopes that an agent sees: its own, those of its groups, and the workspace's."""
        groups = self._services.settings.groups_by_agent().get(agent, ())
        return [f"agent:{agent}", *(f"group:{name}" for name in groups), WORKSPACE]

    def search(self, query: str, *, agent: str | None = None, limit: int = 10) -> Sequence[Found]:
        """The current facts that match a query best: those that `agent` sees, or all. Every method may raise StoreError."""
        return self._search(query, self._scopes(agent), limit)

    def list(self, *, agent: str | None = None, everything: bool = False) -> Sequence[Fact]:
        """The current facts, newest first; with `everything` also withdrawn, replaced and expired ones."""
        return self._store.facts(self._scopes(agent), everything=everything)

    def get(self, fact_id: str) -> Fact:
        """A fact. Raises: UsageError `not_found`."""
        return self._store.get(fact_id)

    def build_context(self, query: str, *, agent: str | None = None, budget_tokens: int = 1_000) -> Context:
        """A block of at most about `budget_tokens` for a model: best facts first, each with its source, marked as data."""
        return render(self._search(query, self._scopes(agent), 50), budget_tokens)

    def correct(self, fact_id: str, value: Any, *, by: str | None = None) -> Fact:
        """Correct a fact in the name of a person (by default the user).

        The correction overrides agents' notes from now on. Raises: UsageError `not_found`; CanonicalError if the value
        is not JSON.
        """
        services = self._services
        return self._store.correct(fact_id, value, by=by or services.desk.user, new_id=services.ids.new("mem"))

    def forget(self, fact_id: str) -> None:
        """Delete a fact permanently. Raises: UsageError `not_found`."""
        self._store.get(fact_id)
        self._store.forget(ids=[fact_id])

    def _search(self, query: str, scopes: Sequence[str], limit: int) -> Sequence[Found]:
        """Search by words, and by vectors if the configured model is local. Endpoints are used only in calls."""
        model = embedding.configured(self._services, self._services.settings)
        near = embedding.Near() if model is None else embedding.nearest_for_person(self._store, query, scopes, model)
        return self._store.search(query, scopes, limit=limit, near=near.facts)

    def _scopes(self, agent: str | None) -> Sequence[str]:
        return self._store.scopes() if agent is None else self.scopes_of(agent)
