"""Prepares a run for its undo: asks a waiting run to stop, and leaves a running one alone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from interlock.engine.record.replay import ReplayedRun
from interlock.engine.runs.stop import Stopper
from interlock.engine.services import Services
from interlock.journal import read, recover
from interlock.journal.holder import Holder
from interlock.journal.stops import StopStore
from interlock.model.errors import IntegrityError, StoreError, UsageError

_SURFACE: Final = "undo"


def replay_target(directory: Path) -> ReplayedRun:
    """Replay a run that is to be undone, without what its undo does not need: decisions of policies, and decoded outputs.

    So actions that were interrupted are in the order of their intents. Raises: as `ReplayedRun`.
    """
    return ReplayedRun(directory, outputs=False, events=read(directory, wants=_is_needed))


def _is_needed(kind: str) -> bool:
    return kind != "policy_decided"


def require_whole(replayed: ReplayedRun, action: str | None) -> None:
    """Require that an unfinished run is undone as a whole. Raises: UsageError `run_unfinished`."""
    if replayed.finished is None and action is not None:
        run_id = replayed.directory.name
        raise UsageError(
            f"run `{run_id}` is not over, so it is undone as a whole or not at all",
            code="run_unfinished",
            hint=f"`interlock resume {run_id}` finishes it; `interlock undo {run_id}` undoes all of it and ends it",
        )


async def bring_to_rest(services: Services, replayed: ReplayedRun, *, by: str, why: str) -> ReplayedRun:
    """Wait until the run has no process any more, and return it: it will not continue.

    Raises: as `stop_if_it_waits`; StoreError `run_locked` if it does not stop; IntegrityError.
    """
    if replayed.finished is not None:
        return replayed
    if await stop_if_it_waits(services, replayed, by=by, why=why):
        replayed = replay_target(replayed.directory)
    if replayed.finished is None:
        replayed.add_torn(recover(replayed.directory, services.disk).intents)
    return replayed


async def stop_target(services: Services, run_id: str, *, by: str) -> None:
    """Stop the target before an undo queues for its turn to write, because the target may be ahead of it in the queue.

    The undo itself reports any other problem of the run. Raises: as `stop_if_it_waits`.
    """
    if services.state_dir is None or Holder.of(services.state_dir / "runs" / run_id, services.disk) is None:
        return
    with contextlib.suppress(UsageError, IntegrityError):
        replayed = ReplayedRun(services.state_dir / "runs" / run_id, open_only=True)
        if replayed.finished is None:
            await stop_if_it_waits(services, replayed, by=by, why="it is to be undone")


async def stop_if_it_waits(services: Services, replayed: ReplayedRun, *, by: str, why: str) -> bool:
    """Ask a run to stop if its process is alive and only waits: for an answer, for its turn, for time to pass.

    False if it has no process. Raises: StoreError `run_locked` if it is executing an action.
    """
    run_id = replayed.directory.name
    if Holder.of(replayed.directory, services.disk) is None:
        return False
    running = [name for known in replayed.proposals.values() for name, one in known.actions.items() if one.open]
    if running:
        raise StoreError(
            f"run `{run_id}` is under way: `{running[0]}` runs",
            code="run_locked",
            hint=f"`interlock stop {run_id}` stops it; then undo it",
        )
    assert services.state_dir is not None
    stopper = Stopper(services.db, services.state_dir, services.disk, services.clock, by=by, surface=_SURFACE)
    try:
        await stopper.stop([run_id], why)
    except UsageError as error:
        if error.code != "run_finished":  # it has just ended
            raise
    return True


def ended_by_undo(services: Services, run_id: str) -> bool:
    """True if the run was waiting, and an undo has stopped it: there may have been nothing else to undo."""
    request = StopStore(services.db, services.clock).get(run_id)
    return request is not None and request.surface == _SURFACE
