"""What is installed from a wheel: the schema of `interlock.toml`, and an `init` that names it to editors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import hatchling.build
import pytest

from interlock.settings.schema import as_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A directory with the package as a wheel has it, which comes before this checkout."""
    built = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)  # a build backend is called in the directory of the project
    try:
        name = hatchling.build.build_wheel(str(built))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(built / name) as wheel:
        wheel.extractall(built / "site")
    return built / "site"


def init(project: Path, installed: Path) -> str:
    """The first line of what `interlock init` of the installed package writes."""
    project.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "INTERLOCK_STATE_DIR": str(project.parent / f"{project.name}-state"),
    }
    script = "import sys; from interlock.surfaces.cli.main import main; sys.exit(main(['init']))"
    subprocess.run([sys.executable, "-c", script], cwd=project, env=environment, check=True, capture_output=True)
    return (project / "interlock.toml").read_text().splitlines()[0]


def test_init_copies_the_schema_of_the_wheel_into_the_project(tmp_path, installed):
    line = init(tmp_path / "project", installed)
    schema = installed / "interlock/settings/interlock.schema.json"
    assert line == "#:schema ./.interlock/interlock.schema.json"
    assert (tmp_path / "project/.interlock/interlock.schema.json").read_text() == schema.read_text() == as_text()
    assert json.loads(schema.read_text())["title"] == "interlock.toml"
