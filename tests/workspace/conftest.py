"""Real trees, reached by both ways of opening a path."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

from interlock.disk import Disk
from interlock.testing import FakeClock
from interlock.workspace import Backups, Workspace
from interlock.workspace.beneath import OpenAt2, Walk
from interlock.workspace.layer_mounts import LayerMounts

sys.path.insert(0, str(Path(__file__).parent))
from layer_world import NoOverlay, World

ACCESS = {"openat2": OpenAt2, "walk": Walk}


@pytest.fixture(params=sorted(ACCESS))
def access(request):
    return ACCESS[request.param]()


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "project"
    path.mkdir()
    return path


@pytest.fixture
def workspace(root, access):
    with Workspace(root, access=access) as made:
        yield made


@pytest.fixture
def new_run(tmp_path):
    """Makes the backups of a fresh run: `new_run("run_1")`."""
    opened = []

    def make(name, disk=None):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True, exist_ok=True)
        opened.append(Backups(path, disk or Disk(), FakeClock()))
        return opened[-1]

    yield make
    for backups in opened:
        backups.close()


@pytest.fixture(params=["overlay", "copy"])
def mounts(request):
    made = LayerMounts() if request.param == "overlay" else NoOverlay()
    yield made
    made.close()


@pytest.fixture
def world(tmp_path, mounts):
    with contextlib.closing(World(tmp_path, mounts)) as made:
        yield made
