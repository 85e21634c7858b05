"""A project with a trusted configuration, and the real `interlock gateway` as a child, spoken to in raw frames."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self
from unittest import mock

from interlock import Runtime
from interlock.engine.trust import review, trust

COMMAND = [sys.executable, "-c", "from interlock.surfaces.cli.main import main; main()"]
CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "shell"]
ask = ["fs.write"]

[grants.agent]
tools = ["fs.read", "fs.list", "fs.write", "shell"]
"""
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
REVISION_HEADERS = {"MCP_Protocol_Version": "2026-07-28"}
WAIT_S = 60.0


class Project:
    """The project, and the command line in it."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "INTERLOCK"))}
        self.env["INTERLOCK_STATE_DIR"] = str(state)
        root.mkdir()
        self.configure(CONFIGURATION)

    def configure(self, text: str) -> None:
        (self.root / "interlock.toml").write_text(text)
        trust(review(self.root, self.env), self.env)

    def lock(self) -> None:
        """What `interlock tools lock` does, and a person's trust in it."""
        with mock.patch.dict(os.environ, self.env), Runtime.open(self.root / "interlock.toml") as runtime:
            runtime.servers.write_lock(asyncio.run(runtime.servers.compare()))
        trust(review(self.root, self.env), self.env)

    def interlock(self, *arguments: str) -> str:
        """Run a command; its standard output."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            check=True,
            timeout=WAIT_S,
        )
        return done.stdout

    def gateway(self, *arguments: str) -> Gateway:
        return Gateway(self, arguments)


class Gateway:
    """A running gateway. `read` gives the next message, whatever it is."""

    def __init__(self, project: Project, arguments: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "gateway", *arguments],
            cwd=project.root,
            env=project.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._left = b""
        self._last_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()
        self.process.kill()
        self.process.wait()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def send(self, message: Any) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def read(self, wait_s: float = WAIT_S) -> Any:
        until = time.monotonic() + wait_s
        while b"\n" not in self._left:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the gateway said nothing"
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, f"the gateway ended: {self.process.stderr.read().decode()}"
            self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return json.loads(line)

    def request(self, method: str, **params: Any) -> Any:
        """Send a request and wait for its answer, passing over notifications."""
        self._last_id += 1
        self.send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        while True:
            message = self.read()
            if message.get("id") == self._last_id:
                return message

    def initialize(self, revision: str = "2025-11-25") -> dict[str, Any]:
        client = {"name": "test", "version": "1"}
        answer = self.request("initialize", protocolVersion=revision, capabilities={}, clientInfo=client)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer["result"]

    def call(self, tool: str, **arguments: Any) -> tuple[str, bool]:
        """Call a tool: the text for the model, and whether it is an error."""
        result = self.request("tools/call", name=tool, arguments=arguments)["result"]
        return result["content"][0]["text"], result["isError"]
