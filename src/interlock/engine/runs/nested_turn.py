"""The turn to write of a nested proposal, which a tool makes while it runs: it uses the turn of the tool's own proposal.

While all of the tool's proposals only wait, the tool's action waits too, so that the turn can be released. It is taken again
before one of them writes, and before the tool gets their results.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Protocol

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.model.decision import Refusal
from interlock.model.errors import StoreError

if TYPE_CHECKING:
    from interlock.engine.proposals.write_turn import Caller


class Outer(Protocol):
    """The turn of the tool's own proposal. `suspend` and `resume` are called on its event loop."""

    nested: dict[int, list[Nested]]

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of that proposal: a plain tool on a thread makes its nested proposals on another loop."""
        ...

    def is_inside(self, action: Caller) -> bool:
        """True while an action may write, because it is in its turn and not suspended."""
        ...

    def suspend(self, action: Caller) -> None:
        """Suspend an action, because all of its nested proposals wait."""
        ...

    async def resume(self, action: Caller, *, patient: bool) -> None:
        """Let a suspended action continue, in its turn. Raises: StoreError `workspace_busy` unless `patient`."""
        ...


@contextlib.asynccontextmanager
async def under(run: ProposalRun, outer: Outer, origin: Caller | None) -> AsyncIterator[None]:
    """Let a nested proposal work under the turn of the proposal whose action `origin` makes it."""
    if origin is None or not origin.in_turn:  # made by an action that writes nothing, in parallel with one that does
        yield
        return
    turn = run.turn = Nested(run, outer, origin)
    siblings = outer.nested.setdefault(origin.index, [])
    siblings.append(turn)
    try:
        yield
    finally:
        run.turn = None
        siblings.remove(turn)
        await turn.resume(patient=True)  # the tool continues now


class Nested:
    """The turn of one nested proposal (`WriteTurn`)."""

    def __init__(self, run: ProposalRun, outer: Outer, origin: Caller) -> None:
        """`run` is the nested proposal."""
        self._run = run
        self._outer = outer
        self._origin = origin
        self._inside: set[int] = set()
        self._waiting = 0

    @property
    def waits(self) -> bool:
        """True if no action of the proposal may be writing, and one of them waits."""
        return self._waiting > 0 and not self._inside

    def try_enter(self, action: Caller) -> bool:
        """See `WriteTurn`."""
        if action.tool is None or not action.tool.touches_files or self._run.layer is not None:
            return True
        if self._origin.in_turn and not self._outer.is_inside(self._origin):
            return False  # suspended
        action.in_turn = True
        self._inside.add(action.index)
        return True

    async def enter(self, action: Caller) -> Refusal | None:
        """See `WriteTurn`."""
        clock = self._run.clock
        before_ns = clock.mono_ns()
        try:
            while not self.try_enter(action):
                await self.resume(patient=False)
        except StoreError as error:
            if error.code != "workspace_busy":
                raise
            return Refusal("workspace_busy", error.message)
        finally:
            action.waited_ns += max(1, clock.mono_ns() - before_ns)
        return None

    def leave(self, action: Caller) -> None:
        """See `WriteTurn`."""
        action.in_turn = False
        self._inside.discard(action.index)
        self._suspend_if_all_wait()

    @contextlib.contextmanager
    def pause(self, action: Caller) -> Iterator[None]:
        """See `WriteTurn`."""
        self._waiting += 1
        try:
            self.leave(action)
            yield
        finally:
            self._waiting -= 1

    async def take_for_commit(self) -> None:
        """See `WriteTurn`."""
        await self.resume(patient=True)

    async def take_for_undo(self) -> None:
        """See `WriteTurn`."""
        await self.resume(patient=True)

    async def resume(self, *, patient: bool) -> None:
        """Take the tool's turn again, if it was released. Raises: StoreError `workspace_busy` unless `patient`."""
        if not self._origin.in_turn or self._outer.is_inside(self._origin):
            return
        work = self._outer.resume(self._origin, patient=patient)
        if self._outer.loop is asyncio.get_running_loop():
            await work
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._outer.loop))

    def _suspend_if_all_wait(self) -> None:
        if self._outer.loop is self._run.loop:
            self._suspend()
        else:
            self._outer.loop.call_soon_threadsafe(self._suspend)

    def _suspend(self) -> None:
        origin = self._origin
        proposals = self._outer.nested.get(origin.index)  # there are none if the last one ended before this was called
        if origin.in_turn and proposals and all(each.waits for each in proposals):
            self._outer.suspend(origin)
