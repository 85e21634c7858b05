"""Assembles a runtime from its parts. The only module that imports every room."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from interlock.detect import Redactor
from interlock.disk import Database, Disk
from interlock.engine.announce import announce
from interlock.engine.judges.build import maker_of, undo_maker_of
from interlock.engine.judges.in_force import JudgeMaker, JudgesInForce
from interlock.engine.judges.reloading import Reloader
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.engine.local.location import last_trusted_warning, locate, open_database
from interlock.engine.local.machine import boot_id, redaction_key, user_name
from interlock.engine.local.policy_cache import PolicyCache
from interlock.engine.local.walls import open_walls, process_limits
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.stop_requests import WAKE_NAME, StopListener
from interlock.engine.proposals.budget import budget_of
from interlock.engine.proposals.kernel_records import kernel_recording
from interlock.engine.proposals.programs import OnRecord
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.proposals.traffic import policy_of, record_traffic
from interlock.engine.record.known_secrets import redactor_for
from interlock.engine.runs import undo_binding
from interlock.engine.runs.retention import keep_once_a_day
from interlock.engine.runs.run import close_programs
from interlock.engine.services import Bounds, Hooks, Services, close_all
from interlock.engine.tools.executors import Executors
from interlock.engine.tools.pending_tools import PendingTools
from interlock.engine.tools.registry import Registry
from interlock.engine.tools.threads import DaemonThreads
from interlock.executors import background, files, git, http, proc, process
from interlock.executors.enclosure import Enclose
from interlock.executors.inference import MODEL_TOOLS
from interlock.executors.isolated import IsolatedFunctions
from interlock.executors.network import ProcessNetwork
from interlock.executors.process import ProcessRunner
from interlock.isolation.client import ForkServer
from interlock.isolation.egress.client import Egress
from interlock.isolation.posture import PROBED
from interlock.journal import Durability, KeptRuns, RunIndex
from interlock.journal.stops import StopStore
from interlock.lazy import lazy
from interlock.model.clock import Clock
from interlock.model.decision import Refusal
from interlock.model.errors import ConfigurationError
from interlock.model.hosts import Endpoint
from interlock.model.tool import Binding, Context, RateLimit
from interlock.policy.load import Checked
from interlock.settings import Loaded, Settings, TrustStore, load_table
from interlock.settings.decode import Place, dotted
from interlock.settings.load import GIVEN
from interlock.settings.load import load as load_settings
from interlock.settings.overlay import foreign_variables
from interlock.settings.trust import FILE as TRUST_FILE
from interlock.signing import Signer
from interlock.state.budgets import BudgetStore
from interlock.state.cache import ResultCache
from interlock.state.calls import CallStore
from interlock.state.idempotency import IdempotencyStore
from interlock.state.store import StateStore
from interlock.telemetry import GuardLimits, ResourceGuard, Sampler
from interlock.workspace import LayerMounts, Workspace
from interlock.workspace.registry import Registry as Workspaces
from interlock.workspace.registry import state_directory

if TYPE_CHECKING:
    from interlock.engine.capsules import attach as capsule_tools
    from interlock.engine.learning import attach as learning
    from interlock.engine.tools import mcp_tools, model_tools
    from interlock.executors import http_fetch
    from interlock.executors import modules as tool_modules
    from interlock.executors.capsules.capsules import Capsules
    from interlock.executors.mcp.servers import Servers
    from interlock.settings import last_trusted as last
    from interlock.telemetry import otel
else:
    capsule_tools = lazy("interlock.engine.capsules.attach")
    learning = lazy("interlock.engine.learning.attach")
    mcp_tools = lazy("interlock.engine.tools.mcp_tools")
    model_tools = lazy("interlock.engine.tools.model_tools")
    http_fetch = lazy("interlock.executors.http_fetch")
    tool_modules = lazy("interlock.executors.modules")
    last = lazy("interlock.settings.last_trusted")
    otel = lazy("interlock.telemetry.otel")

FEATURES: Final = frozenset(
    {
        "approvals",
        "capsules",
        "mcp",
        "modules",
        "otel",
        "policy",
        "workspace.layer",
        *(f"isolation.{name}" for name in ("ns", "nons", "configuration", "record", *PROBED)),
    }
)
"""The optional features of a configuration that this version provides."""


class Assembled(NamedTuple):
    """Services, and the functions to call when they are no longer needed, in reverse order."""

    services: Services
    closing: list[Callable[[], None]]


def embedded(
    settings: Mapping[str, Any],
    *,
    clock: Clock | None = None,
    workspace: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Assembled:
    """Assemble a runtime that keeps nothing beyond its own life: state, questions and (if configured) events are in memory.

    `settings` are those of `interlock.toml`, and are treated like the file: environment and `flags` tighten them, and the
    files that they name are read under `workspace`. Raises ConfigurationError, with the code `not_available` for a setting
    that such a runtime cannot honour.
    """
    env = os.environ if env is None else env
    clock = clock or SystemClock()
    loaded = load_table(settings, workspace, env=env, flags=flags or {})
    warnings = _warnings(loaded.settings)
    _check_embedded(loaded, workspace)
    memory = _durability(loaded) == "memory"
    db, disk = Database(Path(":memory:")), Disk()
    closing: list[Callable[[], None]] = [db.close]
    hooks = Hooks(warnings=warnings)
    try:
        desk = _desk(loaded, db, clock, None, redactor := redactor_for(os.urandom(32), loaded.settings, env))
        desk.expected = any(place[:1] == ("approvals",) for place in loaded.sources)
        measured = _measure(loaded, clock, hooks, desk, closing)
        hands = None
        if workspace is not None:
            walls = open_walls(loaded.settings, env, None, disk, hooks)
            hands = _equip(loaded, disk, clock, closing, walls)
        services = _services(
            loaded, db, disk, clock, hooks, desk, measured, hands, workspace_id="embedded",
            durability="memory" if memory else "off", redactor=redactor,
            kept=KeptRuns(os.urandom(32), clock) if memory else None,
        )  # fmt: skip
        announce(services, loaded, env, closing)
        return _finish(services, hands, closing, env)
    except BaseException:
        close_all(closing)
        raise


_NOT_EMBEDDED: Final = {
    "journal": "this runtime keeps nothing on disk",
    "mcp": "the tools of MCP servers are pinned by the lock of a project",
    "capsules": "capsules are pinned by the lock of a project",
}
"""The sections that an in-memory runtime cannot honour, each with the reason."""


def _check_embedded(loaded: Loaded, workspace: Path | None) -> None:
    """Refuse settings that would be accepted and ignored. Raises ConfigurationError `not_available`."""
    settings = loaded.settings
    without = {place: why for place in loaded.sources if len(place) > 1 and (why := _NOT_EMBEDDED.get(str(place[0])))}
    if _durability(loaded) is not None:
        without.pop(("journal", "durability"), None)
    if settings.telemetry.otel is not None and _durability(loaded) != "memory":
        without[("telemetry", "otel")] = "spans are made from events, and `journal.durability` is not `memory`"
    for name, wanted in (("mode", "direct"), ("commit", "auto")):
        if getattr(settings.workspace, name) != wanted:
            without["workspace", name] = "this runtime keeps nothing on disk, and so no layers"
    if workspace is None and settings.guard.disk is not None:
        without[("guard", "disk")] = "there is no workspace whose disk could be measured"
    for place, why in without.items():
        raise ConfigurationError(
            f"`{dotted(place)}` cannot be honoured: {why}",
            code="not_available",
            path=f"{_source(place, loaded.sources)}: {dotted(place)}",
            hint="take it out, or open the project's `interlock.toml`, which has all settings",
        )


def _durability(loaded: Loaded) -> Literal["memory", "off"] | None:
    """The durability of events in an in-memory runtime; None if the setting asks for one that it does not have."""
    given = loaded.settings.journal.durability
    if ("journal", "durability") not in loaded.sources:
        return "off"
    return given if given in ("memory", "off") else None


def _source(place: Place, sources: Mapping[Place, str]) -> str:
    return sources.get(place, GIVEN)


def open_project(
    start: Path,
    *,
    explicit: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    disk: Disk | None = None,
    unusable: ConfigurationError | None = None,
    direct: bool = False,
) -> Assembled:
    """Assemble the runtime of the project whose configuration is `explicit`, or is found in `start` or a directory above it.

    With `direct`, `workspace.mode` is `direct` unless the file sets it.
    With `unusable` (the error of an earlier call) no file of the project is read: the last trusted version is in force, for undo.
    Raises: ConfigurationError (`untrusted_configuration` among them), StoreError, IntegrityError, UsageError.
    """
    env = os.environ if env is None else env
    clock, disk = clock or SystemClock(), disk or Disk()
    trust = TrustStore(state := state_directory(env, disk), disk)
    read = partial(load_settings, start, explicit=explicit, env=env, flags=flags or {}, trust=trust, direct=direct)
    loaded = read() if unusable is None else last.load_last_trusted(locate(start, env, disk).root, env=env, trust=trust)
    settings = loaded.settings
    warnings = _warnings(settings) if unusable is None else [last_trusted_warning(unusable)]
    _check_project(settings)
    workspace_id = Workspaces(state, disk, clock, SystemIds()).workspace_id(loaded.root)
    disk.make_directory(home := state / workspace_id)
    foreign = (f"environment {name}: names no setting, and is ignored" for name in foreign_variables(env))
    hooks = Hooks(warnings=[*warnings, *foreign])
    db = open_database(home, disk)
    closing: list[Callable[[], None]] = [db.close]
    try:
        desk = _desk(loaded, db, clock, home, redactor := redactor_for(redaction_key(state, disk), settings, env))
        reload, checked = None, PolicyCache(home / "policies", disk)
        if unusable is None:
            reload = Reloader(
                loaded,
                state / TRUST_FILE,
                read,
                lambda fresh: _maker_of(fresh, clock, desk, checked),
                lambda fresh: partial(_adopt, fresh, desk),
                clock,
            )
        stops = StopListener(StopStore(db, clock), home / "wake" / WAKE_NAME, hooks.runs)
        closing.append(stops.close)
        measured = _measure(loaded, clock, hooks, desk, closing)
        hands = _equip(loaded, disk, clock, closing, open_walls(settings, env, state, disk, hooks, undo=bool(unusable)))
        hands = hands if unusable else _with_more(hands, loaded, env, hooks, closing, state, db, workspace_id)
        services = _services(
            loaded, db, disk, clock, hooks, desk, measured, hands, workspace_id=workspace_id, redactor=redactor,
            durability=settings.journal.durability, home=home, reload=reload, stops=stops, checked=checked,
            signer=Signer.open(state / "keys", disk),
        )  # fmt: skip
        announce(services, loaded, env if unusable is None else None, closing)
        keep_once_a_day(services)
        return _finish(services, hands, closing, env if unusable is None else None)
    except BaseException:
        close_all(closing)
        raise


def _check_project(settings: Settings) -> None:
    if settings.journal.durability == "memory":
        raise ConfigurationError(
            "`memory` is for runtimes that a program opens with `settings=`: a project keeps its journals on disk",
            code="not_available",
            path="journal.durability",
            hint="`full`, or `batch` if losing the last 5 ms is acceptable",
        )


class Measured(NamedTuple):
    """The parts that measure the machine; None where nothing is measured."""

    sampler: Sampler | None
    guard: ResourceGuard | None


class Hands(NamedTuple):
    """The parts that act on a workspace."""

    workspace: Workspace
    runner: ProcessRunner
    network: ProcessNetwork
    programs: background.Programs
    modules: tool_modules.ModuleTools | None
    isolated: IsolatedFunctions
    mounts: LayerMounts
    clock: Clock
    disk: Disk
    mcp: Servers | None = None
    capsules: Capsules | None = None

    @property
    def servers(self) -> tuple[ForkServer | Egress, ...]:
        """The helper processes: fork servers, and the egress proxy."""
        own = (self.runner.server, self.network.egress)
        return own if self.modules is None else (*own, self.modules.server)


def _equip(loaded: Loaded, disk: Disk, clock: Clock, closing: list[Callable[[], None]], walls: Enclose) -> Hands:
    """Open the workspace, and the parts that run programs and tool modules there."""
    settings = loaded.settings
    own, limits = settings.isolation, process_limits(settings.isolation)
    workspace = Workspace(loaded.root, protected=loaded.protected, disk=disk)
    closing.append(workspace.close)
    network = ProcessNetwork(policy_of, record_traffic)
    closing.append(network.close)
    recording = kernel_recording()
    runner = ProcessRunner(clock, limits=limits, passed=own.env, home_files=own.home, enclose=walls, network=network,
                           recording=recording)  # fmt: skip
    closing.append(runner.close)
    modules = None
    if settings.tools.modules:
        modules = tool_modules.ModuleTools(
            settings.tools.modules, loaded.root, clock, trusted=_trusted(loaded), limits=limits, enclose=walls,
            network=network, recording=recording,
        )  # fmt: skip
        closing.append(modules.close)
    isolated = IsolatedFunctions(lambda functions, path: tool_modules.ModuleTools((), loaded.root, clock, functions=functions,
        path=path, limits=limits, enclose=walls, network=network, recording=recording))  # fmt: skip
    closing.append(isolated.close)
    mounts = LayerMounts()
    closing.append(mounts.close)
    programs = background.Programs(runner, clock, OnRecord())
    return Hands(workspace, runner, network, programs, modules, isolated, mounts, clock, disk)


def _with_more(
    hands: Hands, loaded: Loaded, env: Mapping[str, str], hooks: Hooks, closing: list[Callable[[], None]],
    state: Path, db: Database, workspace: str,
) -> Hands:  # fmt: skip
    """Add MCP servers and capsules."""
    if loaded.settings.mcp.servers:
        servers = mcp_tools.open_servers(loaded, env, hands, hooks)
        closing.append(servers.close)
        hands = hands._replace(mcp=servers)
    if loaded.capsules:
        capsules = capsule_tools.open_capsules(loaded, hands, hooks, state=state, db=db, workspace_id=workspace)
        closing.append(capsules.close)
        hands = hands._replace(capsules=capsules)
    return hands


def _finish(
    services: Services, hands: Hands | None, closing: list[Callable[[], None]], env: Mapping[str, str] | None
) -> Assembled:
    """Register the built-in tools; the model tools only if `env` is given. Programs that outlive their run are ended before
    anything that they need is closed.
    """
    if hands is not None:
        _register_builtins(services, hands)
        closing.append(lambda: close_programs(services, hands.programs))
    if env is not None:
        _offer_models(services, env)
    services.hooks.undone.append(lambda run, action, by: learning.withdraw(services, run, action, by))
    return Assembled(services, closing)


def _offer_models(services: Services, env: Mapping[str, str]) -> None:
    """Register the tools of the configured models, now and whenever an edited configuration comes into force."""

    def prepare(settings: Settings) -> Callable[[], None]:
        if settings.models or not services.registry.by_name.keys().isdisjoint(MODEL_TOOLS):
            return model_tools.prepare(services, settings, env, adjusted)
        return lambda: None

    prepare(services.settings)()
    if services.reload is not None:
        services.reload.preparing.append(lambda fresh: prepare(fresh.settings))


def _warnings(settings: Settings) -> list[str]:
    """Warnings about settings that this version does not support.

    Raises: ConfigurationError `not_available` if continuing would protect less than the configuration asks for.
    """
    missing = settings.unavailable(FEATURES)
    for one in missing:
        if one.refuse:
            raise ConfigurationError(
                one.message, code="not_available", path=one.path, hint="take it out, or wait for it"
            )
    return [f"{one.path}: {one.message}" for one in missing]


def _trusted(loaded: Loaded) -> dict[str, tuple[str, str]]:
    """The files of the tool modules, with the digests of their trusted bytes."""
    data = {file.name: file.data for file in loaded.files}
    return {
        module: (str(loaded.root / name), hashlib.sha256(data[name]).hexdigest())
        for module, name in loaded.modules.items()
    }


def _desk(loaded: Loaded, db: Database, clock: Clock, home: Path | None, redactor: Redactor) -> Desk:
    """The desk, which asks questions and issues grants. `home` is None if nothing is kept on disk."""
    settings, asking = loaded.settings, loaded.settings.approvals
    desk = Desk(
        db, home, clock, SystemIds(), boot=boot_id(), user=user_name(), redactor=redactor, groups=dict(asking.groups),
        ttl_ms=asking.ttl_ms, ttl_max_ms=_ttl_max_ms(loaded), separation=asking.separation,
        agent_groups=settings.groups,
    )  # fmt: skip
    desk.issued.count(settings.all_grants())
    return desk


def _pending_tools(hands: Hands | None, settings: Settings) -> PendingTools:
    modules = None if hands is None else hands.modules
    if modules is None:
        return PendingTools()

    async def load() -> list[Binding]:
        return [adjusted(binding, settings) for binding in await modules.load()]

    return PendingTools(load)


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        budget=budget_of(settings.budget.proposal),
        lease_wait_ms=settings.workspace.wait_ms,
        guard_wait_ms=settings.guard.wait_ms,
    )


def _services(
    loaded: Loaded, db: Database, disk: Disk, clock: Clock, hooks: Hooks, desk: Desk, measured: Measured,
    hands: Hands | None, *, workspace_id: str, durability: Durability, redactor: Redactor, home: Path | None = None,
    kept: KeptRuns | None = None, reload: Reloader | None = None, stops: StopListener | None = None,
    signer: Signer | None = None, checked: Checked | None = None,
) -> Services:  # fmt: skip
    """Build the complete services. `hands` is None without a workspace, `home` is None if nothing is kept on disk."""
    settings = loaded.settings
    registry = Registry()
    has_workspace = hands is not None
    judges = JudgesInForce(
        maker_of(loaded, clock, desk.issued, workspace=has_workspace, checked=checked), registry, {},
        revision=desk.issued.revision, warn=hooks.warn_once, configuration=loaded.digest,
    )  # fmt: skip
    return Services(
        clock=clock,
        ids=SystemIds(),
        jitter=random.random,
        disk=disk,
        db=db,
        threads=DaemonThreads(),
        redactor=redactor,
        registry=registry,
        judges=judges,
        hooks=hooks,
        bounds=_bounds(settings),
        pending_tools=_pending_tools(hands, settings),
        executors=Executors(),
        desk=desk,
        store=StateStore(db, workspace_id, clock),
        idempotency=IdempotencyStore(db, workspace_id, clock),
        calls=CallStore(db, workspace_id, clock),
        index=RunIndex(db),
        budgets=BudgetStore(db),
        cache=ResultCache(
            db, workspace_id, clock, boot=boot_id(), flag=None if home is None else home / "wake" / "result-cache-used"
        ),
        workspace_id=workspace_id,
        agent=settings.agent,
        durability=durability,
        settings=settings,
        boot=boot_id(),
        state_dir=home,
        kept=kept,
        make_undo_judges=undo_maker_of(loaded, clock, desk.issued, workspace=has_workspace),
        reload=reload,
        servers=() if hands is None else hands.servers,
        runner=None if hands is None else hands.runner,
        isolated=None if hands is None else hands.isolated,
        workspace=None if hands is None else hands.workspace,
        layers=None if hands is None else hands.mounts,
        mcp=None if hands is None else hands.mcp,
        capsules=None if hands is None else hands.capsules,
        programs=None if hands is None else hands.programs,
        guard=measured.guard,
        sampler=measured.sampler,
        signer=signer,
        stops=stops,
    )


def _maker_of(loaded: Loaded, clock: Clock, desk: Desk, checked: Checked) -> JudgeMaker:
    """A function that builds the judges of a reloaded configuration. Raises: ConfigurationError."""
    desk.issued.count(loaded.settings.all_grants())
    return maker_of(loaded, clock, desk.issued, checked=checked)


def _adopt(loaded: Loaded, desk: Desk) -> None:
    """Apply the parts of an edited configuration that are not the gate's."""
    asking = loaded.settings.approvals
    desk.configure(
        groups=dict(asking.groups), ttl_ms=asking.ttl_ms, ttl_max_ms=_ttl_max_ms(loaded), separation=asking.separation,
        agent_groups=loaded.settings.groups,
    )  # fmt: skip


def _ttl_max_ms(loaded: Loaded) -> int | None:
    """`approvals.ttl` of an environment variable or a flag bounds the `@ttl` of policies too: it may only tighten."""
    return loaded.settings.approvals.ttl_ms if loaded.overridden("approvals", "ttl") else None


def _measure(loaded: Loaded, clock: Clock, hooks: Hooks, desk: Desk, closing: list[Callable[[], None]]) -> Measured:
    """Start measuring the machine; in an in-memory runtime only if configured, because a sampler is a thread."""
    settings, bounds = loaded.settings, loaded.settings.guard
    wanted = desk.outlives or ("telemetry", "samples") in loaded.sources
    sampler = guard = None
    if (settings.telemetry.samples and wanted) or bounds.bounds():
        sampler = Sampler(clock, loaded.root)
        closing.append(sampler.close)
    if sampler is not None and bounds.bounds():
        limits = GuardLimits(cpu=bounds.cpu, memory=bounds.memory, disk=bounds.disk, zombies=bounds.zombies)
        guard = ResourceGuard(limits, sampler, clock)
    if settings.telemetry.otel is not None:
        export = otel.Export.to(settings.telemetry.otel)
        hooks.events.append(export)
        closing.append(export.close)
    return Measured(sampler, guard)


def _register_builtins(services: Services, hands: Hands) -> None:
    settings, runner, programs = services.settings, hands.runner, hands.programs

    def servers() -> list[int]:
        return [*hands.isolated.pids, *(server.pid for server in services.servers if server.pid)]

    found: list[Binding] = [
        *files.bindings(_may_read),
        *process.bindings(runner),
        *git.bindings(runner, hook_judge=_judge_hook if settings.git.hooks == "run" else None),
        *proc.bindings(protected=servers, redact=services.redactor.redact),
        *background.bindings(programs),
        *http.bindings(lambda: http_fetch.Fetcher(services.clock, may_redirect=_may_redirect)),
        undo_binding.binding(services),
    ]
    for binding in found:
        services.registry.add_built_in(_built_in(binding, settings))
    if hands.mcp is not None:
        mcp_tools.offer(services, hands.mcp, lambda binding: adjusted(binding, settings))
    if hands.capsules is not None:
        capsule_tools.offer(services, hands.capsules, lambda binding: adjusted(binding, settings))


def _judge_hook(ctx: Context, parameters: dict[str, Any]) -> Refusal | None:
    """Judge a git hook like an `exec`: it is a program that the agent runs by its commit."""
    assert isinstance(ctx, ActionContext)
    return ctx.refusal_of("exec", parameters)


def _may_read(ctx: Context, path: Any) -> bool:
    """True if the agent may read the file: a dry run of a write must not show more than that."""
    assert isinstance(ctx, ActionContext)
    return ctx.refusal_of("fs.read", {"path": path}) is None


def _may_redirect(ctx: Context, endpoint: Endpoint) -> bool:
    """Judge a redirect by the agent's grants: it leads to a host that the gate has not judged."""
    assert isinstance(ctx, ActionContext)
    return ctx.reach.url(f"https://{endpoint}/") is None


def _built_in(binding: Binding, settings: Settings) -> Binding:
    """A built-in tool with the changes that the configuration makes to it."""
    tool = binding.tool
    process = tool.name in {"shell", "exec"} or tool.name.startswith("git.")
    if process:
        tool = msgspec.structs.replace(tool, timeout_ms=settings.isolation.timeout_ms)
    in_layer = process or tool.name.startswith("fs.")
    return adjusted(msgspec.structs.replace(binding, tool=tool, in_layer=in_layer), settings)


def adjusted(binding: Binding, settings: Settings) -> Binding:
    """A tool with the rate limit, time-out and cache of `[tools."NAME"]`. Raises: ConfigurationError."""
    tool = binding.tool
    own = settings.tools.by_name.get(tool.name)
    changes: dict[str, Any] = {}
    if own is not None and own.timeout_ms is not None:
        changes["timeout_ms"] = own.timeout_ms
    if own is not None and own.rate_limit is not None:
        changes["rate_limit"] = RateLimit(calls=own.rate_limit.calls, per_ms=own.rate_limit.per_ms)
    if own is not None and own.cache_ttl_ms is not None:
        if not tool.read_only:
            raise ConfigurationError(
                f"the results of `{tool.name}` cannot be cached: it may change something, and a cached result changes nothing",
                code="not_cacheable",
                path=f"tools.{tool.name}.cache_ttl",
                hint="take it out; `interlock tools list` shows which tools only read",
            )
        changes["cache_ttl_ms"] = own.cache_ttl_ms
    if not changes:
        return binding
    return msgspec.structs.replace(binding, tool=msgspec.structs.replace(tool, **changes))
