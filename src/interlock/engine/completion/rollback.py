"""Undo: each action is taken back, newest first, every step with its own intent in the journal.

For one action: files first (from backups), unless it has a compensation, which then goes first, because it was the last thing
to be right about the world and may itself need the files as the action left them. Where a compensation fails, those of the
actions that it depended on do not run: they would take away what is still in use. What cannot be taken back is said, never
hidden: `not_undone`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from interlock.engine.completion.compensation import COMPENSATING, IN_USE, Answer, ask_tool
from interlock.engine.proposals.programs import record_ends
from interlock.engine.proposals.proposal_run import ProposalRun as Execution
from interlock.engine.proposals.references import fill_references as filled
from interlock.engine.tools.registry import Registered
from interlock.model.errors import ConflictError, IntegrityError, ToolError
from interlock.model.events import UndoDone, UndoIntent
from interlock.model.proposal import (
    READING,
    REVERSIBILITY_ORDER,
    Action,
    ActionCompensation,
    Reversibility,
    ToolCompensation,
)
from interlock.model.result import ActionResult, NotUndone
from interlock.model.tool import PROCESS_RAN
from interlock.verify.graph import needs
from interlock.verify.templates import fill
from interlock.workspace import Entry, Origin, Restored
from interlock.workspace.names import show, stored
from interlock.workspace.undo import plan_by_action, plan_undo, restore

_OVERWRITTEN_SHOWN_MAX: Final = 100


def reversibility(action: Action, tool: Registered | None) -> Reversibility:
    """The more cautious of what the tool is and what the agent claims."""
    if tool is None:
        return "reversible"
    own: Reversibility = "reversible" if tool.read_only else tool.tool.reversibility
    claimed = action.reversibility
    return own if claimed is None else max(own, claimed, key=REVERSIBILITY_ORDER.index)


async def take_back(x: Execution) -> list[NotUndone]:
    """Undo everything that the proposal did, after it was aborted; rewrites the rows. Raises StoreError."""
    left: list[NotUndone] = []
    programs = x.services.programs
    if programs is not None:  # before their files are looked at
        record_ends(x.recorder, await asyncio.to_thread(programs.end_proposal, x.files.id, x.proposal.id))
    changes = _changes(x)
    in_use: set[str] = set()  # by actions whose compensation has failed
    for index in dict.fromkeys(reversed(x.order_ended)):  # an attempt that was stopped may have ended it before
        row = x.rows[index]
        if (key := x.cached.get(index)) is not None:
            x.services.cache.delete(key)
        nothing_ran = row is not None and row.status in ("rejected", "skipped", "cancelled") and not row.attempts
        if row is None or nothing_ran or row.deduplicated_from is not None:
            if row is not None and row.status == "succeeded":
                row.status = "rolled_back"  # nothing was done here that could be taken back
            continue
        entries = None if changes is None else changes.pop((x.proposal.id, row.action_id), [])
        left.extend(await _take_back(x, index, row, entries, in_use))
    left.sort(key=lambda one: x.graph.index[one.action_id])
    return left


def _only_read(action: Action, tool: Registered | None, row: ActionResult) -> bool:
    """True if there was nothing to take back: what the action found out stays found out, unless it is out of date."""
    reads = action.type in READING if tool is None else tool.read_only
    return reads and not row.state_changes and row.reason is None


def _changes(x: Execution) -> dict[tuple[str, str], list[Entry]] | None:
    """What the actions changed in the workspace: read once, however many there are to take back.

    None if the index of the backups is damaged: then each action is looked up by itself, and those that are whole come back.
    """
    if x.run.directory is None or x.run.backups is None:
        return {}
    try:
        return plan_by_action(x.run.directory, proposal=x.proposal.id)
    except IntegrityError:
        return None


async def _take_back(
    x: Execution, index: int, row: ActionResult, entries: list[Entry] | None, in_use: set[str]
) -> list[NotUndone]:
    action, tool = x.proposal.actions[index], x.tools[index]
    succeeded = row.status == "succeeded"
    tried, problem = await _compensated(x, index, row, in_use) if succeeded else (False, None)
    if problem is not None:
        in_use |= needs(action, x.graph.references)
    problems = [] if problem is None else [problem]
    files = _restore_files(x, index, entries, tried=tried, compensated=tried and problem is None)
    if files.problem is not None:
        problems.append(NotUndone(action_id=action.id, reason="undo_conflict", detail=files.problem))
    notes = list(dict.fromkeys((*x.not_undoable.get(index, ()), *files.overwritten)))  # each attempt says them anew
    if tried and problem is None:
        notes = [note for note in notes if note != PROCESS_RAN and note not in files.overwritten]
    if notes:
        problems.extend(NotUndone(action_id=action.id, reason="not_exactly_undoable", detail=note) for note in notes)
    elif tool is not None and not tool.read_only and not files.touched and not tried:
        if row.status == "unknown_outcome":
            detail = "nobody knows what it did"
            problems.append(NotUndone(action_id=action.id, reason="unknown_outcome", detail=detail))
        elif reversibility(action, tool) != "reversible":
            detail = (
                "it has no compensation"
                if succeeded
                else "it was stopped or failed on its way, and has no compensation"
            )
            problems.append(NotUndone(action_id=action.id, reason="irreversible", detail=detail))
    if succeeded:
        if problems:
            row.status, row.reason = "not_undone", problems[0].reason
        elif tried or files.touched or not _only_read(action, tool, row):
            row.status = "compensated" if tried else "rolled_back"
    return problems


async def _compensated(x: Execution, index: int, row: ActionResult, in_use: set[str]) -> tuple[bool, NotUndone | None]:
    """Compensate a success. Returns whether it has a compensation, and what is left undone."""
    name = x.proposal.actions[index].id
    before = x.undone.get(index)
    reason = "compensation_failed"
    if before is not None and "compensation" in before.undone:
        problem = before.undone["compensation"]
    else:
        try:
            call = compensation_of(x, index, row)
        except ToolError as error:  # a reference into an output that is not there
            return True, NotUndone(action_id=name, reason="compensation_failed", detail=error.message)
        if call is None:
            return False, None
        if name in in_use:
            return True, NotUndone(action_id=name, reason=reason, detail=IN_USE)
        if before is not None and before.undo_open == "compensation" and not _may_repeat(x, call[0]):
            detail = f"the process ended while `{call[0]}` was taking it back"
            return True, NotUndone(action_id=name, reason="unknown_outcome", detail=detail)
        answer = await _compensate(x, index, *call)
        problem, reason = answer.problem, answer.reason
    return True, None if problem is None else NotUndone(action_id=name, reason=reason, detail=problem)


def _may_repeat(x: Execution, name: str) -> bool:
    tool = x.services.registry.find(name)
    return tool is not None and (tool.read_only or tool.tool.idempotent)


def compensation_of(x: Execution, index: int, row: ActionResult) -> tuple[str, dict[str, Any]] | None:
    """The call that takes a succeeded action back: the agent's, or else the one that the tool's definition has."""
    action, tool = x.proposal.actions[index], x.tools[index]
    given = action.compensation
    if isinstance(given, ActionCompensation):
        other = x.proposal.actions[x.graph.index[given.action_id]]
        return (other.tool or "", filled(x, other.parameters)) if other.type == "tool_call" else None
    if isinstance(given, ToolCompensation):
        return given.tool, filled(x, given.parameters)
    if tool is not None and tool.tool.compensation is not None:
        template = tool.tool.compensation
        return template.tool, fill(template.parameters, action.parameters, row.output)
    return None


async def _compensate(x: Execution, index: int, name: str, parameters: dict[str, Any]) -> Answer:
    """Run a compensation through the gate."""
    recorder = x.recorder
    if recorder is not None:
        recorder.append(UndoIntent(how="compensation", detail=f"`{name}`", **x.stamp(index, 10)))
        await recorder.writer.durable()
    answer = await ask_tool(x, index, name, parameters)
    problem = answer.problem
    if recorder is not None:
        status = "compensated" if problem is None else "not_undone"
        text = None if problem is None else recorder.text(problem)
        recorder.append(UndoDone(how="compensation", status=status, problem=text, **x.stamp(index, 10)))
    return answer


class Files:
    """What putting back the files of one action came to."""

    __slots__ = ("overwritten", "problem", "touched")

    def __init__(self, *, touched: bool = False, problem: str | None = None, overwritten: Sequence[str] = ()) -> None:
        """`touched` if the action itself had changed files; `problem` if they could not be put back.

        `overwritten` names what processes (or a person meanwhile) had left there, and where it is kept.
        """
        self.touched = touched
        self.problem = problem
        self.overwritten = overwritten


def _restore_files(x: Execution, index: int, entries: list[Entry] | None, *, tried: bool, compensated: bool) -> Files:
    """Put the files of an action back from the run's backups, but for those that its compensation has dealt with.

    After a compensation that failed, what the action's processes changed stays: half of their work would be neither the one state
    nor the other.
    """
    run, workspace, recorder = x.run, x.services.workspace, x.recorder
    if run.directory is None or workspace is None or run.backups is None or recorder is None:
        return Files()
    action = x.proposal.actions[index].id
    if entries is None or tried:  # the compensation may have changed files too
        try:
            entries = plan_undo(run.directory, proposal=x.proposal.id, action=action)
        except IntegrityError as error:
            return Files(touched=True, problem=error.message)
    if compensated:
        done = {entry.rel for entry in entries if entry.attempt == COMPENSATING}
        entries = [entry for entry in entries if entry.rel not in done]
    elif tried:
        entries = [entry for entry in entries if entry.by == "action"]
    if not entries:
        return Files()
    touched = any(entry.by == "action" for entry in entries)
    recorder.append(UndoIntent(how="files", detail=f"{len(entries)} changes", **x.stamp(index, 10)))
    recorder.writer.flush()
    problem, overwritten = None, []
    try:
        restored = restore(workspace, run.directory, entries, run.backups, Origin(x.proposal.id, action, 0))
        overwritten = overwritten_by_undo(restored, run.id)
    except (ConflictError, IntegrityError, ToolError) as error:
        problem = error.message
    text = None if problem is None else recorder.text(problem)
    status = "rolled_back" if problem is None else "not_undone"
    recorder.append(UndoDone(how="files", status=status, problem=text, **x.stamp(index, 10)))
    return Files(touched=touched, problem=problem, overwritten=overwritten)


def overwritten_by_undo(restored: Sequence[Restored], run_id: str) -> list[str]:
    """What undo overwrote that a process, or somebody while it ran, had left: for people, and bounded."""
    found = [one for one in restored if one.by_process and one.how != "unchanged"]
    lines = [
        f"`{show(stored(one.path))}` was changed while a process ran; "
        + (f"what it left is kept as `backups/{one.kept}` of run `{run_id}`" if one.kept else "that was taken back")
        for one in found[:_OVERWRITTEN_SHOWN_MAX]
    ]
    left = len(found) - len(lines)
    return [*lines, f"and {left} more paths that processes had changed"] if left else lines
