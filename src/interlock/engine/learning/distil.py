"""Learns from proposals after they end, on a thread. Findings are recorded in a separate run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Final

from interlock.engine.learning import evolve
from interlock.engine.learning.session_calls import SessionTasks, Task
from interlock.engine.learning.traces import RUN_TOOL, SKILL_SOURCE, is_use_of, state_before, trace_of
from interlock.engine.runs.run import Run
from interlock.engine.services import EndedProposal, Services, Withdrawn
from interlock.learning.skills import Skill, SkillStore
from interlock.learning.uses import Use
from interlock.model.errors import InterlockError
from interlock.model.events import Event, EvolutionTriggered, SkillDistilled

SOURCE: Final = "learning"
"""The source of the runs with these events."""
_QUEUED_MAX: Final = 1_000
"""Maximum number of waiting proposals. More are skipped, which loses only evidence."""


class Distiller:
    """Listens to ended proposals, and learns from them one after the other."""

    def __init__(self, services: Services, store: SkillStore) -> None:
        """The thread starts with the first proposal."""
        self._services = services
        self._store = store
        self._sessions = SessionTasks(services, store.calls)
        self._looked_back = False
        """True once the sessions of killed processes have been learnt from."""
        self._queue: queue.Queue[EndedProposal | str | None] = queue.Queue(_QUEUED_MAX)
        self._thread: threading.Thread | None = None

    def hear(self, ended: EndedProposal) -> None:
        """Queue an ended proposal. Returns at once."""
        if ended.dry_run or ended.result.status == "held" or ended.proposal.source == SOURCE:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="interlock-learning", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(ended)
        except queue.Full:
            self._services.hooks.notify(
                f"run `{ended.run_id}` was not learnt from: {_QUEUED_MAX} proposals are waiting already"
            )

    def undone(self, run: str, _action: str | None, _by: str) -> Sequence[Withdrawn]:
        """Remove an undone run's calls from the tasks of its session."""
        if self._thread is None:
            return ()
        try:
            self._queue.put_nowait(run)
        except queue.Full:
            self._services.hooks.notify(f"run `{run}` was undone, but may still be learnt from")
        return ()

    def wait_learnt(self) -> None:
        """Wait until everything that has ended so far was learnt from."""
        self._queue.join()

    def close(self) -> None:
        """Learn from the remaining proposals, and stop."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            ended = self._queue.get()
            try:
                if not self._looked_back:
                    self._looked_back = True
                    for task in self._sessions.take_abandoned():
                        self._learn_task(task)
                if ended is None:
                    for task in self._sessions.end():
                        self._learn_task(task)
                    return
                if isinstance(ended, str):
                    self._sessions.undone(ended)
                else:
                    self._learn(ended)
            except InterlockError as error:
                self._services.hooks.notify(f"nothing was learnt from a proposal: {error.message}")
            except Exception as error:  # noqa: BLE001 - an internal error must not end the thread, because others wait for it
                self._services.hooks.notify(
                    f"nothing was learnt from a proposal: a bug in Interlock ({type(error).__name__})"
                )
            finally:
                self._queue.task_done()

    def _learn(self, ended: EndedProposal) -> None:
        source = ended.proposal.source
        if source.startswith(SKILL_SOURCE):
            self._count(ended, source.removeprefix(SKILL_SOURCE))
            return
        if len(ended.proposal.actions) == 1 and not ended.proposal.by_client:
            for task in self._sessions.take(ended):
                self._learn_task(task)
            return
        found = trace_of(self._services, ended)
        if found is not None:
            self._say(ended.agent, self._store.learn(ended.agent, (ended.run_id,), ended.proposal.id, *found))

    def _learn_task(self, task: Task) -> None:
        self._say(task.agent, self._store.learn(task.agent, task.runs, "", task.trace, task.tools))

    def _say(self, agent: str, made: Skill | None) -> None:
        if made is not None:
            self._record(agent, SkillDistilled(count=1, names=(made.name,)))

    def _count(self, ended: EndedProposal, which: str) -> None:
        name, _, version = which.rpartition("@")
        if ended.result.status == "cancelled" or not version.isdecimal():
            return
        found = {row.status for row in ended.result.results}
        if "rejected" in found and found.isdisjoint(("failed", "unknown_outcome")):
            return  # a rule or a person refused it, which says nothing about the skill
        known = [one for one in self._store.versions(name) if one.version == int(version)]
        if not known or not is_use_of(self._services, ended.proposal, known[0].content.template):
            return
        succeeded = ended.result.status == "succeeded"
        use = Use(
            name=name, version=int(version), run=ended.run_id, proposal=ended.proposal.id, agent=ended.agent,
            succeeded=succeeded, failed=_failed(ended), state=state_before(self._services, ended),
        )  # fmt: skip
        for degraded in self._store.count_use(use):
            repairs = [evolve.repair(self._services, self._store, skill) for skill in degraded.versions]
            names = tuple(f"{one.skill.name}@{one.skill.version}" for one in repairs if one is not None)
            self._record(ended.agent, EvolutionTriggered(domain=degraded.domain, rate=degraded.rate, repairs=names))

    def _record(self, agent: str, event: Event) -> None:
        run = Run.start(self._services, agent=agent, source=SOURCE)
        try:
            if run.recorder is not None:
                run.recorder.record(event)
        finally:
            run.finish()


def _failed(ended: EndedProposal) -> str:
    """`STEP REASON` of the first step that failed; empty if none did."""
    rows = ended.result.results[1:] if ended.proposal.actions[0].tool == RUN_TOOL else ended.result.results
    found = [f"{step} {row.reason}" for step, row in enumerate(rows) if row.status in ("failed", "unknown_outcome")]
    return found[0] if found else ""
