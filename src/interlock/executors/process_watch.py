"""Records what a process changed, so that undo can restore it, and refuses changes that the grant does not allow.

In the workspace itself, only paths that the run has touched are compared. In a layer, every change is found.
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
    """Record what the process that runs inside the block changes. Records nothing if it is read-only or no backups are kept.

    With `in_scope`, a process in a layer may change only what the action's grant lets it write.

    Raises: StoreError, IntegrityError `backup_damaged`; CancelledError before the process starts; ToolError
    `path_denied` or `path_protected` after it has ended. Refused changes stay in the layer and are never committed.
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
    """Check the grant for each changed path. Raises: ToolError, which names the first paths that must not be changed."""
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
        why = "the agent's grants do not allow it" if code == "path_denied" else "Interlock loads it"
        raise ToolError(
            f"the process changed {names}{more}: {why}; it stays in the layer and is not committed",
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
