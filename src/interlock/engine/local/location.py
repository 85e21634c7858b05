"""Where a project's state lies: found without trusting its configuration, and even where that is broken or gone.

The ways back must not depend on files that an agent, or an editor half way through, can write. So where no configuration can be
found, the directory is asked instead: is it a workspace that the state directory knows?
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from interlock.disk import Disk
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.model.errors import ConfigurationError
from interlock.settings.load import FILE, PYPROJECT, find
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
    """The project that `start` belongs to.

    Raises: ConfigurationError if there is none, or if its configuration cannot be read and no known workspace is there;
    StoreError, IntegrityError.
    """
    state = state_directory(env, disk)
    registry = Registry(state, disk, SystemClock(), SystemIds())
    path = _configuration(start.resolve(), registry)
    root = path.parent
    workspace_id = registry.workspace_id(root)
    disk.make_directory(state / workspace_id)
    return Place(root, path, state, workspace_id)


def _configuration(start: Path, registry: Registry) -> Path:
    """The configuration file, or where it would be in the nearest known workspace."""
    try:
        found = find(start)
        problem = ConfigurationError(f"no `{FILE}` here or above", path=str(start), hint="`interlock init` writes one")
    except ConfigurationError as error:
        found, problem = None, error
    if found is not None:
        return found.path
    for directory in (start, *start.parents):
        if registry.knows(directory):
            own = directory / FILE
            return own if os.path.lexists(own) or not os.path.lexists(directory / PYPROJECT) else directory / PYPROJECT
    raise problem


def last_trusted_warning(error: ConfigurationError) -> str:
    """What a way back says when it goes on with the configuration that was last trusted."""
    where = f" ({error.path})" if error.path else ""
    return f"the configuration cannot be used{where}: {error.message}; what was last trusted counts here"
