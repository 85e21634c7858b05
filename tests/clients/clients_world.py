"""A trusted project, the command line in it, and real coding agents from npm against a scripted model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from held_commands import HELD_COMMANDS

import interlock
from interlock.engine.assemble import open_project
from interlock.engine.inspect.actions import ActionLine, run_lines
from interlock.engine.inspect.history import History
from interlock.engine.trust import review, trust
from interlock.surfaces.clients import claude_code, client, codex, copilot, gemini, opencode
from interlock.surfaces.clients.doors import examine_clients
from interlock.surfaces.clients.hook_program import Gate
from interlock.surfaces.clients.installation import Installation

COMMAND = [sys.executable, "-c", "from interlock.surfaces.cli.main import main; main()"]
CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "fs.write"]
ask = ["fs.edit"]

[grants.agent]
tools = ["fs.*"]

[grants.coder]
tools = ["fs.*"]
"""


class FailingHooks:
    """What is installed while this is there starts, in place of the hook program, one that fails in the way that a call names."""

    names = ("exit-1", "killed", "silent", "missing", "text", "slow", "shell-killed")
    seconds = 3
    """The client's own limit for a hook."""
    program = """#!/bin/sh
event=$(cat)
case $event in
  *exit-1*) exit 1 ;;
  *shell-killed*) kill -9 $PPID ;;
  *killed*) kill -9 $$ ;;
  *silent*) exit 2 ;;
  *missing*) exec /nowhere/at/all ;;
  *text*) echo 'no JSON' ;;
  *slow*) exec sleep 6 ;;
esac
"""

    def __init__(self, beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.beside = beside
        (beside / "failing").write_text(self.program)
        monkeypatch.setattr(client, "HOOK_PROGRAM", ("/bin/sh", str(beside / "failing")))
        for module in (claude_code, codex, copilot, gemini):
            monkeypatch.setattr(module, "CLIENT_HOOK_SECONDS", self.seconds)
        monkeypatch.setattr(opencode, "HOOK_SECONDS", self.seconds - 10)

    def commands(self) -> list[str]:
        """One for each failure; made, it leaves a file of that name beside the project."""
        return [f"touch ../{name}" for name in self.names]

    def ran(self) -> set[str]:
        """The failures with which a call was made."""
        return {path.name for path in self.beside.iterdir()} & set(self.names)


class Project:
    """A project with a trusted configuration."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "INTERLOCK"))}
        self.env["INTERLOCK_STATE_DIR"] = str(state)
        root.mkdir()
        self.configure(CONFIGURATION)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], cwd=self.root, env=self.env, capture_output=True, text=True, check=False, timeout=90
        )

    def configure(self, text: str) -> None:
        """Another configuration, trusted."""
        (self.root / "interlock.toml").write_text(text)
        trust(review(self.root, self.env), self.env)

    def install(self, client: str, mode: str | None = None, scope: str = "project", agent: str | None = None) -> None:
        """As `interlock install`, in this process."""
        installation = Installation(client, self.root, self.env, scope)
        installation.apply(installation.plan_install(mode, agent), mode, agent, None)

    def remove(self, client: str, scope: str = "project") -> None:
        """As `interlock install --remove`."""
        installation = Installation(client, self.root, self.env, scope)
        installation.apply_removal(installation.plan_remove())

    def doors(self, client: str) -> dict[str, str]:
        """What doctor finds when it tries the client: "open" or "closed" by the door."""
        facts = [
            fact for fact in examine_clients(self.root, self.env, run=True) if fact.name.startswith(f"{client}: own")
        ]
        return {fact.name.removeprefix(f"{client}: own "): fact.detail.partition(":")[0] for fact in facts}

    def lines(self) -> list[ActionLine]:
        """What was done, the last first."""
        with History.open(self.root, self.env) as past:
            return [line for row in past.runs() for line in run_lines(past.directory(row.run_id), row)]

    def actions(self) -> list[tuple[str, str, str]]:
        """Tool, what about, and status of each action."""
        return [(line.tool, line.about, line.status) for line in self.lines()]

    @contextmanager
    def person(self, answers: Mapping[str, Literal["approve", "deny"]]) -> Iterator[None]:
        """While the block runs, somebody answers the questions about these files and commands; other questions are left open."""
        over = threading.Event()
        person = threading.Thread(target=self._answer, args=(answers, over))
        person.start()
        try:
            yield
        finally:
            over.set()
            person.join()

    def _answer(self, answers: Mapping[str, Literal["approve", "deny"]], over: threading.Event) -> None:
        with interlock.Runtime(*open_project(self.root, env=self.env)) as runtime:
            while not over.wait(0.05):
                for hold in runtime.approvals.list():
                    answer = answers.get(hold.parameters.get("path") or hold.parameters["command"])
                    if answer is not None:
                        getattr(runtime.approvals, answer)(hold)

    def configure_held_commands(self) -> None:
        """Rules that ask about `HELD_COMMANDS`, for a moment, and allow other commands."""
        self.configure(
            '[rules]\nallow = ["fs.*", "shell"]\nask = ["shell(touch *)"]\n[grants.agent]\ntools = ["fs.*", "shell"]\n'
            '[approvals]\nttl = "5s"\n'
        )

    def check_held_commands(self, results: Mapping[int, str]) -> None:
        """`HELD_COMMANDS` were the first calls of a model: the approved one ran, and the model knows why the others did not."""
        assert [(self.root / name.split()[1]).exists() for name in HELD_COMMANDS] == [True, False, False], results
        assert "approval_denied" in results[1], results
        assert "approval_expired" in results[2], results
        commands = [row[1:] for row in self.actions()[::-1] if row[0] == "shell"]
        assert commands == list(zip(HELD_COMMANDS, ("succeeded", "rejected", "rejected"), strict=True))

    def linked_home(self) -> Path:
        """An empty home beside the project that is a link to a directory, as some machines have it."""
        home = self.root.parent / "home"
        (self.root.parent / "disk").mkdir()
        home.symlink_to(self.root.parent / "disk")
        return home

    def wait_for_question(self) -> str:
        """The id of a question, once there is one that a call waits for."""
        end = time.monotonic() + 60
        with interlock.Runtime(*open_project(self.root, env=self.env)) as runtime:
            while not (holds := runtime.approvals.list()):
                assert time.monotonic() < end, "nothing is asked"
                time.sleep(0.05)
            return holds[0].id

    def start_gate(self) -> int:
        """Start the gate; its process."""
        gate = Gate(self.env["INTERLOCK_STATE_DIR"], time.monotonic() + 60)
        return int(json.loads(gate.ask(b"interlock 1 status\n" + bytes(16))[17:])["pid"])

    def stop_gate(self) -> None:
        """End the gate, if there is one."""
        Gate(self.env["INTERLOCK_STATE_DIR"], time.monotonic() + 60).ask_once(b"interlock 1 stop\n" + bytes(16))

    def undo(self, tool: str, about: str) -> None:
        """Undo the run with that action."""
        self.interlock("undo", next(line.run_id for line in self.lines() if (line.tool, line.about) == (tool, about)))

    def interlock(self, *arguments: str) -> str:
        """Run a command that succeeds; its standard output."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: str) -> Any:
        """Run a command that fails; its error, or its result if it printed one."""
        done = self._run(*arguments, "--json")
        assert done.returncode != 0
        document = json.loads(done.stdout)
        return document.get("error", document)


@pytest.fixture
def project(tmp_path) -> Project:
    """A trusted project."""
    return Project(tmp_path / "project", tmp_path / "state")


@pytest.fixture
def failing_hooks(tmp_path, monkeypatch) -> FailingHooks:
    """Hooks that fail."""
    return FailingHooks(tmp_path, monkeypatch)
