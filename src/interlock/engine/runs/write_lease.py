"""One proposal at a time may write in a workspace that is worked on directly; readers are free.

The lease is a row in the database, so it holds across processes. A proposal that a tool makes while it runs (nested
execution) works under the lease of the proposal that the tool belongs to, or it would wait for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Final

from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.waiting import tell_waiting
from interlock.engine.proposals.worker_pool import WorkerPool
from interlock.model.errors import StoreError
from interlock.workspace.lease import WriteLease

_POLL_SECONDS: Final = 0.02
_RENEW_SECONDS: Final = 20.0

_held: ContextVar[str | None] = ContextVar("interlock_write_lease", default=None)
"""Id of the workspace whose lease the current task works under."""


@contextlib.asynccontextmanager
async def writing(pool: WorkerPool) -> AsyncIterator[None]:
    """Hold the workspace's lease for the block, if the proposal may write there. Raises: StoreError `workspace_busy`."""
    run = pool.run
    services = run.services
    workspace_id = services.workspace_id
    if services.workspace is None or run.dry_run or _held.get() == workspace_id or not _may_write(run):
        yield
        return
    lease = await _acquire(run)
    if lease is None:
        run.stop("deadline_exceeded")
        yield
        return
    token = _held.set(workspace_id)
    renewal = asyncio.create_task(_renew(pool, lease))
    try:
        yield
    finally:
        renewal.cancel()
        _held.reset(token)
        lease.release()


def _may_write(run: ProposalRun) -> bool:
    return any(tool is not None and not tool.read_only for tool in run.tools)


async def _acquire(run: ProposalRun) -> WriteLease | None:
    """The lease; None if the proposal's deadline passed meanwhile, and no earlier process began it."""
    services = run.services
    holder = f"{run.files.id} {run.proposal.id}"
    end = run.clock.mono_ns() + services.lease_wait_ms * 1_000_000
    reported = False
    while True:
        try:
            return WriteLease.attempt(services.db, services.workspace_id, holder, run.clock)
        except StoreError as error:
            now = run.clock.mono_ns()
            if error.code != "workspace_busy" or now > end:
                raise
            if not reported:
                reported = True
                left_ms = (min(end, run.deadline_ns) - now) / 1e6
                tell_waiting(run, None, "workspace", f"its turn to write in the workspace: {error.message}", left_ms)
        if now > run.deadline_ns and not run.undone:
            return None
        await asyncio.sleep(_POLL_SECONDS)


async def _renew(pool: WorkerPool, lease: WriteLease) -> None:
    missed = False
    while True:
        await asyncio.sleep(_RENEW_SECONDS)
        try:
            lease.renew()
            missed = False
        except StoreError as error:
            if error.code != "database_locked" or missed:
                pool.fail(error)
                return
            missed = True  # the lease lasts long enough for another try
