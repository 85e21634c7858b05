"""The only place where the rooms are put together."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from interlock.capability import compile_grants
from interlock.detect import Redactor
from interlock.disk import Database, Disk
from interlock.engine.clock import SystemClock, SystemIds
from interlock.engine.gate import Gate
from interlock.engine.registry import Registry
from interlock.engine.runtime import Runtime
from interlock.engine.services import Services
from interlock.engine.threads import DaemonThreads
from interlock.journal import RunIndex
from interlock.model.canonical import digest
from interlock.model.clock import Clock
from interlock.model.grant import Grant
from interlock.policy import PolicyJudge, Rules, World, load
from interlock.state.cache import ResultCache
from interlock.state.idempotency import IdempotencyStore
from interlock.state.store import StateStore


def embedded(*, agent: str, rules: Rules, grants: Sequence[Grant], clock: Clock | None = None) -> Runtime:
    """A runtime that remembers nothing beyond its own life: durability `off`, state in memory, no workspace."""
    clock = clock or SystemClock()
    db = Database(Path(":memory:"))
    registry = Registry()
    services = Services(
        clock=clock,
        ids=SystemIds(),
        jitter=random.random,
        disk=Disk(),
        db=db,
        registry=registry,
        make_gate=gate_maker(rules, (), grants, {}, registry, clock),
        store=StateStore(db, "embedded", clock),
        idempotency=IdempotencyStore(db, "embedded", clock),
        index=RunIndex(db),
        cache=ResultCache(clock),
        threads=DaemonThreads(),
        redactor=Redactor(os.urandom(32)),
        workspace_id="embedded",
        agent=agent,
        durability="off",
    )
    return Runtime(services, [db.close])


def gate_maker(
    rules: Rules,
    files: Sequence[tuple[str, str]],
    grants: Sequence[Grant],
    groups: Mapping[str, tuple[str, ...]],
    registry: Registry,
    clock: Clock,
) -> Callable[[], Gate]:
    """A function that builds the gate anew, for the tools that are registered when it is called."""
    capability = compile_grants(grants, groups=groups)
    fingerprints = {
        agent: digest("grants", sorted(repr(g) for g in grants if g.agent == agent))
        for agent in {g.agent for g in grants}
    }

    def judge() -> PolicyJudge:
        return load(files, rules, World(tools=tuple(registry.definitions())))

    def make() -> Gate:
        return Gate(capability, judge(), clock, groups, fingerprints)

    return make
