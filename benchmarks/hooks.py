"""The cost of a coding agent's hook, from its start to its end, compared with an interpreter that does nothing.

    python benchmarks/hooks.py [--quick] [--json]

The gate is resident. `allowed` reads a file: the call is judged, and its intent is on disk before the answer. `written`
also backs up the file. `reported` is the hook after the call, which journals the outcome. `without a gate` asks the
same with a separate command (`interlock explain`), which compiles the rules first: this would be the cost of a hook
without the gate.
"""

import json
import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

from measuring import ROUNDS, alternate, options, row, scratch, show

from interlock.engine.trust import review, trust
from interlock.surfaces.clients.client import HOOK_PROGRAM
from interlock.surfaces.clients.hook_program import Gate

RULES = '[rules]\nallow = ["fs.read", "fs.write"]\n\n[grants.agent]\ntools = ["fs.*"]\n'
CALLS = 20
"""Hooks per measurement, one after the other."""


class Hooks:
    """A project, and a client's hooks in it."""

    def __init__(self, room: Path) -> None:
        self.root, self.state = room / "project", room / "state"
        self.root.mkdir()
        self.env = {"PATH": os.environ["PATH"], "HOME": str(room), "INTERLOCK_STATE_DIR": str(self.state)}
        (self.root / "interlock.toml").write_text(RULES)
        trust(review(self.root, self.env), self.env)
        (self.root / "a.txt").write_text("content")
        self.numbers = count()
        self.uses: list[str] = []
        Gate(str(self.state), time.monotonic() + 60).ask(b"interlock 1 status\n" + bytes(16))

    def hook(self, name: str, tool: str, given: dict, use: str) -> dict:
        event = {"session_id": "s", "cwd": str(self.root), "hook_event_name": name, "tool_name": tool}
        event |= {"tool_input": given, "tool_use_id": use, "tool_response": "done"}
        command = [*HOOK_PROGRAM, "claude-code", f"project={self.root}", f"state={self.state}"]
        done = subprocess.run(command, input=json.dumps(event).encode(), env=self.env, capture_output=True, check=True)
        return json.loads(done.stdout)

    def before(self, tool: str, **given: str) -> float:
        uses = [f"use-{next(self.numbers)}" for _ in range(CALLS)]
        begun = time.perf_counter()
        for use in uses:
            answer = self.hook("PreToolUse", tool, {"file_path": str(self.root / "a.txt"), **given}, use)
            assert answer["hookSpecificOutput"]["permissionDecision"] == "allow", answer
        self.uses += uses
        return (time.perf_counter() - begun) / CALLS

    def refused(self) -> float:
        begun = time.perf_counter()
        for _ in range(CALLS):
            answer = self.hook("PreToolUse", "WebFetch", {"url": "https://example.org"}, f"use-{next(self.numbers)}")
            assert answer["hookSpecificOutput"]["permissionDecision"] == "deny", answer
        return (time.perf_counter() - begun) / CALLS

    def after(self) -> float:
        if len(self.uses) < CALLS:
            self.before("Read")
        uses, self.uses = self.uses[:CALLS], self.uses[CALLS:]
        begun = time.perf_counter()
        for use in uses:
            self.hook("PostToolUse", "Read", {}, use)
        return (time.perf_counter() - begun) / CALLS

    def command(self) -> float:
        plan = {"actions": [{"type": "tool_call", "tool": "fs.read", "parameters": {"path": "a.txt"}}]}
        command = [Path(sys.executable).with_name("interlock"), "explain", "-"]
        begun = time.perf_counter()
        for _ in range(CALLS // 4):
            subprocess.run(
                command, input=json.dumps(plan).encode(), cwd=self.root, env=self.env, capture_output=True, check=True
            )
        return (time.perf_counter() - begun) / (CALLS // 4)

    def close(self) -> None:
        Gate(str(self.state), time.monotonic() + 60).ask_once(b"interlock 1 stop\n" + bytes(16))


def nothing() -> float:
    begun = time.perf_counter()
    for _ in range(CALLS):
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    return (time.perf_counter() - begun) / CALLS


def main() -> None:
    chosen = options(__doc__)
    with scratch() as room:
        hooks = Hooks(room)
        try:
            found = alternate(
                {
                    "nothing": nothing,
                    "allowed": lambda: hooks.before("Read"),
                    "written": lambda: hooks.before("Write", content="content"),
                    "refused": hooks.refused,
                    "reported": hooks.after,
                    "without a gate": hooks.command,
                },
                3 if chosen.quick else ROUNDS,
            )
        finally:
            hooks.close()
    floor = found.pop("nothing")
    targets = {"allowed": "25 ms", "refused": "25 ms"}
    rows = [
        row(f"a hook, {name}", took, "`python -I -S -c pass`", floor, targets.get(name, ""), 1e3)
        for name, took in found.items()
    ]
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
