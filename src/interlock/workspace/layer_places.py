"""Where the layers of a run are, for those who only ask whether there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LAYERS: Final = "workspace"
"""The directory of a run that holds its layers, each in a directory with a number."""


def layer_directories(run: Path) -> list[Path]:
    """The layers of a run, oldest first: those of running (or interrupted) proposals, and kept ones."""
    parent = run / LAYERS
    names = [one.name for one in parent.iterdir() if one.name.isdecimal()] if parent.is_dir() else []
    return [parent / name for name in sorted(names, key=int) if (parent / name / "layer.json").exists()]


def kept_layers(run: Path) -> list[Path]:
    """The layers that were neither committed nor discarded when their proposals ended, oldest first."""
    return [one for one in layer_directories(run) if (one / "kept").exists()]
