"""What one run has on disk: its directory, its journal, its backups, and its share of the budgets."""

from __future__ import annotations

from pathlib import Path

import msgspec

from interlock.engine.record.recorder import Recorder
from interlock.journal.kernel_layer import KernelLayer
from interlock.state.budgets import SharedBudget
from interlock.workspace import Backups


class RunFiles(msgspec.Struct, frozen=True, eq=False):
    """The run that a proposal belongs to. Everything but `id` is None where nothing is kept, or nothing limits it."""

    id: str
    directory: Path | None = None
    recorder: Recorder | None = None
    backups: Backups | None = None
    budget: SharedBudget | None = None
    kernel: KernelLayer | None = None
    """The record that kernel recorders make, where `isolation.recorder` asks for one."""
    layer: Path | None = None
    """Of a proposal in a layer: the layer's directory, which then also has the backups."""

    def close(self) -> None:
        """Close everything but the journal, which has a last word to write."""
        for one in (self.backups, self.kernel, self.budget):
            if one is not None:
                one.close()

    @property
    def undo_directory(self) -> Path | None:
        """The directory whose backups undo what the proposal did until now."""
        return self.layer or self.directory
