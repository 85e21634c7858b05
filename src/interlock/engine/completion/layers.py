"""The layer of a proposal: opened before its first action, committed or kept after success, dropped if it is aborted.

The intent of a commit is in the journal before its first change. A commit that a crash interrupted is repeated when the run is
resumed: paths that are already committed are skipped. The layer is removed only after the commit is in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec.structs import replace

from interlock.engine.judges.reach import Reach
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.services import Services
from interlock.engine.tools.registry import Registered
from interlock.executors.process_watch import to_its_end
from interlock.lazy import lazy
from interlock.model.decision import Refusal
from interlock.model.errors import StoreError, ToolError
from interlock.model.events import LayerCommitIntent, LayerCommitted, LayerDiscarded, LayerKept, LayerOpened
from interlock.model.grant import OPERATOR
from interlock.model.result import ActionResult, LayerResult
from interlock.workspace.names import Rel, show, stored, to_json

if TYPE_CHECKING:
    from interlock import workspace as room
    from interlock.executors import git_places
    from interlock.workspace import Blocked, Entry, Layer, Origin, Plan, Workspace, runs_later
else:
    room = lazy("interlock.workspace")
    git_places = lazy("interlock.executors.git_places")
    runs_later = lazy("interlock.workspace.runs_later")

T = TypeVar("T")
CONFLICT: Final = "workspace_conflict"
_BLOCKED_SHOWN_MAX: Final = 1_000
_NAMED_MAX: Final = 5  # paths in one message
_IN_SCOPE: Final = frozenset({"shell", "exec"})
"""Tools whose processes may write only where the action's grant allows it, except for git's own files."""


@contextlib.asynccontextmanager
async def working_layer(run: ProposalRun) -> AsyncIterator[Refusal | None]:
    """Give the proposal a layer for the duration of the block, if it needs one.

    Yields a refusal if the layer is required (it has to wait for a person), but cannot be made. Raises: StoreError,
    IntegrityError.
    """
    if run.layer is not None:
        yield None
        return
    if (refusal := _refuse_moved(run)) is not None:
        yield refusal
        return
    layer = None
    run.without_layer = bool(run.attempts_before) and _is_single_change(run)  # resumed; overwritten if it needs a layer
    if run.layer_absent is None and _is_wanted(run):
        run.layer_absent = _why_outside(run)
        if run.layer_absent is None:
            layer = await asyncio.to_thread(_open_if_needed, run)
        if layer is None and not run.without_layer:
            run.record(7, None, lambda _: LayerOpened(how=run.layer_absent or "", absent=True))
    if layer is None:
        yield _refuse_without(run)
        return
    files, workspace = run.files, run.workspace
    backups = layer.backups(run.clock)
    run.layer, run.workspace = layer, layer.workspace
    run.files = replace(files, backups=backups, layer=layer.directory)
    try:
        yield None
    finally:
        run.layer, run.workspace, run.files = None, workspace, files
        backups.close()
        await to_its_end(lambda: _close(run, layer))  # on a thread: the kernel syncs a file system when it unmounts it


def _close(run: ProposalRun, layer: Layer) -> None:
    """Close the layer, and remove it if nothing in it waits."""
    layer.close()
    if run.layer_result is not None and run.layer_result.status != "kept":
        with contextlib.suppress(StoreError):  # the rest of it is removed with the run
            room.remove_layer(layer.directory, run.services.disk)


def _is_wanted(run: ProposalRun) -> bool:
    """True if the proposal needs a layer: the configuration asks for one and it may change files, or it started in one."""
    services, directory = run.services, run.run_files.directory
    if services.layers is None or services.workspace is None or run.dry_run or directory is None:
        return False
    if run.attempts_before and room.layer_of(directory, run.proposal.id) is not None:
        return True
    if services.settings.workspace.mode != "layer" or run.run_files.backups is None or _has_begun(run):
        return False
    touching = [tool for tool in run.tools if tool is not None and tool.touches_files]
    if all(tool.read_only for tool in touching):
        return bool(touching) and bool(room.kept_layers(directory)) and all(tool.in_layer for tool in touching)
    return True


def _has_begun(run: ProposalRun) -> bool:
    """True if an earlier process has run actions of the proposal that may have changed the files themselves."""
    return any(
        run.attempts_before.get(index) and tool is not None and tool.touches_files
        for index, tool in enumerate(run.tools)
    )


def _why_outside(run: ProposalRun) -> str | None:
    """The reason why the proposal has to work on the files themselves; None if all of its tools can work in a layer."""
    if run.executor is not None:
        return "the program that proposes it performs the calls itself"
    touching = [tool for tool in run.tools if tool is not None and tool.touches_files]
    outside = next((tool for tool in touching if not tool.in_layer), None)
    if outside is not None:
        return f"`{outside.name}` works on the files themselves"
    workspace = run.services.workspace
    assert workspace is not None
    if any(tool.name.startswith("git.") for tool in touching) and git_places.outside_places(workspace.root):
        return "git's own directory is outside of the workspace, where a layer does not reach"
    return None


def _refuse_moved(run: ProposalRun) -> Refusal | None:
    """A refusal if tools and processes would work in two different directories. Raises: StoreError on resuming."""
    workspace = run.services.workspace
    if workspace is None or room.is_in_place(workspace):
        return None
    detail = f"the directory `{workspace.root}` was moved, removed or replaced since Interlock opened it: start Interlock anew"
    if run.attempts_before:
        raise StoreError(detail, code="workspace_missing")
    return Refusal("workspace_missing", detail)


def _refuse_without(run: ProposalRun) -> Refusal | None:
    """A refusal if no change may reach the files without a person, and there is no layer. Raises: StoreError on resuming."""
    if run.layer_absent is None or run.services.settings.workspace.commit == "auto":
        return None
    if run.principal.agent == OPERATOR:  # the undo that a person asked for
        return None
    detail = f"what it changes is to wait in a layer, and it can have none: {run.layer_absent}"
    if run.attempts_before:
        raise StoreError(detail, code="layer_unavailable", hint="`interlock doctor` shows what is missing")
    return Refusal("layer_unavailable", detail)


def _open_if_needed(run: ProposalRun) -> Layer | None:
    """As `_open`; None, with `without_layer` set, if the proposal needs no layer."""
    run.without_layer = _changes_one_file(run)
    return None if run.without_layer else _open(run)


def _changes_one_file(run: ProposalRun) -> bool:
    """True for a proposal of one action, which changes one file in one atomic step that can be undone: a layer would be
    committed at once, and as a whole. It keeps a file that other programs execute later, and has what earlier layers keep.
    """
    services, directory = run.services, run.run_files.directory
    assert services.workspace is not None
    assert directory is not None
    if not _is_single_change(run) or room.layer_directories(directory):
        return False
    try:
        path = services.workspace.locate(run.proposal.actions[0].parameters.get("path"))
    except ToolError:
        return False  # the call itself reports this
    return not runs_later.may_run_later(services.workspace, path)


def _is_single_change(run: ProposalRun) -> bool:
    """True for a proposal of one action that changes one file, where the configuration has layers committed at once."""
    workspace, tool = run.services.settings.workspace, run.tools[0]
    alone = len(run.tools) == 1 and tool is not None and tool.binding.one_file
    return alone and (workspace.mode, workspace.commit) == ("layer", "auto")


def _open(run: ProposalRun) -> Layer | None:
    """The layer: a new one, or the one of an earlier process. None, with `layer_absent` set, if none can be made."""
    services, directory = run.services, run.run_files.directory
    assert services.layers is not None
    assert services.workspace is not None
    assert directory is not None
    processes = any(tool is not None and tool.writes == "anywhere" and not tool.read_only for tool in run.tools)
    before = room.layer_of(directory, run.proposal.id)
    if before is not None:
        layer = room.reopen_layer(before, services.workspace, services.layers)
    else:
        attach = processes and services.settings.isolation.profile == "ns"
        try:
            layer = room.open_layer(directory, run.proposal.id, services.workspace, services.layers, attach=attach)
        except StoreError as error:
            if error.code != "layer_unavailable":
                raise
            _absent(run, error.message)
            return None
        if layer.namespaces is None and processes:
            _absent(run, f"no process could see it: {layer.manifest.why}")
            layer.close()
            room.remove_layer(layer.directory, services.disk)
            return None
    how, number, again = layer.posture, int(layer.directory.name), before is not None
    run.loop.call_soon_threadsafe(
        lambda: run.record(7, None, lambda _: LayerOpened(layer=number, how=how, again=again))
    )
    return layer


def _absent(run: ProposalRun, why: str) -> None:
    """Record why the machine cannot make a layer for the proposal."""
    run.layer_absent = why
    if run.services.settings.workspace.commit == "auto":
        warning = f"no layer, so proposals with processes work on the files themselves, with backups: {why}"
        run.loop.call_soon_threadsafe(run.services.hooks.warn_once, warning)


async def commit_files(run: ProposalRun) -> None:
    """Commit or keep the layer of a proposal that succeeded, as configured; for a stopped run, keep it.

    On a conflict nothing is committed, and the proposal stops with `workspace_conflict`; if the file system refuses, it stops
    with that code. The paths that an interrupted commit had committed are then undone. Raises: StoreError.
    """
    layer, directory = run.layer, run.run_files.directory
    if layer is None or directory is None:
        return
    how: str = run.services.settings.workspace.commit
    if run.stop_reason == "stopped":
        how = "stopped"  # a person stopped the run: commit nothing more without asking
    if run.turn is not None and how == "auto":
        await run.turn.take_for_commit()
    refuse = _refusals(run)

    def look() -> Plan:
        if how == "auto" and run.attempts_before:
            room.clear_interrupted(layer, directory)
        return room.plan_commit(layer, directory, refuse=refuse)

    plan = await to_its_end(look)
    if not plan.changes and not plan.blocked:
        run.layer_result = LayerResult(status="committed")
        return
    conflicts = [one for one in plan.blocked if one.why == "conflict"]
    if how != "auto" or conflicts:
        left = await to_its_end(
            lambda: room.undo_commit(layer, directory)
        )  # the changes of a process that was killed meanwhile
        if conflicts and how == "auto":
            names = ", ".join(f"`{show(stored(one.path))}`" for one in conflicts[:_NAMED_MAX])
            more = f" and {len(conflicts) - _NAMED_MAX} more" if len(conflicts) > _NAMED_MAX else ""
            detail = f"{names}{more} changed outside the layer since it began: nothing was committed"
            await _fail(run, layer, plan, "conflict", CONFLICT, detail, left)
        else:
            await keep(run, layer, plan, how)
        return
    await _commit(run, layer, directory, plan)


async def _commit(run: ProposalRun, layer: Layer, directory: Path, plan: Plan) -> None:
    number, backups = int(layer.directory.name), run.run_files.backups
    assert backups is not None
    changes, blocked = len(plan.changes), shown(plan.blocked)
    run.record(10, None, lambda _: LayerCommitIntent(layer=number, changes=changes))
    run.flush()
    last = last_origin(run)
    try:
        await to_its_end(lambda: room.commit_layer(layer, directory, backups, plan, last, whole=True))
    except room.CommitStoppedError as error:
        run.services.cache.files_changed()
        why, reason = ("conflict", CONFLICT) if error.is_conflict else ("failed", error.code)
        await _fail(run, layer, plan, why, reason, error.message, error.left)
        return
    run.services.cache.files_changed()
    run.record(10, None, lambda _: LayerCommitted(layer=number, changes=changes, blocked=blocked))
    if blocked:
        await keep(run, layer, room.Plan([], plan.blocked), "blocked")
        run.layer_result = LayerResult(status="kept", changes=changes, blocked=blocked)
    else:
        run.layer_result = LayerResult(status="committed", changes=changes)


async def _fail(
    run: ProposalRun, layer: Layer, plan: Plan, why: str, reason: str, detail: str, left: dict[str, str]
) -> None:
    """Keep a layer that could not be committed; the proposal has failed. Raises: StoreError."""
    await keep(run, layer, plan, why, reason, detail, left)
    run.layer_problem = detail
    run.stop(reason)
    for index in run.order_ended:
        row, tool = run.rows[index], run.tools[index]
        if row is not None and tool is not None and not tool.read_only:
            mark_uncommitted(row, reason, detail)


def mark_uncommitted(row: ActionResult, reason: str, detail: str) -> None:
    """Set the reason why the changes of an action that succeeded in its layer are not in the workspace."""
    if row.status == "succeeded":
        row.reason, row.error = reason, detail


async def keep(
    run: ProposalRun,
    layer: Layer,
    plan: Plan,
    why: str,
    reason: str = "",
    detail: str = "",
    left: dict[str, str] | None = None,
) -> None:
    """Keep the layer until a person decides. `reason`, `detail`, `left` as in `LayerKept`. Raises: StoreError."""
    changes, blocked, number = len(plan.changes), shown(plan.blocked), int(layer.directory.name)
    await to_its_end(lambda: layer.keep(why))
    left = dict(list((left or {}).items())[:_BLOCKED_SHOWN_MAX])
    run.record(
        10,
        None,
        lambda recorder: LayerKept(
            layer=number, why=why, changes=changes, blocked=blocked, reason=reason, detail=recorder.text(detail),
            not_restored=left,
        ),
    )  # fmt: skip
    run.layer_result = LayerResult(
        status="kept",
        changes=changes,
        blocked=blocked,
        reason=reason or None,
        detail=detail or None,
        not_restored=left,
    )


def leave_committed_layer(run: ProposalRun) -> None:
    """Leave the layer of a proposal that is rolled back after its files were committed, as after a conflict on its state.

    Dropping the layer would undo nothing: the committed files are restored from the run's own backups.
    """
    layer, directory = run.layer, run.run_files.directory
    if (
        layer is None
        or directory is None
        or all(one.proposal != run.proposal.id for one in room.read_entries(directory))
    ):
        return
    discard(run)
    run.layer, run.workspace, run.files = None, run.services.workspace, run.run_files


def discard(run: ProposalRun) -> None:
    """Drop the layer of a proposal that was rolled back, with everything in it."""
    layer = run.layer
    if layer is not None:
        number = int(layer.directory.name)
        run.record(10, None, lambda _: LayerDiscarded(layer=number, why="aborted"))
        run.layer_result = LayerResult(status="discarded")


def shown(blocked: Sequence[Blocked]) -> dict[str, str]:
    """Paths with their reasons, for the result and the journal; a limited number of them."""
    return {show(stored(one.path)): one.why for one in blocked[:_BLOCKED_SHOWN_MAX]}


def last_origin(run: ProposalRun) -> Origin:
    """The action to which unrecorded changes are attributed: the last one that ran a process, otherwise the last one."""
    for index in reversed(run.order_ended):
        tool = run.tools[index]
        if tool is not None and tool.writes == "anywhere" and not tool.read_only:
            return room.Origin(run.proposal.id, run.proposal.actions[index].id)
    index = run.order_ended[-1] if run.order_ended else len(run.proposal.actions) - 1
    return room.Origin(run.proposal.id, run.proposal.actions[index].id)


def _refusals(run: ProposalRun) -> Callable[[Rel, Sequence[Entry]], str | None]:
    """A function that returns why the grants forbid to commit a process's change. File tools were judged by their parameters."""
    judges, agent = run.judges_in_force(), run.principal.agent
    tools: dict[str, Registered | None] = {
        action.id: tool for action, tool in zip(run.proposal.actions, run.tools, strict=True)
    }

    def refuse(path: Rel, entries: Sequence[Entry]) -> str | None:
        made_by = {entry.action for entry in entries if entry.by == "process"}
        if not entries:
            made_by = {action for action, tool in tools.items() if tool is not None and tool.writes == "anywhere"}
        for action in made_by:
            tool = tools.get(action)
            if tool is not None and tool.name in _IN_SCOPE:
                refusal = Reach(lambda: judges, agent, tool).path(to_json(path), "path", "write_alone")
                if refusal is not None:
                    return f"`{action}`: {refusal.detail}"
        return None

    return refuse


def open_kept(services: Services, directory: Path, workspace: Workspace) -> Layer:
    """The view of a kept layer. Raises: StoreError, IntegrityError."""
    if services.layers is None:
        raise StoreError("layers are not available in this runtime", code="layer_unavailable")
    return room.reopen_layer(directory, workspace, services.layers)
