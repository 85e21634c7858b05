"""A project, with a trusted configuration or without one."""

from __future__ import annotations

import os

import pytest
from cli_driving import CONFIGURATION, Cli, Terminal

from interlock.engine.local.machine import user_name


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


@pytest.fixture
def terminal(cli):
    opened = []

    def start(*argv, **options):
        opened.append(Terminal(cli, *argv, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


TWO_OF_OPS = """
@id("two") @hold("ops") @quorum("2")
forbid (principal, action == Action::"fs.move", resource);
"""


@pytest.fixture
def two_of_ops(cli):
    """`fs.move` needs two of `ops`: ann and bob, whose tokens are in files of their names, and whoever runs the test."""
    (cli.root / "policy").mkdir()
    (cli.root / "policy" / "two.cedar").write_text(TWO_OF_OPS)
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + '[policy]\nfiles = ["policy/*.cedar"]\n')
    assert cli("trust", "--yes").code == 0
    proof = ()
    for name in ("ann", "bob", user_name()):
        said = cli("approvers", "add", name, "--group", "ops", "--json", *proof)
        (cli.root / name).write_text(said.json["token"])
        proof = ("--token-file", name)
