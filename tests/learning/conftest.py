"""Trusted projects on a real disk, and runtimes in memory: the words of the engine's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
import engine_world


@pytest.fixture
def project(tmp_path):
    """A trusted project that remembers; two agents, one group."""
    made = engine_world.Project(tmp_path, toml=TOML)
    yield made
    made.close()


TOML = """
agent = "ann"
[rules]
allow = ["*", "state_read", "state_write", "assert"]
[groups]
builders = ["ann", "bob"]
[grants.ann]
tools = ["*"]
unscoped = ["boom"]
[grants.bob]
tools = ["*"]
unscoped = ["memory.read_agent"]
[grants.carl]
tools = ["memory.*"]
[workspace]
mode = "direct"
[learning]
memory = true
"""
