"""A project, with a trusted configuration or without one."""

from __future__ import annotations

import os

import pytest
from cli_driving import CONFIGURATION, Cli


@pytest.fixture
def bare(tmp_path, capsys, monkeypatch) -> Cli:
    """A project without configuration."""
    root = tmp_path / "project"
    root.mkdir()
    state = tmp_path / "state"
    monkeypatch.chdir(root)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(state))
    for name in ("NO_COLOR", "INTERLOCK_DEBUG", "INTERLOCK_APPROVER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return Cli(root, env, capsys, monkeypatch)


@pytest.fixture
def cli(bare) -> Cli:
    """A project with a trusted configuration."""
    (bare.root / "interlock.toml").write_text(CONFIGURATION)
    assert bare("trust", "--yes").code == 0
    return bare
