"""One proposal on its way: the pool of workers that takes actions from the scheduler to their end.

The caller's own task is worker 0; more workers start only when more than one action is ready, up to `concurrency_max`. A
worker awaits a tool directly, so there is no task per action, and what tools do with tasks and time-outs works as usual. The
order of things is the scheduler's; what happens to one action is in `perform`; how a proposal ends is in `ending`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from interlock.engine.allowance import Allowance
from interlock.engine.perform import perform
from interlock.engine.recorder import Recorder
from interlock.engine.registry import Registered
from interlock.engine.scheduler import Outcome, Scheduler
from interlock.engine.watchdog import NEVER, Slot, Watchdog
from interlock.model.clock import Clock
from interlock.model.decision import Decision
from interlock.model.errors import StoreError, ToolError
from interlock.model.events import ActionSkipped, StateChanged
from interlock.model.grant import Principal
from interlock.model.proposal import Proposal
from interlock.model.result import ActionResult
from interlock.model.tool import ToolExecutor
from interlock.state.buffer import Buffer
from interlock.state.idempotency import Results
from interlock.verify.graph import Graph

if TYPE_CHECKING:
    from interlock.engine.folding import FoldedAction
    from interlock.engine.run import Run

T = TypeVar("T")
_SLICE_NS = 1_000_000
"""A worker gives the loop a turn at least this often."""


class Execution:
    """Everything about one proposal while it runs. Lives on one loop."""

    def __init__(
        self,
        run: Run,
        proposal: Proposal,
        graph: Graph,
        who: Principal,
        *,
        dry_run: bool = False,
        executor: ToolExecutor | None = None,
        allowance: Allowance,
    ) -> None:
        """Prepare; nothing happens before `drive`."""
        self.run = run
        self.services = run.services
        self.gate = run.services.gate_for(who.session)
        self.settled: dict[Registered | None, Decision] = {}
        """What the gate decides about every call of a tool, where the call cannot matter."""
        self.proposal = proposal
        self.graph = graph
        self.who = who
        self.dry_run = dry_run
        self.executor = executor
        self.recorder: Recorder | None = run.recorder
        self.clock = run.services.clock
        self.buffer: Buffer = Buffer(run.services.store, proposal.id)
        self.scheduler = Scheduler(graph)
        self.rows: list[ActionResult | None] = [None] * len(proposal.actions)
        self.tools: list[Registered | None] = run.services.registry.find_all(a.tool for a in proposal.actions)
        self.attempts_made = 0  # beyond the first, over all actions
        self.cost = 0.0
        """What tools reported."""
        self.order_ended: list[int] = []
        """Actions in the order in which they ended: undo goes backwards through it."""
        self.edited: dict[int, dict[str, Any]] = {}
        """Parameters that an approver changed."""
        self.results = Results(run.services.idempotency)
        """Successes of idempotent calls: found by this proposal at once, stored with its commit."""
        self.attempts_before: dict[int, int] = {}
        """Attempts that an earlier process made (after `resume`)."""
        self.not_undoable: dict[int, list[str]] = {}
        """What actions did that undo cannot exactly take back."""
        self.cached: dict[int, str] = {}  # keys under which results went into the cache
        self.undone: dict[int, FoldedAction] = {}  # what an earlier process did to take them back
        self.allowance = allowance
        self.deadline_ns = _deadline(proposal, self.clock)
        self.stop_reason: str | None = None
        """Why nothing more may start: `aborted`, `budget_exceeded`, `deadline_exceeded`, `cancelled`, `store_failed`."""
        self.held = 0  # actions that wait for a human while nobody here waits with them
        self.waiting, self.waited = 0, False
        """Workers that wait for an approval: they are not counted as workers meanwhile."""
        self._busy = 0
        self._failure: BaseException | None = None
        self._ready: deque[int] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._returning: deque[asyncio.Future[None]] = deque()
        self._slots: list[Slot] = []
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.watchdog = Watchdog(self.loop, self.clock)
        self._deadline_slot: Slot | None = None

    # -- the life of the pool

    async def drive(self, replay: Sequence[tuple[int, Outcome]] = ()) -> None:
        """Run every action that can run. Raises what must pass through: cancellation, store errors, KeyboardInterrupt."""
        ready, skipped = self.scheduler.start()
        self._skip(skipped, "dependency_failed")
        self._ready.extend(ready)
        for action, outcome in replay:
            if not self.scheduler.ended(action):  # skipped by what came before it, which the journal says too
                self._follow(*self.scheduler.step(action, outcome))
        if replay:
            self._ready = deque(i for i in self._ready if not self.scheduler.ended(i))
        task = asyncio.current_task()
        assert task is not None
        slot = Slot(task)
        self._add(slot)
        self._arm_deadline()
        try:
            try:
                await self._work(slot)
            except asyncio.CancelledError:
                if slot.stopped is None:
                    raise  # the caller's wish
                task.uncancel()  # ours
            await self._join()
        except BaseException:
            self.stop("cancelled")
            await self._join()
            raise
        finally:
            self.watchdog.close()
            if self._deadline_slot is not None:
                self._deadline_slot.task.cancel()
        if self._failure is not None:
            raise self._failure

    def finished(self, index: int, row: ActionResult, outcome: Outcome) -> None:
        """An action came to its end: keep its row and let go what waited for it."""
        self.rows[index] = row
        self.order_ended.append(index)
        ready, skipped = self.scheduler.step(index, outcome)
        if ready and not skipped:
            self._ready.extend(ready)
        else:
            self._follow(ready, skipped)
        if outcome is Outcome.ABORT:
            self.stop("aborted")

    def stop(self, reason: str) -> None:
        """Nothing more may start, and what runs is cancelled (but not the worker that calls this)."""
        if self.stop_reason is None:
            self.stop_reason = reason
        self.scheduler.halt()
        me = asyncio.current_task()
        for slot in self._slots:
            if slot.task is not me and slot.stopped is None and not slot.task.done():
                slot.stopped = reason
                slot.task.cancel()

    def drain(self, reason: str) -> None:
        """Nothing more may start; what runs may finish."""
        if self.stop_reason is None:
            self.stop_reason = reason
        self.scheduler.halt()
        self._wake(len(self._idle))

    def fail(self, error: BaseException) -> None:
        """The engine itself cannot go on (the journal cannot be written, the interpreter is asked to leave)."""
        if self._failure is None:
            self._failure = error
        self.stop("store_failed" if isinstance(error, StoreError) else "cancelled")

    def write_state(self, index: int, key: str, value: Any, *, delete: bool = False) -> None:
        """A write into the proposal's buffer that was observed, and its event (step 10)."""
        action_id = self.proposal.actions[index].id
        old, new = self.buffer.delete(key, action_id) if delete else self.buffer.write(key, value, action_id)
        recorder = self.recorder
        if recorder is not None:
            kept = recorder.keep(value)
            stamp = recorder.stamp(self, index, 10)
            recorder.append(
                StateChanged(key=key, old_version=old, new_version=new, value=kept, deleted=delete, **stamp)
            )

    def spend(self, duration_ms: float, cost: float) -> None:
        """Count what an attempt took."""
        self.cost += cost
        self.allowance.settle(duration_ms, cost)

    def outputs(self, action_id: str, path: tuple[str | int, ...]) -> Any:
        """What a `$ID.output` reference stands for. Raises: ToolError `reference_failed`."""
        row = self.rows[self.graph.index[action_id]]
        if row is None or row.status != "succeeded":
            raise ToolError(f"`{action_id}` has no output", code="reference_failed", path="$.parameters")
        value = row.output
        for depth, step in enumerate(path):
            try:
                value = _inside(value, step)
            except LookupError:
                place = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path[: depth + 1])
                message = f"the output of `{action_id}` has no `{place}`"
                raise ToolError(message, code="reference_failed", path="$.parameters") from None
        return value

    @property
    def alone(self) -> bool:
        """True if nothing else of this proposal can happen before the loop's next turn."""
        return self._busy <= 1 and not self._ready

    async def aside(self, answer: Awaitable[T]) -> T:
        """Wait for a human, and let others work meanwhile; afterwards wait until there is a place to go on."""
        self.waiting += 1
        self._give_place()
        try:
            found = await answer
        except BaseException:
            self.waiting -= 1
            raise
        if not self._full:
            self.waiting -= 1
            return found
        place: asyncio.Future[None] = self.loop.create_future()
        self._returning.append(place)
        try:
            await place
        finally:
            if place in self._returning:  # nobody gave it one: it leaves
                self._returning.remove(place)
                self.waiting -= 1
        return found

    # -- inside

    @property
    def _full(self) -> bool:
        """True if no more may run at once (only those who come back from waiting can make too many)."""
        return self.waited and self._busy - self.waiting >= self.services.concurrency_max

    def _give_place(self) -> None:
        """A worker stands aside or is done: somebody who has waited long enough goes on, or else something new starts."""
        self.waited = True
        if self._returning:
            self.waiting -= 1
            self._returning.popleft().set_result(None)
        else:
            self.more()

    def _add(self, slot: Slot) -> None:
        self._slots.append(slot)
        self.watchdog.add(slot)

    def _follow(self, ready: list[int], skipped: list[int]) -> None:
        if skipped:
            self._skip(skipped, "budget_exceeded" if self.stop_reason == "budget_exceeded" else "dependency_failed")
        if ready:
            self._ready.extend(ready)
        elif not self.scheduler.remaining:
            self._wake(len(self._idle))

    def _skip(self, indices: list[int], reason: str) -> None:
        for index in indices:
            known = self.rows[index]
            if known is not None and known.status == "skipped":
                continue  # the journal has said so already
            action = self.proposal.actions[index]
            row = ActionResult(action_id=action.id, status="skipped", reason=reason, timestamp=self.clock.now_us())
            if self.recorder is not None:
                row.seq = self.recorder.append(ActionSkipped(reason=reason, **self.recorder.stamp(self, index, 7)))
            self.rows[index] = row

    async def _work(self, slot: Slot) -> None:
        ready, scheduler, clock = self._ready, self.scheduler, self.clock
        turn = clock.mono_ns() + _SLICE_NS
        while True:
            while ready and not scheduler.halted and not self._full:
                index = ready.popleft()
                if ready:
                    self.more()
                self._busy += 1
                await perform(self, slot, index)
                self._busy -= 1
                if self._returning:
                    self._give_place()
                if slot.ended_ns > turn:
                    await asyncio.sleep(0)
                    turn = clock.mono_ns() + _SLICE_NS
            if scheduler.halted or not scheduler.remaining or (self.held and not self._busy):
                self._wake(len(self._idle))
                return
            idle: asyncio.Future[None] = self.loop.create_future()
            self._idle.append(idle)
            await idle
            turn = clock.mono_ns() + _SLICE_NS

    def more(self) -> None:
        """There is more to do than this worker can take: wake another one, or start it."""
        if self._full:
            return
        if self._idle:
            self._wake(1)
        elif self._ready and len(self._slots) - self.waiting < self.services.concurrency_max:
            slot = Slot.__new__(Slot)
            task = self.loop.create_task(self._run_worker(slot), name=f"interlock-worker-{len(self._slots)}")
            Slot.__init__(slot, task)
            self._add(slot)

    async def _run_worker(self, slot: Slot) -> None:
        try:
            await self._work(slot)
        except asyncio.CancelledError as error:
            if slot.stopped is None:
                self.fail(error)  # somebody else cancelled this worker: nobody would do its work
                raise
        except BaseException as error:  # noqa: BLE001 - raised again by `drive`, in the caller's task
            self.fail(error)

    def _wake(self, count: int) -> None:
        while count and self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                count -= 1

    async def _join(self) -> None:
        """Wait until every other worker is out."""
        me = asyncio.current_task()
        others = [slot.task for slot in self._slots if slot.task is not me and not slot.task.done()]
        if others:
            self._wake(len(self._idle))
            await asyncio.wait(others)

    def _arm_deadline(self) -> None:
        """The proposal's own deadline: a slot of the watchdog whose task, when cancelled, stops the rest."""
        if self.deadline_ns == NEVER:
            return
        task = self.loop.create_task(self._on_deadline())
        self._deadline_slot = Slot(task)
        self.watchdog.add(self._deadline_slot)
        self.watchdog.arm(self._deadline_slot, self.deadline_ns, self.clock.mono_ns())

    async def _on_deadline(self) -> None:
        try:
            await self.loop.create_future()
        except asyncio.CancelledError:
            if self._deadline_slot is not None and self._deadline_slot.expired:
                self.stop("deadline_exceeded")


def _deadline(proposal: Proposal, clock: Clock) -> int:
    """When the proposal has to be over (monotonic nanoseconds)."""
    return NEVER if proposal.deadline_ms is None else clock.mono_ns() + proposal.deadline_ms * 1_000_000


def _inside(value: Any, step: str | int) -> Any:
    """One step of a reference. Raises: LookupError."""
    if isinstance(value, dict) and isinstance(step, str):
        return value[step]
    if isinstance(value, list) and isinstance(step, int):
        return value[step]
    raise LookupError(step)
