"""Where a project's state lies: found without trusting, or even decoding, its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from interlock.disk import Disk
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.model.errors import ConfigurationError
from interlock.settings.load import find
from interlock.workspace.registry import Registry, state_directory


class Place(NamedTuple):
    """A project and its places. `home` is the workspace's own directory in the state directory `state`."""

    root: Path
    configuration: Path
    state: Path
    workspace_id: str

    @property
    def home(self) -> Path:
        """The workspace's directory in the state directory."""
        return self.state / self.workspace_id

    @property
    def runs(self) -> Path:
        """The directory of the runs."""
        return self.home / "runs"


def locate(start: Path, env: Mapping[str, str], disk: Disk) -> Place:
    """The project that `start` belongs to. Raises: ConfigurationError if there is none; StoreError, IntegrityError."""
    found = find(start)
    if found is None:
        raise ConfigurationError(
            "no `interlock.toml` here or above", path=str(start.resolve()), hint="`interlock init` writes one"
        )
    state = state_directory(env, disk)
    root = found.path.parent
    workspace_id = Registry(state, disk, SystemClock(), SystemIds()).workspace_id(root)
    disk.make_directory(state / workspace_id)
    return Place(root, found.path, state, workspace_id)
