"""Words for the tests beside this file: a trusted project with approvers, a process that runs a plan, a process that serves."""

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx

import interlock
from interlock.disk import Disk
from interlock.settings import TrustStore, gather
from interlock.workspace.registry import state_directory

TOML = """
agent = "coder"

[rules]
allow = ["fs.read", "fs.delete"]
ask = ["fs.write"]

[grants.coder]
tools = ["fs.*"]

[workspace]
mode = "%(mode)s"

[approvals]
ttl = "%(ttl)s"
%(approvals)s

[guard]
cpu = 1.0
memory = 1.0
disk = 1.0
zombies = 100000
"""
CEDAR = """
@id("ops-only") @hold("ops") @reason("deleting is for ops")
forbid (principal, action == Action::"fs.delete", resource);
"""


class Project:
    """A trusted project in which `fs.write` asks anybody and `fs.delete` asks `ops`.

    Proposals work on the files themselves, so that a test sees what a run under way has done.
    """

    def __init__(self, directory: Path, *, ttl="10m", approvals="", mode="direct"):
        self.root, self.state = directory / "project", directory / "state"
        self.root.mkdir()
        policy = '\n[policy]\nfiles = ["policy/*.cedar"]\n'
        (self.root / "interlock.toml").write_text(TOML % {"ttl": ttl, "approvals": approvals, "mode": mode} + policy)
        (self.root / "policy").mkdir()
        (self.root / "policy" / "ops.cedar").write_text(CEDAR)
        self.env = {"INTERLOCK_STATE_DIR": str(self.state)}
        self.trust()
        self.processes = []
        self.opened = []

    def trust(self):
        disk, found = Disk(), gather(self.root)
        TrustStore(state_directory(self.env, disk), disk).record(found.root, found.files)

    def open(self):
        """A runtime of this project, in this process."""
        before = dict(os.environ)
        os.environ.update(self.env)
        try:
            self.opened.append(interlock.Runtime.open(workspace=self.root))
        finally:
            os.environ.clear()
            os.environ.update(before)
        return self.opened[-1]

    def start(self, *arguments, code=None, **options):
        """Start the command line, or Python code, in this project."""
        command = ["-c", textwrap.dedent(code) if code else "from interlock.surfaces.cli.main import main; main()"]
        process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            cwd=self.root, env={**os.environ, **self.env, "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *actions, wait=True, order="declared"):
        """Start a process that takes a plan through the gate and prints its result."""
        code = """
            import json, sys
            import interlock, msgspec
            with interlock.Runtime.open() as rt:
                rt.services.desk.wait = sys.argv[2] == "True"
                print(msgspec.json.encode(rt.execute_sync(json.loads(sys.argv[1]))).decode())
        """
        return self.start(json.dumps({"actions": list(actions), "order": order}), str(wait), code=code)

    def serve(self, *arguments):
        """Start `interlock serve` on a free port, and return it once it serves."""
        return Server(self.start("serve", "--port", "0", "--json", *arguments))

    def close(self):
        for rt in self.opened:
            rt.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=20)


class Server:
    """A process that serves."""

    def __init__(self, process):
        self.process = process
        line = first_line(process)
        self.url = json.loads(line)["url"]

    def client(self, token=None, **headers):
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=20)

    def stop(self, number=signal.SIGTERM):
        """Ask it to end; returns its exit code and the rest of what it said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


def first_line(process, seconds=20):
    """The first line of a process's standard output."""
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise AssertionError("nothing came")
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate(timeout=20)[1])
    return line


def until(condition, seconds=20):
    """What `condition` returns, once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not become true in time")


def write(path, content, name="w"):
    return {"id": name, "type": "tool_call", "tool": "fs.write", "parameters": {"path": path, "content": content}}


def delete(path, name="d"):
    return {"id": name, "type": "tool_call", "tool": "fs.delete", "parameters": {"path": path}}


def result(process):
    """What a process of `Project.run` printed in the end."""
    out, err = process.communicate(timeout=20)
    assert out, err
    return json.loads(out)


def waiting(rt, count=1):
    """The questions that wait, once there are that many."""
    store = rt.services.desk.store
    return until(lambda: len(found := store.list_holds()) == count and found)
