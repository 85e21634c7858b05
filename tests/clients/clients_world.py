"""A trusted project, the command line in it, and real coding agents from npm against a scripted model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-c", "from interlock.surfaces.cli.main import main; main()"]
CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "fs.write"]
ask = ["fs.edit"]

[grants.agent]
tools = ["fs.*"]

[grants.coder]
tools = ["fs.*"]
"""


class Project:
    """A project with a trusted configuration."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "INTERLOCK"))}
        self.env["INTERLOCK_STATE_DIR"] = str(state)
        root.mkdir()
        (root / "interlock.toml").write_text(CONFIGURATION)
        self.interlock("trust", "--yes")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], cwd=self.root, env=self.env, capture_output=True, text=True, check=False, timeout=90
        )

    def interlock(self, *arguments: str) -> str:
        """Run a command that succeeds; its standard output."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: str) -> Any:
        """Run a command that fails; its error, or its result if it printed one."""
        done = self._run(*arguments, "--json")
        assert done.returncode != 0
        document = json.loads(done.stdout)
        return document.get("error", document)


@pytest.fixture
def project(tmp_path) -> Project:
    """A trusted project."""
    return Project(tmp_path / "project", tmp_path / "state")
