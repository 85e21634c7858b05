"""A run: one journal, and its proposals, which run one after the other or concurrently."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import msgspec

from interlock.engine.completion.commit import conclude, reject_all
from interlock.engine.completion.layers import working_layer
from interlock.engine.gate.sequence import take_action
from interlock.engine.gate.verify import find_unrunnable, verify_proposal
from interlock.engine.people.questions import OnQuestion, asking
from interlock.engine.proposals.budget import Allowance, tighter
from interlock.engine.proposals.decoding import ProposalLike, decode
from interlock.engine.proposals.expand import expand
from interlock.engine.proposals.programs import record_ends
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.watchdog import Watchdog
from interlock.engine.proposals.worker_pool import WorkerPool
from interlock.engine.record.recorder import Recorder
from interlock.engine.record.run_files import RunFiles
from interlock.engine.record.tally import Tally
from interlock.engine.runs.indexed_run import IndexedRun
from interlock.engine.runs.open_files import open_budget, open_files, release_files
from interlock.engine.runs.run_events import (
    record_configuration,
    record_received,
    record_rejected,
    record_resumption,
    record_start,
)
from interlock.engine.runs.stop_switch import StopSwitch
from interlock.engine.runs.write_lease import writing
from interlock.engine.scheduler import Outcome
from interlock.engine.services import Services
from interlock.executors.background import Programs
from interlock.journal.stops import StopAnswer, StopRequest
from interlock.lazy import lazy
from interlock.model.decision import Refusal
from interlock.model.errors import InterlockError, ProposalError, StoreError, ToolError
from interlock.model.grant import OPERATOR
from interlock.model.proposal import Proposal
from interlock.model.result import ProposalResult, RunStatus
from interlock.model.tool import ClientExecutor, ToolExecutor

if TYPE_CHECKING:
    from interlock.capability.tokens import GrantToken
    from interlock.engine.people import grant_tokens
else:
    grant_tokens = lazy("interlock.engine.people.grant_tokens")


class Run:
    """A run with its journal. Open it with `Run.start` or `Run.resume`; close it with `finish`, or `leave` to resume it later."""

    def __init__(self, services: Services, run_id: str, *, agent: str, session: str | None) -> None:
        """Use `start` or `resume`."""
        self.services = services
        self.id, self.agent, self.session = run_id, agent, session
        self.on_question: OnQuestion | None = None
        """Called with held actions of `execute`, unless a call has its own function."""
        self.files = RunFiles(run_id)
        self.tally = Tally()
        self.switch = StopSwitch(services, run_id)
        self._indexed = IndexedRun(services)
        self._proposals: set[str] = set()
        self._watchdog: Watchdog | None = None

    @property
    def recorder(self) -> Recorder | None:
        """Writes the run's journal; None if nothing is kept."""
        return self.files.recorder

    @classmethod
    def start(
        cls,
        services: Services,
        *,
        agent: str | None = None,
        session: str | None = None,
        run_id: str | None = None,
        source: str = "unknown",
    ) -> Run:
        """Start a new run; its first event is on disk before anything else happens. Raises StoreError."""
        run = cls(services, run_id or services.ids.new("run"), agent=agent or services.agent, session=session)
        services.refresh()
        with run._or_nothing():
            run.files = open_files(services, run.id, create=True)
            run.files = open_budget(services, run.files, run.agent, session)
            run._open()
            if run.recorder is not None:
                record_start(services, run.recorder, run.id, run.agent, session)
                run._indexed.enter(run.files, agent=run.agent, session=session, source=source)
        return run

    def _open(self) -> None:
        """Register the run for changes of the configuration and for requests to stop."""
        self.services.hooks.runs.add(self)
        if self.services.stops is not None:
            self.services.stops.listen()
        if self.services.sampler is not None:
            self.services.sampler.warm_up()

    def stop(self, request: StopRequest) -> None:
        """Stop all current and later work of the run, from any thread."""
        self.switch.pull(request)

    @property
    def stop_answer(self) -> StopAnswer | None:
        """The stopped actions; None while any part of the run is still running."""
        return self.switch.answer

    @contextlib.contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """If the run cannot start, release its lock and everything else, for another process or a later attempt."""
        try:
            yield
        except BaseException:
            self.services.hooks.runs.discard(self)
            release_files(self.files)
            raise

    @classmethod
    def resume(cls, services: Services, run_id: str, *, agent: str, session: str | None, at: int) -> Run:
        """Resume a run whose journal was recovered and read up to event `at`.

        Raises: StoreError `run_locked` if another process has the lock, or has had it since the journal was read.
        """
        run = cls(services, run_id, agent=agent, session=session)
        with run._or_nothing():
            run.files = open_files(services, run_id, create=False)
            assert run.recorder is not None
            if run.recorder.writer.head().seq != at:
                # The lock was free only because another process has already finished: the journal has changed since.
                raise StoreError(f"run `{run_id}` has just been continued by another process", code="run_locked")
            run.files = open_budget(services, run.files, agent, session)
            run._open()
            record_resumption(services, run.recorder)
            services.index.update(run_id, status="running")
        return run

    async def execute(
        self,
        proposal: ProposalLike,
        *,
        dry_run: bool = False,
        executor: ToolExecutor | None = None,
        wait: bool = True,
        on_question: OnQuestion | None = None,
        grant_token: str | None = None,
    ) -> ProposalResult:
        """Take a proposal through the gate, in any form and with the options of `Runtime.execute`.

        Raises: as `take`, and UsageError for a grant token that is not accepted.
        """
        services = self.services
        await services.load_tools()
        try:
            decoded = decode(proposal, services.bounds.limits)
        except ProposalError as error:
            self._reject(services.ids.new("prop"), error)
            raise
        token, agent = None, decoded.agent
        if grant_token is not None:
            token = grant_tokens.present_token(
                services.desk, services.signer, services.workspace_id, grant_token, agent=agent
            )
        async with asking(services.desk, services.threads, wait=wait, on_question=on_question or self.on_question):
            return await self.take(decoded, dry_run=dry_run, executor=executor, token=token)

    async def take(
        self,
        proposal: Proposal,
        *,
        dry_run: bool = False,
        executor: ToolExecutor | None = None,
        client: ClientExecutor | None = None,
        token: GrantToken | None = None,
        only: bool = False,
        refreshed: bool = False,
    ) -> ProposalResult:
        """Take a decoded proposal through the gate. With a `token` of `present_token`, it runs under that token alone and
        as its agent; a `client` carries out the calls itself. `only` promises to `finish` the run before anybody sees the
        result, whose last events may wait for that. `refreshed` says that `Services.refresh` was just called.

        Raises: ProposalError if it is malformed (nothing ran); StoreError if the journal or the database failed (what is on
        disk is the truth); CancelledError if the caller cancelled (the proposal can be resumed).
        """
        services = self.services
        _require_agent(proposal, self.agent)
        if not refreshed:
            services.refresh()
        if not proposal.id:
            proposal = msgspec.structs.replace(proposal, id=services.ids.new("prop"))
        _require_new(proposal.id, self._proposals)
        self._proposals.add(proposal.id)
        services.adopt_tools(proposal)
        try:
            proposal = expand(proposal, services.registry, services.bounds.limits)
            graph = verify_proposal(proposal, services.registry)  # 1
        except ProposalError as error:
            self._reject(proposal.id, error)
            raise
        agent = proposal.agent or self.agent if token is None else token.root.agent
        session, token_id = proposal.session or self.session, None if token is None else token.id
        judges = services.judges.current(session, token_id)
        run = ProposalRun(
            services, self.files, proposal, graph, judges.principal(agent, session), judges, dry_run=dry_run,
            executor=executor, client=client, allowance=self.allowance(proposal, dry_run=dry_run), token=token_id,
        )  # fmt: skip
        run.only = only
        record_received(run, None if token is None else token.digest)
        if not only and (self._watchdog is None or self._watchdog.loop is not run.loop):
            self._watchdog = Watchdog(run.loop, run.clock)
        return await self.carry_on(WorkerPool(run, take_action, self._watchdog))

    def allowance(self, proposal: Proposal, *, dry_run: bool) -> Allowance:
        """The budgets of a proposal of this run. A dry run counts only in memory."""
        budget = self.files.budget
        shared = budget.preview() if dry_run and budget is not None else budget
        return Allowance(tighter(proposal.budget, self.services.bounds.budget), shared)

    async def carry_on(self, pool: WorkerPool, replay: Sequence[tuple[int, Outcome]] = ()) -> ProposalResult:
        """Run a proposal to its end: a new one, or one whose earlier outcomes are replayed from its journal."""
        run = pool.run
        unrunnable = None if replay else find_unrunnable(run)
        if unrunnable is None:
            _warm_up(run)
            try:
                with self.switch.over(pool):
                    async with _with_files(pool) as refusal:
                        if refusal is None:
                            await pool.drive(replay)
                        self.switch.release(pool)
                        result = await (conclude(run) if refusal is None else reject_all(run, refusal))
            except BaseException:
                # Cancelled, or a disk error: `finish` must not record the end of the run.
                self.leave()
                raise
            pool.close()
        else:
            result = await reject_all(run, *unrunnable)
        self.count(result)
        self._indexed.sign_head_if_due(self.files)
        return result

    def finish(self) -> None:
        """End the run: its last event, and its place in the index. Raises StoreError."""
        self.services.hooks.runs.discard(self)
        if self._watchdog is not None:
            self._watchdog.close()
        if self.switch.request is not None and not self.tally.statuses:
            self.nothing_began()
        status = self.status
        programs = self.services.programs
        ends = [] if programs is None else programs.end_run(self.id)
        try:
            if self.recorder is not None:
                with self.recorder.writer:
                    self.switch.record(self.recorder)
                    record_ends(self.recorder, [*self.switch.ends, *ends])
                    self._indexed.end(self.files, self.tally)
        except StoreError:
            if status != "interrupted":  # otherwise the caller already gets an error
                raise
        finally:
            self.files.close()

    @property
    def status(self) -> RunStatus:
        """The worst status of its proposals."""
        return self.tally.status

    def nothing_began(self) -> None:
        """Mark a run whose process ended before a proposal was on disk: it is not a success, and there is nothing to resume."""
        self.tally.statuses.add("cancelled")

    def abandon(self) -> None:
        """End the run as `cancelled`: its open proposals are not resumed."""
        self.tally.statuses = {"cancelled"}

    def count(self, result: ProposalResult) -> None:
        """Add a proposal's result to the run's status and its row in the index."""
        self.tally.add(result.status, result.results, len(result.not_undone))

    def leave(self) -> None:
        """Leave a proposal that stopped half way: the run can be resumed, and its other proposals may continue."""
        self.tally.statuses.add("interrupted")
        if self.recorder is not None:
            with contextlib.suppress(StoreError):  # the caller already gets an error
                self.recorder.writer.flush()

    def configuration_changed(self, problem: str | None) -> None:
        """The files were edited; with a `problem` the old rules stay in force."""
        if self.recorder is not None:
            record_configuration(self.services, self.recorder, problem)

    def _reject(self, proposal_id: str, error: ProposalError) -> None:
        self.tally.statuses.add("rejected")
        if self.recorder is not None:
            record_rejected(self.recorder, proposal_id, error)


def _with_files(pool: WorkerPool) -> AbstractAsyncContextManager[Refusal | None]:
    """The layer of a proposal and its turns to write, unless none of its tools can touch files."""
    run = pool.run
    if run.layer is None and not run.attempts_before and not any(tool and tool.touches_files for tool in run.tools):
        return contextlib.nullcontext()
    return _in_layer(pool)


@contextlib.asynccontextmanager
async def _in_layer(pool: WorkerPool) -> AsyncIterator[Refusal | None]:
    async with working_layer(pool.run) as refusal, writing(pool):
        yield refusal


def _require_new(proposal_id: str, known: set[str]) -> None:
    """Raises: ProposalError for a second proposal of the same id."""
    if proposal_id in known:
        # Approvals, backups and the journal identify an action by run, proposal and action.
        raise ProposalError(
            "this run has had a proposal of that id",
            code="duplicate_id",
            path="$.id",
            hint="give each proposal its own id, or leave it out",
        )


def _require_agent(proposal: Proposal, own: str) -> None:
    """Raises: ProposalError if an agent's proposal claims to be the person's."""
    if proposal.agent == OPERATOR != own:
        raise ProposalError(
            f"`{OPERATOR}` is not an agent: it stands for the person at the command line",
            path="$.agent",
            hint="name the agent that proposes this, or leave `agent` out",
        )


def close_programs(services: Services, programs: Programs) -> None:
    """End the programs of sessions, because the runtime is closing. This is recorded in a separate run."""
    ends = programs.close()
    if ends:
        with contextlib.suppress(InterlockError):  # the programs have ended; only their record is missing
            run = Run.start(services, agent=ends[0][0].agent, session=ends[0][0].session, source="session_end")
            record_ends(run.recorder, ends)
            run.finish()


def _warm_up(run: ProposalRun) -> None:
    """Start the fork server in advance, while the first program goes through the gate."""
    runner = run.services.runner
    if runner is None or run.dry_run or run.executor is not None:
        return
    if any(tool is not None and tool.tool.isolation == "process" for tool in run.tools):
        with contextlib.suppress(ToolError, OSError):  # the action reports the problem
            runner.server.warm_up()
