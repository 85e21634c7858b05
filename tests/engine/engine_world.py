"""Words for the tests beside this file: actions, embedded runtimes, and trusted projects on a real disk."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from forked_script import ForkedScript
from msgspec.structs import replace

import interlock
from interlock.disk import Disk
from interlock.model.tool import Binding, Tool
from interlock.settings import TrustStore, gather
from interlock.workspace.registry import state_directory

AGENT = "coder"
SETTINGS = {
    "agent": AGENT,
    "rules": {"allow": ["*", "state_read", "state_write", "assert"]},
    "grants": {AGENT: {"tools": ["*"], "unscoped": ["*"], "state_keys": ["**"]}},
}
TOML = f"""
agent = "{AGENT}"

[rules]
allow = ["*", "state_read", "state_write", "assert"]
%s
[grants.{AGENT}]
tools = ["*"]
unscoped = ["*"]

[guard]
cpu = 1.0
memory = 1.0
disk = 1.0
zombies = 100000
"""

DIRECT = (
    TOML
    + """
[workspace]
mode = "direct"
"""
)
"""The same, for what is about proposals that work on the files themselves."""


def call(tool, name=None, /, **fields):
    """A `tool_call`; `parameters` and every other field by name."""
    return {"type": "tool_call", "tool": tool, **({"id": name} if name else {}), **fields}


def write(key, value, name=None, /, **fields):
    return {
        "type": "state_write",
        "parameters": {"key": key, "value": value},
        **({"id": name} if name else {}),
        **fields,
    }


def read(key, name=None, /, **fields):
    return {"type": "state_read", "parameters": {"key": key}, **({"id": name} if name else {}), **fields}


def expect(key, expected, name=None, /, **fields):
    parameters = {"key": key, "expected": expected}
    return {"type": "assertion", "parameters": parameters, **({"id": name} if name else {}), **fields}


def plan(*actions, **fields):
    return {"actions": list(actions), **fields}


def statuses(result):
    return [row.status for row in result.results]


def reasons(result):
    return [row.reason for row in result.results]


def embedded(*functions, clock=None, **sections):
    """A runtime in memory, in which the agent may call everything that is registered."""
    rt = interlock.Runtime.open(settings=SETTINGS | sections, clock=clock)
    for function in functions or [binding("nothing", nothing)]:  # a rule that matches no tool at all is refused
        rt.register(function)
    return rt


def change_services(rt, **changes):
    """Give a runtime other services than it was built with: what a test needs to be broken, slow or predictable."""
    vars(rt).update(vars(interlock.Runtime(replace(rt.services, **changes), rt._closing, rt._on_question)))


def binding(name, function, mode="async", **definition):
    """A tool whose function takes (parameters, ctx) as the engine calls it: no adapter in between."""
    return Binding(tool=Tool(name=name, **definition), function=function, mode=mode)


def unique_seconds():
    """A number for `sleep` that no other process has: by it `living` finds the process, whatever its pid is where it runs."""
    return f"1000.{os.getpid()}{time.monotonic_ns()}"


def living(seconds):
    """The processes that sleep for so long."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes().split(b"\0")[:2] == [b"sleep", seconds.encode()]:
                found.append(int(entry.parent.name))
    return found


def beside(name, function):
    """A tool that, as far as the engine knows, does nothing to files: for what happens while a proposal runs."""
    return Binding(tool=Tool(name=name), function=function, mode="async", writes="nothing")


async def nothing(parameters, ctx):
    """A tool that does nothing."""


def execute(rt, *actions, **fields):
    """Take a plan through the gate on a loop of its own."""
    options = {key: fields.pop(key) for key in ("dry_run", "executor") if key in fields}
    return asyncio.run(rt.execute(plan(*actions, **fields), **options))


class Project:
    """A trusted project in a temporary directory, with its own state directory."""

    def __init__(self, directory: Path, toml: str = TOML % "", files=()):
        self.root = directory / "project"
        self.state = directory / "state"
        self.root.mkdir()
        (self.root / "interlock.toml").write_text(toml)
        for name, text in files:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.env = {"INTERLOCK_STATE_DIR": str(self.state)}
        self.opened = []
        self.trust()

    def trust(self):
        found = gather(self.root)
        disk = Disk()
        TrustStore(state_directory(self.env, disk), disk).record(found.root, found.files)

    def open(self, *functions, **options):
        """A runtime of the project, as a new process would open it."""
        before = os.environ.get("INTERLOCK_STATE_DIR")
        os.environ.update(self.env)
        try:
            rt = interlock.Runtime.open(workspace=self.root, **options)
        finally:
            if before is None:
                del os.environ["INTERLOCK_STATE_DIR"]
            else:
                os.environ["INTERLOCK_STATE_DIR"] = before
        for function in functions:
            rt.register(function)
        self.opened.append(rt)
        return rt

    def close(self):
        while self.opened:
            self.opened.pop().close()

    @property
    def home(self):
        (found,) = (path.parent for path in self.state.glob("*/interlock.db"))
        return found

    def run_directory(self, run_id):
        return self.home / "runs" / run_id

    def journal(self, run_id):
        """The events of a run as plain dictionaries, seals left out."""
        lines = (self.run_directory(run_id) / "journal.ndjson").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] != "seal"]

    def kinds(self, run_id, action=None):
        return [e["kind"] for e in self.journal(run_id) if action is None or e.get("action") == action]

    def runs(self):
        return sorted(path.name for path in (self.home / "runs").iterdir())

    def script(self, body, *arguments, **options):
        """Start a process that has this project as `project` and the words of this module."""
        head = f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from engine_world import *
            project = Project.__new__(Project)
            project.root, project.state = Path({str(self.root)!r}), Path({str(self.state)!r})
            project.env, project.opened = {self.env!r}, []
        """
        code = textwrap.dedent(head) + textwrap.dedent(body)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        if options.keys() <= {"stdin", "stdout", "stderr", "text", "env", "cwd"}:
            return ForkedScript(code, *map(str, arguments), **options)
        return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **options)
