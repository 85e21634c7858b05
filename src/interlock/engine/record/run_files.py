"""The files of one run: its directory, its journal, its backups, and its share of the budgets."""

from __future__ import annotations

from pathlib import Path

import msgspec

from interlock.engine.record.recorder import Recorder
from interlock.journal.kernel_layer import KernelLayer
from interlock.state.budgets import SharedBudget
from interlock.workspace import Backups


class RunFiles(msgspec.Struct, frozen=True, eq=False):
    """The run of a proposal. Every field except `id` is None if nothing is kept on disk, or nothing limits the run."""

    id: str
    directory: Path | None = None
    recorder: Recorder | None = None
    backups: Backups | None = None
    budget: SharedBudget | None = None
    kernel: KernelLayer | None = None
    """The record of the kernel recorders, if `isolation.recorder` asks for one."""
    layer: Path | None = None
    """The layer's directory, for a proposal in a layer; it then also contains the backups."""

    def close(self) -> None:
        """Close everything except the journal, whose last event is still to be written."""
        for one in (self.backups, self.kernel, self.budget):
            if one is not None:
                one.close()

    @property
    def undo_directory(self) -> Path | None:
        """The directory of the backups that undo the proposal's changes so far."""
        return self.layer or self.directory
