"""A project for the gateway."""

from __future__ import annotations

import pytest
from gateway_world import Project


@pytest.fixture
def project(tmp_path) -> Project:
    """A project in which an agent reads, runs commands, and writes if a person agrees."""
    return Project(tmp_path / "project", tmp_path / "state")
