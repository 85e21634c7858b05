"""A context for tools that are called without an engine: remembers what it is told."""

from __future__ import annotations

import os
import time

import pytest
from git_world import Git

from interlock.executors.enclosure import enclosure
from interlock.executors.process import ProcessRunner
from interlock.isolation.posture import choose
from interlock.isolation.probe import probe
from interlock.workspace.tree import Workspace


class SystemClock:
    """The real clocks; the engine's own is not for the executors' tests."""

    @staticmethod
    def now_us():
        return time.time_ns() // 1000

    @staticmethod
    def mono_ns():
        return time.monotonic_ns()


class RecordingContext:
    """`interlock.Context` with a real workspace and 20 seconds to live."""

    run_id, proposal_id, action_id, attempt = "run_1", "proposal_1", "a1", 1
    agent, session, dry_run, cancelled, backups = "coder", None, False, False, None
    invocation_mode = "one_shot"

    def __init__(self, workspace, seconds=20.0):
        self.workspace = workspace
        self.deadline_ns = time.monotonic_ns() + round(seconds * 1e9)
        self.logged, self.progressed, self.undoable, self.layers, self.used, self.cost = [], [], [], {}, {}, 0.0

    def log(self, message):
        self.logged.append(message)

    def progress(self, done, total=None):
        self.progressed.append((done, total))

    def report_cost(self, cost):
        self.cost += cost

    def posture(self, **layers):
        for name, layer in layers.items():  # the engine keeps the weakest
            if not self.layers.get(name, "").startswith("absent"):
                self.layers[name] = layer

    def not_exactly_undoable(self, what):
        self.undoable.append(what)

    def resources(self, usage):
        self.used.update(usage)


@pytest.fixture
def clock():
    return SystemClock()


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "workspace"
    root.mkdir()
    with Workspace(root) as made:
        yield made


@pytest.fixture
def context(workspace):
    """Makes contexts: `context()`, or `context(seconds=0.3)` for one that soon has to end."""
    return lambda seconds=20.0: RecordingContext(workspace, seconds)


@pytest.fixture(scope="session")
def offered():
    """What this machine allows."""
    return probe()


@pytest.fixture(scope="session")
def walls_for(offered):
    """Makes the strongest walls of this machine, as a runtime has them by default, for Interlock's own environment."""
    best = choose("ns", offered)
    assert best is not None, offered
    return lambda environment: enclosure(best.profile, offered, environment=environment)


@pytest.fixture(scope="session")
def walls(walls_for):
    """Gives those for the environment of the tests."""
    made = walls_for(os.environ)
    return lambda: made


@pytest.fixture
def runner(clock, walls):
    made = ProcessRunner(clock, enclose=walls)
    yield made
    made.close()


@pytest.fixture
def git(runner, workspace, context):
    made = Git(runner, workspace, context())
    made.plain("init", "-q", "-b", "main")
    (made.root / "a.txt").write_text("one\n")
    made.plain("add", ".")
    made.plain("commit", "-qm", "first")
    return made
