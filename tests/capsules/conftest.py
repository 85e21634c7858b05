"""A project with capsules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from capsules_world import World


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    """A project without capsules yet."""
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    made = World(tmp_path / "project", tmp_path / "state")
    yield made
    for runtime in made.opened:
        runtime.close()
