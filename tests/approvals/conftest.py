"""A store on a real database in a temporary directory, with a clock that is told what time it is."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from approvals_world import World


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    for database in world.open:
        database.close()


@pytest.fixture
def store(world):
    return world.store()
