"""Opens and closes the files of a run: its journal with the run's lock, its backups, its share of the budgets."""

from __future__ import annotations

import contextlib

from msgspec.structs import replace

from interlock.engine.proposals.budget import budget_of
from interlock.engine.record.recorder import Recorder
from interlock.engine.record.run_files import RunFiles
from interlock.engine.services import Services
from interlock.journal import JournalWriter
from interlock.journal.kernel_layer import KernelLayer
from interlock.model.errors import StoreError
from interlock.workspace import Backups


def open_files(services: Services, run_id: str, *, create: bool) -> RunFiles:
    """Open the files of a run that is new (`create`) or resumed. Raises: StoreError `run_locked` and others."""
    if services.kept is not None:
        journal = services.kept.open(run_id)
        return RunFiles(run_id, None, Recorder(run_id, journal, services.redactor, services.hooks.events))
    if services.durability == "off" or services.state_dir is None:
        return RunFiles(run_id)
    directory = services.state_dir / "runs" / run_id
    writer = JournalWriter.open(
        directory,
        run_id=run_id,
        disk=services.disk,
        clock=services.clock,
        durability=services.durability,
        create=create,
    )
    try:
        recorder = Recorder(run_id, writer, services.redactor, services.hooks.events)
        backups = None if services.workspace is None else Backups(directory, services.disk, services.clock)
        recorded = services.settings.isolation.recorder != "none"
        kernel = KernelLayer(directory, services.disk, services.redactor) if recorded else None
    except BaseException:
        writer.close()
        raise
    return RunFiles(run_id, directory, recorder, backups, kernel=kernel)


def open_budget(services: Services, files: RunFiles, agent: str, session: str | None) -> RunFiles:
    """The files, with the budgets of the run, its session and its agent. A run without a session counts as its own session."""
    given = services.settings.budget
    limits = {
        f"session:{session or files.id}": budget_of(given),
        f"run:{files.id}": budget_of(given.run),
        f"agent:{agent}": budget_of(given.agent),
    }
    chosen = {scope: budget for scope, budget in limits.items() if budget is not None}
    return replace(files, budget=services.budgets.open(chosen)) if chosen else files


def release_files(files: RunFiles) -> None:
    """Release the run's lock and everything else, because the run could not start. The caller already gets that error."""
    with contextlib.suppress(StoreError):
        if files.recorder is not None:
            files.recorder.writer.close()
        if files.budget is not None:
            files.budget.close()
    if files.backups is not None:
        files.backups.close()
    if files.kernel is not None:
        files.kernel.close()
