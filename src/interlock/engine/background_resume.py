"""Continues runs whose process is gone, once the question they waited for is answered: what a server does in the background.

An approval lets the run continue. A denial or an expiry ends it as its process would have: what was done is undone. A question
that was withdrawn leaves the run alone: the run was stopped on purpose.

The run's lock decides who continues it: a live process keeps it, and of two that try, one gets it. What a run asks anew is
not waited for here; the answer brings it back.
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
"""Told of each run that was continued: its id, and what came of it. An id that is empty: no run could be looked at."""


class Continuing:
    """The background work of one process for one workspace."""

    def __init__(self, runtime: Runtime, report: Report) -> None:
        """`runtime` must be one of a project; from now on it does not wait for the questions of its runs."""
        desk = runtime.approvals.desk
        assert desk.outlives, "nothing is kept, so there is nothing to continue"
        desk.wait = False
        self._runtime = runtime
        self._desk: Desk = desk
        self._report = report
        self._tried: dict[str, frozenset[str]] = {}
        """The answered questions that a run had when it was last continued: without a new one it is not tried again."""

    async def go(self) -> None:
        """Look, whenever a question has changed and every `LOOK_S`, until cancelled. A run that is under way can be resumed."""
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
        """Continue what can be continued now, one run after the other."""
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
                    self._tried[run_id] = answered  # its coding agent carries it out, when it calls again
                    continue
                self._report(run_id, error)
            else:
                self._report(run_id, results)
            self._tried[run_id] = answered

    def _due(self) -> list[tuple[str, frozenset[str]]]:
        """Unfinished runs with an answer that no process has acted on, oldest first."""
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
