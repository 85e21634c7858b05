"""Trusted projects to attack. The words are those of the engine's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
import engine_world

GUARD = """
[guard]
cpu = 1.0
memory = 1.0
disk = 1.0
zombies = 100000
"""


@pytest.fixture
def victim(tmp_path):
    """Makes trusted projects with a given configuration: `victim(toml, {name: text})`."""
    made = []

    def make(toml, files=None):
        directory = tmp_path / f"v{len(made)}"
        directory.mkdir()
        made.append(engine_world.Project(directory, toml=toml + GUARD, files=list((files or {}).items())))
        return made[-1]

    yield make
    for project in made:
        project.close()
