"""The function of the tool `undo`: undoes an earlier run, or one action of it, through the gate like any other action.

Files are restored from that run's backups (overwritten content is backed up here, so an undo can be undone), compensable actions
are compensated, and state keys get their previous values. Anything that was changed since is a conflict: then no part of that
action is undone unless forced, or only the changed paths are left out, and named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interlock.engine.completion.undo import (
    changed_by_compensation,
    entries_to_restore,
    is_left_to_git,
    leftovers,
    restore_files,
    source,
)
from interlock.engine.gate.entailed import require_judged
from interlock.engine.local.machine import user_name
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.record.replay import ReplayedAction, ReplayedProposal, ReplayedRun
from interlock.engine.runs.dead_undos import DeadUndo, clear, find_dead_undos, find_later_change, settle
from interlock.engine.runs.kept_layers import drop_layers
from interlock.engine.runs.resume import abandon
from interlock.engine.runs.undo_compensation import CompensationUndo
from interlock.engine.runs.undo_marks import UndoMarks
from interlock.engine.runs.undo_state import StateUndo
from interlock.engine.runs.undo_target import bring_to_rest, ended_by_undo, replay_target, require_whole
from interlock.engine.services import Services
from interlock.engine.tools.registry import Registry
from interlock.model.errors import ConflictError, IntegrityError, InterlockError, StoreError, ToolError, UsageError
from interlock.model.grant import OPERATOR
from interlock.model.proposal import Action
from interlock.model.tool import PROCESS_NOTES
from interlock.workspace import Entry, Restored
from interlock.workspace.names import Rel, show, stored, to_json
from interlock.workspace.undo import (
    Changed,
    UndoConflictError,
    discard_temporaries,
    find_conflicts,
    plan_by_action,
    plan_undo,
)

_NEVER_UNDONE = frozenset({"not_exactly_undoable", "irreversible"})
"""Effects that cannot be undone at all are reported and are not a failure of the undo; all other remaining effects are."""
_CHANGED_SINCE = frozenset({"undo_conflict", "state_conflict"})
"""Reasons that are not a failure either, if the caller asked to skip changed paths."""


class Undo:
    """One call of the tool."""

    def __init__(self, services: Services, ctx: ActionContext, *, force: bool, skip_changed: bool) -> None:
        self._services = services
        self._run = ctx.run
        self._index = ctx.index
        self._reach = ctx.reach
        self._resumed = ctx.run.attempts_before.get(ctx.index, 0) > 0
        # `force` covered only the content at that time: an undo that is resumed after its process died checks again.
        self._force = force and not self._resumed
        self._skip = skip_changed
        self._restored: list[dict[str, Any]] = []
        self._not_undone: dict[tuple[str, str, str], dict[str, str]] = {}
        self._learnt: list[dict[str, str]] = []
        # Read once for all actions: an undo may have a hundred thousand.
        self._entries: dict[tuple[str, str], list[Entry]] | None = None
        self._state = StateUndo(self._run, self._index, self._reach, self._leave, force=self._force)
        # Without journals `_replay` refuses, before anything is marked.
        self._marks = UndoMarks(services, (services.state_dir or Path()) / "runs")
        self._calls = CompensationUndo(self._run, self._index, self._marks, self._leave, force=self._force)

    async def undo(self, run_id: str, action: str | None) -> dict[str, Any]:
        """Undo the actions of the run's proposals, newest first.

        This ends an unfinished run. Raises: ToolError `undo_conflict` (nothing was changed), `undo_incomplete`,
        `undo_denied`, `nothing_to_undo`, `run_unfinished`.
        """
        services = self._services
        replayed = self._replay(run_id, action)
        for proposal in reversed(replayed.proposals.values()):
            if proposal.received.agent != self._run.principal.agent != OPERATOR:
                raise ToolError(
                    "an agent undoes only what it did itself",
                    code="undo_denied",
                    path="$.parameters.run",
                    retryable=False,
                    hint="a person can: `interlock undo`",
                )
        require_judged(self._run, self._index, {"run": run_id, "action": action})
        replayed = await self._bring_to_rest(replayed, run_id, action)
        chosen = [
            (proposal, one)
            for proposal in reversed(replayed.proposals.values())
            for one in self._chosen(replayed, proposal, action)
        ]
        if not chosen and replayed.finished is not None and not ended_by_undo(services, run_id):
            what = f"no action `{action}` that did something" if action else "nothing that could be undone"
            raise ToolError(f"run `{run_id}` has {what}", code="nothing_to_undo", retryable=False)
        # Damaged: each action reads its own lines, and those that are intact are restored.
        with contextlib.suppress(IntegrityError):
            self._entries = plan_by_action(replayed.directory)
        dead = self._find_dead(run_id, action)
        if self._resumed:
            self._look_for_later_runs(replayed, chosen)
        if not self._force:
            self._look_first(replayed, chosen)
        if replayed.finished is None:
            with _as_tool_error():
                abandon(services, replayed)
        try:
            for proposal, one in chosen:
                await self._undo_action(replayed, proposal, one)
        finally:
            self._marks.close()
        self._forget(replayed, action)
        accepted = _NEVER_UNDONE | _CHANGED_SINCE if self._skip else _NEVER_UNDONE
        left = [one for one in self._not_undone.values() if one["reason"] not in accepted]
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise ToolError(
                f"`{left[0]['action']}` was not undone: {left[0]['detail']}{more}",
                code="undo_incomplete",
                retryable=False,
                output=self._output(),
            )
        own = source(self._run.files.id, self._run.proposal.id, self._run.proposal.actions[self._index].id)
        for undo in dead:
            settle(services, undo, own, self._output())
        return self._output()

    def _forget(self, replayed: ReplayedRun, action: str | None) -> None:
        """Drop the run's cached results, the skills learnt from it, and its kept layers."""
        services, run_id = self._services, replayed.directory.name
        if action is None:
            drop_layers(services, replayed.directory)
        services.idempotency.delete(run_id, action=action)
        services.calls.forget_run(run_id)
        services.cache.clear()
        for tell in services.hooks.undone:
            self._learnt += [one._asdict() for one in tell(run_id, action, self._run.files.id)]

    def _find_dead(self, run_id: str, action: str | None) -> list[DeadUndo]:
        """The undos of the same target whose process died, without the temporary files that they left. Raises: ToolError."""
        with _as_tool_error():
            dead = find_dead_undos(self._services, run_id, action, own=self._run.files.id)
            for one in dead:
                clear(self._services, one)
        return dead

    def _replay(self, run_id: str, action: str | None) -> ReplayedRun:
        """Replay the journal of the run. Raises: ToolError."""
        services = self._services
        if services.state_dir is None:
            raise ToolError(
                "this runtime keeps no journals, so nothing can be undone", code="not_found", retryable=False
            )
        if run_id == self._run.files.id:
            raise ToolError("a run cannot undo itself", code="usage", retryable=False)
        with _as_tool_error():
            services.index.get(run_id)
            replayed = replay_target(services.state_dir / "runs" / run_id)
            require_whole(replayed, action)
        return replayed

    async def _bring_to_rest(self, replayed: ReplayedRun, run_id: str, action: str | None) -> ReplayedRun:
        """Wait until the run has stopped, and replay it again. Raises: ToolError."""
        if replayed.finished is not None:
            return replayed
        agent = self._run.principal.agent
        by = user_name() if agent == OPERATOR else agent
        with _as_tool_error():
            why = f"run `{self._run.files.id}` undoes it"
            replayed = await bring_to_rest(self._services, replayed, by=by, why=why)
        # An action may have ended before the run stopped.
        require_judged(self._run, self._index, {"run": run_id, "action": action})
        return replayed

    def _look_for_later_runs(self, replayed: ReplayedRun, chosen: list[tuple[ReplayedProposal, Action]]) -> None:
        """Refuse to continue if another run has changed one of the files since this undo began. Raises: ToolError."""
        run_id = replayed.directory.name
        paths = {entry.rel for entry in _entries_of(replayed, chosen)}
        with _as_tool_error():
            later = find_later_change(self._services, paths, own=self._run.files.id)
        if later is not None:
            raise ToolError(
                f"run `{later[0]}` has changed `{show(later[1])}` since this undo began, so it does not continue",
                code="undo_conflict",
                retryable=False,
                hint=f"look at it; if it is still to be undone, begin again: `interlock undo {run_id}`",
            )

    def _look_first(self, replayed: ReplayedRun, chosen: list[tuple[ReplayedProposal, Action]]) -> None:
        """Refuse before anything is changed if a file was changed since. Raises: ToolError `undo_conflict`, `undo_blocked`."""
        workspace = self._services.workspace
        if workspace is None:
            return
        with _as_tool_error():
            entries = _entries_of(replayed, chosen)
            discard_temporaries(
                workspace, replayed.directory, entries
            )  # of an interrupted commit: nobody else changed them
            if self._skip:
                return
            beside = _left_to_git(self._services.registry, chosen, entries)
            conflicts = [path for path in find_conflicts(workspace, replayed.directory, entries) if path not in beside]
            if conflicts:
                raise UndoConflictError(conflicts, replayed.directory)

    def _output(self) -> dict[str, Any]:
        return {
            "restored": self._restored,
            "compensated": self._calls.made,
            "state": self._state.keys,
            "learnt": self._learnt,
            "not_undone": list(self._not_undone.values()),
        }

    def _chosen(self, replayed: ReplayedRun, known: ReplayedProposal, action: str | None) -> list[Action]:
        """The actions to undo, newest first: those that succeeded, or were interrupted."""
        by_id = {a.id: a for a in replayed.proposal(known).actions}
        self._calls.learn(known.received.proposal or "", by_id)
        ended = [action_id for action_id, _ in known.outcomes]
        ended += [action_id for action_id, one in known.actions.items() if one.interrupted or one.open]
        return [
            by_id[a] for a in dict.fromkeys(reversed(ended)) if action in (None, a) and _did_something(known.actions[a])
        ]

    async def _undo_action(self, replayed: ReplayedRun, known: ReplayedProposal, action: Action) -> None:
        done = known.actions[action.id]
        proposal_id = known.received.proposal or ""
        tool = self._services.registry.find(done.tool)
        if action.type in ("state_read", "assertion") or (tool is not None and tool.read_only):
            return
        compensated = await self._calls.compensate(replayed, known, action, done)
        touched = self._restore_files(replayed, proposal_id, action.id, compensated)
        touched = self._state.restore(known, action.id) or touched or _stayed_in_layer(done)
        notes = [*dict.fromkeys(done.not_undoable)]
        if compensated is not None:
            notes = [note for note in notes if note not in PROCESS_NOTES]
        for left in leftovers(action, tool, compensated=compensated, touched=touched, notes=notes):
            self._leave(action.id, left.reason, left.detail)

    def _leave(self, action: str, reason: str, detail: str) -> None:
        self._not_undone[action, reason, detail] = {"action": action, "reason": reason, "detail": detail}

    def _restore_files(self, replayed: ReplayedRun, proposal_id: str, action_id: str, compensated: bool | None) -> bool:
        """Restore the files of an action. True if the action itself had changed files, even if they could not be restored.

        Paths that its compensation has changed (`compensated`) are not restored. After a failed one, changes by the action's
        processes are not restored either: restoring half of them would produce neither the old state nor the new one.
        """
        run, workspace = self._run, self._services.workspace
        if workspace is None or run.files.backups is None:
            return False
        try:
            if self._entries is None:
                entries = plan_undo(replayed.directory, proposal=proposal_id, action=action_id)
            else:
                entries = self._entries.get((proposal_id, action_id), [])
        except IntegrityError as error:
            self._leave(action_id, error.code, error.message)
            return True
        entries = entries_to_restore(entries, compensated, self._changed_by_compensations) if entries else []
        if not entries:
            return False
        touched = any(entry.by == "action" for entry in entries)
        if any(self._refused_path(entry.rel) for entry in entries):
            self._leave(action_id, "path_denied", "no grant of the agent allows `undo` to write there")
            return True
        of = source(replayed.directory.name, proposal_id, action_id)
        changed: Changed = "overwrite" if self._force else "skip" if self._skip else "refuse"
        done = restore_files(run, self._index, replayed.directory, entries, of=of, changed=changed)
        if isinstance(done, InterlockError):
            self._leave(action_id, done.code, done.message)
            return touched
        for one in done:
            if one.how == "left":
                self._leave(action_id, "undo_conflict", f"`{show(stored(one.path))}` was left as it is: {one.why}")
            else:
                self._restored.append(_restored(action_id, one, run.files.id))
        return touched

    def _changed_by_compensations(self) -> set[Rel]:
        directory = self._run.files.directory
        return set() if directory is None else changed_by_compensation(plan_undo(directory))

    def _refused_path(self, path: Rel) -> bool:
        """True if the grant that lets the agent call `undo` does not cover the path: the action may have had another one."""
        return self._reach.path(to_json(path), "path", "write_alone") is not None


def _entries_of(replayed: ReplayedRun, chosen: list[tuple[ReplayedProposal, Action]]) -> list[Entry]:
    """The recorded changes of these actions, newest first."""
    wanted = {(known.received.proposal, action.id) for known, action in chosen}
    return [one for one in plan_undo(replayed.directory) if (one.proposal, one.action) in wanted]


def _left_to_git(registry: Registry, chosen: list[tuple[ReplayedProposal, Action]], entries: list[Entry]) -> set[Rel]:
    """The paths that compensations undo, not backups."""
    compensable = set()
    for known, action in chosen:
        tool = registry.find(action.tool)
        if action.compensation is not None or (tool is not None and tool.tool.compensation is not None):
            compensable.add((known.received.proposal, action.id))
    return {one.rel for one in entries if is_left_to_git(one) and (one.proposal, one.action) in compensable}


@contextlib.contextmanager
def _as_tool_error() -> Iterator[None]:
    """Convert an error in the other run to a failure of this action, which does not end its own run."""
    try:
        yield
    except (UsageError, ConflictError, IntegrityError, StoreError) as error:
        raise ToolError(error.message, code=error.code, retryable=False, hint=error.hint) from error


def _restored(action_id: str, one: Restored, run_id: str) -> dict[str, Any]:
    """A restored path for the output. `kept`: the backup (run, SHA-256) of content by a process, or by a person meanwhile."""
    found: dict[str, Any] = {"action": action_id, "path": one.path, "how": one.how}
    if one.by_process and one.how != "unchanged":
        found["by_process"] = True
        if one.kept is not None:
            found["kept"] = f"{run_id}/backups/{one.kept}"
    return found


def _stayed_in_layer(done: ReplayedAction) -> bool:
    """True if all changes of the action were in a layer, and so are known, because its processes could reach nothing else."""
    posture = None if done.row is None else done.row.posture
    return not done.not_undoable and (posture or {}).get("layer", "").startswith("active")


def _did_something(done: ReplayedAction) -> bool:
    row = done.row
    if row is None:
        return done.interrupted or done.open
    return row.status in ("succeeded", "failed", "not_undone", "unknown_outcome") and not row.deduplicated_from
