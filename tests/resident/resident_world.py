"""A trusted project, the real hook program, and the resident gate that it starts: spoken to as a client does."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import interlock
from interlock.engine.assemble import open_project
from interlock.engine.inspect.actions import ActionLine, run_lines
from interlock.engine.inspect.history import History
from interlock.engine.trust import review, trust
from interlock.surfaces.clients.client import HOOK_PROGRAM
from interlock.surfaces.clients.hook_program import Failure, Gate

CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "fs.write", "shell"]
ask = ["fs.edit"]

[grants.agent]
tools = ["fs.*", "shell"]

[grants.coder]
tools = ["fs.read"]
"""
WAIT_S = 60.0


class Answer:
    """What a hook said."""

    def __init__(
        self, done: subprocess.CompletedProcess[bytes] | subprocess.Popen[bytes], out: bytes, err: bytes
    ) -> None:
        self.code = done.returncode
        self.error = err.decode()
        self.document = json.loads(out) if out else {}
        said = self.document.get("hookSpecificOutput", {})
        self.decision = said.get("permissionDecision", "deny" if self.code == 2 else None)
        self.reason = said.get("permissionDecisionReason", self.error)


class World:
    """A state directory with its gate, and projects."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.state = base / "state"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "INTERLOCK"))}
        self.env["INTERLOCK_STATE_DIR"] = str(self.state)

    def project(self, name: str = "project", configuration: str = CONFIGURATION) -> Project:
        root = self.base / name
        root.mkdir()
        found = Project(self, root)
        found.configure(configuration)
        return found

    def status(self) -> dict[str, Any] | None:
        """What the gate says of itself; None if there is none."""
        try:
            answer = Gate(str(self.state), WAIT_S).ask_once(b"interlock 1 status\n" + bytes(16))
        except Failure:
            return None
        return None if answer is None else json.loads(answer[17:])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the gate, if there is one."""
        status = self.status()
        if status is not None:
            fd = os.pidfd_open(status["pid"])
            signal.pidfd_send_signal(fd, number)
            select.select([fd], [], [], WAIT_S)
            os.close(fd)

    def log(self) -> str:
        return (self.state / "gate" / "log").read_text()


class Project:
    """One project."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.root = root
        self.given: dict[str, str] = {"project": str(root), "wait": "0.01"}
        self._calls = 0

    def configure(self, text: str, *, trusted: bool = True) -> None:
        (self.root / "interlock.toml").write_text(text)
        if trusted:
            trust(review(self.root, self.world.env), self.world.env)

    def runtime(self) -> interlock.Runtime:
        return interlock.Runtime(*open_project(self.root, env=self.world.env))

    def begin(
        self, data: bytes, *, cwd: Path | None = None, client: str = "claude-code", **given: str
    ) -> subprocess.Popen[bytes]:
        """Start the hook program with an event."""
        pairs = {"state": str(self.world.state), **self.given, **given}
        process = subprocess.Popen(
            [*HOOK_PROGRAM, client, *(f"{k}={v}" for k, v in pairs.items() if v)],
            cwd=cwd or self.root,
            env=self.world.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.close()
        process.stdin = None
        return process

    def say(self, data: bytes, **options: Any) -> Answer:
        """Give an event to the hook program."""
        process = self.begin(data, **options)
        out, err = process.communicate(timeout=WAIT_S)
        return Answer(process, out, err)

    def event(self, name: str, tool: str = "", given: Any = None, use: str = "", **more: Any) -> bytes:
        """An event as Claude Code gives it."""
        event = {"session_id": "s", "cwd": str(self.root), "hook_event_name": name, "tool_name": tool, **more}
        return json.dumps(event | {"tool_input": given or {}, "tool_use_id": use}).encode()

    def before(self, tool: str, given: Any, use: str = "", *, options: Any = None, **more: Any) -> Answer:
        """A hook before a tool call."""
        self._calls += 1
        return self.say(self.event("PreToolUse", tool, given, use or f"use-{self._calls}", **more), **(options or {}))

    def after(self, tool: str, use: str = "", *, failed: str | None = None, **more: Any) -> Answer:
        """The hook after it."""
        about = {"tool_response": {"said": "done"}} if failed is None else {"error": failed}
        name = "PostToolUse" if failed is None else "PostToolUseFailure"
        return self.say(self.event(name, tool, {}, use or f"use-{self._calls}", **about, **more))

    def lines(self) -> list[ActionLine]:
        """What was done, oldest first."""
        with History.open(self.root, self.world.env) as past:
            rows = past.runs()[::-1]
            return [line for row in rows for line in run_lines(past.directory(row.run_id), row)]
