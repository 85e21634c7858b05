"""What the runs of one runtime share: judges, stores, tools, clocks. Put together in `assemble`, and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypedDict, TypeVar

import msgspec
from msgspec import field
from msgspec.structs import replace

from interlock.approvals import Hold
from interlock.detect import Redactor
from interlock.disk import Database, Disk
from interlock.engine.judges.in_force import JudgeMaker, JudgesInForce
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.stop_requests import StopListener
from interlock.engine.record.recorder import Listener
from interlock.engine.tools.executors import Executors
from interlock.engine.tools.pending_tools import PendingTools
from interlock.engine.tools.registry import Registry
from interlock.engine.tools.threads import DaemonThreads
from interlock.executors.background import Programs
from interlock.executors.isolated import IsolatedFunctions
from interlock.executors.process import ProcessRunner
from interlock.isolation.client import ForkServer
from interlock.isolation.egress.client import Egress
from interlock.journal import Durability, KeptRuns, RunIndex
from interlock.journal.stops import StopAnswer, StopRequest
from interlock.model import typed
from interlock.model.clock import Clock, Ids
from interlock.model.errors import ConfigurationError, UsageError
from interlock.model.limits import DEFAULT_LIMITS, Limits
from interlock.model.proposal import Budget, Proposal
from interlock.model.result import ProposalResult
from interlock.model.tool import Binding, RateLimit
from interlock.model.waiting import Waiting
from interlock.settings import Loaded, Settings
from interlock.settings.sections import DEFAULTS
from interlock.signing import Signer
from interlock.state.budgets import BudgetStore
from interlock.state.cache import ResultCache
from interlock.state.calls import CallStore
from interlock.state.idempotency import IdempotencyStore
from interlock.state.store import StateStore
from interlock.telemetry import ResourceGuard, Sampler, Snapshot
from interlock.workspace import LayerMounts, Workspace

if TYPE_CHECKING:
    from interlock.executors.capsules.capsules import Capsules
    from interlock.executors.mcp.servers import Servers

T = TypeVar("T")
START_AGE_NS: Final = 100_000_000
"""The maximum age of a reading that counts as the one before an action."""
Progress = Callable[[str, float, float | None], None]


class EndedProposal(NamedTuple):
    """A proposal that has ended, as `Hooks.ended` gets it. With the status `held` it will continue later."""

    run_id: str
    agent: str
    proposal: Proposal
    edited: Mapping[int, dict[str, Any]]
    """Parameters that an approver changed, by the action's index."""
    result: ProposalResult
    rolled_back: bool
    dry_run: bool
    session: str | None


class Listeners(TypedDict, total=False):
    """The listeners of `Runtime.subscribe`: called on the event loop, so they must return at once, and they must not raise."""

    events: Listener | None
    """Called with the run's id and the event, for every event of every run; never with durability `off`."""
    progress: Progress | None
    """Called with the progress that tools report: action id, done, total."""
    waits: Callable[[Waiting], None] | None
    """Called when something starts to wait, with the cause and the longest possible wait."""
    notices: Callable[[str], None] | None
    """Called with notices for people: a broken edit of a policy, for example."""
    questions: Callable[[Hold], None] | None
    """Called with each question when it is asked, if this process waits for the answer."""


class OpenRun(Protocol):
    """An open run as the services see it: they tell it when the configuration changes, and when to stop."""

    id: str

    def stop(self, request: StopRequest) -> None:
        """Stop the run, from any thread."""
        ...

    @property
    def stop_answer(self) -> StopAnswer | None:
        """Set once the run was stopped, and no part of it is running any more."""
        ...

    def configuration_changed(self, problem: str | None) -> None:
        """Called when the files were edited; with a `problem` the old rules stay in force."""
        ...


class Reload(Protocol):
    """Puts an edited and trusted configuration into force."""

    preparing: list[Callable[[Loaded], Callable[[], None]]]
    """Each function checks its part of an edit, and returns a function that applies it."""

    def __call__(self, services: Services) -> None:
        """Check the files now; costs a few `stat` calls."""
        ...

    def if_due(self, services: Services) -> None:
        """Check the files, unless that was done a moment ago."""
        ...


def close_all(closing: list[Callable[[], None]]) -> None:
    """Call the functions, last first, each once, and empty the list. If several raise, the last error is raised."""
    with contextlib.ExitStack() as stack:
        for function in closing:
            stack.callback(function)
        closing.clear()


class Withdrawn(NamedTuple):
    """Something that was learnt from a run that was undone."""

    how: str
    """`withdrawn`, or `restored` where the undone run was an undo that had withdrawn it."""
    kind: str
    """`fact` or `skill`."""
    id: str
    """Of the fact; `NAME@VERSION` of the skill."""


class Hooks(msgspec.Struct, frozen=True, eq=False):
    """The registered listeners: the only part of the services to which a program adds while they are in use."""

    events: list[Listener] = field(default_factory=list)
    """Called with the run's id and the event, for every event of every run."""
    progress: list[Progress] = field(default_factory=list)
    """Called with the progress that tools report: action id, done, total."""
    waits: list[Callable[[Waiting], None]] = field(default_factory=list)
    """Called when something starts to wait. Must return at once."""
    notices: list[Callable[[str], None]] = field(default_factory=list)
    """Called with notices for people while a process runs: a broken edit of a policy, for example."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about parts of the configuration that have no effect."""
    ended: list[Callable[[EndedProposal], None]] = field(default_factory=list)
    """Called with each proposal that has ended, once its end is on disk. Must return at once, and must not raise."""
    undone: list[Callable[[str, str | None, str], Sequence[Withdrawn]]] = field(default_factory=list)
    """Called when a run (or one action of it) was undone, with the undoing run. Returns what that withdrew, or let hold again."""
    runs: set[OpenRun] = field(default_factory=set)
    """The runs that are open in this process."""

    def warn_once(self, text: str) -> None:
        """Add a warning and send it as a notice, unless that was done before."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.notify(text)

    def notify(self, text: str) -> None:
        """Send a notice to people."""
        for notice in self.notices:
            notice(text)

    def announce_configuration(self, problem: str | None) -> None:
        """Tell the open runs and people that an edit is in force, or (with a `problem`) is not."""
        for run in tuple(self.runs):  # a copy: other threads start and end runs meanwhile
            run.configuration_changed(problem)
        self.notify(problem or "the edited configuration is in force")


class Bounds(msgspec.Struct, eq=False):
    """The upper bounds of a runtime. The program may change them for its runtime (`Runtime.set_limits`, `set_budget`)."""

    limits: Limits = DEFAULT_LIMITS
    """Limits on the input of agents and tools."""
    budget: Budget | None = None
    """The budget of a proposal that does not declare a smaller one."""
    concurrency_max: int = 32
    """Actions of one proposal that run at once."""
    lease_wait_ms: int = 600_000
    """How long an action of a proposal without a deadline waits for its turn to write in the workspace."""
    guard_wait_ms: int = 30_000
    """How long an action waits while the machine is over a limit of the guard."""


class Services(msgspec.Struct, frozen=True, eq=False):
    """Shared by the runs of a runtime. `workspace` and the parts that need the machine are None for pure embedding.

    Never changed once it is built: the parts that can change (tools, judges, bounds, listeners) are separate objects, which say
    how. A fork gets copies of the parts that it does not share.
    """

    # -- foundations
    clock: Clock
    ids: Ids
    jitter: Callable[[], float]
    disk: Disk
    db: Database
    threads: DaemonThreads
    redactor: Redactor
    # -- parts that can change
    registry: Registry
    judges: JudgesInForce
    hooks: Hooks
    bounds: Bounds
    pending_tools: PendingTools
    executors: Executors
    desk: Desk
    """Asks questions and issues grants."""
    # -- shared by all runs
    store: StateStore
    idempotency: IdempotencyStore
    calls: CallStore
    index: RunIndex
    budgets: BudgetStore
    cache: ResultCache
    # -- identity
    workspace_id: str
    agent: str
    durability: Durability
    settings: Settings = DEFAULTS
    boot: str = ""
    """The machine's boot id: together with a pid it shows whether a process can still be the same."""
    state_dir: Path | None = None
    """The workspace's directory in the state directory; None if nothing is kept on disk."""
    kept: KeptRuns | None = None
    """The events of runs in memory, with durability `memory`."""
    make_undo_judges: JudgeMaker | None = None
    """Builds judges that allow only the person's undo, for when the rules cannot be used."""
    reload: Reload | None = None
    """None if there is no configuration file."""
    # -- the machine
    servers: tuple[ForkServer | Egress, ...] = ()
    """Interlock's own fork servers and its egress proxy, which no action may kill."""
    runner: ProcessRunner | None = None
    """Starts programs."""
    isolated: IsolatedFunctions | None = None
    """Functions of the program that run in processes; None without a workspace."""
    workspace: Workspace | None = None
    layers: LayerMounts | None = None
    """Mounts the layers in which proposals work (`[workspace] mode`)."""
    programs: Programs | None = None
    """The background programs, which outlive their action; None where there are no process tools."""
    mcp: Servers | None = None
    """The configured MCP servers; None where there are none."""
    capsules: Capsules | None = None
    """The configured capsules; None where there are none."""
    guard: ResourceGuard | None = None
    sampler: Sampler | None = None
    signer: Signer | None = None
    """Signs the heads of finished runs."""
    stops: StopListener | None = None
    """Finds the requests of other processes to stop a run; None in an in-memory runtime."""

    def __repr__(self) -> str:
        """A short form: no log needs the contents."""
        return object.__repr__(self)

    async def load_tools(self) -> None:
        """Load the tool modules, once. Tools that the program has registered take precedence. Raises ConfigurationError."""
        if await self.pending_tools.load_into(self.registry):
            self.judges.expire()

    def require_tools(self) -> None:
        """Raises: UsageError while the tool modules are not loaded."""
        if not self.tools_loaded:
            raise UsageError(
                "the tool modules that the configuration names are not loaded yet",
                hint="`await runtime.prepare()` first, or `runtime.prepare_sync()`",
            )

    @property
    def tools_loaded(self) -> bool:
        """False while the tool modules are not loaded."""
        return self.pending_tools.loaded

    def announce_configuration(self, problem: str | None) -> None:
        """Tell the open runs and people that an edit is in force, or (with a `problem`) is not."""
        self.hooks.announce_configuration(problem)

    def refresh(self) -> None:
        """Check whether the configuration was edited; a few `stat` calls. Called before each proposal and after each wait."""
        if self.reload is not None:
            self.reload(self)

    def refresh_if_due(self) -> None:
        """As `refresh`, but at most every 100 ms. Called before each action, and usually only compares two numbers."""
        if self.reload is not None:
            self.reload.if_due(self)

    def machine(self) -> Snapshot | None:
        """The last reading of the machine, or None where nothing is measured."""
        return self.sampler.latest() if self.sampler is not None else None

    def fresh_machine(self) -> Snapshot | None:
        """A reading, at most 100 ms old, for the start of an action that may change something; None as above."""
        return self.sampler.fresh(START_AGE_NS) if self.sampler is not None else None

    def grant_of(self, agent: str) -> str:
        """The digest of the agent's grants in the key of a stored result: a changed grant makes a different key."""
        return self.judges.current().grants_digest(agent)

    def for_undo(self) -> Services:
        """Services in which the person's undo works regardless of the rules and the tool modules. See `make_undo_judges`."""
        try:
            self.judges.current()
        except ConfigurationError as error:
            if self.make_undo_judges is None:
                raise
            self.hooks.notify(f"undo continues without the rules, which cannot be used: {error.message}")
            judges = self.judges.fork(self.registry, self.judges.own_grants, make=self.make_undo_judges)
            return replace(self, judges=judges, reload=None)
        return self

    def subscribe(
        self,
        *,
        events: Listener | None = None,
        progress: Progress | None = None,
        waits: Callable[[Waiting], None] | None = None,
        notices: Callable[[str], None] | None = None,
        questions: Callable[[Hold], None] | None = None,
    ) -> None:
        """Add listeners; see `Listeners`."""
        hooks = self.hooks
        named = {"events": events, "progress": progress, "waits": waits, "notices": notices, "questions": questions}
        for name, listener in named.items():
            typed.require_function(listener, name)
        _add(hooks.events, events)
        _add(hooks.progress, progress)
        _add(hooks.waits, waits)
        _add(hooks.notices, notices)
        _add(self.desk.listeners, questions)

    def register(self, binding: Binding) -> None:
        """Add a tool or replace the tool of that name; the judges are rebuilt."""
        self.registry.register(binding)
        self.judges.expire()

    def isolate(self, function: Callable[..., Any], binding: Binding) -> Binding:
        """The binding of a function; if its definition says so, one that calls it in a separate process.

        Raises: InvalidToolError; UsageError without a workspace.
        """
        if binding.tool.isolation != "process":
            return binding
        if self.isolated is None:
            raise UsageError(
                f"`{binding.tool.name}` is to run in a process, and this runtime has no workspace to run it in",
                hint="open the runtime with `workspace=`",
            )
        return self.isolated.bind(function, binding.tool)

    def change_tool(self, name: str, **changes: Any) -> None:
        """Replace fields of a tool's definition. Raises UsageError `not_found`."""
        found = self.registry.require(name)
        tool = msgspec.structs.replace(found.tool, **changes)
        self.register(msgspec.structs.replace(found.binding, tool=tool))

    def limit_rate(self, name: str, calls: int, per_ms: int) -> None:
        """Replace a tool's rate limit. Raises UsageError."""
        limit = RateLimit(calls=typed.at_least(1, calls, "calls"), per_ms=typed.at_least(1, per_ms, "per_ms"))
        self.change_tool(name, rate_limit=limit)

    def cache_results(self, name: str, ttl_ms: int | None) -> None:
        """Set for how long a tool's results are cached. Raises UsageError `not_found`, `not_cacheable`."""
        if (
            ttl_ms is not None
            and typed.at_least(1, ttl_ms, "ttl_ms")
            and not self.registry.require(name).tool.read_only
        ):
            raise UsageError(
                f"the results of `{name}` cannot be cached: it may change something, and a cached result changes nothing",
                code="not_cacheable",
                hint="declare `read_only=True` if it only reads",
            )
        self.change_tool(name, cache_ttl_ms=ttl_ms)

    def adopt_tools(self, proposal: Proposal) -> None:
        """Register the unknown tools that the proposal names for the default executor, if there is one."""
        if self.executors.adopt(proposal, self.registry):
            self.judges.expire()

    def fork(self, agent: str, *, tools: bool = True) -> Services:
        """The same services for another agent, with its own tools from now on; without `tools` it starts with none."""
        registry = self.registry.copy() if tools else Registry(beside=self.registry)
        judges = self.judges.fork(registry, self.judges.own_grants.copy())
        if tools:
            return replace(
                self, agent=agent, registry=registry, judges=judges, bounds=replace(self.bounds),
                pending_tools=self.pending_tools.copy(),
            )  # fmt: skip
        return replace(
            self, agent=agent, registry=registry, judges=judges, executors=Executors(),
            bounds=replace(self.bounds, budget=None), cache=self.cache.apart(self.ids.new("cache") + "/"),
            pending_tools=PendingTools(),
        )  # fmt: skip


def _add(heard: list[T], listener: T | None) -> None:
    if listener is not None:
        heard.append(listener)
