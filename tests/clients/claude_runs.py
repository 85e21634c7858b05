"""Starts the real Claude Code against a scripted model."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from attempts import PROMPT

from interlock.surfaces.clients.scripted_model import ScriptedModel

OWN = ("--allowedTools", "Bash", "Write", "Edit", "Read", "Glob", "Grep", "Agent")
"""The client's own permissions let everything through: what stops a call is Interlock."""


def begin(claude, project, model: ScriptedModel, *arguments: str, work: Path | None = None) -> subprocess.Popen[str]:
    work = work or project.root
    home = project.root.parent / f"home-of-{work.name}"
    home.mkdir(exist_ok=True)
    trusted = {"projects": {str(work): {"hasTrustDialogAccepted": True}}}
    (home / ".claude.json").write_text(json.dumps(trusted))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_API_KEY": "sk-none",
        "ANTHROPIC_BASE_URL": model.url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
    }
    return subprocess.Popen(
        [claude, "-p", PROMPT, *arguments],
        cwd=work,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(claude, project, model: ScriptedModel, *arguments: str) -> None:
    with model.serving():
        process = begin(claude, project, model, *(arguments or OWN))
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
