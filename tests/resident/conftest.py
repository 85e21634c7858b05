"""A gate of its own for each test."""

from __future__ import annotations

import pytest
from resident_world import Project, World


@pytest.fixture
def world(tmp_path):
    """A state directory; its gate ends with the test."""
    found = World(tmp_path)
    yield found
    found.kill()


@pytest.fixture
def project(world) -> Project:
    """A project in which an agent may read, write and run commands, and edits if a person agrees."""
    return world.project()
