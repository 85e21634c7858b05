"""Records what a process changed, so that undo can restore it, and refuses changes that the grant does not allow.

In the workspace itself, only paths that the run has touched are compared. In a layer, every change is found.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from interlock.isolation.posture import ACTIVE
from interlock.lazy import lazy
from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.workspace import Change, Origin, ProcessWatch, Workspace
from interlock.workspace.names import Rel, show
from interlock.workspace.nodes import Identity

if TYPE_CHECKING:
    from interlock.workspace import loaded_files
else:
    loaded_files = lazy("interlock.workspace.loaded_files")


T = TypeVar("T")
_SHOWN_MAX: Final = 5


@contextlib.asynccontextmanager
async def recorded_changes(
    ctx: Context, *, read_only: bool = False, in_scope: bool = False, posture: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """Record what the process that runs inside the block changes. Records nothing if it is read-only or no backups are kept.

    With `in_scope`, a process in a layer may change only what the action's grant lets it write. In the workspace itself it may
    change nothing that the loader reads: walls protect existing files, but cannot prevent new ones.
    If the process has a root of its own (its `posture`), existing files are read-only for it as long as they are not replaced:
    clients and people may write into theirs meanwhile.

    Raises: StoreError, IntegrityError `backup_damaged`; CancelledError before the process starts; ToolError
    `path_denied` or `path_protected` after it has ended. Refused changes in a layer are never committed.
    """
    direct = in_scope and ctx.workspace is not None and ctx.workspace.layer is None
    before = loaded_files.loaded_states(ctx.workspace) if direct else {}
    async with _recorded(ctx, read_only=read_only, in_scope=in_scope):
        yield
    if direct:
        _check_loaded(ctx.workspace, before, pinned=(posture or {}).get("namespaces") == ACTIVE)


@contextlib.asynccontextmanager
async def _recorded(ctx: Context, *, read_only: bool, in_scope: bool) -> AsyncIterator[None]:
    backups = ctx.backups
    if read_only or backups is None or ctx.workspace is None:
        yield
        return
    watch = ProcessWatch(ctx.workspace, backups, Origin(ctx.proposal_id, ctx.action_id, ctx.attempt))
    try:
        await to_its_end(watch.begin)
        yield
    finally:
        missed = await to_its_end(watch.end)
        if missed is not None:
            ctx.not_exactly_undoable(missed)
    if in_scope and ctx.workspace.layer is not None and watch.changed:
        await to_its_end(lambda: _check_scope(ctx.workspace, watch.changed))


def _check_loaded(workspace: Workspace, before: dict[Rel, Identity], *, pinned: bool) -> None:
    """Raises: ToolError that names the first changed files among those that the loader reads."""
    after = loaded_files.loaded_states(workspace)
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if pinned:
        # A rename to a path ends the read-only mount over it, and with it the wall around what is there now.
        places = (place for place in loaded_files.protected_places(workspace) if place in before and place in after)
        walled = {place for place in places if before[place][:2] == after[place][:2]}
        paths = [path for path in paths if not any(path[:depth] in walled for depth in range(1, len(path) + 1))]
    if paths:
        raise ToolError(
            f"{_named(paths)} changed while the process ran: Interlock or a client reads it, and no agent may change it; "
            "the process worked in the workspace itself, so the change is already there",
            code="path_protected",
            retryable=False,
            hint="review the change, and remove it unless a person made it",
        )


def _named(paths: Sequence[Rel]) -> str:
    names = ", ".join(f"`{show(path)}`" for path in paths[:_SHOWN_MAX])
    return names + (f" and {len(paths) - _SHOWN_MAX} more" if len(paths) > _SHOWN_MAX else "")


def _check_scope(workspace: Workspace, changed: Sequence[Change]) -> None:
    """Check the grant for each changed path. Raises: ToolError, which names the first paths that must not be changed."""
    guard = workspace.guard()
    refused: dict[str, list[Rel]] = {}
    for path, kind in ((change.path, change.after.kind) for change in changed):
        try:
            guard.check(path, after=kind)
            workspace.permit(path, "path", "write_alone")
        except ToolError as error:
            if error.code not in ("path_denied", "path_protected"):
                raise
            refused.setdefault(error.code, []).append(path)
    for code, paths in sorted(refused.items()):
        why = "the agent's grants do not allow it" if code == "path_denied" else "Interlock loads it"
        raise ToolError(
            f"the process changed {_named(paths)}: {why}; it stays in the layer and is not committed",
            code=code,
            retryable=False,
        )


async def to_its_end(work: Callable[[], T]) -> T:
    """Run a function on a thread and wait for it to finish, even when cancelled.

    Raises what the function raises; CancelledError after it has finished.
    """
    done = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return done.result()
