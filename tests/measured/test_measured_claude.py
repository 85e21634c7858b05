"""The real Claude Code as a measured command: what it did is on record from the kernel, and it has the terminal that it needs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from interlock.surfaces.clients.claude_code import TESTED
from interlock.surfaces.clients.scripted_model import ScriptedModel

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))
from npm_programs import installed


@pytest.fixture(scope="session")
def claude():
    """The program, from npm."""
    return installed("@anthropic-ai/claude-code", TESTED, "claude")


def environment(project, model):
    return {
        "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "none", "IS_SANDBOX": "1", "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CONFIG_DIR": str(project.root / ".claude"),
        "SHELL": "/bin/bash",  # otherwise its commands run in zsh where that is installed
    }  # fmt: skip


def in_home(project, program: Path) -> Path:
    """The program in the user's home, where npm would have put it: behind walls the rest of the machine is hidden."""
    home = Path(project.env["HOME"]) / "programs"
    shutil.copytree(program.parents[2], home, symlinks=True, copy_function=link)
    return home / "node_modules/.bin" / program.name


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.mark.clients
@pytest.mark.timeout(240)
@pytest.mark.parametrize("profile", ["none", "ns"])
def test_what_claude_code_did_is_recorded(project, claude, capfd, profile):
    model = ScriptedModel([("Bash", {"command": "echo made by an agent > made.txt"})])
    with model.serving():
        given = environment(project, model)
        command = [str(in_home(project, claude)), "-p", "go", "--dangerously-skip-permissions"]
        result = project.measure(*command, given=given, profile=profile, network="machine", recorder="notify")
    assert result.success, capfd.readouterr()
    assert capfd.readouterr().out == "done\n"
    assert (project.root / "made.txt").read_text() == "made by an agent\n"
    touched = project.past.touched(result.run_id)["", "command"]
    assert str(project.root / "made.txt") in touched.written
    assert model.url.removeprefix("http://") in touched.hosts
    assert any(program.path.endswith(("/bash", "/sh")) for program in touched.programs)
