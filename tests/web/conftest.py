"""Projects with approvers; what a test starts ends with it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import web_world


@pytest.fixture
def new_project(tmp_path):
    """Makes trusted projects."""
    made = []

    def make(**options):
        directory = tmp_path / f"p{len(made)}"
        directory.mkdir()
        made.append(web_world.Project(directory, **options))
        return made[-1]

    yield make
    for project in made:
        project.close()


@pytest.fixture
def project(new_project):
    """One trusted project."""
    return new_project()


@pytest.fixture
def rt(project):
    """A runtime of the project: what looks from the side, and adds approvers."""
    return project.open()
