"""Which paths of the workspace a proposal may write, as far as its tools and parameters say it."""

from __future__ import annotations

from typing import Any

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.tools.registry import Registered
from interlock.model.errors import InterlockError, ToolError
from interlock.verify.paths import values_at
from interlock.workspace.claims import EVERYTHING, NOTHING, PATHS_MAX, Claim, claimed_by_writing
from interlock.workspace.names import Rel


def claim_of(run: ProposalRun) -> Claim:
    """What the actions that are still to come may write."""
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
    """What one call may write. With `refers`, references in its parameters are not filled in yet."""
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
                continue  # the call is refused for it
    return Claim.of(found)


def claim_of_undo(run: ProposalRun, *, interrupted: bool) -> Claim:
    """What rolling the proposal back may write. If it was `interrupted`, others may have changed what its paths lead to."""
    compensable = any(action.compensation is not None for action in run.proposal.actions) or any(
        tool is not None and tool.tool.compensation is not None for tool in set(run.tools)
    )
    backups = run.files.backups
    if interrupted or compensable or run.undone:
        return EVERYTHING
    try:
        return NOTHING if backups is None else Claim.of(backups.touched().states)
    except InterlockError:  # it is met again, and reported, when the files are put back
        return EVERYTHING
