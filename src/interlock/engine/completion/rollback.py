"""Rolls back an aborted proposal: undoes every action that had an effect, newest first.

If a compensation fails, the actions that its action depended on are not compensated, because their effects are still in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from interlock.engine.completion.undo import (
    IN_USE,
    Compensation,
    approved_with,
    changed_by_compensation,
    compensate,
    entries_to_restore,
    find_compensation,
    leftovers,
    restore_files,
)
from interlock.engine.proposals.programs import record_ends
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.references import fill_references
from interlock.engine.tools.registry import Registered
from interlock.model.decision import Requirement
from interlock.model.errors import IntegrityError, InterlockError, ToolError
from interlock.model.proposal import READING, Action
from interlock.model.result import ActionResult, NotUndone
from interlock.model.tool import PROCESS_NOTES
from interlock.verify.graph import needs
from interlock.workspace import Entry, Restored
from interlock.workspace.names import show, stored
from interlock.workspace.undo import plan_by_action, plan_undo

_OVERWRITTEN_SHOWN_MAX: Final = 100


class _Files(NamedTuple):
    """The result of restoring the files of one action."""

    touched: bool = False
    """True if the action itself had changed files."""
    problem: str | None = None
    overwritten: Sequence[str] = ()
    """Content by processes (or by a person meanwhile) that was overwritten, and where the copies are."""


async def roll_back(run: ProposalRun) -> list[NotUndone]:
    """Undo everything that the proposal did, after it was aborted; rewrites the rows. Raises: StoreError."""
    left: list[NotUndone] = []
    programs = run.services.programs
    if programs is not None:  # before their files are compared
        record_ends(run.recorder, await asyncio.to_thread(programs.end_proposal, run.files.id, run.proposal.id))
    changes = _read_changes(run)
    in_use: set[str] = set()  # used by actions whose compensation has failed
    for index in dict.fromkeys(reversed(run.order_ended)):  # an attempt that was stopped may have ended it before
        row = run.rows[index]
        if (key := run.cached.get(index)) is not None:
            run.services.cache.delete(key)
        nothing_ran = row is not None and row.status in ("rejected", "skipped", "cancelled") and not row.attempts
        if row is None or nothing_ran or row.deduplicated_from is not None:
            if row is not None and row.status == "succeeded":
                row.status = "rolled_back"  # it did nothing that could be undone
            continue
        entries = None if changes is None else changes.pop((run.proposal.id, row.action_id), [])
        left.extend(await _undo_action(run, index, row, entries, in_use))
    run.services.cache.files_changed()
    left.sort(key=lambda one: run.graph.index[one.action_id])
    return left


def _only_read(action: Action, tool: Registered | None, row: ActionResult) -> bool:
    """True if there is nothing to undo: the action only read, and its output is not out of date."""
    reads = action.type in READING if tool is None else tool.read_only
    return reads and not row.state_changes and row.reason is None


def _read_changes(run: ProposalRun) -> dict[tuple[str, str], list[Entry]] | None:
    """The actions' changes in the workspace, read once for all actions.

    None if the index of the backups is damaged: each action is then looked up separately, and intact records are restored.
    """
    if run.files.undo_directory is None or run.files.backups is None:
        return {}
    try:
        return plan_by_action(run.files.undo_directory, proposal=run.proposal.id)
    except IntegrityError:
        return None


async def _undo_action(
    run: ProposalRun, index: int, row: ActionResult, entries: list[Entry] | None, in_use: set[str]
) -> list[NotUndone]:
    action, tool = run.proposal.actions[index], run.tools[index]
    succeeded = row.status == "succeeded"
    tried, problem = await _compensate(run, index, row, in_use) if succeeded else (False, None)
    if problem is not None:
        in_use |= needs(action, run.graph.references)
    problems = [] if problem is None else [problem]
    compensated = problem is None if tried else None
    files = _restore_files(run, index, entries, compensated)
    if files.problem is not None:
        problems.append(NotUndone(action_id=action.id, reason="undo_conflict", detail=files.problem))
    notes = list(dict.fromkeys((*run.not_undoable.get(index, ()), *files.overwritten)))  # each attempt adds them again
    if compensated:
        notes = [note for note in notes if note not in PROCESS_NOTES and note not in files.overwritten]
    if row.status == "unknown_outcome" and not notes and not files.touched:
        detail = "its outcome is not known"
        problems.append(NotUndone(action_id=action.id, reason="unknown_outcome", detail=detail))
    else:
        problems.extend(
            NotUndone(action_id=action.id, reason=one.reason, detail=one.detail)
            for one in leftovers(
                action, tool, compensated=compensated, touched=files.touched, notes=notes, succeeded=succeeded
            )
        )
    if succeeded:
        if problems:
            row.status, row.reason = "not_undone", problems[0].reason
        elif tried or files.touched or not _only_read(action, tool, row):
            row.status = "compensated" if tried else "rolled_back"
    return problems


async def _compensate(
    run: ProposalRun, index: int, row: ActionResult, in_use: set[str]
) -> tuple[bool, NotUndone | None]:
    """Compensate a success. Returns whether it has a compensation, and the effect that remains."""
    name = run.proposal.actions[index].id
    before = run.undone.get(index)
    reason = "compensation_failed"
    if before is not None and "compensation" in before.undone:
        problem = before.undone["compensation"]
    else:
        try:
            call = _compensation_of(run, index, row)
        except ToolError as error:  # a reference to an output that does not exist
            return True, NotUndone(action_id=name, reason=reason, detail=error.message)
        if call is None:
            return False, None
        if name in in_use:
            return True, NotUndone(action_id=name, reason=reason, detail=IN_USE)
        if before is not None and before.undo_open == "compensation" and not _may_repeat(run, call.tool):
            detail = f"the process ended while `{call.tool}` was undoing it"
            return True, NotUndone(action_id=name, reason="unknown_outcome", detail=detail)
        approved: tuple[Requirement, ...] = ()
        if call.by_definition:
            approved = approved_with(run.services, run.files.id, run.proposal.id, name, call.tool)
        answer = await compensate(run, index, call, approved)
        problem, reason = answer.problem, answer.reason
    return True, None if problem is None else NotUndone(action_id=name, reason=reason, detail=problem)


def _may_repeat(run: ProposalRun, name: str) -> bool:
    tool = run.services.registry.find(name)
    return tool is not None and (tool.read_only or tool.tool.idempotent)


def _compensation_of(run: ProposalRun, index: int, row: ActionResult) -> Compensation | None:
    action = run.proposal.actions[index]
    return find_compensation(
        action,
        _parameters_used(run, index),
        row.output,
        others={one.id: one for one in run.proposal.actions} if action.compensation is not None else {},
        registry=run.services.registry,
        fill_references=lambda parameters: fill_references(run, parameters),
    )


def _parameters_used(run: ProposalRun, index: int) -> dict[str, Any]:
    """The parameters with which the action ran: as an approver edited them, or as proposed with references replaced."""
    if index in run.edited:
        return run.edited[index]
    proposed = run.proposal.actions[index].parameters
    return fill_references(run, proposed) if index in run.graph.referring else proposed


def _restore_files(run: ProposalRun, index: int, entries: list[Entry] | None, compensated: bool | None) -> _Files:
    """Restore the files of an action from the run's backups."""
    files = run.files
    if files.directory is None or run.workspace is None or files.backups is None or run.recorder is None:
        return _Files()
    if run.layer is not None:  # it is dropped as a whole
        return _Files(touched=bool(entries) or _works_in_layer(run, index))
    action = run.proposal.actions[index].id
    if entries is None or compensated is not None:  # the compensation may have changed files too
        try:
            entries = plan_undo(files.directory, proposal=run.proposal.id, action=action)
        except IntegrityError as error:
            return _Files(touched=True, problem=error.message)
    known = entries
    entries = entries_to_restore(known, compensated, lambda: changed_by_compensation(known))
    if not entries:
        return _Files()
    touched = any(entry.by == "action" for entry in entries)
    restored = restore_files(run, index, files.directory, entries)
    if isinstance(restored, InterlockError):
        return _Files(touched, restored.message)
    return _Files(touched, None, _overwritten(restored, files.id))


def _works_in_layer(run: ProposalRun, index: int) -> bool:
    """True if all changes of the action are in the layer, because its processes could reach nothing else."""
    tool = run.tools[index]
    return tool is not None and tool.in_layer and not tool.read_only and not run.not_undoable.get(index)


def _overwritten(restored: Sequence[Restored], run_id: str) -> list[str]:
    """Notes for people on the content that undo overwrote, by a process or by a person while it ran; a limited number."""
    found = [one for one in restored if one.by_process and one.how != "unchanged"]
    lines = [
        f"`{show(stored(one.path))}` was changed while a process ran; "
        + (f"what it left is kept as `backups/{one.kept}` of run `{run_id}`" if one.kept else "that was undone")
        for one in found[:_OVERWRITTEN_SHOWN_MAX]
    ]
    left = len(found) - len(lines)
    return [*lines, f"and {left} more paths that processes had changed"] if left else lines
