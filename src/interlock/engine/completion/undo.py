"""The undo core: undoes one action, for an aborted proposal (`rollback`) and for the tool `undo`.

A compensation runs first, because it expects the files as the action left them; then files are restored from backups. The
journal has an intent and an end for each. Effects that cannot be undone are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from interlock.engine.completion.compensation import COMPENSATING, Answer, call_tool
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.services import Services
from interlock.engine.tools.registry import Registered, Registry
from interlock.model.decision import Requirement
from interlock.model.errors import ConflictError, IntegrityError, InterlockError, ToolError
from interlock.model.events import UndoDone, UndoIntent
from interlock.model.proposal import (
    REVERSIBILITY_ORDER,
    Action,
    ActionCompensation,
    Reversibility,
    ToolCompensation,
)
from interlock.verify.templates import fill
from interlock.workspace import Entry, Origin, Restored
from interlock.workspace.names import Rel, show, stored
from interlock.workspace.undo import Changed, restore

STEP: Final = 10
"""The gate's step that every undo event carries."""
IN_USE: Final = "what depended on it could not be undone, so its compensation did not run"


class Compensation(NamedTuple):
    """The call that undoes an action. `agent` makes it, under the grant token `token`, if it is not the proposal's agent."""

    tool: str
    parameters: dict[str, Any]
    agent: str | None = None
    token: str | None = None
    redoes: tuple[str, str, str] | None = None
    """In an undo of an undo: the run, proposal and action whose compensation it undoes."""
    by_definition: bool = False
    """True if it is in the tool's definition, so that the action's approver was shown all of it."""


class Leftover(NamedTuple):
    """Something that was not undone: a code of `REASONS`, and a sentence."""

    reason: str
    detail: str


def find_compensation(
    action: Action,
    parameters: dict[str, Any],
    output: Any,
    *,
    others: Mapping[str, Action],
    registry: Registry,
    fill_references: Callable[[dict[str, Any]], dict[str, Any]],
) -> Compensation | None:
    """The agent's compensation of a success, otherwise that of the tool's definition; None if there is neither.

    `parameters` are those with which the action ran; `others` are the actions of the proposal by id. Raises: ToolError
    `reference_failed`.
    """
    given = action.compensation
    if isinstance(given, ActionCompensation):
        other = others[given.action_id]
        return None if other.tool is None else Compensation(other.tool, fill_references(other.parameters))
    if isinstance(given, ToolCompensation):
        return Compensation(given.tool, fill_references(given.parameters))
    return compensation_by_definition(registry, action.tool, parameters, output)


def compensation_by_definition(
    registry: Registry, name: str | None, parameters: dict[str, Any], output: Any
) -> Compensation | None:
    """The compensation for a call in the tool's definition."""
    tool = registry.find(name)
    if tool is None or tool.tool.compensation is None:
        return None
    template = tool.tool.compensation
    return Compensation(template.tool, fill(template.parameters, parameters, output), by_definition=True)


def approved_with(services: Services, run_id: str, proposal: str, action: str, tool: str) -> tuple[Requirement, ...]:
    """The requirements that were met when an action was approved together with its compensation by `tool`.

    The approver of the action was shown that compensation, from its tool's definition, so both were approved together. Empty
    if the action was not approved, or was approved with another compensation.
    """
    hold = services.desk.store.for_action(run_id, proposal, action)
    if hold is None or hold.status != "approved" or hold.context.get("compensation") != tool:
        return ()
    return hold.requirements


async def compensate(
    run: ProposalRun, index: int, call: Compensation, approved: Sequence[Requirement], of: str | None = None
) -> Answer:
    """Make a compensating call, with its intent on disk before and its outcome after. Raises as `call_tool`.

    `approved` are the requirements that were met when the action was approved (`approved_with`); `of` names the action of
    another run that it undoes (`source`).
    """
    run.record(STEP, index, lambda _: UndoIntent(how="compensation", detail=f"`{call.tool}`", of=of))
    if run.recorder is not None:
        await run.recorder.writer.durable()
    answer = await call_tool(run, index, call.tool, call.parameters, call.agent, call.token, approved)
    _record_done(run, index, "compensation", "compensated", answer.problem, of)
    return answer


def source(run_id: str, proposal: str | None, action: str) -> str:
    """The name of another run's action in events."""
    return f"{run_id}/{proposal}/{action}"


def _record_done(run: ProposalRun, index: int, how: str, status: str, problem: str | None, of: str | None) -> None:
    """Journal the outcome of one part of an undo; `status` is the status of a success."""
    run.record(
        STEP,
        index,
        lambda recorder: UndoDone(
            how=how,
            status=status if problem is None else "not_undone",
            problem=None if problem is None else recorder.text(problem),
            of=of,
        ),
    )


def entries_to_restore(
    entries: Sequence[Entry], compensated: bool | None, changed: Callable[[], set[Rel]]
) -> list[Entry]:
    """The changes of an action to restore from backups; `compensated` is None if it has no compensation.

    Paths that its compensation has `changed` are not restored. Neither are git's own files, which git has changed back: restoring
    the files alone would leave logs and objects of neither state. After a failed compensation, changes by the action's processes
    are not restored either: restoring half of them would produce neither the old state nor the new one.
    """
    if compensated is None or not entries:
        return list(entries)
    if not compensated:
        return [entry for entry in entries if entry.by == "action"]
    dealt_with = changed()
    return [entry for entry in entries if entry.rel not in dealt_with and not is_left_to_git(entry)]


def is_left_to_git(entry: Entry) -> bool:
    """True if a compensation undoes this change, not the backups: git changed one of its own files."""
    return entry.by != "action" and b".git" in entry.rel


def changed_by_compensation(entries: Sequence[Entry]) -> set[Rel]:
    """The paths that compensations have changed."""
    return {entry.rel for entry in entries if entry.attempt == COMPENSATING}


def restore_files(
    run: ProposalRun,
    index: int,
    directory: Path,
    entries: Sequence[Entry],
    *,
    of: str | None = None,
    changed: Changed = "refuse",
) -> list[Restored] | InterlockError:
    """Restore files from the backups in `directory`; returns the error if that is impossible, and then no file was changed.

    `of` names the action of another run that is undone: this run's own action is then an undo, and its intent is on disk.
    """
    workspace, backups = run.workspace, run.files.backups
    assert workspace is not None
    assert backups is not None
    if not entries:
        return []
    run.record(STEP, index, lambda _: UndoIntent(how="files", detail=f"{len(entries)} changes", of=of))
    if of is None:
        run.flush()
    origin = Origin(run.proposal.id, run.proposal.actions[index].id, 0 if of is None else 1)
    try:
        found: list[Restored] | InterlockError = restore(
            workspace, directory, list(entries), backups, origin, changed=changed
        )
    except (ConflictError, IntegrityError, ToolError) as error:
        found = error
    problem = found.message if isinstance(found, InterlockError) else _left(found)
    _record_done(run, index, "files", "rolled_back", problem, of)
    return found


def _left(restored: list[Restored]) -> str | None:
    """A sentence that names the paths not restored because others have changed them; None if there are none."""
    left = [one for one in restored if one.how == "left"]
    if not left:
        return None
    more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    return f"`{show(stored(left[0].path))}` was left as it is: {left[0].why}{more}"


def leftovers(
    action: Action,
    tool: Registered | None,
    *,
    compensated: bool | None,
    touched: bool,
    notes: Sequence[str],
    succeeded: bool = True,
) -> list[Leftover]:
    """The effects that remain after the compensation and the files; `notes` name effects that cannot be undone exactly.

    `touched` if files or state were restored. `tool` is None for a state action, and if the tool is no longer registered.
    """
    if notes:
        return [Leftover("not_exactly_undoable", note) for note in notes]
    if compensated is not None or touched or action.type != "tool_call" or (tool is not None and tool.read_only):
        return []
    if tool is not None and reversibility(action, tool) == "reversible":
        return []
    detail = "it has no compensation" if succeeded else "it was stopped or failed on its way, and has no compensation"
    return [Leftover("irreversible", detail)]


def reversibility(action: Action, tool: Registered) -> Reversibility:
    """The more cautious of the tool's declaration and the agent's claim."""
    own: Reversibility = "reversible" if tool.read_only else tool.tool.reversibility
    claimed = action.reversibility
    return own if claimed is None else max(own, claimed, key=REVERSIBILITY_ORDER.index)
