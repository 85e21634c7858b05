"""Finds and settles undos whose process died before their outcome was recorded.

An undo compares states, so it can continue where it stopped. But once another undo of the same target has succeeded, the dead
one has nothing left to do, and continuing it could only destroy later changes by a person. So the undo that succeeds settles the
others: their action gets its outcome, and a run that consisted only of such an undo ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.record.replay import ReplayedProposal, ReplayedRun
from interlock.engine.runs.recover import OPEN_STATUSES, adopt_orphans, apply_commits
from interlock.engine.runs.run import Run
from interlock.engine.services import Services
from interlock.journal import recover
from interlock.journal.recovered import RecoveredRuns
from interlock.model.errors import IntegrityError, InterlockError, StoreError, UsageError
from interlock.model.events import ActionDeduplicated
from interlock.model.grant import OPERATOR
from interlock.model.proposal import Action
from interlock.workspace.backups import read_entries
from interlock.workspace.names import Rel
from interlock.workspace.undo import discard_temporaries, plan_undo

_CLOCK_SLACK_US: Final = 3_600_000_000
"""How much older the file system's time of an index may be than its newest entry."""


class DeadUndo(NamedTuple):
    """An unfinished run whose process is gone, with actions that undo the same target."""

    replayed: ReplayedRun
    actions: list[tuple[str, str]]
    """Pairs of proposal and action."""
    nothing_else: bool
    """True if the run has no other action, so that it ends once these are settled."""


def find_dead_undos(services: Services, target: str, action: str | None, *, own: str) -> list[DeadUndo]:
    """The unfinished undos of run `target` that an undo of it (of `action`; None: of all) replaces.

    `own` is the calling run. A run whose process is alive is omitted, and so is one that cannot be read, because it cannot be
    resumed either. Raises: StoreError.
    """
    if services.state_dir is None:
        return []
    adopt_orphans(services.index, services.state_dir / "runs", services.disk)
    rows = [row for status in OPEN_STATUSES for row in services.index.list_runs(status=status)]
    quiet = (row.run_id for row in rows if row.status != "running")
    known = RecoveredRuns(services.db).unchanged(services.state_dir / "runs", quiet)
    found = []
    for row in rows:
        if row.run_id in (own, target):
            continue
        if (facts := known.get(row.run_id)) is not None and not facts.undoes:
            continue
        directory = services.state_dir / "runs" / row.run_id
        with contextlib.suppress(InterlockError):
            report = recover(directory, services.disk)
            replayed = ReplayedRun(directory, open_only=True)
            replayed.add_torn(report.intents)
            apply_commits(services.db, replayed)
            actions = list(_undos_of(replayed, target, action))
            if actions and replayed.finished is None:
                found.append(DeadUndo(replayed, actions, _is_nothing_else(replayed, actions)))
    return found


def _undos_of(replayed: ReplayedRun, target: str, action: str | None) -> Iterator[tuple[str, str]]:
    for proposal_id, known in replayed.proposals.items():
        for one in replayed.proposal(known).actions:
            if one.type == "tool_call" and one.tool == UNDO_TOOL and _is_unsettled(known, one.id):
                parameters = _parameters(replayed, known, one)
                if parameters.get("run") == target and action in (None, parameters.get("action")):
                    yield proposal_id, one.id


def _is_unsettled(known: ReplayedProposal, action_id: str) -> bool:
    """True if the undo can still have an effect: it has no outcome, or state that is not committed.

    One that has not started counts only in a person's run: an agent's plan may reach it later.
    """
    if known.committed is not None:
        return False
    done = known.actions.get(action_id)
    if done is None or (done.row is None and not (done.open or done.interrupted)):
        return known.received.agent == OPERATOR
    return done.row is None or done.row.status in ("succeeded", "not_undone")


def _parameters(replayed: ReplayedRun, known: ReplayedProposal, action: Action) -> dict[str, Any]:
    done = known.actions.get(action.id)
    value = replayed.value(done.parameters) if done is not None and done.parameters is not None else action.parameters
    return value if isinstance(value, dict) else {}


def _is_nothing_else(replayed: ReplayedRun, actions: list[tuple[str, str]]) -> bool:
    count = sum(known.received.action_count for known in replayed.proposals.values())
    return count == len(actions)


def find_later_change(services: Services, paths: set[Rel], *, own: str) -> tuple[str, Rel] | None:
    """A run that has recorded a change of one of `paths` since run `own` started, and that path. None if there is none.

    Used by an undo that continues after its process died: content that another run has written since may equal a state that
    the undo expects, but must be kept. Raises: IntegrityError, StoreError, UsageError.
    """
    if services.state_dir is None:
        return None
    began = services.index.get(own).started_us
    for directory in sorted((services.state_dir / "runs").iterdir()):
        index = directory / "backups" / "index.ndjson"
        if directory.name == own or not index.is_file() or index.stat().st_mtime_ns // 1000 < began - _CLOCK_SLACK_US:
            continue
        for entry in read_entries(directory):
            if entry.ts >= began and entry.rel in paths:
                return directory.name, entry.rel
    return None


def clear(services: Services, dead: DeadUndo) -> None:
    """Remove the temporary files that it left next to the files it restored. Raises: ToolError, IntegrityError, StoreError."""
    for proposal, action in dead.actions:
        clear_action(services, dead.replayed, proposal, action)


def clear_action(services: Services, replayed: ReplayedRun, proposal: str, action: str) -> None:
    """Remove the temporary files of one interrupted action. Raises: ToolError, IntegrityError, StoreError."""
    if services.workspace is not None:
        entries = plan_undo(replayed.directory, proposal=proposal, action=action)
        discard_temporaries(services.workspace, replayed.directory, entries)


def settle(services: Services, dead: DeadUndo, source: str, output: dict[str, Any]) -> None:
    """Give the dead undo the outcome of the one that succeeded; `source` is that one's `run/proposal/action`.

    A run that another process has resumed meanwhile is left alone: it checks again before it changes anything.
    """
    replayed = dead.replayed
    started = replayed.started
    assert started is not None
    with contextlib.suppress(StoreError, IntegrityError, UsageError):
        at = services.index.check_not_behind(replayed.directory).head.seq
        run = Run.resume(services, replayed.directory.name, agent=started.agent, session=started.session, at=at)
        try:
            recorder = run.recorder
            assert recorder is not None
            for proposal, action in dead.actions:
                done = ActionDeduplicated(source=source, output=recorder.keep(output))
                recorder.record(done, proposal, action, 10)
            if dead.nothing_else:
                for proposal in replayed.proposals:
                    run.count(replayed.result(proposal))
                run.abandon()
            else:
                run.leave()
        except BaseException:
            run.leave()
            raise
        finally:
            run.finish()
