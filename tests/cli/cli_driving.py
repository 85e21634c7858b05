"""Drives the command line of a project: in this process where that is enough, else the real command."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
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


def work_directly(cli: Cli) -> Cli:
    """Have proposals work on the files themselves, where a test looks at what is under way."""
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + '[workspace]\nmode = "direct"\n')
    assert cli("trust", "--yes").code == 0
    return cli


def call(tool: str, **parameters: Any) -> dict[str, Any]:
    """An action."""
    return {"type": "tool_call", "tool": tool, "parameters": parameters}


class Terminal:
    """The real command, or another program, on a pseudo-terminal."""

    def __init__(self, cli, *argv, columns=100, program=COMMAND, **env):
        self._master, slave = pty.openpty()
        self.resize(columns)
        # A size in the environment, as parallel test workers have one, would hide the terminal's own.
        inherited = {k: v for k, v in cli.env.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        env = inherited | {"TERM": "xterm"} | env
        self.process = subprocess.Popen(
            [*program, *argv], cwd=cli.root, env=env, stdin=slave, stdout=slave, stderr=slave, close_fds=True
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, text):
        """Read until the text is there."""
        end = time.monotonic() + 20
        while text not in self.text:
            assert time.monotonic() < end, self.text
            self._read()
        seen, self.text = self.text, self.text.partition(text)[2]
        return seen

    def type(self, text):
        os.write(self._master, text.encode())

    def resize(self, columns):
        """Set the width, as a terminal's window does."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def modes(self):
        """True if the terminal echoes, and hands over lines."""
        flags = termios.tcgetattr(self._master)[3]
        return bool(flags & termios.ECHO), bool(flags & termios.ICANON)

    def end(self):
        """The exit code and the rest of the text."""
        end = time.monotonic() + 20
        while self._read():
            assert time.monotonic() < end, self.text
        return self.process.wait(timeout=20), self.text

    def _read(self):
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def close(self):
        self.process.kill()
        self.process.wait(timeout=20)
        os.close(self._master)
