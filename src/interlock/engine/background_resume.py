"""Continues runs in the background of a server: runs that have no process any more, and whose question has been answered.

After an approval the run continues. After a denial or an expiry it is rolled back, as its own process would have done. A run
whose question was withdrawn is left alone, because it was stopped on purpose.

The run's lock decides which process continues it: a live process keeps the lock, and only one of several others gets it. If
the run asks another question, this module does not wait for the answer; the answer starts it again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from interlock.engine.people.approval_desk import Desk
from interlock.engine.runtime import Runtime
from interlock.model.errors import InterlockError
from interlock.model.result import ProposalResult

LOOK_S: Final = 2.0
"""Poll interval: a process that dies while it holds a run sends no notification."""

_UNFINISHED: Final = ("running", "held", "interrupted")
_ANSWERED: Final = ("approved", "denied", "expired")
_LATER: Final = ("run_locked", "workspace_busy", "database_locked")
"""Another process is at work: try again later."""

Report = Callable[[str, list[ProposalResult] | Exception], None]
"""Called for each run that was continued, with its id and its results or error. With an empty id, no run could be examined."""


class Continuing:
    """Continues answered runs of one workspace, in the background of one process."""

    def __init__(self, runtime: Runtime, report: Report) -> None:
        """`runtime` must be a project's; from now on it does not wait for the answers to its runs' questions."""
        desk = runtime.approvals.desk
        assert desk.outlives, "nothing is kept, so there is nothing to continue"
        desk.wait = False
        self._runtime = runtime
        self._desk: Desk = desk
        self._report = report
        self._tried: dict[str, frozenset[str]] = {}
        """The answered questions of a run when it was last continued: it is tried again only if there is a new one."""

    async def go(self) -> None:
        """Call `look` after each change of a question and every `LOOK_S`, until cancelled. An interrupted run can be resumed."""
        async with self._subscribed() as touched:
            while True:
                touched.clear()
                await self.look()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await touched.wait()
                except TimeoutError:
                    pass

    async def look(self) -> None:
        """Continue every run that can continue now, one after the other."""
        try:
            due = await asyncio.to_thread(self._due)
        except InterlockError as error:
            self._report("", error)
            return
        for run_id, answered in due:
            try:
                results = await self._runtime.runs.resume(run_id)
            except Exception as error:  # noqa: BLE001 - a defect that one run meets must not keep all others waiting
                if isinstance(error, InterlockError) and error.code in _LATER:
                    continue
                if isinstance(error, InterlockError) and error.code == "client_call":
                    self._tried[run_id] = answered  # its coding agent executes the call, when it makes it again
                    continue
                self._report(run_id, error)
            else:
                self._report(run_id, results)
            self._tried[run_id] = answered

    def _due(self) -> list[tuple[str, frozenset[str]]]:
        """Unfinished runs that have an answer on which no process has acted, oldest first."""
        self._desk.store.expire()
        index = self._runtime.services.index
        rows = [row for status in _UNFINISHED for row in index.list_runs(status=status)]
        due = []
        for row in sorted(rows, key=lambda row: row.started_us):
            holds = self._desk.store.of_run(row.run_id)
            answered = frozenset(h.id for h in holds if h.status in _ANSWERED and h.consumed_by is None)
            if not answered <= self._tried.get(row.run_id, frozenset()):
                due.append((row.run_id, answered))
        return due

    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set when a question has changed, by any process."""
        touched = asyncio.Event()
        watch = self._desk.wake.watch()
        if watch is None:
            yield touched
            return
        loop = asyncio.get_running_loop()

        def on_touch() -> None:
            os.read(watch, 65536)
            touched.set()

        loop.add_reader(watch, on_touch)
        try:
            yield touched
        finally:
            loop.remove_reader(watch)
            os.close(watch)
