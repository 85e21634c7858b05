"""A project with capsules. Modules are compiled once for all tests of a process; `test_capsules_loading` is about compiling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import capsule_compilers
import pytest
from capsules_world import World

from interlock import Runtime


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """A state directory with the compiled code of all worlds."""
    return tmp_path_factory.mktemp("compiled")


@contextlib.contextmanager
def a_world(place: Path, compiled: Path) -> Iterator[World]:
    """A project in a directory, and its runtimes closed in the end."""
    state = place / "state"
    capsule_compilers.copy_code(compiled, state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERLOCK_STATE_DIR", str(state))
        made = World(place / "project", state)
        yield made
        for runtime in made.opened:
            runtime.close()
    capsule_compilers.copy_code(state, compiled)


@pytest.fixture
def world(tmp_path, compiled) -> Iterator[World]:
    """A project without capsules yet."""
    with a_world(tmp_path, compiled) as made:
        yield made


@pytest.fixture(scope="module")
def runtime(tmp_path_factory, compiled) -> Iterator[Runtime]:
    """The runtime of a project with the capsule `c`, for tests that change nothing about it."""
    with a_world(tmp_path_factory.mktemp("shared"), compiled) as made:
        made.add()
        made.configure()
        yield made.open()
