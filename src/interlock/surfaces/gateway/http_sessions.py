"""The sessions of older clients over HTTP, each until its client ends it, has not used it for long, or makes room for others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, NamedTuple

from interlock.engine.runtime import Runtime
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.session import Session
from interlock.surfaces.gateway.streams import Streams

SESSIONS_MAX: Final = 100
IDLE_S: Final = 3600.0
"""A session ends after this time without use."""


class Held(NamedTuple):
    """One session."""

    session: Session
    streams: Streams
    agent: Agent


class Sessions:
    """The sessions of one application, by name. Use it on one event loop; close it."""

    def __init__(self, runtime: Runtime) -> None:
        """None yet."""
        self._runtime = runtime
        self._held: dict[str, Held] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """Least recently used first."""
        self._ending: set[asyncio.Task[None]] = set()

    def all(self) -> Iterator[Held]:
        """Returns the sessions."""
        return iter(self._held.values())

    def find(self, name: str) -> Held | None:
        """Returns a session; None if there is none with this name."""
        return self._held.get(name)

    def add(self, name: str, held: Held) -> None:
        """Add a session under a new name."""
        self._held[name] = held
        self.touch(name)

    def touch(self, name: str) -> None:
        """Note that a session is used."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(IDLE_S, self.end, name)

    def make_room(self) -> bool:
        """Make room for one more: clients that were killed leave their sessions behind.

        The one that was not used for longest ends, of those whose client neither listens nor waits for an answer.
        Returns False if there are too many others.
        """
        if len(self._held) < SESSIONS_MAX:
            return True
        for name in self._timers:
            held = self._held[name]
            if not held.session.is_busy and not held.streams.readers:
                self.end(name)
                return True
        return False

    def end(self, name: str) -> None:
        """End a session, if there is one with this name."""
        held = self._held.pop(name, None)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if held is not None:
            task = asyncio.get_running_loop().create_task(self._close(held))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all sessions, and wait until their work has ended."""
        for name in list(self._held):
            self.end(name)
        if self._ending:
            await asyncio.wait(list(self._ending))

    async def _close(self, held: Held) -> None:
        await held.session.close()
        held.streams.end()
        await self._runtime.servers.end_session(held.agent.session)
