"""Calls of one agent and session that follow each other closely share a run, if they can neither wait for a person nor be undone.

A run of its own costs such a call several times what the call costs: a directory, a lock, a journal, a signed head, a row in the
index, and their syncs. In a shared run a call is still a proposal of its own, with its own decision, intent, outcome and result.
The run ends when no call has come for `IDLE_S`, so that its head is signed soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from functools import partial

import msgspec

from interlock.engine.proposals.budget import budget_of
from interlock.engine.runs.run import Run
from interlock.engine.services import Services
from interlock.engine.tools.registry import Registered
from interlock.journal.stops import StopRequest
from interlock.model.errors import ProposalError, StoreError
from interlock.model.grant import OPERATOR, Principal
from interlock.model.proposal import SHARED_SOURCE, Proposal
from interlock.model.result import ProposalResult

IDLE_S = 1.0
"""How long a run waits for another call before it ends."""
CALLS_MAX = 1_000
"""So that the journal of a run stays short."""

_Key = tuple[int, str, str | None]


class _Shared:
    """An open run, and the calls in it."""

    __slots__ = ("begun", "ended", "in_flight", "loop", "retired", "run", "timer")

    def __init__(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        self.run = run
        self.loop = loop
        self.begun = 0
        self.in_flight = 0
        self.ended = False
        self.retired = False
        """True once it takes no further calls."""
        self.timer: asyncio.TimerHandle | None = None

    @property
    def takes_calls(self) -> bool:
        """False once the run was stopped, had its last call, or cannot continue."""
        return not self.retired and self.run.switch.request is None


class SharedRuns:
    """The open shared runs of a runtime. Safe to use from several event loops; each has its own runs."""

    def __init__(self, services: Services) -> None:
        """No run is open."""
        self._services = services
        self._open: dict[_Key, _Shared] = {}
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        """A number for the name of a call's action: names are unique in a run, because outcomes are settled by name."""
        return next(self._numbers)

    def suits(self, tool: str, agent: str, session: str | None) -> bool:
        """True if the calls of a tool may share a run: they leave nothing to undo, and no rule can hold one of them."""
        services = self._services
        mcp, found = services.mcp, services.registry.find(tool)
        if mcp is None or found is None or mcp.definition(tool) is None:
            return False
        if budget_of(services.settings.budget.run) is not None:  # what one run may spend is for one call
            return False
        return _leaves_nothing(found) and self._is_settled(found, agent, session)

    def _is_settled(self, tool: Registered, agent: str, session: str | None) -> bool:
        """True if the rules allow every call of the tool; known after a session's first call of it."""
        self._services.refresh()
        judges = self._services.judges.current(session)
        principal: Principal = judges.principal(agent, session)
        if judges.code_rules and judges.code_rules.cover(tool.name):
            return False
        settled = judges.settled(principal, tool)
        return settled is not None and settled.decision == "allow"

    def enter(self, proposal: Proposal, agent: str, session: str | None) -> SharedCall:
        """Open the run if there is none, and give the call its place in it. Raises: StoreError."""
        loop = asyncio.get_running_loop()
        key = (id(loop), agent, session)
        shared = self._open.get(key)
        if (
            shared is None or shared.loop is not loop or not shared.takes_calls
        ):  # an ended loop may have had the same id
            if shared is not None and shared.loop is not loop:
                self._end(shared)
            own = None if agent == OPERATOR else agent
            run = Run.start(self._services, agent=own, session=session, source=SHARED_SOURCE)
            shared = self._open[key] = _Shared(run, loop)
            run.switch.on_pull = partial(self._stopped, shared)
        if shared.timer is not None:
            shared.timer.cancel()
            shared.timer = None
        shared.begun += 1
        shared.in_flight += 1
        shared.retired = shared.begun >= CALLS_MAX
        proposal = msgspec.structs.replace(proposal, id=self._services.ids.new("prop"))
        return SharedCall(self, shared, proposal)

    def leave(self, shared: _Shared, *, failed: bool) -> None:
        """A call has ended. If its run cannot continue (`failed`), the next call gets another one. Raises: StoreError."""
        shared.in_flight -= 1
        shared.retired = shared.retired or failed
        if shared.in_flight:
            return
        if not shared.retired:
            shared.timer = shared.loop.call_later(IDLE_S, self._end_idle, shared)
        elif failed:
            with contextlib.suppress(StoreError):  # the caller already gets an error
                self._end(shared)
        else:
            self._end(shared)

    def _stopped(self, shared: _Shared) -> None:
        """A person has stopped the run, from any thread: end it soon, because it may be about to be undone."""
        with contextlib.suppress(RuntimeError):  # its loop is closed: the runtime ends the run
            shared.loop.call_soon_threadsafe(self._end_stopped, shared)

    def _end_stopped(self, shared: _Shared) -> None:
        shared.retired = True
        if not shared.in_flight:
            self._end_idle(shared)

    def close(self) -> None:
        """End all runs. Raises: StoreError."""
        for shared in list(self._open.values()):
            self._end(shared)

    def _end_idle(self, shared: _Shared) -> None:
        try:
            self._end(shared)
        except StoreError as error:
            self._services.hooks.notify(f"the end of run `{shared.run.id}` could not be recorded: {error.message}")

    def _end(self, shared: _Shared) -> None:
        if shared.ended:
            return
        shared.ended = True
        if shared.timer is not None:
            shared.timer.cancel()
            shared.timer = None
        for key, found in list(self._open.items()):
            if found is shared:
                del self._open[key]
        shared.retired = True
        shared.run.finish()


class SharedCall:
    """One call in a shared run."""

    def __init__(self, runs: SharedRuns, shared: _Shared, proposal: Proposal) -> None:
        """Made by `SharedRuns.enter`."""
        self._runs = runs
        self._shared = shared
        self._proposal = proposal

    @property
    def run_id(self) -> str:
        """The shared run."""
        return self._shared.run.id

    async def run(self) -> ProposalResult:
        """Take the call through the gate. Raises: as `Run.take`."""
        ended = False
        try:
            result = await self._shared.run.take(self._proposal, refreshed=True)
            ended = result.status != "held"
        except ProposalError:
            ended = True
            raise
        finally:
            self._runs.leave(self._shared, failed=not ended)
        return result

    def stop(self, request: StopRequest) -> None:
        """Stop this call, and no other of the run."""
        self._shared.run.switch.stop_proposal(self._proposal.id, request)


def _leaves_nothing(tool: Registered) -> bool:
    """True if a call of the tool has no effect that Interlock could undo, waits for no other call, and is not stored."""
    plain = tool.plain and tool.tool.compensation is None and not tool.touches_files and not tool.reads_files
    return plain and tool.mode == "async"
