"""The runtime: what the library, the CLI and every other door hold in their hands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from interlock.approvals import Hold
from interlock.capability import attenuate
from interlock.capability.tokens import GrantToken
from interlock.engine.assemble import adjusted, embedded, open_project
from interlock.engine.kit.calls import Caller, call, execute_tool_calls
from interlock.engine.kit.toolset import Format, definitions
from interlock.engine.local.machine import user_name
from interlock.engine.people.approval_desk import Desk
from interlock.engine.people.approvals import Approvals
from interlock.engine.people.grant_tokens import TTL_MS, IssuedToken, issue_token, present_token
from interlock.engine.people.questions import OnQuestion, asking
from interlock.engine.proposals.decoding import ProposalLike, decode
from interlock.engine.runs.recover import Unfinished, recover_all
from interlock.engine.runs.resume import resume
from interlock.engine.runs.run import Run
from interlock.engine.runs.stop import StopReport
from interlock.engine.runs.stop_runs import stop_runs
from interlock.engine.runs.undo_target import stop_target
from interlock.engine.runs.unknown_outcomes import Answer
from interlock.engine.services import Services
from interlock.engine.sync_runner import SyncRunner
from interlock.executors.python import bind
from interlock.model.clock import Clock
from interlock.model.errors import ConfigurationError, InterlockError, UsageError
from interlock.model.events import Event
from interlock.model.grant import GROUP, OPERATOR, Grant, Restriction
from interlock.model.limits import Limits
from interlock.model.proposal import Budget
from interlock.model.result import CallResult, NotUndone, ProposalResult
from interlock.model.tool import Binding, RateLimit, Tool, ToolExecutor
from interlock.model.waiting import Waiting


class Runtime:
    """Takes proposals through the gate. Open it with `Runtime.open(...)` (as a context manager, sync or async), then `execute`.

    Each `execute` is a run of its own; `start_run` gives one that carries several proposals.
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
        """Open the runtime of a project: `config` is its `interlock.toml`, else it is looked for from here upwards.

        With `settings` (the same keys as in the file) no configuration file is read and nothing is remembered: durability
        `off`, state in memory, no built-in tools unless there is a `workspace` for them to work in. Policies and tool modules
        that they name are read beneath the `workspace`; a setting that cannot be honoured is a ConfigurationError
        (`not_available`). `flags`, and the environment's `INTERLOCK_*`, tighten what the settings say.

        `on_question` is asked about held actions (`interlock.Hold`) unless a call brings its own: True approves, False denies, a
        mapping edits the parameters (a JSON merge patch), None leaves the question to others. It may be async; a plain function
        runs on a thread. If it raises, the question is withdrawn, the call rejected, and the caller gets the exception.

        Raises: ConfigurationError (`untrusted_configuration` among them), UsageError, StoreError, IntegrityError.
        """
        root = None if workspace is None else Path(workspace)
        if settings is not None:
            if config is not None:
                raise UsageError("`settings` replaces the file: give one of `config` and `settings`")
            opened = cls(*embedded(settings, workspace=root, clock=clock, flags=flags))
        else:
            explicit = None if config is None else Path(config)
            opened = cls(*open_project(root or Path(), explicit=explicit, flags=flags, clock=clock))
        opened._on_question = on_question
        return opened

    @classmethod
    def open_for_undo(cls, workspace: str | Path | None = None, *, clock: Clock | None = None) -> Self:
        """As `open`, for `undo` and for looking back: where the configuration cannot be used, what was last trusted counts.

        So the way back does not depend on files that an agent can write; `warnings` says what is wrong with them.
        Raises: ConfigurationError if there is no project; UsageError, StoreError, IntegrityError.
        """
        root = Path() if workspace is None else Path(workspace)
        try:
            return cls(*open_project(root, clock=clock))
        except ConfigurationError as error:
            return cls(*open_project(root, clock=clock, unusable=error))

    def __init__(self, services: Services, closing: list[Callable[[], None]] | None = None) -> None:
        """Use `open`."""
        self.services = services
        self._closing = closing if closing is not None else []
        self._sync = SyncRunner()
        self._closed = False
        self._on_question: OnQuestion | None = None

    # -- tools

    def register(self, tool: Callable[..., Any] | Binding, definition: Tool | None = None) -> None:
        """Add a tool: a function (decorated with `@interlock.tool` or not), or a finished binding. Replaces its namesake.

        A tool module that is loaded later does not replace it.
        """
        found = adjusted(tool if isinstance(tool, Binding) else bind(tool, definition), self.services.settings)
        self._register(found)
        self.services.registry.in_code.add(found.tool.name)

    def register_name(self, name: str, executor: Callable[[dict[str, Any]], Awaitable[Any]] | None = None) -> None:
        """Add a tool by its bare name: an open schema and the most cautious traits. `executor` takes the parameters."""

        async def call(parameters: dict[str, Any], _ctx: object) -> Any:
            if executor is None:
                raise UsageError(f"the tool `{name}` has no function", code="no_executor", hint="pass `executor=`")
            return await executor(parameters)

        self.register(Binding(tool=Tool(name=name), function=call, mode="async"))

    def tools(self) -> list[Tool]:
        """The registered tools' definitions, by name."""
        return self.services.registry.definitions()

    async def prepare(self) -> None:
        """Load the tool modules that the configuration names. `execute` does it when it is first called."""
        await self.services.load_tools()

    def prepare_sync(self) -> None:
        """`prepare` for code that has no event loop. Raises UsageError if there is one running in this thread."""
        self._sync.run("prepare", self.prepare)

    def tools_for(self, form: Format, *, agent: str | None = None, session: str | None = None) -> list[dict[str, Any]]:
        """The tools that the agent may reach, as definitions for a model: what its grants and the policies can ever allow.

        `form` is `openai` (Chat Completions), `openai-responses`, `anthropic` or `mcp`. Names are safe for every vendor
        (`fs_read` for `fs.read`), schemas are slim, paths are plain text. Raises: UsageError if the configured tool modules
        are not loaded yet (`prepare`); ConfigurationError.
        """
        return definitions(self.services, form, agent=agent or self.services.agent, session=session)

    async def _make_ready(self) -> None:
        """What comes before a run, once: the tool modules, and the journals of runs whose process ended."""
        if not self.services.recovered:
            self.recover()
        await self.services.load_tools()

    # -- what the doors need

    def subscribe(
        self,
        *,
        events: Callable[[Event], None] | None = None,
        progress: Callable[[str, float, float | None], None] | None = None,
        notices: Callable[[str], None] | None = None,
        questions: Callable[[Hold], None] | None = None,
    ) -> None:
        """Be told, on the event loop, of things as they happen. The functions must return at once and not raise.

        `events` of every run; `progress` that tools report (action id, done, total); `notices` for people, such as a broken
        edit of a policy; `questions` as they are asked (none in a runtime that keeps nothing).
        """
        hooks, desk = self.services.hooks, self.services.desk
        if events is not None:
            hooks.events.append(events)
        if progress is not None:
            hooks.progress.append(progress)
        if notices is not None:
            hooks.notices.append(notices)
        if questions is not None and desk is not None:
            desk.listeners.append(questions)

    @property
    def approval_desk(self) -> Desk | None:
        """Where this workspace's questions are asked; None in a runtime that keeps nothing. To answer: `approvals`."""
        return self.services.desk

    @property
    def warnings(self) -> Sequence[str]:
        """What the configuration asks for and is not there."""
        return tuple(self.services.hooks.warnings)

    @property
    def clock(self) -> Clock:
        """The clock of this runtime."""
        return self.services.clock

    def refresh(self) -> None:
        """Take an edited and trusted configuration into force, if there is one; a few `stat` calls."""
        self.services.refresh()

    def require_run(self, run_id: str) -> None:
        """Raises: UsageError `not_found` if this workspace has no such run."""
        self.services.index.get(run_id)

    # -- settings in code

    def set_budget(self, budget: Budget | None) -> None:
        """What each proposal may spend at most; its own budget can only be smaller."""
        self.services.budget = budget

    def set_rate_limit(self, tool: str, calls: int, per_ms: int) -> None:
        """Replace a tool's rate limit. Raises UsageError `not_found`."""
        registered = self._registered(tool)
        limited = msgspec.structs.replace(registered.tool, rate_limit=RateLimit(calls=calls, per_ms=per_ms))
        self._register(
            Binding(tool=limited, function=registered.function, mode=registered.mode, writes=registered.writes)
        )

    def on_waiting(self, listener: Callable[[Waiting], None]) -> None:
        """Be told of everything that waits, as it begins to: for what, and how long at most. Must return at once.

        Called on the thread of the event loop that the proposal runs on.
        """
        self.services.hooks.waits.append(listener)

    def set_grant(self, grant: Grant) -> None:
        """Put a grant in the place of the configured one of its agent, for this runtime. Raises ConfigurationError."""
        before = dict(self.services.judges.own_grants)
        self.services.judges.own_grants[grant.agent] = grant
        self.services.judges.expire()
        try:
            self.services.judges.current()
        except InterlockError:
            self.services.judges.own_grants = before
            raise

    def set_limits(self, limits: Limits) -> None:
        """The upper bounds on what an agent or a tool may hand over, from here on."""
        self.services.limits = limits

    def fork(self, agent: str, grant: Grant | None = None) -> Runtime:
        """A runtime for another agent: state, journals and policy are shared, its tools are its own from here on.

        With a `grant` the fork has at most what this runtime's agent has: the intersection of both (if that
        has no grant of its own, of the first one that its groups have). Raises ConfigurationError.
        """
        if agent == OPERATOR:
            raise ConfigurationError(f"`{OPERATOR}` is not an agent: it stands for the person at the command line")
        forked = Runtime(self.services.fork(agent))
        forked._on_question = self._on_question
        if grant is None:
            return forked
        own, settings, above = self.services.judges.own_grants, self.services.settings, self.services.agent
        holders = [above, *(GROUP + name for name in settings.groups_by_agent().get(above, ()))]
        parent = next((found for one in holders if (found := own.get(one) or settings.grant(one)) is not None), None)
        if parent is None:
            raise ConfigurationError(
                f"`{above}` has no grant of which `{agent}` could get a part", code="grant_missing"
            )
        forked.services.judges.own_grants.setdefault(parent.agent, parent)
        forked.set_grant(attenuate(parent, msgspec.structs.replace(grant, agent=agent)))
        return forked

    def issue_token(
        self,
        grant_id: str,
        *,
        agent: str | None = None,
        restriction: Restriction | None = None,
        ttl_ms: int = TTL_MS,
        by: str | None = None,
    ) -> IssuedToken:
        """Issue a token for a grant (`interlock grants list` shows the ids), to be handed to a sub-agent: see `execute`.

        `agent` says of which member, if the grant is one of a group. It holds for `ttl_ms`, at most 30 days and no longer than
        the grant. `interlock.attenuate_token` narrows it, anywhere. Raises: UsageError if there is no such grant in force, or
        this runtime keeps nothing (`not_available`); ConfigurationError for a bad glob.
        """
        services = self.services
        desk = services.desk
        if desk is None:
            raise UsageError("this runtime keeps nothing, so it issues no grant token", code="not_available")
        return issue_token(
            desk, services.signer, services.workspace_id, grant_id,
            agent=agent, restriction=restriction, ttl_ms=ttl_ms, by=by or desk.user,
        )  # fmt: skip

    # -- proposals

    async def execute(
        self,
        proposal: ProposalLike,
        *,
        dry_run: bool = False,
        executor: ToolExecutor | None = None,
        session: str | None = None,
        wait: bool = True,
        on_question: OnQuestion | None = None,
        grant_token: str | None = None,
    ) -> ProposalResult:
        """Take a proposal through the gate, as a run of its own.

        `on_question` is asked about held actions, in the place of the one given to `open`. With `wait=False` nobody is asked
        here: a held action gets the row `held`, with the approval's id in its output, and `resume` goes on with the run.

        With a `grant_token` it is judged as one of the agent whom the token names, who then has what the token allows and
        nothing else. The token is kept nowhere; its id and digest are journaled.

        Raises: ProposalError if it is malformed (nothing ran); UsageError for a token that is not accepted (`bad_grant_token`,
        `grant_token_audience`, `grant_token_expired`, `grant_token_revoked`, `grant_token_agent`; nothing ran); StoreError if the
        machine did not let us record it; CancelledError if the caller cancelled (it can be resumed).
        """
        await self._make_ready()
        decoded = decode(proposal, self.services.limits)
        token = self._presented(grant_token, decoded.agent)
        # `operator` is refused in `Run.take`: a run of that name would be the person's own.
        agent = token.root.agent if token is not None else None if decoded.agent == OPERATOR else decoded.agent
        run = Run.start(self.services, agent=agent, session=session or decoded.session, source=decoded.source)
        try:
            async with self._asking(wait, on_question):
                return await run.take(decoded, dry_run=dry_run, executor=executor, token=token)
        finally:
            run.finish()

    def execute_sync(self, proposal: ProposalLike, **options: Any) -> ProposalResult:
        """`execute` for code that has no event loop. Raises UsageError if there is one running in this thread."""
        return self._sync.run("execute", lambda: self.execute(proposal, **options))

    # -- calls

    async def call(
        self,
        tool: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        agent: str | None = None,
        session: str | None = None,
        call_id: str | None = None,
        wait: bool = True,
        on_question: OnQuestion | None = None,
        grant_token: str | None = None,
    ) -> CallResult:
        """Call one tool through the gate, as a run of its own. A call that fails or is refused raises nothing: see its status.

        With a `call_id` (which the model's vendor gives) the call is made once: again with the same id, tool and parameters it
        gives the same result for a week, or goes on if it was held or interrupted. A call that was rejected by anything but a
        person, or was undone, is made anew. `wait`, `on_question` and `grant_token` are as for `execute`;
        with a token, `agent` is left out.

        Raises: HeldError if it is held and `wait` is False, or (`unknown_outcome`) if an earlier process ended while this very
        call ran; ConflictError `call_unfinished`; ProposalError if the parameters
        are not JSON; StoreError.
        """
        await self._make_ready()
        async with self._asking(wait, on_question):
            caller = self._caller(agent, session, grant_token)
            return await call(self.services, tool, parameters or {}, caller, call_id=call_id)

    def call_sync(self, tool: str, parameters: Mapping[str, Any] | None = None, **options: Any) -> CallResult:
        """`call` for code that has no event loop. Raises UsageError if there is one running in this thread."""
        return self._sync.run("call", lambda: self.call(tool, parameters, **options))

    async def execute_tool_calls(
        self,
        message: Any,
        *,
        agent: str | None = None,
        session: str | None = None,
        once: bool = True,
        wait: bool = True,
        on_question: OnQuestion | None = None,
        grant_token: str | None = None,
    ) -> list[dict[str, Any]]:
        """Carry out the tool calls of a model's message, in order, and give what to append to the conversation.

        `message` is that of OpenAI's Chat Completions or Responses, or of Anthropic: the SDK's object or a dictionary. The
        results are in the same vendor's shape; a message without calls gives an empty list, which ends an agent's loop. What
        the model did wrong is told to the model. Each call is a run of its own, made once for its id, as by `call`. Give
        `once=False` for servers that use the same ids again in later messages.

        Raises: UsageError `message_unknown`; HeldError at the first call that is held, as from `call`: the calls after it have
        not begun, and the same message again goes on. Else as `call`.
        """
        await self._make_ready()
        async with self._asking(wait, on_question):
            caller = self._caller(agent, session, grant_token)
            return await execute_tool_calls(self.services, message, caller, once=once)

    def execute_tool_calls_sync(self, message: Any, **options: Any) -> list[dict[str, Any]]:
        """`execute_tool_calls` without an event loop. Raises UsageError if there is one running in this thread."""
        return self._sync.run("execute_tool_calls", lambda: self.execute_tool_calls(message, **options))

    def _presented(self, grant_token: str | None, agent: str | None) -> GrantToken | None:
        if grant_token is None:
            return None
        services = self.services
        return present_token(services.desk, services.signer, services.workspace_id, grant_token, agent=agent)

    def _caller(self, agent: str | None, session: str | None, grant_token: str | None) -> Caller:
        token = self._presented(grant_token, agent)
        if token is None:
            return Caller(agent or self.services.agent, session)
        return Caller(token.root.agent, session, token)

    @property
    def approvals(self) -> Approvals:
        """The questions of the workspace: `list`, `get`, `approve`, `deny`, `edit`."""
        return Approvals(self.services.desk)

    # -- undo and resume

    async def undo(self, run_id: str, action_id: str | None = None, *, force: bool = False) -> ProposalResult:
        """Take back what a run did (or one action of it), as the person at the command line; itself a run, and undoable.

        Depends neither on the rules nor on the tool modules: with rules that cannot be used, only compensations (which they
        judge) are left undone. A run that still waits, for an answer for example, is asked to stop first. Raises: as `execute`;
        StoreError `run_locked` if the run is at work (`stop` it first).
        """
        if not self.services.recovered:
            self.recover()
        try:
            await self.services.load_tools()
        except ConfigurationError as error:  # what has to be compensated by their tools is then in `not_undone`
            self.services.hooks.notify(f"undo goes on without the tool modules: {error.message}")
        services = self.services.for_undo()
        if action_id is None:
            await stop_target(services, run_id, by=user_name())
        parameters = {"run": run_id, "force": force} | ({} if action_id is None else {"action": action_id})
        run = Run.start(services, agent=OPERATOR, source="undo")
        try:
            # `skip`: an undo that gets stuck half way is not itself taken back.
            action = {
                "type": "tool_call",
                "id": "undo",
                "tool": "undo",
                "parameters": parameters,
                "failure_behavior": "skip",
            }
            result = await run.take(decode({"actions": [action]}, services.limits))
            output = result.results[0].output
            if isinstance(output, dict):
                left = output.get("not_undone", [])
                result.not_undone = [
                    NotUndone(action_id=one["action"], reason=one["reason"], detail=one["detail"]) for one in left
                ]
            return result
        finally:
            run.finish()

    async def stop(
        self,
        run_id: str | None = None,
        *,
        reason: str = "",
        by: str | None = None,
        wait_ms: int = 10_000,
        kill: bool = False,
    ) -> list[StopReport]:
        """Stop a run, whatever process or thread carries it; None stops all that are active. What is done stays done.

        Waits up to `wait_ms` until nothing of it is running any more; with `kill` a process that does not stop it is killed
        then. `by` is who the journal names, by default the user. A stopped run is over: `undo` undoes what it did. Raises:
        UsageError `not_found`, `run_finished`; StoreError.
        """
        return await stop_runs(self.services, run_id, reason=reason, by=by, wait_ms=wait_ms, kill=kill)

    def stop_sync(self, run_id: str | None = None, **options: Any) -> list[StopReport]:
        """`stop` from a thread without an event loop."""
        return asyncio.run(self.stop(run_id, **options))

    def recover(self) -> list[Unfinished]:
        """Put the journals of runs whose process ended in order, newest run first, and say what each needs to go on.

        Nothing is run: `resume` goes on. The first `execute` does this too, so that no run begins beside a journal that is
        not in order. Raises: StoreError.
        """
        services = self.services
        found = []
        if services.state_dir is not None:
            found = recover_all(services.db, services.index, services.state_dir / "runs", services.disk, services.desk)
        services.recovered = True
        return found

    async def resume(
        self,
        run_id: str,
        answers: Mapping[str, Answer] | None = None,
        *,
        by: str = "",
        wait: bool = True,
        on_question: OnQuestion | None = None,
    ) -> list[ProposalResult]:
        """Finish what a run began whose process ended, or that was left held; `answers` settle unknown outcomes.

        `wait` and `on_question` are as for `execute`. See `recovery.resume`.
        """
        await self.services.load_tools()
        async with self._asking(wait, on_question):
            return await resume(self.services, run_id, answers, by=by)

    def start_run(self, *, session: str | None = None, agent: str | None = None, source: str = "unknown") -> Run:
        """Begin a run that carries several proposals (what a gateway connection is). Close it with `finish`."""
        if not self.services.recovered:
            self.recover()
        run = Run.start(self.services, agent=agent, session=session, source=source)
        run.on_question = self._on_question
        return run

    # -- life

    def close(self) -> None:
        """Let go of everything that was opened."""
        if self._closed:
            return
        self._closed = True
        self._sync.close()
        while self._closing:
            self._closing.pop()()

    def __enter__(self) -> Self:
        """The runtime itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """The runtime itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _asking(self, wait: bool, on_question: OnQuestion | None) -> AbstractAsyncContextManager[None]:
        return asking(
            self.services.desk, self.services.threads, wait=wait, on_question=on_question or self._on_question
        )

    def _register(self, binding: Binding) -> None:
        self.services.registry.register(binding)
        self.services.judges.expire()

    def _registered(self, name: str) -> Any:
        found = self.services.registry.find(name)
        if found is None:
            raise UsageError(f"there is no tool `{name}`", code="not_found", hint="`interlock tools list` shows them")
        return found
