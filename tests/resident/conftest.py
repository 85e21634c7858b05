"""A gate for each test module, and one of its own for tests that end it."""

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


@pytest.fixture(scope="module")
def lasting_world(tmp_path_factory):
    """A gate that serves all tests of a module."""
    found = World(tmp_path_factory.mktemp("gate"))
    yield found
    found.kill()
