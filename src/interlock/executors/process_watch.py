"""Records what a process in the direct workspace changed at paths that its run has touched, so that undo can restore them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from interlock.model.tool import Context
from interlock.workspace import Origin, ProcessWatch

T = TypeVar("T")


@contextlib.asynccontextmanager
async def recorded_changes(ctx: Context, *, read_only: bool = False) -> AsyncIterator[None]:
    """Run the process inside the block. Records nothing for a read-only process, or if no backups are kept.

    Raises: StoreError, IntegrityError `backup_damaged`; before the process starts, CancelledError too.
    """
    backups = ctx.backups
    if read_only or backups is None or ctx.workspace is None:
        yield
        return
    watch = ProcessWatch(ctx.workspace, backups, Origin(ctx.proposal_id, ctx.action_id, ctx.attempt))
    try:
        await _to_its_end(watch.begin)
        yield
    finally:
        missed = await _to_its_end(watch.end)
        if missed is not None:
            ctx.not_exactly_undoable(missed)


async def _to_its_end(work: Callable[[], T]) -> T:
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
