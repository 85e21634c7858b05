"""Drives the command line of a project: in this process where that is enough, else the real command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlock.surfaces.cli import app

CONFIGURATION = """\
agent = "coder"
[rules]
allow = ["fs.read", "fs.list", "fs.write", "fs.edit", "fs.delete", "shell", "state_read", "state_write", "assert"]
ask = ["fs.move"]
deny = ["proc.kill"]
[grants.coder]
tools = ["*"]
[approvals]
groups = { ops = ["alice"] }
"""
COMMAND = [sys.executable, "-c", "from interlock.surfaces.cli.main import main; main()"]


@dataclass
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one document."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """Its error."""
        return self.json["error"]


class Cli:
    """The command line in one project."""

    def __init__(self, root: Path, env: dict[str, str], capsys, monkeypatch) -> None:
        self.root = root
        self.env = env
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *argv: str, stdin: str = "") -> Said:
        """Run a command in this process."""
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = app.run(list(argv))
        out, err = self._capsys.readouterr()
        return Said(code, out, err)

    def real(self, *argv: str, stdin: str = "", **env: str) -> Said:
        """Run the real command."""
        done = subprocess.run(
            [*COMMAND, *argv],
            input=stdin.encode(),
            capture_output=True,
            cwd=self.root,
            env=self.env | env,
            timeout=25,
            check=False,
        )
        return Said(done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode())

    def start(self, *argv: str, **options: Any) -> subprocess.Popen:
        """Start the real command and do not wait."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*COMMAND, *argv], cwd=self.root, env=self.env, **options)

    def plan(self, *actions: dict[str, Any], name: str = "plan.json", **fields: Any) -> str:
        """Write a plan; returns its name."""
        (self.root / name).write_text(json.dumps({"actions": list(actions), **fields}))
        return name

    def run(self, *actions: dict[str, Any], flags: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
        """Run a plan of these actions; returns the result."""
        return self("run", self.plan(*actions, **fields), "--json", *flags).json


def call(tool: str, **parameters: Any) -> dict[str, Any]:
    """An action."""
    return {"type": "tool_call", "tool": tool, "parameters": parameters}
