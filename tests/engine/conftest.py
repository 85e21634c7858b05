"""Runtimes in memory, and trusted projects on a real disk. The words themselves are in `engine_world`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import engine_world


@pytest.fixture
def embedded():
    """Opens runtimes in memory: `embedded(tool, ..., budget={...})`."""
    opened = []

    def make(*functions, **sections):
        opened.append(engine_world.embedded(*functions, **sections))
        return opened[-1]

    yield make
    for rt in opened:
        rt.close()


@pytest.fixture
def new_project(tmp_path):
    """Makes trusted projects: `new_project(toml=..., files=[(name, text)])`."""
    made = []

    def make(**options):
        directory = tmp_path / f"p{len(made)}"
        directory.mkdir()
        made.append(engine_world.Project(directory, **options))
        return made[-1]

    yield make
    for project in made:
        project.close()


@pytest.fixture
def project(new_project):
    """One trusted project, in which the agent may do everything."""
    return new_project()
