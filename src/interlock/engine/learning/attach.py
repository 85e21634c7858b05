"""Attaches learning to a runtime: offers the memory's tools, and listens to proposals that ended or were undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from interlock.engine.learning import embedding, episodes, grounded
from interlock.engine.learning.distil import Distiller
from interlock.engine.learning.memory_tools import MEMORY_TOOLS, bindings
from interlock.engine.learning.skill_tools import SKILL_TOOLS
from interlock.engine.learning.skill_tools import bindings as skill_bindings
from interlock.engine.learning.skills import Skills
from interlock.engine.services import EndedProposal, Services, Withdrawn
from interlock.learning.facts import FactStore
from interlock.learning.skills import SkillStore
from interlock.model.errors import StoreError, UsageError
from interlock.model.result import ProposalResult
from interlock.model.tool import Binding
from interlock.settings import Settings

_ROOMS: Final = "select room from schema_versions where room in ('memory', 'skills') order by room"


Adjust = Callable[[Binding, Settings], Binding]


class Learner(Protocol):
    """The parts of a runtime that learning needs."""

    @property
    def services(self) -> Services:
        """The runtime's services."""
        ...

    @property
    def skills(self) -> Skills:
        """The runtime's skills."""
        ...


def offer_memory(services: Services, adjust: Adjust) -> None:
    """Register the memory's tools once, except for those that the program registered itself."""
    registry = services.registry
    if not registry.by_name.keys().isdisjoint(MEMORY_TOOLS):
        return
    store = _facts(services)
    store.prune(services.clock.now_us() - services.settings.learning.keep_ms * 1000)
    if services.settings.learning.embed is not None and embedding.configured(services, services.settings) is None:
        services.hooks.warn_once(embedding.off(services.settings.learning.embed))
    for binding in bindings(services, store):
        registry.add_built_in(adjust(binding, services.settings))
    services.judges.expire()
    services.hooks.ended.append(lambda ended: _settle(services, store, ended))
    offer_grounded(services, adjust)
    if services.reload is not None:
        services.reload.preparing.append(lambda fresh: lambda: grounded.offer(services, store, fresh.settings, adjust))


def offer_to_rules(services: Services, settings: Settings) -> None:
    """Register the tools that a configuration enables, for inspecting rules; they cannot be executed."""

    async def refuse(*_: Any, **__: Any) -> ProposalResult:
        raise UsageError("tools cannot run while rules are inspected")

    if settings.learning.memory:
        offer_memory(services, lambda binding, _: binding)
    if settings.learning.distill:
        for binding in skill_bindings(Skills(services, refuse, refuse)):
            services.registry.add_built_in(binding)


def offer_grounded(services: Services, adjust: Adjust) -> None:
    """Offer the present models with the memory, if there is one."""
    if MEMORY_TOOLS[0] in services.registry.by_name:
        store = _facts(services)
        grounded.offer(services, store, services.settings, adjust)


def attach(runtime: Learner, adjust: Adjust, *, memory: bool, auto_distill: bool) -> list[Callable[[], None]]:
    """Attach the requested features, each once. Returns the functions to call at the runtime's end."""
    services = runtime.services
    if memory:
        offer_memory(services, adjust)
    if not auto_distill or runtime.skills.distiller is not None:
        return []
    store = _skills(services)
    store.prune(services.clock.now_us() - services.settings.learning.keep_ms * 1000)
    if services.registry.by_name.keys().isdisjoint(SKILL_TOOLS):
        for binding in skill_bindings(runtime.skills):
            services.registry.add_built_in(adjust(binding, services.settings))
        services.judges.expire()
    found = runtime.skills.distiller = Distiller(services, store)
    services.hooks.ended.append(found.hear)
    services.hooks.undone.append(found.undone)
    return [found.close]


def _settle(services: Services, store: FactStore, ended: EndedProposal) -> None:
    """Make the proposal's notes valid, or discard them. If this cannot be stored, they stay invisible."""
    if ended.dry_run or ended.result.status == "held":
        return
    rows = [] if ended.rolled_back else ended.result.results
    try:
        if _notes(ended):
            succeeded = [row.action_id for row in rows if row.status == "succeeded"]
            store.settle(ended.run_id, ended.proposal.id or "", succeeded)
        episodes.note(services, store, ended)
    except StoreError as error:
        services.hooks.notify(f"the notes of run `{ended.run_id}` were not kept: {error.message}")


def _notes(ended: EndedProposal) -> bool:
    return any(action.tool == "memory.write" for action in ended.proposal.actions)


def withdraw(services: Services, run_id: str, action: str | None, by: str) -> list[Withdrawn]:
    """Withdraw what was learnt from an undone run. Does nothing if nothing was ever learnt.

    Returns what is no longer valid, or valid again: facts, and skills that were learnt from the run.
    """
    found: list[Withdrawn] = []
    stores: dict[str, tuple[str, Callable[..., tuple[list[str], list[str]]]]] = {
        "memory": ("fact", lambda: _facts(services).withdraw(run_id, action, by=by)),
        "skills": ("skill", lambda: _skills(services).withdraw(run_id, by=by)),
    }
    try:
        for (room,) in services.db.execute(_ROOMS):
            kind, withdraw_from = stores[room]
            restored, withdrawn = withdraw_from()
            found += [Withdrawn("restored", kind, one) for one in restored]
            found += [Withdrawn("withdrawn", kind, one) for one in withdrawn]
    except StoreError as error:
        services.hooks.notify(f"what was learnt from run `{run_id}` is still valid: {error.message}")
    return found


def _facts(services: Services) -> FactStore:
    return FactStore(services.db, services.workspace_id, services.clock)


def _skills(services: Services) -> SkillStore:
    return SkillStore(services.db, services.workspace_id, services.clock)
