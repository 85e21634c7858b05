"""Records what a process changed, so that undo can restore it, and says where a process has changed what it may not.

In the workspace itself, only paths that the run has touched are compared; in a layer, everything that changed is found.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypeVar

from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.workspace import Origin, ProcessWatch, Workspace
from interlock.workspace.names import Rel, show

T = TypeVar("T")
_SHOWN_MAX: Final = 5


@contextlib.asynccontextmanager
async def recorded_changes(ctx: Context, *, read_only: bool = False, in_scope: bool = False) -> AsyncIterator[None]:
    """Run the process inside the block. Records nothing for a read-only process, or if no backups are kept.

    With `in_scope`, in a layer, the process may only have changed what the action's grant lets it write.

    Raises: StoreError, IntegrityError `backup_damaged`; before the process starts, CancelledError too; after it has ended
    ToolError `path_denied` or `path_protected`: what it has changed there stays in the layer and is never committed.
    """
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


def _check_scope(workspace: Workspace, changed: Sequence[Rel]) -> None:
    """Raises: ToolError naming the first paths that may not be changed."""
    guard = workspace.guard()
    refused: dict[str, list[Rel]] = {}
    for path in changed:
        try:
            guard.check(path)
            workspace.permit(path, "path", "write")
        except ToolError as error:
            if error.code not in ("path_denied", "path_protected"):
                raise
            refused.setdefault(error.code, []).append(path)
    for code, paths in sorted(refused.items()):
        names = ", ".join(f"`{show(path)}`" for path in paths[:_SHOWN_MAX])
        more = f" and {len(paths) - _SHOWN_MAX} more" if len(paths) > _SHOWN_MAX else ""
        why = "no grant of the agent allows that" if code == "path_denied" else "Interlock's loader reads that"
        raise ToolError(
            f"the process changed {names}{more}: {why}; it stays in the layer and is not committed",
            code=code,
            retryable=False,
        )


async def to_its_end(work: Callable[[], T]) -> T:
    """Run a function on a thread and wait for its end even if cancelled. Raises what it raises; CancelledError afterwards."""
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
