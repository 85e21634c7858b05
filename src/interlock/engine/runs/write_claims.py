"""Determines the paths of the workspace that a proposal may write, from its tools and parameters."""

from __future__ import annotations

from typing import Any

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.tools.registry import Registered
from interlock.model.errors import InterlockError, ToolError
from interlock.verify.paths import values_at
from interlock.workspace.claims import EVERYTHING, NOTHING, PATHS_MAX, Claim, claimed_by_writing
from interlock.workspace.names import Rel


def claim_of(run: ProposalRun) -> Claim:
    """The paths that the remaining actions may write."""
    if run.executor is not None or any(tool is not None and tool.writes == "anywhere" for tool in set(run.tools)):
        return EVERYTHING
    found: set[Rel] = set()
    for index, tool in enumerate(run.tools):
        if tool is None or tool.writes == "nothing" or run.rows[index] is not None:
            continue
        parameters = run.edited.get(index, run.proposal.actions[index].parameters)
        claim = claim_of_action(run, tool, parameters, refers=index in run.graph.referring)
        if claim.paths is None or len(found) > PATHS_MAX:
            return EVERYTHING
        found |= claim.paths
    return Claim.of(found)


def claim_of_action(
    run: ProposalRun, tool: Registered | None, parameters: dict[str, Any], *, refers: bool = False
) -> Claim:
    """The paths that one call may write. With `refers`, references in its parameters are not replaced yet."""
    workspace = run.services.workspace
    if tool is None or workspace is None or tool.writes == "nothing":
        return NOTHING
    if tool.writes == "anywhere" or run.executor is not None:
        return EVERYTHING
    found: set[Rel] = set()
    for pointer, mark in tool.marks:
        if mark != "path.write":
            continue
        for value in values_at(parameters, tuple(pointer.split("/")[1:])):
            if refers and isinstance(value, str) and value.startswith("$"):
                return EVERYTHING
            try:
                found |= claimed_by_writing(workspace, workspace.parse(value))
            except ToolError:
                continue  # the call will be refused for this
    return Claim.of(found)


def claim_of_undo(run: ProposalRun, *, interrupted: bool) -> Claim:
    """The paths that a rollback may write. If it was `interrupted`, others may have changed the targets of its paths."""
    compensable = any(action.compensation is not None for action in run.proposal.actions) or any(
        tool is not None and tool.tool.compensation is not None for tool in set(run.tools)
    )
    backups = run.files.backups
    if interrupted or compensable or run.undone:
        return EVERYTHING
    try:
        return NOTHING if backups is None else Claim.of(backups.touched().states)
    except InterlockError:  # the error occurs again, and is reported, when the files are restored
        return EVERYTHING
