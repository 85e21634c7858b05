"""A run: one journal, and the proposals that go through it one after the other or side by side."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from interlock._version import __version__
from interlock.capability.tokens import GrantToken
from interlock.engine.completion.commit import conclude, reject_all
from interlock.engine.gate.sequence import take_action
from interlock.engine.gate.verify import find_unrunnable, verify_proposal
from interlock.engine.people.grant_tokens import present_token
from interlock.engine.people.questions import OnQuestion, asking
from interlock.engine.proposals.budget import Allowance
from interlock.engine.proposals.decoding import ProposalLike, decode
from interlock.engine.proposals.programs import record_ends
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.worker_pool import WorkerPool
from interlock.engine.record.recorder import Recorder
from interlock.engine.record.run_files import RunFiles
from interlock.engine.record.tally import Tally
from interlock.engine.runs.write_lease import writing
from interlock.engine.scheduler import Outcome
from interlock.engine.services import Services
from interlock.executors.background import Programs
from interlock.journal import JournalWriter, RunRow, sign_head
from interlock.model.errors import InterlockError, ProposalError, StoreError
from interlock.model.events import (
    FORMAT_VERSION,
    ConfigurationChanged,
    ProposalReceived,
    ProposalRejected,
    RunFinished,
    RunResumed,
    RunStarted,
)
from interlock.model.grant import OPERATOR
from interlock.model.proposal import Budget, Proposal, ToolCompensation
from interlock.model.result import ProposalResult, RunStatus
from interlock.model.tool import ToolExecutor
from interlock.settings.sections import Amounts
from interlock.workspace import Backups

SIGN_EVERY: Final = 10_000
"""Events after which the head of a run that goes on is signed again."""


class Run:
    """One journal. Open it with `Run.start` or `Run.resume`, close it with `finish` (or `leave`, to be resumed)."""

    def __init__(self, services: Services, run_id: str, *, agent: str, session: str | None) -> None:
        """Use `start` or `resume`."""
        self.services = services
        self.id = run_id
        self.agent = agent
        self.session = session
        self.on_question: OnQuestion | None = None
        """Asked about held actions of `execute`, unless a call brings its own."""
        self.files = RunFiles(run_id)
        self.tally = Tally()
        self._signed_to = 0
        self._proposals: set[str] = set()

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
        """Begin a new run; its first event is on disk before anything else happens. Raises StoreError."""
        run = cls(services, run_id or services.ids.new("run"), agent=agent or services.agent, session=session)
        services.refresh()
        with run._or_nothing():
            run._open(create=True)
            run._open_budget()
            services.hooks.runs.add(run)
            if run.recorder is not None:
                run._begin(run.recorder, source)
        return run

    def _begin(self, recorder: Recorder, source: str) -> None:
        """The first event, and the row in the index."""
        services = self.services
        recorder.append(
            RunStarted(
                ts=services.clock.now_us(),
                mono=services.clock.mono_ns(),
                version=FORMAT_VERSION,
                run=self.id,
                interlock=__version__,
                workspace=services.workspace_id,
                agent=self.agent,
                session=self.session,
                configuration=services.configuration,
                durability=services.durability,
                pid=os.getpid(),
                boot=services.boot,
            )
        )
        recorder.writer.flush()
        services.index.add(
            RunRow(
                run_id=self.id,
                workspace=services.workspace_id,
                session=self.session,
                agent=self.agent,
                source=source,
                started_us=services.clock.now_us(),
            )
        )

    @contextlib.contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Whoever cannot begin lets go of the run's lock and of all else: another process, or a later try, may have it."""
        try:
            yield
        except BaseException:
            self.services.hooks.runs.discard(self)
            with contextlib.suppress(StoreError):  # why it could not begin is on its way to the caller
                if self.recorder is not None:
                    self.recorder.writer.close()
                if self.files.budget is not None:
                    self.files.budget.close()
            if self.files.backups is not None:
                self.files.backups.close()
            raise

    @classmethod
    def resume(cls, services: Services, run_id: str, *, agent: str, session: str | None, at: int) -> Run:
        """Take a run up again whose journal was recovered, and read up to event `at`.

        Raises: StoreError `run_locked` if another process has it, or has had it since the journal was read.
        """
        run = cls(services, run_id, agent=agent, session=session)
        with run._or_nothing():
            run._open(create=False)
            assert run.recorder is not None
            if run.recorder.writer.head().seq != at:
                # The lock was free only because somebody else is done already: what was read is out of date.
                raise StoreError(f"run `{run_id}` has just been continued by another process", code="run_locked")
            run._open_budget()
            services.hooks.runs.add(run)
            run.recorder.append(
                RunResumed(
                    ts=services.clock.now_us(),
                    mono=services.clock.mono_ns(),
                    pid=os.getpid(),
                    boot=services.boot,
                    configuration=services.configuration,
                )
            )
            services.index.update(run_id, status="running")
        return run

    def _open(self, *, create: bool) -> None:
        services = self.services
        if services.durability == "off" or services.state_dir is None:
            return
        directory = services.state_dir / "runs" / self.id
        writer = JournalWriter.open(
            directory,
            run_id=self.id,
            disk=services.disk,
            clock=services.clock,
            durability=services.durability,
            create=create,
        )
        recorder = Recorder(writer, services.redactor, services.clock, services.hooks.events)
        self.files = RunFiles(self.id, directory, recorder)
        if services.workspace is not None:
            self.files = replace(self.files, backups=Backups(directory, services.disk, services.clock))

    def _open_budget(self) -> None:
        """What the run, its session and its agent may spend in all. A run without a session is one of its own."""
        given = self.services.settings.budget
        limits = {
            f"session:{self.session or self.id}": budget_of(given),
            f"run:{self.id}": budget_of(given.run),
            f"agent:{self.agent}": budget_of(given.agent),
        }
        chosen = {scope: budget for scope, budget in limits.items() if budget is not None}
        if chosen:
            self.files = replace(self.files, budget=self.services.budgets.open(chosen))

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
        """Take a proposal through the gate, in any form and with the options that `Runtime.execute` takes.

        Raises: as `take`, and UsageError for a grant token that is not accepted.
        """
        services = self.services
        await services.load_tools()
        try:
            decoded = decode(proposal, self.services.limits)
        except ProposalError as error:
            self._reject(self.services.ids.new("prop"), error)
            raise
        token = None
        if grant_token is not None:
            token = present_token(services.desk, services.signer, services.workspace_id, grant_token)
        asked = on_question or self.on_question
        async with asking(services.desk, services.threads, wait=wait, on_question=asked):
            return await self.take(decoded, dry_run=dry_run, executor=executor, token=token)

    async def take(
        self,
        proposal: Proposal,
        *,
        dry_run: bool = False,
        executor: ToolExecutor | None = None,
        token: GrantToken | None = None,
    ) -> ProposalResult:
        """Take a proposal that `decode` gave through the gate; with a `token` that `present_token` gave, under it alone.

        Raises: ProposalError if it is malformed (nothing ran); StoreError if the journal or the database failed (what is on
        disk is the truth); CancelledError if the caller cancelled (the proposal can be resumed).
        """
        services = self.services
        if proposal.agent == OPERATOR != self.agent:
            raise ProposalError(
                f"`{OPERATOR}` is not an agent: it stands for the person at the command line",
                path="$.agent",
                hint="name the agent that proposes this, or leave `agent` out",
            )
        if token is not None and proposal.agent not in (None, "", token.root.agent):
            raise ProposalError(
                f"the grant token is of `{token.root.agent}`, the proposal of `{proposal.agent}`",
                code="grant_token_agent",
                path="$.agent",
                hint="leave `agent` out: the token says who acts",
            )
        services.refresh()
        if not proposal.id:
            proposal = msgspec.structs.replace(proposal, id=services.ids.new("prop"))
        if proposal.id in self._proposals:
            # Approvals, backups and the journal know an action by run, proposal and action.
            raise ProposalError(
                "this run has had a proposal of that id",
                code="duplicate_id",
                path="$.id",
                hint="give each proposal its own id, or leave it out",
            )
        self._proposals.add(proposal.id)
        agent = proposal.agent or self.agent if token is None else token.root.agent
        who = services.judges.current().principal(agent, proposal.session or self.session)
        try:
            graph = verify_proposal(proposal, services.registry)  # 1
        except ProposalError as error:
            self._reject(proposal.id, error)
            raise
        x = ProposalRun(
            services,
            self.files,
            proposal,
            graph,
            who,
            dry_run=dry_run,
            executor=executor,
            allowance=self.allowance(proposal, dry_run=dry_run),
            token=None if token is None else token.id,
        )
        if self.recorder is not None:
            self._received(x, None if token is None else token.digest)
        return await self.carry_on(WorkerPool(x, take_action))

    def allowance(self, proposal: Proposal, *, dry_run: bool) -> Allowance:
        """What a proposal of this run may spend. A dry run spends only in memory."""
        budget = self.files.budget
        shared = budget.preview() if dry_run and budget is not None else budget
        return Allowance(tighter(proposal.budget, self.services.budget), shared)

    async def carry_on(self, pool: WorkerPool, replay: Sequence[tuple[int, Outcome]] = ()) -> ProposalResult:
        """Take a proposal to its end: a fresh one, or one whose earlier outcomes are replayed from its journal."""
        x = pool.run
        unrunnable = None if replay else find_unrunnable(x)
        if unrunnable is None:
            try:
                async with writing(pool):
                    await pool.drive(replay)
                    result = await conclude(x)
            except BaseException:
                # Cancelled, or the machine did not let us: `finish` must not say that the run is over.
                self.leave()
                raise
        else:
            result = await reject_all(x, *unrunnable)
        self.count(result)
        self._vouch()
        return result

    def _vouch(self) -> None:
        """Sign the head of a long run between two proposals: its process may never come to the end."""
        services, recorder = self.services, self.recorder
        if recorder is None or self.files.directory is None or services.signer is None:
            return
        head = recorder.writer.head()
        if head.seq - self._signed_to >= SIGN_EVERY:
            self._signed_to = head.seq
            with contextlib.suppress(StoreError):  # the next flush meets the same disk, and so does the end of the run
                sign_head(self.files.directory, head, services.signer, services.disk)

    def finish(self) -> None:
        """End the run: its last event, and its place in the index. Raises StoreError."""
        self.services.hooks.runs.discard(self)
        status = self.status
        programs = self.services.programs
        ends = [] if programs is None else programs.end_run(self.id)
        try:
            if self.recorder is not None:
                with self.recorder.writer:
                    record_ends(self.recorder, ends)
                    self._seal(status, self.recorder.writer)
        except StoreError:
            if status != "interrupted":  # else why we stopped is already on its way to the caller
                raise
        finally:
            if self.files.backups is not None:
                self.files.backups.close()
            if self.files.budget is not None:
                self.files.budget.close()

    def _seal(self, status: RunStatus, writer: JournalWriter) -> None:
        """The last event, the signed head, the row in the index."""
        services = self.services
        if status not in ("held", "interrupted"):
            assert self.recorder is not None
            self.recorder.append(RunFinished(status=status, ts=services.clock.now_us(), mono=services.clock.mono_ns()))
        writer.flush()
        if services.signer is not None and self.files.directory is not None:
            sign_head(self.files.directory, writer.head(), services.signer, services.disk)
        self._index(status)

    @property
    def status(self) -> RunStatus:
        """The worst of its proposals' statuses."""
        order: tuple[RunStatus, ...] = ("interrupted", "held", "cancelled", "failed", "rejected", "succeeded")
        return next((s for s in order if s in self.tally.statuses), "succeeded")

    def _index(self, status: str) -> None:
        assert self.recorder is not None
        index = self.services.index
        with self.services.db.transaction():
            index.update(self.id, status=status, finished_us=self.services.clock.now_us(), **self.tally.counts)
            index.commit_point(self.recorder.writer.head())

    def nothing_began(self) -> None:
        """The process ended before a proposal was on disk: that is no success, and there is nothing to go on with."""
        self.tally.statuses.add("cancelled")

    def abandon(self) -> None:
        """Whatever was open stays undone: the run ends as `cancelled`."""
        self.tally.statuses = {"cancelled"}

    def count(self, result: ProposalResult) -> None:
        """Count a proposal's result into the run's status and its row in the index."""
        self.tally.add(result.status, result.results, len(result.not_undone))

    def leave(self) -> None:
        """A proposal stopped in the middle: what is known is on disk, and the run can be resumed. Others may go on in it."""
        self.tally.statuses.add("interrupted")
        if self.recorder is not None:
            with contextlib.suppress(StoreError):  # why we leave is already on its way to the caller
                self.recorder.writer.flush()

    def configuration_changed(self, problem: str | None) -> None:
        """The files were edited; with a `problem` the old rules stay in force."""
        if self.recorder is not None:
            services = self.services
            self.recorder.append(
                ConfigurationChanged(
                    ts=services.clock.now_us(),
                    mono=services.clock.mono_ns(),
                    configuration=services.configuration,
                    problem=None if problem is None else self.recorder.text(problem),
                )
            )

    def _received(self, x: ProposalRun, token_digest: str | None) -> None:
        recorder = self.recorder
        assert recorder is not None
        document = msgspec.to_builtins(x.proposal)
        kept = recorder.keep(document, list(_secrets(x)))
        recorder.append(
            ProposalReceived(
                source=x.proposal.source,
                agent=x.who.agent,
                action_count=len(x.proposal.actions),
                digest=kept.digest,
                document=kept,
                dry_run=x.dry_run,
                grant_token=x.token,
                grant_token_digest=token_digest,
                **x.stamp(None, 1),
            )
        )
        recorder.writer.kick()

    def _reject(self, proposal_id: str, error: ProposalError) -> None:
        self.tally.statuses.add("rejected")
        if self.recorder is not None:
            self.recorder.append(
                ProposalRejected(
                    ts=self.services.clock.now_us(),
                    mono=self.services.clock.mono_ns(),
                    proposal=proposal_id,
                    step=1,
                    code=error.code,
                    message=self.recorder.text(error.message),
                    path=error.path,
                )
            )
            self.recorder.writer.flush()


def _secrets(x: ProposalRun) -> Iterator[str]:
    """Pointers to what the schemas of the tools mark as secret, in the document of the proposal."""
    for index, action in enumerate(x.proposal.actions):
        tool, given = x.tools[index], action.compensation
        if tool is not None and tool.secrets:
            yield from (f"/actions/{index}/parameters{pointer}" for pointer in tool.secrets)
        if isinstance(given, ToolCompensation) and (undoer := x.services.registry.find(given.tool)) is not None:
            yield from (f"/actions/{index}/compensation/parameters{pointer}" for pointer in undoer.secrets)


def tighter(a: Budget | None, b: Budget | None) -> Budget | None:
    """The smaller of two budgets, field by field."""
    if a is None or b is None:
        return a or b
    fields = {}
    for name in Budget.__struct_fields__:
        bounds = [bound for bound in (getattr(a, name), getattr(b, name)) if bound is not None]
        fields[name] = min(bounds) if bounds else None
    return Budget(**fields)


def budget_of(amounts: Amounts) -> Budget | None:
    """The budget that a section of the settings gives; None if it bounds nothing."""
    budget = Budget(
        actions=amounts.actions, tool_calls=amounts.tool_calls, duration_ms=amounts.duration_ms, cost=amounts.cost
    )
    return None if budget == Budget() else budget


def close_programs(services: Services, programs: Programs) -> None:
    """End what lives as long as its session: the runtime is closed. That is on record in a run of its own."""
    ends = programs.close()
    if ends:
        with contextlib.suppress(InterlockError):  # they are gone, and nothing is there any more that could be told
            run = Run.start(services, agent=ends[0][0].agent, session=ends[0][0].session, source="session_end")
            record_ends(run.recorder, ends)
            run.finish()
