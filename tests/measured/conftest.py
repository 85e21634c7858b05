"""A project with a history, and measured runs in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interlock.engine.inspect.history import History
from interlock.engine.measured.run import Options, measure_command
from interlock.engine.measured.spec import RunSpec


class Project:
    """Runs commands as measured runs, and reads their records."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self.root, self.env = root, env
        self.past = History.open(root, env)

    def measure(self, *command: str, run_id: str | None = None, given: dict[str, str] | None = None, **options):
        spec = RunSpec(command=command, env=given or {})
        spec = spec if run_id is None else spec.with_run_id(run_id)
        options = {"profile": "none", **options}
        return measure_command(self.past, spec, Options(**options), directory=self.root, env=self.env)

    def events(self, result) -> list:
        return list(self.past.events(result.run_id))


@pytest.fixture
def project(tmp_path):
    root, home = tmp_path / "project", tmp_path / "home"
    root.mkdir()
    home.mkdir()
    (root / "interlock.toml").write_text('agent = "coder"\n')
    env = {**os.environ, "HOME": str(home), "INTERLOCK_STATE_DIR": str(home / ".local/state/interlock")}
    (home / ".local/state").mkdir(parents=True)
    made = Project(root, env)
    yield made
    made.past.db.close()
