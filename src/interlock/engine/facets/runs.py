"""`runtime.runs`: starts, lists, follows, undoes, recovers and resumes runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from interlock.approvals import Approver, Outcome
from interlock.approvals.hold import Surface
from interlock.engine.kit.execute import Asks
from interlock.engine.local.machine import user_name
from interlock.engine.people.questions import OnQuestion
from interlock.engine.proposals.decoding import decode
from interlock.engine.runs.run import Run
from interlock.engine.services import Services
from interlock.journal import MemoryJournal, RunRow, Tail, read
from interlock.lazy import lazy
from interlock.model.errors import ConfigurationError, UsageError
from interlock.model.events import Event, Unknown
from interlock.model.grant import OPERATOR
from interlock.model.result import NotUndone, ProposalResult
from interlock.workspace.names import NameJson

if TYPE_CHECKING:
    from interlock.engine.record import replay
    from interlock.engine.runs import kept_layers, recover, resume, stop_runs, undo_target, unknown_outcomes
    from interlock.engine.runs.stop import StopReport
    from interlock.telemetry import SpanRecord
    from interlock.telemetry import spans as span_records

    UnfinishedRuns = list[recover.Unfinished]
    StopReports = list[StopReport]
    LayerChanges = list[kept_layers.LayerChange]
    Spans = list[SpanRecord]
else:
    replay = lazy("interlock.engine.record.replay")
    kept_layers = lazy("interlock.engine.runs.kept_layers")
    recover = lazy("interlock.engine.runs.recover")
    resume = lazy("interlock.engine.runs.resume")
    stop_runs = lazy("interlock.engine.runs.stop_runs")
    undo_target = lazy("interlock.engine.runs.undo_target")
    unknown_outcomes = lazy("interlock.engine.runs.unknown_outcomes")
    span_records = lazy("interlock.telemetry.spans")

Results = list[ProposalResult]
FOLLOW_S: Final = 0.05
"""Poll interval of `follow`: another process may write the journal."""


class Runs:
    """The runs of a workspace."""

    def __init__(self, services: Services, asks: Asks, on_question: OnQuestion | None) -> None:
        """Use `runtime.runs`."""
        self._services = services
        self._asks = asks
        self._on_question = on_question

    def start(self, *, session: str | None = None, agent: str | None = None, source: str = "unknown") -> Run:
        """Start a run for several proposals, such as that of a gateway connection. Close it with `finish`."""
        if not self._services.index.in_order:
            self.recover()
        run = Run.start(self._services, agent=agent, session=session, source=source)
        run.on_question = self._on_question
        return run

    # -- inspect

    def list(
        self,
        *,
        session: str | None = None,
        status: str | None = None,
        agent: str | None = None,
        limit: int | None = None,
    ) -> Sequence[RunRow]:
        """Runs, newest first; all of them without a `limit`. A runtime that keeps no events has none. Raises: StoreError."""
        return self._services.index.list_runs(session=session, status=status, agent=agent, limit=limit)

    def get(self, run_id: str) -> RunRow:
        """A run's row in the index. Raises: UsageError `not_found`; StoreError."""
        return self._services.index.get(run_id)

    def results(self, run_id: str) -> Results:
        """The results of a run's proposals, from its journal. Raises: UsageError `not_found`; IntegrityError; StoreError."""
        replayed = replay.ReplayedRun(self._directory(run_id))
        return [replayed.result(proposal_id) for proposal_id in replayed.proposals]

    def events(self, run_id: str, *, start: int = 0) -> Iterator[Event | Unknown]:
        """The events of a run so far, in order, from number `start` on; from a journal, those that are on disk.

        Raises: UsageError `not_found`; IntegrityError `journal_corrupt` after the last intact event; StoreError.
        """
        kept = self._in_memory(run_id)
        if kept is not None:
            return iter(kept.events[start:])
        return read(self._directory(run_id), start=start)

    def spans(self, run_id: str) -> Spans:
        """The run as spans, in the order in which they ended. Raises: as `events`."""
        return span_records.spans_of(run_id, self.events(run_id))

    async def follow(self, run_id: str) -> AsyncIterator[Event | Unknown]:
        """The events of a run, from the first one, as they are written; ends when the run has ended, or waits to be resumed.

        Any process may execute the run. Raises: as `events`.
        """
        kept = self._in_memory(run_id)
        tail = Tail(self._directory(run_id)) if kept is None else None
        given = 0
        while True:
            over = self._is_over(run_id)  # looked up first, so that events written before the end are still read below
            if kept is not None:
                new: Sequence[Event | Unknown] = kept.events[given:]
            else:
                assert tail is not None
                new = [*tail.read_new()]
            given += len(new)
            for event in new:
                yield event
            if over and not new:
                return
            if not new:
                await asyncio.sleep(FOLLOW_S)

    def _is_over(self, run_id: str) -> bool:
        return self.get(run_id).status != "running"

    def _in_memory(self, run_id: str) -> MemoryJournal | None:
        kept = self._services.kept
        found = None if kept is None else kept.get(run_id)
        if found is None and self._services.state_dir is None:
            hint = "set `journal.durability` to `memory`" if kept is None else "the oldest runs make room for new ones"
            raise UsageError(f"no events of run `{run_id}` are kept", code="not_found", hint=hint)
        return found

    def _directory(self, run_id: str) -> Path:
        self.get(run_id)
        directory = self._services.state_dir
        if directory is None:
            raise UsageError("this runtime keeps no journals", code="not_available")
        return directory / "runs" / run_id

    # -- undo, recover, resume

    async def undo(
        self, run_id: str, action_id: str | None = None, *, force: bool = False, skip_changed: bool = False
    ) -> ProposalResult:
        """Undo a run (or one action of it), as the person at the command line. The undo is itself a run, and undoable.

        It refuses if others have changed a path since, unless `force` (overwrite, with a backup) or `skip_changed` is set.

        It does not depend on the rules or the tool modules: with rules that cannot be used, everything except compensations
        (which the rules judge) is undone. A run that still waits, for example for an answer, is asked to stop first. Raises: as
        `Runtime.execute`; StoreError `run_locked` if the run is executing an action (`stop` it first).
        """
        if not self._services.index.in_order:
            self.recover()
        try:
            await self._services.load_tools()
        except ConfigurationError as error:  # actions that their tools have to compensate are then in `not_undone`
            self._services.hooks.notify(f"undo continues without the tool modules: {error.message}")
        services = self._services.for_undo()
        if action_id is None:
            await undo_target.stop_target(services, run_id, by=user_name())
        parameters: dict[str, Any] = {"run": run_id, "force": force}
        parameters |= {"skip_changed": True} if skip_changed else {}
        parameters |= {} if action_id is None else {"action": action_id}
        # `skip`: an undo that stops half way is not rolled back itself.
        action: dict[str, Any] = {"type": "tool_call", "id": "undo", "tool": "undo", "parameters": parameters}
        run = Run.start(services, agent=OPERATOR, source="undo")
        try:
            document = {"actions": [action | {"failure_behavior": "skip"}]}
            result = await run.take(decode(document, services.bounds.limits))
            output = result.results[0].output
            if isinstance(output, dict):
                left = output.get("not_undone", [])
                result.not_undone = [
                    NotUndone(action_id=one["action"], reason=one["reason"], detail=one["detail"]) for one in left
                ]
            return result
        finally:
            run.finish()

    # -- layers that wait for a commit

    def diff(self, run_id: str, paths: Sequence[NameJson] = (), *, content: bool = False) -> LayerChanges:
        """The changes in the kept layers of a run, by layer and path; with `paths`, those at or below them.

        With `content`, each change has a diff of its text, redacted as in a question. Raises: UsageError
        `layer_missing`, `path_unchanged`; StoreError, IntegrityError.
        """
        return kept_layers.diff_layers(self._services, run_id, paths, content=content)

    async def commit(self, run_id: str, paths: Sequence[NameJson] = ()) -> kept_layers.LayerReport:
        """Commit the kept layers of a run, or only the changes at or below `paths`.

        Raises: UsageError `layer_missing`, `path_unchanged`; ConflictError `commit_incomplete` (the rest was committed);
        StoreError `run_locked`.
        """
        return await kept_layers.commit_layers(self._services, run_id, paths)

    def discard(self, run_id: str) -> kept_layers.LayerReport:
        """Drop the kept layers of a run with everything in them. Raises: UsageError `layer_missing`, StoreError `run_locked`."""
        return kept_layers.discard_layers(self._services, run_id)

    async def stop(
        self,
        run_id: str | None = None,
        *,
        reason: str = "",
        by: str | None = None,
        wait_ms: int = 10_000,
        kill: bool = False,
    ) -> StopReports:
        """Stop a run, whichever process or thread executes it; None stops all active runs. Completed actions are not undone.

        Waits up to `wait_ms` until no part of it is running any more; with `kill`, a process that has not stopped it by then is
        killed. The journal names `by`, by default the user. A stopped run has ended; `undo` undoes it. Raises:
        UsageError `not_found`, `run_finished`; StoreError.
        """
        return await stop_runs.stop_runs(self._services, run_id, reason=reason, by=by, wait_ms=wait_ms, kill=kill)

    async def end_left(self, reports: Sequence[StopReport]) -> StopReports:
        """End those of the stopped runs that have no process any more. Raises: StoreError, IntegrityError."""
        return await stop_runs.end_left_runs(self._services, reports)

    def answer_outcome(
        self, run_id: str, action: str, answer: unknown_outcomes.Answer, approver: Approver, surface: Surface
    ) -> Outcome:
        """Record the outcome of an action whose outcome is unknown; `resume` then continues its run.

        Raises: UsageError `not_found` if the action has no unknown outcome; StoreError `run_locked` if its process is alive.
        """
        services = self._services
        directory = resume.run_directory(services, run_id)
        return unknown_outcomes.answer_outcome(
            services.desk, services.disk, directory, action, answer, approver, surface
        )

    def stop_sync(self, run_id: str | None = None, **options: Any) -> StopReports:
        """`stop` from a thread without an event loop."""
        return asyncio.run(self.stop(run_id, **options))

    def recover(self) -> UnfinishedRuns:
        """Put the journals of runs whose process ended in order, newest run first, and report what each needs to continue.

        Runs nothing: `resume` continues a run. The first `execute` does this too, so that no run starts while a journal is not
        in order. Raises: StoreError.
        """
        services = self._services
        found = []
        if services.state_dir is not None:
            root = None if services.workspace is None else services.workspace.root
            found = recover.recover_all(
                services.db, services.index, services.state_dir / "runs", services.disk, services.desk, root=root
            )
        services.index.in_order = True
        return found

    async def resume(
        self,
        run_id: str,
        answers: Mapping[str, unknown_outcomes.Answer] | None = None,
        *,
        by: str = "",
        wait: bool = True,
        on_question: OnQuestion | None = None,
    ) -> Results:
        """Finish a run whose process ended, or that was left held; `answers` settle unknown outcomes.

        `answers` are by action id: `again`, `succeeded`, `failed` or `undo`; `by` is the person who gives them. `wait` and
        `on_question` are as for `Runtime.execute`. Raises: UsageError `not_found`; StoreError; IntegrityError.
        """
        await self._services.load_tools()
        async with self._asks(wait, on_question):
            return await resume.resume(self._services, run_id, answers, by=by)
