"""Single calls, such as those of an agent at a surface: several calls of one session together form a task to learn from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from interlock.engine.learning.traces import STEPS_MAX, STEPS_MIN, step_of
from interlock.engine.services import EndedProposal, Services
from interlock.journal.lock import started_of
from interlock.learning.align import Step, Trace
from interlock.learning.episodes import SessionCalls
from interlock.learning.open_calls import OpenCall, OpenCallStore

_SESSIONS_MAX: Final = 200
_LOOKING: Final = ("memory.read", "memory.read_agent", "skills.find")
"""Tools with which an agent searches for what was learnt. They do not belong to a task."""


class Task(NamedTuple):
    """The calls of one task."""

    agent: str
    runs: tuple[str, ...]
    trace: Trace
    tools: dict[str, str]


class SessionTasks:
    """Finds tasks in the calls of sessions. Not thread-safe."""

    def __init__(self, services: Services, store: OpenCallStore) -> None:
        """Start without sessions. Calls that are not a task yet are also stored, in case this process is killed."""
        self._services = services
        self._store = store
        self._owner = _owner(services.boot, os.getpid())
        self._sessions: dict[tuple[str, str], SessionCalls[OpenCall]] = {}

    def take_abandoned(self) -> Iterator[Task]:
        """The remaining calls of sessions whose process was killed, as far as they form a task."""

        def is_alive(owner: str) -> bool:
            boot, pid, _ = owner.split(":")
            return owner == _owner(boot, int(pid)) and boot == self._services.boot

        for agent, calls in self._store.take_abandoned(is_alive):
            if STEPS_MIN <= len(calls) <= STEPS_MAX:
                yield _task(agent, calls)

    def take(self, ended: EndedProposal) -> Iterator[Task]:
        """Handle the end of a call. Yields the tasks that it completes; an earlier session of the agent ends with it."""
        session, action = ended.session, ended.proposal.actions[0]
        if session is None or action.tool in _LOOKING:
            return
        for key in [key for key in self._sessions if key[0] == ended.agent and key[1] != session]:
            yield from self._rest(key)
        if len(self._sessions) >= _SESSIONS_MAX and (ended.agent, session) not in self._sessions:
            yield from self._rest(next(iter(self._sessions)))
        if ended.result.status != "succeeded":
            return
        calls = self._sessions.setdefault((ended.agent, session), SessionCalls(shortest=STEPS_MIN, longest=STEPS_MAX))
        call = self._call(ended)
        shape = None if call is None else Trace(order="declared", steps=(call.step,)).shape
        parts = calls.add(shape, call or OpenCall(ended.run_id, Step(type=action.type), None))
        if parts or call is None:
            self._store.clear(self._owner, ended.agent, session)
        else:
            self._store.add(self._owner, ended.agent, session, call)
        for part in parts:
            yield _task(ended.agent, part)

    def undone(self, run: str) -> None:
        """Remove an undone run's call from its task."""
        self._store.remove(run)
        for calls in self._sessions.values():
            gone = {index for index, call in enumerate(calls.payloads) if call.run == run}
            if gone:
                calls.remove(gone)

    def end(self) -> Iterator[Task]:
        """End all known sessions."""
        for key in list(self._sessions):
            yield from self._rest(key)

    def _rest(self, key: tuple[str, str]) -> Iterator[Task]:
        left = self._sessions.pop(key).rest()
        self._store.clear(self._owner, *key)
        if left:
            yield _task(key[0], left)

    def _call(self, ended: EndedProposal) -> OpenCall | None:
        step = step_of(self._services, ended)
        if step is None:
            return None
        tool = self._services.registry.find(step.tool)
        return OpenCall(ended.run_id, step, None if tool is None else tool.version)


def _task(agent: str, calls: Sequence[OpenCall]) -> Task:
    steps = tuple(
        msgspec.structs.replace(call.step, needs=(index - 1,) if index else ()) for index, call in enumerate(calls)
    )
    tools = {call.step.tool: call.version for call in calls if call.step.tool is not None and call.version is not None}
    return Task(agent, tuple(call.run for call in calls), Trace(order="declared", steps=steps), tools)


def _owner(boot: str, pid: int) -> str:
    """Identifies a process, to tell it from a later one with the same id."""
    return f"{boot}:{pid}:{started_of(str(pid))}"
