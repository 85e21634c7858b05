"""The words of the engine's tests, and the bench on which the rows of the table are run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
import engine_world


class Bench:
    """Opens runtimes for one row."""

    def __init__(self, directory):
        self._directory = directory
        self._opened = []
        self._projects = []

    def embedded(self, *functions, **sections):
        self._opened.append(engine_world.embedded(*functions, **sections))
        return self._opened[-1]

    def project(self, **options):
        directory = self._directory / f"p{len(self._projects)}"
        directory.mkdir()
        self._projects.append(engine_world.Project(directory, **options))
        return self._projects[-1]

    def close(self):
        for rt in self._opened:
            rt.close()
        for project in self._projects:
            project.close()


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()
