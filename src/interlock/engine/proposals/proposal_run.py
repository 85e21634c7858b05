"""One proposal while it runs: its data. The pool (`worker_pool`) writes rows and order; the gate's steps read them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock.engine.judges.judges import Judges
from interlock.engine.proposals.budget import Allowance, Use
from interlock.engine.proposals.watchdog import NEVER
from interlock.engine.record.recorder import Recorder
from interlock.engine.record.replay import ReplayedAction
from interlock.engine.record.run_files import RunFiles
from interlock.engine.services import Services
from interlock.engine.tools.registry import Registered
from interlock.model.clock import Clock
from interlock.model.decision import Decision
from interlock.model.events import Event, StateChanged
from interlock.model.grant import Principal
from interlock.model.proposal import Proposal
from interlock.model.result import ActionResult, LayerResult
from interlock.model.tool import ClientExecutor, ToolExecutor
from interlock.model.units import as_duration
from interlock.state.buffer import Buffer
from interlock.state.idempotency import Results
from interlock.verify.graph import Graph

if TYPE_CHECKING:
    from interlock.engine.proposals.write_turn import WriteTurn
    from interlock.workspace import Layer


class Write(NamedTuple):
    """One write of an undo: the tool (None: state), and the canonical JSON of a path, or a key."""

    tool: str | None
    where: str


class ProposalRun:
    """One proposal while it runs, on one loop."""

    # Fields that most proposals never set are class attributes.
    stopped_text: str | None = None
    """A text that says who stopped the run, and why."""
    turn: WriteTurn | None = None
    """The turn to write in the workspace; None if the proposal needs none."""
    cost = 0.0
    tokens = 0
    cost_unknown = 0
    """The cost and tokens that tools reported, and the number of calls without a known cost."""
    layer: Layer | None = None
    layer_absent: str | None = None
    """Why the proposal has no layer where the configuration wants one."""
    without_layer: bool = False
    """True if the proposal needs no layer, because it only changes one file that no other program executes later."""
    layer_problem: str | None = None
    """The problem in the commit of the layer."""
    layer_result: LayerResult | None = None
    only: bool = False
    """As in `Run.take`."""

    def __init__(
        self,
        services: Services,
        files: RunFiles,
        proposal: Proposal,
        graph: Graph,
        principal: Principal,
        judges: Judges,
        *,
        dry_run: bool = False,
        executor: ToolExecutor | None = None,
        client: ClientExecutor | None = None,
        allowance: Allowance,
        token: str | None = None,
    ) -> None:
        """`judges`: of the session and of the grant token with the id `token`. A `client` carries out the calls itself."""
        # Constant during the run, but for the judges.
        self.services = services
        self.files = self.run_files = files  # in a layer `files` has the layer's backups
        self.workspace = services.workspace  # the workspace that the actions see; in a layer, its view
        self.proposal = proposal
        self.graph = graph
        self.principal, self.judges = principal, judges
        self.token = token
        self.dry_run = dry_run
        self.client = client
        self.executor = executor if client is None else client
        self.allowance = allowance
        self.recorder: Recorder | None = files.recorder
        self.clock = services.clock
        self.deadline_ns = _deadline(proposal, services.clock)
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.tools: list[Registered | None] = services.registry.find_all(a.tool for a in proposal.actions)
        # Changes during the run.
        self.rows: list[ActionResult | None] = [None] * len(proposal.actions)
        self.order_ended: list[int] = []
        """Actions in the order in which they ended; undo uses the reverse order."""
        self.stop_reason: str | None = None
        """Why no further action may start: `aborted`, `budget_exceeded`, `deadline_exceeded`, `stopped`, `cancelled` ..."""
        self.stopped_by: int | None = None
        """The action whose failure or refusal stopped the proposal."""
        self.buffer = Buffer(services.store, proposal.id)
        self.results = Results(services.idempotency)
        """Successes of idempotent calls: found by this proposal at once, stored with its commit."""
        self.edited: dict[int, dict[str, Any]] = {}
        """Parameters that an approver changed."""
        self.not_undoable: dict[int, list[str]] = {}
        """Effects of actions that cannot be undone exactly."""
        self.waits: dict[int, list[str]] = {}
        """The causes of actions' waits, as phrases for people."""
        self.cached: dict[int, str] = {}
        """Keys under which results went into the cache."""
        self.settled: dict[Registered | None, Decision] = {}
        """The judges' decisions about all calls of a tool, if they cannot depend on the call."""
        self.entailed: dict[int, frozenset[Write]] = {}
        """The further writes of an action that were judged: an undo writes no others."""
        # Results of an earlier process (after `resume`).
        self.attempts_before: dict[int, int] = {}
        self.undone: dict[int, ReplayedAction] = {}

    def stop(self, reason: str) -> None:
        """Remember why no further action may start; the first reason is kept."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def why_stopped(self, reason: str | None) -> str | None:
        """The cause of the proposal's end, for the row of an action that it stopped or prevented from starting."""
        by = None if self.stopped_by is None else self.rows[self.stopped_by]
        match reason:
            case "aborted" if by is not None:
                return f"`{by.action_id}` stopped the proposal: {by.status}, {by.reason}"
            case "deadline_exceeded" if self.proposal.deadline_ms is not None:
                return f"the proposal's deadline of {as_duration(self.proposal.deadline_ms)} was over"
            case "stopped":
                return self.stopped_text
            case "budget_exceeded":
                return self.allowance.exhausted or None
            case "workspace_conflict":
                return self.layer_problem
        return None

    def why_skipped(self, index: int) -> str | None:
        """A text that names the dependency of this action that did not succeed."""
        for j in sorted(self.graph.needs[index] or ()):
            row = self.rows[j]
            if j in self.graph.reserved:
                return f"it needs `{self.proposal.actions[j].id}`, which runs only as a compensation"
            if row is not None and row.status != "succeeded":
                return f"it needs `{row.action_id}`: {row.status}, {row.reason}"
        return None

    def judges_in_force(self) -> Judges:
        """The judges, replaced if the rules have changed or a grant was issued or revoked."""
        judges = self.judges
        if judges.replaced or (judges.issued and not self.services.judges.is_current(judges)):
            judges = self.judges = self.services.judges.current(self.principal.session, self.token)
            self.settled.clear()
        return judges

    def grants_digest(self) -> str:
        """The digest of the applicable grants in the key of a stored result: a changed grant makes a different key."""
        if self.token is None:
            return self.services.grant_of(self.principal.agent)
        return self.judges_in_force().grants_digest(self.principal.agent)

    def record(self, step: int | None, index: int | None, build: Callable[[Recorder], Event]) -> int | None:
        """Record the event that the function builds; its number. Nothing is built, and None returned, if nothing is recorded."""
        recorder, proposal = self.recorder, self.proposal
        if recorder is None:
            return None
        return recorder.record(
            build(recorder), proposal.id, None if index is None else proposal.actions[index].id, step
        )

    def kick(self) -> None:
        """Let the journal write the recorded events, without waiting for it."""
        if self.recorder is not None:
            self.recorder.writer.kick(self.loop)

    def flush(self) -> None:
        """Put the recorded events on disk, as far as the durability promises. Raises: StoreError."""
        if self.recorder is not None:
            self.recorder.writer.flush()

    def write_state(self, index: int, key: str, value: Any, *, delete: bool = False) -> None:
        """Make an observed write into the proposal's buffer, and its event (step 10)."""
        action_id = self.proposal.actions[index].id
        old, new = self.buffer.delete(key, action_id) if delete else self.buffer.write(key, value, action_id)
        self.record(
            10,
            index,
            lambda recorder: StateChanged(
                key=key,
                old_version=old,
                new_version=new,
                value=recorder.keep(value),
                deleted=delete,
            ),
        )

    def spend(self, duration_ms: float, use: Use) -> None:
        """Count the use of an attempt."""
        self.cost += use.cost
        self.tokens += use.tokens
        self.cost_unknown += use.unknown
        self.allowance.settle(duration_ms, use)


def _deadline(proposal: Proposal, clock: Clock) -> int:
    """The proposal's deadline (monotonic nanoseconds)."""
    return NEVER if proposal.deadline_ms is None else clock.mono_ns() + proposal.deadline_ms * 1_000_000
