"""What the runs of one runtime share: judges, stores, tools, clocks. Put together in `assemble`, and nowhere else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from interlock.detect import Redactor
from interlock.disk import Database, Disk
from interlock.engine.judges.judges import Judges
from interlock.engine.people.approval_desk import Desk
from interlock.engine.tools.registry import Registry
from interlock.engine.tools.threads import DaemonThreads
from interlock.isolation.client import ForkServer
from interlock.journal import Durability, RunIndex
from interlock.model.clock import Clock, Ids
from interlock.model.errors import ConfigurationError
from interlock.model.events import Event
from interlock.model.grant import Grant
from interlock.model.limits import DEFAULT_LIMITS, Limits
from interlock.model.proposal import Budget
from interlock.model.tool import Binding
from interlock.model.waiting import Waiting
from interlock.settings import Settings
from interlock.settings.sections import DEFAULTS
from interlock.signing import Signer
from interlock.state.budgets import BudgetStore
from interlock.state.cache import ResultCache
from interlock.state.idempotency import IdempotencyStore
from interlock.state.store import StateStore
from interlock.telemetry import ResourceGuard, Sampler, Snapshot
from interlock.workspace import Workspace

Progress = Callable[[str, float, float | None], None]


GateMaker = Callable[[Registry, str | None, Mapping[str, Grant]], Judges]
"""Builds the gate for tools, a session, and the grants that were set in code (by agent, in place of the configured ones)."""


class OpenRun(Protocol):
    """What services know of a run: it is told when the configuration changes."""

    def configuration_changed(self, problem: str | None) -> None:
        """The files were edited; with a `problem` the old rules stay in force."""
        ...


@dataclass(slots=True)
class Services:
    """Shared by the runs of a runtime. `workspace` and what hangs on the machine is None for pure embedding."""

    clock: Clock
    ids: Ids
    jitter: Callable[[], float]
    disk: Disk
    db: Database
    registry: Registry
    make_gate: GateMaker
    store: StateStore
    idempotency: IdempotencyStore
    index: RunIndex
    budgets: BudgetStore
    cache: ResultCache
    threads: DaemonThreads
    redactor: Redactor
    workspace_id: str
    agent: str
    durability: Durability
    configuration: str = ""
    """Digest of the configuration in force."""
    settings: Settings = DEFAULTS
    boot: str = ""
    """The machine's boot id: with a pid it tells whether a process can still be the same."""
    state_dir: Path | None = None
    """The workspace's directory in the state directory; None if nothing is kept."""
    own_grants: dict[str, Grant] = field(default_factory=dict)
    """Grants that were set in code, by agent."""
    runs: set[OpenRun] = field(default_factory=set)
    """The runs that are open in this process."""
    servers: list[ForkServer] = field(default_factory=list)
    """Interlock's own fork servers, which no action may kill."""
    warnings: list[str] = field(default_factory=list)
    """What the configuration asks for and is not there."""
    make_undo_gate: GateMaker | None = None
    """Builds a gate that lets the person undo and nobody do anything else: for when the rules cannot be used."""
    reload: Callable[[Services], None] | None = None
    """Takes an edited and trusted configuration into force; None if there is no file."""
    notices: list[Callable[[str], None]] = field(default_factory=list)
    """Told what a person should know while a process runs: a broken edit of a policy, for example."""
    load_more: Callable[[], Awaitable[list[Binding]]] | None = None
    """Gives the tools of the modules, which takes an event loop; None once that is done. See `load_tools`."""
    recovered: bool = False
    """True once the journals of runs whose process ended were put in order."""
    workspace: Workspace | None = None
    guard: ResourceGuard | None = None
    guard_wait_ms: int = 30_000
    sampler: Sampler | None = None
    lease_wait_ms: int = 30_000
    """How long a proposal waits for its turn to write in the workspace."""
    limits: Limits = DEFAULT_LIMITS
    concurrency_max: int = 32
    budget: Budget | None = None
    """What a proposal may spend if it does not say less."""
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    """Called with every event of every run."""
    waits: list[Callable[[Waiting], None]] = field(default_factory=list)
    """Told of everything that waits, as it begins to wait. Must return at once."""
    watchers: list[Progress] = field(default_factory=list)
    """Called with the progress that tools report: action id, done, total."""

    signer: Signer | None = None
    """Signs the heads of finished runs."""
    desk: Desk | None = None
    """Where questions are asked; None if nobody can be asked (nothing is kept)."""
    _gates: dict[str | None, Judges] = field(default_factory=dict)

    @property
    def gate(self) -> Judges:
        """The judges in force outside any session."""
        return self.gate_for(None)

    def gate_for(self, session: str | None) -> Judges:
        """The judges in force for a session: built when first needed, and again after tools or grants have changed."""
        gate = self._gates.get(session)
        if gate is None or not self.gate_is_current(gate):
            gate = self._gates[session] = self.make_gate(self.registry, session, self.own_grants)
            self._warn(gate)
        return gate

    def _warn(self, gate: Judges) -> None:
        """Say once which names in the rules nothing has here: misspelt, or a tool that another process registers."""
        for problem in gate.policies.warnings:
            text = str(problem)
            if text not in self.warnings:
                self.warnings.append(text)
                for notice in self.notices:
                    notice(text)

    def gate_is_current(self, gate: Judges) -> bool:
        """False once a grant was issued or revoked, by whatever process, since the gate was built."""
        return not gate.replaced and (self.desk is None or gate.revision == self.desk.issued.revision())

    def gate_changed(self) -> None:
        """The tools or the rules are others now: what was worked out about them is out of date."""
        for gate in self._gates.values():
            gate.replaced = True
        self._gates.clear()

    async def load_tools(self) -> None:
        """Load the tool modules, once. A tool that the program registered stays, whenever it did. Raises ConfigurationError."""
        load = self.load_more
        if load is None:
            return
        for binding in await load():
            if binding.tool.name not in self.registry.in_code:
                self.registry.register(binding)
        self.load_more = None
        self.gate_changed()

    def refresh(self) -> None:
        """Look whether the configuration was edited. Called before each proposal and after each wait; a few `stat` calls."""
        if self.reload is not None:
            self.reload(self)

    def machine(self) -> Snapshot | None:
        """The last reading of the machine, or None where nothing is measured."""
        return self.sampler.latest() if self.sampler is not None else None

    def grant_of(self, agent: str) -> str:
        """What stands for the agent's grants in the key of a stored result: a changed grant is another key."""
        return self.gate.grants_digest(agent)

    def for_undo(self) -> Services:
        """Services in which the person's undo works whatever the rules and the tool modules are. See `make_undo_gate`."""
        try:
            _ = self.gate
        except ConfigurationError as error:
            if self.make_undo_gate is None:
                raise
            for notice in self.notices:
                notice(f"undo goes on without the rules, which cannot be used: {error.message}")
            return replace(self, make_gate=self.make_undo_gate, reload=None, _gates={})
        return self

    def fork(self, agent: str, grant: Grant | None = None) -> Services:
        """The same services for another agent, with tools (and, if given, a grant) of its own from here on."""
        own = self.own_grants | ({} if grant is None else {agent: grant})
        return replace(self, agent=agent, registry=self.registry.copy(), own_grants=own, _gates={})
