"""A proposal's turn to write in a workspace that is changed directly, without a layer; readers do not wait.

Every call of a proposal that may write is made in the proposal's turn. Step 7 of the first such call takes the turn, as a lease
on all the paths that the proposal may write (see `workspace/lease`). It is kept until the proposal ends, except during waits:
when no action of the proposal runs and one of them waits for an answer, the guard, a rate limit or its next attempt, the lease
is released, and others may write. After the wait the action takes it again, last in step 7, and steps 2 to 7 judge the files as
they are then.

A nested proposal, which a tool makes while it runs, works under the turn of the tool's own proposal, because it would otherwise
wait for itself (see `nested_turn`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.waiting import Behind, tell_waiting
from interlock.engine.proposals.watchdog import NEVER
from interlock.engine.proposals.worker_pool import WorkerPool
from interlock.engine.runs.nested_turn import Nested, under
from interlock.engine.runs.write_claims import claim_of, claim_of_action, claim_of_undo
from interlock.engine.services import Services
from interlock.model.decision import Refusal
from interlock.model.errors import StoreError
from interlock.model.waiting import UNLIMITED_MS
from interlock.workspace.claims import EVERYTHING, Claim
from interlock.workspace.lease import RENEW_S, LeaseQueue, Turn, WriteLease, describe

if TYPE_CHECKING:
    from interlock.engine.proposals.write_turn import Caller

_TICK_S: Final = 0.25
"""How often a holder checks whether to renew the lease, and whether to report news to the waiters."""
_RENEW_S: Final = RENEW_S
_REPORT_AFTER_NS: Final = 100_000_000
"""A shorter wait is not reported."""
_REPORT_AGAIN_NS: Final = 5_000_000_000

_current: ContextVar[_Turn | None] = ContextVar("interlock_write_turn", default=None)
"""The turn under which the current task works."""
_entered: ContextVar[Caller | None] = ContextVar("interlock_writing_action", default=None)
"""The action of that turn that the current task carries out, if it may be writing."""


def open_queue(services: Services) -> LeaseQueue:
    """The queue for writing in the workspace of these services."""
    directory = None if services.state_dir is None else services.state_dir / "turns"
    return LeaseQueue(services.db, services.workspace_id, services.clock, directory)


@contextlib.asynccontextmanager
async def writing(pool: WorkerPool, *, settle: bool = False) -> AsyncIterator[None]:
    """Let the proposal take turns to write during the block, if it may write in the workspace.

    With `settle` it takes its turn at once, to restore files. Raises: StoreError, with `settle` also `workspace_busy`.
    """
    run = pool.run
    if run.client is not None:
        # Like a person's editor, a client writes whenever it likes: a lease would only make its parallel calls wait.
        yield
        return
    if run.turn is not None or run.services.workspace is None or run.dry_run or not _may_write(run):
        yield
        return
    if (outer := _outer_of(run)) is not None:
        async with under(run, outer, _entered.get()):
            yield
        return
    turn = run.turn = _Turn(run, pool.fail)
    token = _current.set(turn)
    try:
        if settle:
            await turn.take_to_settle()
        yield
    finally:
        _current.reset(token)
        run.turn = None
        turn.close()


def _outer_of(run: ProposalRun) -> _Turn | None:
    """The turn of the proposal whose tool makes this one."""
    outer = _current.get()
    nested = outer is not None and outer.holds and outer.workspace_id == run.services.workspace_id
    return outer if nested else None


def _may_write(run: ProposalRun) -> bool:
    return any(tool is not None and not tool.read_only and tool.writes != "nothing" for tool in run.tools)


class _Turn:
    """The turn of one proposal, on one event loop."""

    def __init__(self, run: ProposalRun, fail: Callable[[BaseException], None]) -> None:
        self.workspace_id = run.services.workspace_id
        self._run = run
        self._fail = fail
        self._queue = open_queue(run.services)
        self._lease: WriteLease | None = None
        self._interrupted = False
        """True once the lease was released before the end: others may have changed files since."""
        self._inside: dict[int, Caller] = {}
        """The actions that may be writing now."""
        self._waiting = 0
        self.nested: dict[int, list[Nested]] = {}
        """The nested proposals of actions in their turn, by the action's index."""
        self._suspended: set[int] = set()
        """Actions whose nested proposals all wait."""
        self._taking = asyncio.Lock()
        self._emptied = asyncio.Event()
        self._tick: asyncio.TimerHandle | None = None
        self._reported: Caller | None = None
        self._renewed_ns = 0
        self._renewal_missed = False

    @property
    def holds(self) -> bool:
        """True while others may not write."""
        return self._lease is not None

    # -- for the steps (`WriteTurn`)

    def try_enter(self, action: Caller) -> bool:
        """See `WriteTurn`."""
        lease = self._lease
        if action.tool is None or not action.tool.touches_files or self._run.layer is not None:
            return True  # writes in a layer do not affect others before its commit
        if lease is None or not (lease.claim.everything or self._is_covered(lease.claim, action)):
            return False
        action.in_turn = True
        self._inside[action.index] = action
        _entered.set(action)
        return True

    async def enter(self, action: Caller) -> Refusal | None:
        """See `WriteTurn`."""
        clock = self._run.clock
        before_ns = clock.mono_ns()
        waited = self._taking.locked()
        try:
            async with self._taking:
                tries = 0
                while not self.try_enter(action):
                    waited = await self._retake(action, again=tries > 0) or waited
                    tries += 1
        except StoreError as error:
            if error.code != "workspace_busy":
                raise
            waited = True
            seconds = (clock.mono_ns() - before_ns) / 1e9
            return Refusal("workspace_busy", f"{error.message}; it waited {seconds:.3g} s for its turn")
        finally:
            if waited or action.shown:  # compare the shown files again, now that no other writer may change them
                action.waited_ns += max(1, clock.mono_ns() - before_ns)
        return None

    def leave(self, action: Caller) -> None:
        """See `WriteTurn`."""
        action.in_turn = False
        self._inside.pop(action.index, None)
        _entered.set(None)
        if action.index in self._suspended:
            self._suspended.discard(action.index)
            self._waiting -= 1
        if not self._inside:
            self._emptied.set()
            self._give_back_if_all_wait()

    @contextlib.contextmanager
    def pause(self, action: Caller) -> Iterator[None]:
        """See `WriteTurn`."""
        if action.in_turn:
            self.leave(action)
        self._waiting += 1
        try:
            self._give_back_if_all_wait()
            yield
        finally:
            self._waiting -= 1

    # -- for nested proposals (`Outer`)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the proposal."""
        return self._run.loop

    def is_inside(self, action: Caller) -> bool:
        """True while an action may write, because it is in its turn and not suspended."""
        return action.index in self._inside

    def suspend(self, action: Caller) -> None:
        """Suspend an action, because all of its nested proposals wait."""
        if self._inside.pop(action.index, None) is None:
            return
        self._suspended.add(action.index)
        self._waiting += 1
        if not self._inside:
            self._emptied.set()
        self._give_back_if_all_wait()

    async def resume(self, action: Caller, *, patient: bool) -> None:
        """Let a suspended action continue, in its turn; `patient` waits until the action is stopped. Raises: StoreError."""
        async with self._taking:
            tries = 0
            while action.index in self._suspended and not self.try_enter(action):
                await self._retake(action, again=tries > 0, patient=patient)
                tries += 1
            if action.index in self._suspended:
                self._suspended.discard(action.index)
                self._waiting -= 1

    async def take_for_commit(self) -> None:
        """See `WriteTurn`."""
        async with self._taking:
            if self._lease is None:
                await self._take(EVERYTHING, None, "committing its layer", None)

    async def take_for_undo(self) -> None:
        """See `WriteTurn`."""
        if self._run.layer is not None:
            return
        claim = claim_of_undo(self._run, interrupted=self._interrupted)
        async with self._taking:
            if self._lease is not None and self._lease.claim.covers(claim):
                return
            self._give_back()
            await self._take(claim, None, "undoing what it did", None)

    async def take_to_settle(self) -> None:
        """Take the turn to restore files after a crash. Raises: StoreError `workspace_busy`."""
        if self._run.layer is not None:
            return
        until_ns = self._run.clock.mono_ns() + self._run.services.bounds.lease_wait_ms * 1_000_000
        await self._take(EVERYTHING, None, "settling what an ended process left", until_ns)

    def close(self) -> None:
        """Release the turn at the end of the proposal."""
        self._give_back()

    # -- internal

    def _is_covered(self, claim: Claim, action: Caller) -> bool:
        # Checked each time, now that no other writer can interfere: an earlier change of a link, even by this proposal, or an
        # approver's edit may lead the action to an unclaimed path.
        return claim.covers(claim_of_action(self._run, action.tool, action.parameters))

    async def _retake(self, action: Caller, *, again: bool, patient: bool = False) -> bool:
        """Take the lease for all remaining actions. True if this had to wait for another writer."""
        waited = False
        while self._inside:  # under a lease that does not cover this action
            self._emptied.clear()
            waited = True
            await self._emptied.wait()
        self._give_back()
        claim = claim_of(self._run)
        if again or action.index in self._run.graph.referring:  # the values of its references are known by now
            claim = claim.joined(claim_of_action(self._run, action.tool, action.parameters))
        doing = f"`{action.spec.id}` (`{action.spec.tool}`)"
        until_ns = None if patient else self._patience_ns(action)
        waited = await self._take(claim, action.index, doing, until_ns) or waited
        self._reported = action
        return waited

    async def _take(self, claim: Claim, index: int | None, doing: str, until_ns: int | None) -> bool:
        """Take the lease. True if this had to wait for another writer."""
        run = self._run
        began_ns, reported_ns, reported, waited = run.clock.mono_ns(), 0, ("", ""), False

        def on_wait(turn: Turn) -> None:
            nonlocal reported_ns, reported, waited
            waited = True
            now_ns, now = run.clock.mono_ns(), (turn.holder, turn.doing)
            if (
                now_ns - began_ns < _REPORT_AFTER_NS
                or reported == now
                or (reported_ns and now_ns - reported_ns < _REPORT_AGAIN_NS)
            ):
                return
            reported_ns, reported = now_ns, now
            limit_ns = until_ns or (NEVER if index is None else run.deadline_ns)
            left_ms = UNLIMITED_MS if limit_ns == NEVER else (limit_ns - now_ns) / 1e6
            what = f"its turn to write in the workspace: {describe(turn, run.clock.now_us())}"
            behind = Behind(turn.holder, turn.doing or None, turn.since_us)
            tell_waiting(run, index, "workspace", what, left_ms, behind=behind)

        holder = f"{run.files.id} {run.proposal.id}"
        self._lease = await self._queue.acquire(claim, holder, doing=doing, until_ns=until_ns, on_wait=on_wait)
        self._renewed_ns, self._renewal_missed, self._reported = run.clock.mono_ns(), False, None
        self._tick = run.loop.call_later(_TICK_S, self._on_tick)
        return waited

    def _patience_ns(self, action: Caller) -> int | None:
        """The time at which an action gives up: after its time-out, or `[workspace] wait`; at the deadline the pool stops it."""
        run, own_ms = self._run, action.spec.timeout_ms
        limits = [] if own_ms is None else [own_ms]
        if run.deadline_ns == NEVER:
            limits.append(run.services.bounds.lease_wait_ms)
        return run.clock.mono_ns() + min(limits) * 1_000_000 if limits else None

    def _give_back_if_all_wait(self) -> None:
        if self._waiting and not self._inside and self._lease is not None and not self._taking.locked():
            self._interrupted = True
            self._give_back()

    def _give_back(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def _on_tick(self) -> None:
        """Renew the lease, and tell waiters what is running."""
        lease, run = self._lease, self._run
        if lease is None:
            return
        longest = next(iter(self._inside.values()), None)
        now_ns = run.clock.mono_ns()
        news = longest is not None and longest is not self._reported
        try:
            if news or now_ns - self._renewed_ns >= _RENEW_S * 1e9:
                doing = None if longest is None or not news else f"`{longest.spec.id}` (`{longest.spec.tool}`)"
                lease.renew(doing, run.clock.now_us() if doing else None)
                self._renewed_ns, self._renewal_missed, self._reported = now_ns, False, longest
        except StoreError as error:
            if error.code != "database_locked" or self._renewal_missed:
                self._fail(error)
                return
            self._renewal_missed = True  # the lease lasts long enough for another attempt
        self._tick = run.loop.call_later(_TICK_S, self._on_tick)
