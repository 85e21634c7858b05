"""The runtime: what the library, the CLI and every other door hold in their hands."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from interlock.engine.assemble import Assembled, adjusted, embedded, open_project
from interlock.engine.facets.runs import Runs
from interlock.engine.kit.client_uses import ClientUses
from interlock.engine.kit.execute import call_tool, call_tools, execute
from interlock.engine.kit.shared_runs import SharedRuns
from interlock.engine.people.approvals import Approvals
from interlock.engine.people.questions import OnQuestion, asking
from interlock.engine.proposals.decoding import ProposalLike
from interlock.engine.services import Listeners, Services, close_all
from interlock.engine.sync_runner import SyncRunner
from interlock.lazy import lazy
from interlock.model import typed
from interlock.model.clock import Clock
from interlock.model.errors import ConfigurationError, UsageError
from interlock.model.grant import Grant
from interlock.model.limits import Limits
from interlock.model.proposal import Budget
from interlock.model.result import CallResult, ProposalResult
from interlock.model.tool import Binding, Tool, ToolExecutor

if TYPE_CHECKING:
    from interlock.engine.facets import capsules as capsules_facet
    from interlock.engine.facets import checkpoints as checkpoints_facet
    from interlock.engine.facets import forks
    from interlock.engine.facets import grants as grants_facet
    from interlock.engine.facets import rules as rules_facet
    from interlock.engine.facets import servers as servers_facet
    from interlock.engine.facets import state as state_facet
    from interlock.engine.inspect import explain as plans
    from interlock.engine.kit import toolset
    from interlock.engine.kit.options import CallOptions, ExecuteOptions, ToolCallsOptions
    from interlock.engine.kit.toolset import Format
    from interlock.engine.learning import attach as learning
    from interlock.engine.learning import memory as memory_facet
    from interlock.engine.learning import skills as skills_facet
    from interlock.engine.tools import model_tools
    from interlock.executors import python
else:
    capsules_facet = lazy("interlock.engine.facets.capsules")
    checkpoints_facet = lazy("interlock.engine.facets.checkpoints")
    forks = lazy("interlock.engine.facets.forks")
    grants_facet = lazy("interlock.engine.facets.grants")
    rules_facet = lazy("interlock.engine.facets.rules")
    servers_facet = lazy("interlock.engine.facets.servers")
    state_facet = lazy("interlock.engine.facets.state")
    plans = lazy("interlock.engine.inspect.explain")
    toolset = lazy("interlock.engine.kit.toolset")
    learning = lazy("interlock.engine.learning.attach")
    memory_facet = lazy("interlock.engine.learning.memory")
    skills_facet = lazy("interlock.engine.learning.skills")
    model_tools = lazy("interlock.engine.tools.model_tools")
    python = lazy("interlock.executors.python")

Parameters = Mapping[str, Any] | None
Closing = Sequence[Callable[[], None]]
"""The functions to call at the end, in reverse order."""


class Runtime(AbstractContextManager["Runtime"], AbstractAsyncContextManager["Runtime"]):
    """Takes proposals through the gate. Open one with `Runtime.open(...)` (a context manager, sync or async), then `execute`.

    Each `execute` is a run; `runs.start` starts one for several proposals. Its parts are `state`, `runs`, `checkpoints`,
    `memory`, `skills`, `grants`, `rules` in code, `approvals`, MCP `servers`, and `capsules` with their `bus`.
    """

    @classmethod
    def open(
        cls,
        config: str | Path | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        workspace: str | Path | None = None,
        flags: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        on_question: OnQuestion | None = None,
    ) -> Self:
        """Open the runtime of a project. Without `config`, `interlock.toml` is searched for in this directory and its parents.

        With `settings` (the same keys as in the file) no file is read, and nothing outlives the runtime: state and questions are
        in memory, and events too if `journal.durability` is `memory`; built-in tools, policies and tool modules need a
        `workspace`. `flags` and `INTERLOCK_*` variables tighten settings.

        `on_question` is called with each held action (an `interlock.Hold`) unless a call has its own: True approves, False
        denies, a mapping edits the parameters (a JSON merge patch), None leaves the question to others. It may be async; a plain
        function runs on a thread. If it raises, the question is withdrawn, the call rejected, and the caller gets the exception.

        Raises: ConfigurationError (`untrusted_configuration`, `not_available` ...), UsageError, StoreError, IntegrityError.
        """
        root = None if workspace is None else Path(workspace)
        return _opened(cls, _assembled(config, settings, root, flags, clock), on_question)

    @classmethod
    def open_for_undo(cls, workspace: str | Path | None = None, *, clock: Clock | None = None) -> Self:
        """As `open`, for undo and inspection: if the configuration cannot be used, its last trusted version is in force.

        So undo does not depend on files that an agent can write; `warnings` says what is wrong with them.
        Raises: ConfigurationError if there is no project; UsageError, StoreError, IntegrityError.
        """
        root = Path() if workspace is None else Path(workspace)
        try:
            return _opened(cls, open_project(root, clock=clock))
        except ConfigurationError as error:
            return _opened(cls, open_project(root, clock=clock, unusable=error))

    def __init__(self, services: Services, closing: Closing = (), on_question: OnQuestion | None = None) -> None:
        """Use `open`."""
        self.services, self.client_uses, self._shared = services, ClientUses(services), SharedRuns(services)
        self._closing, self._sync, self._on_question = [*closing, self._shared.close], SyncRunner(), on_question
        self.clock, self.runs = services.clock, Runs(services, self._asking, on_question)
        self.approvals = Approvals(services.desk, services.agent)

    state = cached_property(lambda self: state_facet.State(self.services))
    grants = cached_property(lambda self: grants_facet.Grants(self.services))
    rules = cached_property(lambda self: rules_facet.CodeRules(self.services))
    servers = cached_property(lambda self: servers_facet.McpServers(self.services))
    capsules = cached_property(lambda self: capsules_facet.CapsuleParts(self.services))
    bus = property(lambda self: self.capsules.bus)
    inbound = property(lambda self: self.capsules.inbound)
    send = property(lambda self: self.capsules.send)
    checkpoints = cached_property(lambda self: checkpoints_facet.Checkpoints(self.services))
    memory = cached_property(lambda self: memory_facet.Memory(self.services))
    skills = cached_property(lambda self: skills_facet.Skills(self.services, self.execute, self.runs.undo))

    def register(self, tool: Callable[..., Any] | Binding | Tool, definition: Tool | None = None) -> None:
        """Add a tool, or replace the one of that name: a function, a binding, or a definition for `set_executor`'s object."""
        if isinstance(tool, Tool):
            tool = self.services.executors.binding(tool)
        bound = tool if isinstance(tool, Binding) else self.services.isolate(tool, python.bind(tool, definition))
        found = adjusted(bound, self.services.settings)
        self.services.register(found)
        self.services.registry.in_code.add(found.tool.name)

    def register_name(self, name: str, executor: Callable[[dict[str, Any]], Awaitable[Any]] | None = None) -> None:
        """Add a tool by its name alone, with an open schema and the most cautious traits. `executor` gets the parameters."""
        self.register(Tool(name=name) if executor is None else python.name_only(name, executor))

    def set_executor(self, executor: ToolExecutor | None) -> None:
        """Set the object that performs calls of tools without a function, or (with an open schema and the most cautious
        traits, under the rules) of unregistered names; None removes it. `execute(..., executor=)` takes precedence.
        """
        self.services.executors.set_default(executor)

    def with_inference(self, models: Mapping[str, Mapping[str, Any]]) -> Self:
        """Register `infer`, `classify` and `embed` for these models (by name, with the keys of `[models.NAME]`), before those
        of the configuration. `key_env` names a variable of this process's environment. Raises: ConfigurationError.
        """
        model_tools.register_in_code(self.services, models, os.environ, adjusted)
        learning.offer_grounded(self.services, adjusted)
        return self

    def with_learning(self, *, memory: bool = True, auto_distill: bool = False) -> Self:
        """Offer agents a memory (the tools `memory.*`, under rules and grants), and look for `skills` in successful proposals."""
        if memory or auto_distill:
            self._closing += learning.attach(self, adjusted, memory=memory, auto_distill=auto_distill)
        return self

    def tools(self) -> list[Tool]:
        """The registered tools' definitions, by name."""
        return self.services.registry.definitions()

    def tools_for(self, form: Format, *, agent: str | None = None, session: str | None = None) -> list[dict[str, Any]]:
        """Definitions, for a model, of the tools that the agent's grants and the policies could allow.

        `form` is `openai` (Chat Completions), `openai-responses`, `anthropic` or `mcp`. Names are safe for every vendor
        (`fs_read` for `fs.read`), schemas are slim, paths are plain text. Raises: UsageError if the configured tool modules
        are not loaded yet (`prepare`); ConfigurationError.
        """
        return toolset.definitions(self.services, form, agent=agent or self.services.agent, session=session)

    def tool_named(self, name: str, form: Format) -> str | None:
        """The name of the tool that `tools_for(form)` calls `name`; None if there is no such tool."""
        return toolset.own_name(self.services, name, form)

    async def prepare(self) -> None:
        """Load the tool modules that the configuration names. The first `execute` does this too."""
        await self.services.load_tools()

    def prepare_sync(self) -> None:
        """`prepare` for code that has no event loop. Raises UsageError if there is one running in this thread."""
        self._sync.run("prepare", self.prepare)

    def set_budget(self, budget: Budget | None) -> None:
        """Set the maximum budget of each proposal; a proposal's own budget can only be smaller. Raises UsageError."""
        self.services.bounds.budget = typed.require(budget, (Budget, NoneType), "budget")

    def set_limits(self, limits: Limits) -> None:
        """Set the upper bounds on the input of agents and tools, from now on. Raises UsageError."""
        self.services.bounds.limits = typed.require(limits, Limits, "limits")

    def set_rate_limit(self, tool: str, calls: int, per_ms: int) -> None:
        """Replace a tool's rate limit. Raises UsageError, such as `not_found`."""
        self.services.limit_rate(tool, calls, per_ms)

    def enable_cache(self, tool: str, ttl_ms: int | None) -> None:
        """Cache a read-only tool's successes for `ttl_ms`, per call and agent; None turns that off. Raises UsageError."""
        self.services.cache_results(tool, ttl_ms)

    def fork(self, agent: str, grant: Grant | None = None) -> Runtime:
        """A runtime for another agent: state, journals and policy are shared; from now on it has its own tools. With a `grant`
        it has the intersection of that grant and the grant of this runtime's agent (if that agent has none, the first grant of
        its groups). Raises ConfigurationError.
        """
        return Runtime(forks.fork(self.services, agent, grant), on_question=self._on_question)

    def with_shared(self, agent: str | None = None) -> Runtime:
        """A runtime over the same state, policies, grants, journals and questions, with its own tools (none at first), executor,
        budget, rate limits and cached results. Rules may name the tools of either.
        """
        return Runtime(forks.share(self.services, agent or self.services.agent), on_question=self._on_question)

    def subscribe(self, **listeners: Unpack[Listeners]) -> None:
        """Add listeners, which are called on the event loop: `events` of every run (run id and event; none with durability
        `off`), `progress`, `waits`, `notices` for people, `questions`. They must return at once and not raise.
        """
        self.services.subscribe(**listeners)

    @property
    def warnings(self) -> Sequence[str]:
        """Warnings about parts of the configuration that have no effect."""
        return tuple(self.services.hooks.warnings)

    def refresh(self) -> None:
        """Put an edited and trusted configuration into force, if there is one. Costs a few `stat` calls."""
        self.services.refresh()

    def verify(self, proposal: ProposalLike) -> plans.Report:
        """Report every problem of a proposal, given the current state; runs nothing. Raises: ProposalError."""
        return plans.verify(self.services, proposal)

    def simulate(self, proposal: ProposalLike) -> plans.Simulation:
        """Compute the state after a proposal, and the actions that could not run; runs nothing. Raises: ProposalError."""
        return plans.simulate(self.services, proposal)

    def explain(self, proposal: ProposalLike) -> list[plans.ActionExplanation]:
        """The gate's answer for each action, with the reason; runs nothing and asks no one. Raises: ProposalError."""
        return plans.explain(self.services, proposal)

    async def execute(self, proposal: ProposalLike, **options: Unpack[ExecuteOptions]) -> ProposalResult:
        """Take a proposal (a dictionary, JSON, or a `Proposal`) through the gate, in a new run.

        With `wait=False` this does not wait for answers: a held action gets the row `held`, with the approval's id in its
        output, and `runs.resume` continues the run. Options: see `ExecuteOptions`.

        Raises: ProposalError if it is malformed (nothing ran); UsageError for a token that is not accepted (`bad_grant_token`,
        `grant_token_audience`, `grant_token_expired`, `grant_token_revoked`, `grant_token_agent`; nothing ran); StoreError if the
        record could not be stored; CancelledError if the caller cancelled (the run can be resumed).
        """
        await self._make_ready()
        return await execute(self.services, self._asking, proposal, **options)

    def execute_sync(self, proposal: ProposalLike, **options: Unpack[ExecuteOptions]) -> ProposalResult:
        """`execute` for code that has no event loop. Raises UsageError if there is one running in this thread."""
        return self._sync.run("execute", lambda: self.execute(proposal, **options))

    async def call(self, tool: str, parameters: Parameters = None, **options: Unpack[CallOptions]) -> CallResult:
        """Call one tool through the gate, in a run of its own. A call that fails or is refused does not raise: check its status.

        Options: see `CallOptions`. With a `call_id` the call is made once: for a week, the same call again returns the same
        result, or continues if it was held or interrupted. It is made again if it was undone, or refused by the gate.

        Raises: HeldError if it is held and `wait` is False, or (`unknown_outcome`) if an earlier process ended during this
        call; ConflictError `call_unfinished`; ProposalError if the parameters are not JSON; StoreError.
        """
        await self._make_ready()
        return await call_tool(self.services, self._asking, tool, parameters, shared=self._shared, **options)

    def call_sync(self, tool: str, parameters: Parameters = None, **options: Unpack[CallOptions]) -> CallResult:
        """`call` for code that has no event loop. Raises UsageError if there is one running in this thread."""
        return self._sync.run("call", lambda: self.call(tool, parameters, **options))

    async def execute_tool_calls(self, message: Any, **options: Unpack[ToolCallsOptions]) -> list[dict[str, Any]]:
        """Carry out the tool calls of a model's message, in order, and return the messages to append to the conversation.

        `message` is one of OpenAI's Chat Completions or Responses, or of Anthropic: the SDK's object or a dictionary. The
        results are in the same vendor's format; a message without calls returns an empty list, which ends an agent's loop.
        Results describe the model's mistakes to it. Each call is a run, made once per id. Options: see `ToolCallsOptions`.

        Raises: UsageError `message_unknown`; HeldError at the first call that is held, as from `call`: the calls after it have
        not started, and the same message again continues. Otherwise as `call`.
        """
        await self._make_ready()
        return await call_tools(self.services, self._asking, message, **options)

    def execute_tool_calls_sync(self, message: Any, **options: Unpack[ToolCallsOptions]) -> list[dict[str, Any]]:
        """`execute_tool_calls` without an event loop. Raises UsageError if there is one running in this thread."""
        return self._sync.run("execute_tool_calls", lambda: self.execute_tool_calls(message, **options))

    def close(self) -> None:
        """Release everything that was opened. A second call does nothing."""
        self._closing.append(self._sync.close)
        close_all(self._closing)

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _make_ready(self) -> None:
        """Prepare for the first run: load the tool modules, and put the journals of runs in order whose process ended."""
        if not self.services.index.in_order:
            self.runs.recover()
        await self.services.load_tools()

    def _asking(self, wait: bool, on_question: OnQuestion | None) -> AbstractAsyncContextManager[None]:
        return asking(
            self.services.desk, self.services.threads, wait=wait, on_question=on_question or self._on_question
        )


_Opened = TypeVar("_Opened", bound=Runtime)


def _opened(kind: type[_Opened], assembled: Assembled, on_question: OnQuestion | None = None) -> _Opened:
    """The runtime of these parts; if that fails, they are closed."""
    try:
        typed.require_function(on_question, "on_question")
        runtime = kind(*assembled, on_question)
    except BaseException:
        close_all(assembled.closing)
        raise
    try:
        return learn_as_configured(runtime)
    except BaseException:
        runtime.close()
        raise


def learn_as_configured(runtime: _Opened) -> _Opened:
    """The same runtime, which remembers and learns as `[learning]` says."""
    wants = runtime.services.settings.learning
    return runtime.with_learning(memory=wants.memory, auto_distill=wants.distill)


def _assembled(
    config: str | Path | None,
    settings: Mapping[str, Any] | None,
    root: Path | None,
    flags: Mapping[str, Any] | None,
    clock: Clock | None,
) -> Assembled:
    if settings is None:
        explicit = None if config is None else Path(config)
        return open_project(root or Path(), explicit=explicit, flags=flags, clock=clock)
    if config is not None:
        raise UsageError("`settings` replaces the file: give one of `config` and `settings`")
    return embedded(settings, workspace=root, clock=clock, flags=flags)
