"""The workflow in examples/ci does what it says: its own commands are run here, as GitHub runs them, on the example project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from junitparser import JUnitXml

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / "examples/ci/evidence.yml").read_text())
STEPS = {step["name"]: step["run"] for step in WORKFLOW["jobs"]["evidence"]["steps"] if "run" in step}
HEAD = (ROOT / "examples/ci/evidence.yml").read_text().split("name: evidence")[0]
ONCE = [line.removeprefix("#   ") for line in HEAD.splitlines() if line.startswith("#   ")]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout of the example project on a runner, with `interlock` and `python` on the path."""
    root = tmp_path / "ledger"
    shutil.copytree(ROOT / "examples/ledger", root)
    (root / "ci").mkdir()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("GITHUB_RUN_ID", "17")
    monkeypatch.setenv("GITHUB_RUN_ATTEMPT", "1")
    return root


def step(project, name):
    """Runs a step as GitHub does: `bash -e`, each step a shell of its own."""
    return subprocess.run(["bash", "-e", "-c", STEPS[name]], cwd=project, capture_output=True, text=True, check=False)


def test_the_steps_pass_until_the_tests_touch_something_new(project):
    for line in ONCE:
        done = subprocess.run(["bash", "-e", "-c", line], cwd=project, capture_output=True, text=True, check=False)
        # The ledger has a mistake in it, which its tests find.
        assert done.returncode == (1 if "exec" in line else 0), done.stderr
    assert list(STEPS) == ["Set up", "Verify the expected archive", "Measure", "Export", "Verify", "Compare"]

    assert step(project, "Verify the expected archive").returncode == 0
    assert step(project, "Measure").returncode == 1
    for name in ("Export", "Verify", "Compare"):
        done = step(project, name)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
    assert json.loads((project / "evidence.sarif").read_bytes())["version"] == "2.1.0"
    assert all(case.is_passed for suite in JUnitXml.fromfile(str(project / "evidence.xml")) for case in suite)


def test_the_gate_stops_a_new_program(project, monkeypatch):
    for line in ONCE:
        subprocess.run(["bash", "-e", "-c", line], cwd=project, capture_output=True, check=False)
    with (project / "test_ledger.py").open("a") as file:
        file.write("\nimport subprocess\nsubprocess.run(['id'])\n")
    for name in ("Measure", "Export"):
        step(project, name)
    assert step(project, "Verify").returncode == 0
    done = step(project, "Compare")
    assert done.returncode == 1
    assert done.stdout.startswith("new-program: ")
    results = json.loads((project / "evidence.sarif").read_bytes())["runs"][0]["results"]
    # A recorder sees attempts: `id` was looked for in each directory of the path.
    assert {r["message"]["text"].rpartition("/")[2] for r in results if r["level"] == "error"} == {"id"}
