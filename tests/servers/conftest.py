"""A project with MCP servers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers_world import Project

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))  # npm_programs


@pytest.fixture
def project(tmp_path, monkeypatch) -> Iterator[Project]:
    """A project whose server `s` is scripted by the test."""
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    made = Project(tmp_path / "project", tmp_path / "state")
    yield made
    for runtime in made.opened:
        runtime.close()
