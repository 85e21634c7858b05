"""The pool of workers that runs the actions of a proposal in the scheduler's order, and stores their rows.

The caller's own task is worker 0; more workers start only when more than one action is ready, up to `concurrency_max`. A
worker awaits a tool directly, so there is no task per action, and a tool's own tasks and time-outs work as usual. The
pool receives `take_action` as an argument, which handles one action; `completion` ends the proposal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from interlock.engine.proposals.action_run import ActionRun, Ended
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.watchdog import NEVER, Deadline, Slot, Watchdog
from interlock.engine.record import rows
from interlock.engine.scheduler import Outcome, Scheduler
from interlock.model.errors import StoreError
from interlock.model.events import ActionSkipped

T = TypeVar("T")
TakeAction = Callable[[ActionRun], Awaitable[Ended]]
_ABORT = Outcome.ABORT
_SLICE_NS = 1_000_000
"""A worker lets the event loop run at least this often."""


class WorkerPool:
    """Runs one proposal. No other code writes its rows and the order in which they ended."""

    def __init__(self, run: ProposalRun, take_action: TakeAction, watchdog: Watchdog | None = None) -> None:
        """Nothing starts before `drive`. Other proposals may use the same `watchdog`, which is closed with their run."""
        self.run = run
        self._take_action = take_action
        self._scheduler = Scheduler(run.graph)
        self._failure: BaseException | None = None
        self._busy = 0
        self._held = 0
        """Actions that wait for a person while no worker waits with them."""
        self._waiting, self._waited = 0, False
        """Workers that wait for an approval, and do not count as workers meanwhile."""
        self._ready: deque[int] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._returning: deque[asyncio.Future[None]] = deque()
        self._slots: list[Slot] = []
        self._watchdog = watchdog or Watchdog(run.loop, run.clock)
        self._own_watchdog = watchdog is None

    # -- start and end

    async def drive(self, replay: Sequence[tuple[int, Outcome]] = ()) -> None:
        """Run every action that can run. Raises errors that end the run: cancellation, store errors, KeyboardInterrupt.

        `replay` are the outcomes of an earlier process, in their order.
        """
        run, scheduler = self.run, self._scheduler
        if run.stop_reason is not None:
            scheduler.halt()
        ready, skipped = scheduler.start()
        self._skip(skipped, "dependency_failed")
        self._ready.extend(ready)
        for index, outcome in replay:
            if not scheduler.ended(index):  # skipped because of an earlier outcome, which the journal has too
                self._follow(*scheduler.step(index, outcome))
        if replay:
            self._ready = deque(i for i in self._ready if not scheduler.ended(i))
        task = asyncio.current_task()
        assert task is not None
        slot = Slot(task, self._watchdog, self)
        self._slots.append(slot)
        deadline = Deadline(self._watchdog, self, run.loop, lambda: self.stop("deadline_exceeded"))
        deadline.arm(run.deadline_ns)
        try:
            try:
                await self._work(slot)
            except asyncio.CancelledError:
                if slot.stopped is None:
                    raise  # requested by the caller
                task.uncancel()  # requested by us
            await self._join()
        except BaseException:
            self.stop("cancelled")
            await self._join()
            raise
        finally:
            deadline.close()
            self._watchdog.discard(self._slots, last=self._own_watchdog)
        if self._failure is not None:
            raise self._failure

    def stop(self, reason: str) -> None:
        """Let no further action start, and cancel the running ones (except the worker that calls this)."""
        self.run.stop(reason)
        self._scheduler.halt()
        me = asyncio.current_task()
        for slot in self._slots:
            if slot.task is not me and slot.stopped is None and not slot.task.done():
                slot.stopped = reason
                slot.task.cancel()

    def close(self) -> None:
        """End the pool. This breaks the reference cycle between pool and slots, so that everything is freed at once."""
        self._slots.clear()

    def drain(self, reason: str) -> None:
        """Let no further action start; the running ones may finish."""
        self.run.stop(reason)
        self._scheduler.halt()
        self._wake(len(self._idle))

    def fail(self, error: BaseException) -> None:
        """Stop because the engine itself cannot continue: the journal cannot be written, or the interpreter is exiting."""
        if self._failure is None:
            self._failure = error
        self.stop("store_failed" if isinstance(error, StoreError) else "cancelled")

    # -- for actions (see `watchdog.Pool`)

    @property
    def alone(self) -> bool:
        """True if nothing else of the run can happen before the loop's next turn."""
        own = len(self._slots) + (self.run.deadline_ns != NEVER)  # the run's other proposals use the same watchdog
        return self._busy <= 1 and not self._ready and self._watchdog.count == own

    async def wait_outside(self, answer: Awaitable[T]) -> T:
        """Wait for a person while another action uses this one's place; afterwards wait for a free place."""
        self._waiting += 1
        self._give_place()
        try:
            found = await answer
        except BaseException:
            self._waiting -= 1
            raise
        if not self._full:
            self._waiting -= 1
            return found
        place: asyncio.Future[None] = self.run.loop.create_future()
        self._returning.append(place)
        try:
            await place
        finally:
            if place in self._returning:  # cancelled before it got a place
                self._returning.remove(place)
                self._waiting -= 1
        return found

    # -- internal

    def _end(self, index: int, ended: Ended) -> None:
        """Store the end of an action, and release the actions that waited for it. Raises errors that end the run."""
        run, outcome = self.run, ended.outcome
        if ended.row is not None:
            run.rows[index] = ended.row
            if run.waits:
                ended.row.waited_for = tuple(run.waits.get(index, ()))
        if ended.stop is not None:
            self.drain(ended.stop)
        if outcome is None:
            if ended.undoable:
                run.order_ended.append(index)
            elif ended.row is not None and ended.row.status == "held":
                self._held += 1
        else:
            run.order_ended.append(index)
            ready, skipped = self._scheduler.step(index, outcome)
            if ready and not skipped:
                self._ready.extend(ready)
            else:
                self._follow(ready, skipped)
            if outcome is _ABORT:
                if run.stop_reason is None:
                    run.stopped_by = index
                self.stop("aborted")
        if ended.raises is not None:
            raise ended.raises

    def _follow(self, ready: list[int], skipped: list[int]) -> None:
        if skipped:
            self._skip(skipped, "budget_exceeded" if self.run.stop_reason == "budget_exceeded" else "dependency_failed")
        if ready:
            self._ready.extend(ready)
        elif not self._scheduler.remaining:
            self._wake(len(self._idle))

    def _skip(self, indices: list[int], reason: str) -> None:
        run = self.run
        for index in indices:
            known = run.rows[index]
            if known is not None and known.status == "skipped":
                continue  # the journal has it already
            why = run.why_skipped(index) if reason == "dependency_failed" else run.why_stopped(reason)
            seq = self._record_skip(index, reason, why or "")
            action_id, now_us = run.proposal.actions[index].id, run.clock.now_us()
            run.rows[index] = rows.skipped(action_id, reason, why, at_us=now_us, seq=seq)

    def _record_skip(self, index: int, reason: str, why: str) -> int | None:
        return self.run.record(
            7,
            index,
            lambda recorder: ActionSkipped(reason=reason, detail=recorder.text(why)),
        )

    @property
    def _full(self) -> bool:
        """True if no other action may run now (only workers that return from waiting can exceed the limit)."""
        return self._waited and self._busy - self._waiting >= self.run.services.bounds.concurrency_max

    def _give_place(self) -> None:
        """Pass on the place of a worker that waits or is done: to the longest-waiting worker that returns, or to a new action."""
        self._waited = True
        if self._returning:
            self._waiting -= 1
            self._returning.popleft().set_result(None)
        else:
            self._start_more()

    async def _work(self, slot: Slot) -> None:
        run, ready, scheduler, take_action = self.run, self._ready, self._scheduler, self._take_action
        clock = run.clock
        turn = clock.mono_ns() + _SLICE_NS
        while True:
            while ready and not scheduler.halted and not (self._waited and self._full):
                index = ready.popleft()
                if ready:
                    self._start_more()
                self._busy += 1
                self._end(index, await take_action(ActionRun(run, slot, index)))
                self._busy -= 1
                if self._returning:
                    self._give_place()
                if slot.ended_ns > turn and (ready or run.deadline_ns != NEVER):  # the deadline may be over
                    await asyncio.sleep(0)
                    turn = clock.mono_ns() + _SLICE_NS
            if scheduler.halted or not scheduler.remaining or (self._held and not self._busy):
                self._wake(len(self._idle))
                return
            idle: asyncio.Future[None] = run.loop.create_future()
            self._idle.append(idle)
            await idle
            turn = clock.mono_ns() + _SLICE_NS

    def _start_more(self) -> None:
        """Wake or start another worker, because there is more work than this one can do."""
        if self._full:
            return
        if self._idle:
            self._wake(1)
        elif self._ready and len(self._slots) - self._waiting < self.run.services.bounds.concurrency_max:
            slot = Slot.__new__(Slot)
            task = self.run.loop.create_task(self._run_worker(slot), name=f"interlock-worker-{len(self._slots)}")
            Slot.__init__(slot, task, self._watchdog, self)
            self._slots.append(slot)

    async def _run_worker(self, slot: Slot) -> None:
        try:
            await self._work(slot)
        except asyncio.CancelledError as error:
            if slot.stopped is None:
                self.fail(error)  # cancelled from outside: without this worker its work would never be done
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
        """Wait until every other worker has ended."""
        me = asyncio.current_task()
        others = [slot.task for slot in self._slots if slot.task is not me and not slot.task.done()]
        if others:
            self._wake(len(self._idle))
            await asyncio.wait(others)
