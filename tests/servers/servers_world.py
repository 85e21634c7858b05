"""A trusted project with MCP servers behind its runtime."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from interlock import Runtime
from interlock.engine.inspect.server_tools import Difference
from interlock.engine.trust import review, trust
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.session import Session

SCRIPTED = Path(__file__).parent / "scripted_server.py"
CONFIGURATION = """
[rules]
allow = ["s/*"]

[grants.agent]
tools = ["s/*"]
unscoped = ["s/*"]
"""

SAME_PIDS = CONFIGURATION + '[isolation]\nprofile = "none"\n'
"""In namespaces every server has the same pid."""


def tool(name: str, /, *required: str, **fields: Any) -> dict[str, Any]:
    """A definition as a server gives it, whose parameters are text."""
    schema = {"type": "object", "properties": {each: {} for each in required}, "required": list(required)}
    return {"name": name, "description": f"The tool {name}.", "inputSchema": schema, **fields}


def text_of(result: Any) -> str:
    return result.output["content"][0]["text"]


class Project:
    """The project. The server `s` is scripted by `script`; servers that a test adds are its own."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "INTERLOCK"))}
        self.env["INTERLOCK_STATE_DIR"] = str(state)
        root.mkdir()
        # In the project, where a server behind walls sees them.
        self._script = root / "script.json"
        (root / "server.py").write_bytes(SCRIPTED.read_bytes())
        self.opened: list[Runtime] = []

    @property
    def server(self) -> str:
        """The table of the scripted server, without further keys."""
        return f"[mcp.servers.s]\ncommand = {json.dumps([sys.executable, 'server.py', 'script.json'])}\n"

    def script(self, *tools: dict[str, Any], **more: Any) -> None:
        self._script.write_text(json.dumps({"tools": tools, **more}))

    def configure(self, text: str) -> None:
        (self.root / "interlock.toml").write_text(text)
        self.trust()

    def trust(self) -> None:
        trust(review(self.root, self.env), self.env)

    def open(self) -> Runtime:
        """A runtime, closed with the test."""
        os.environ["INTERLOCK_STATE_DIR"] = self.env["INTERLOCK_STATE_DIR"]
        self.opened.append(Runtime.open(self.root / "interlock.toml"))
        return self.opened[-1]

    def compare(self, *names: str) -> list[Difference]:
        with self.open() as runtime:
            return asyncio.run(runtime.servers.compare(names))

    def lock(self) -> None:
        """What `interlock tools lock` does, and a person's trust in it."""
        with self.open() as runtime:
            runtime.servers.write_lock(asyncio.run(runtime.servers.compare()))
        self.trust()

    def ready(self, *tools: dict[str, Any], more: str = "", rules: str = CONFIGURATION, **script: Any) -> Runtime:
        """A runtime with these tools of the scripted server, locked."""
        self.script(*tools, **script)
        self.configure(rules + self.server + more)
        self.lock()
        return self.open()


class Client:
    """A client of one gateway session, in this process: what the gateway sends it, in order."""

    def __init__(self, runtime: Any, *, modern: bool, capabilities: dict[str, Any], wait_s: float) -> None:
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.session = Session(
            runtime, Agent(None, "test"), lambda frame: self._said.put_nowait(json.loads(frame)), wait_s=wait_s
        )
        runtime.servers.on_change(self.session.tell_tools_changed)
        self._modern = modern
        self._capabilities = capabilities
        self._last_id = 0

    def send(self, **message: Any) -> None:
        self.session.receive(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def ask(self, method: str, **params: Any) -> int:
        """Send a request; its id."""
        self._last_id += 1
        if self._modern:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": self._capabilities,
                **params.get("_meta", {}),
            }
        self.send(id=self._last_id, method=method, params=params)
        return self._last_id

    async def read(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            return await self._said.get()

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        """A request and what comes next, which is its answer."""
        number = self.ask(method, **params)
        found = await self.read()
        assert found.get("id") == number, found
        return found

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        return await self.request("tools/call", name=name, arguments=arguments)


@asynccontextmanager
async def client(runtime, *, modern=False, wait_s=0.0, **capabilities) -> AsyncIterator[Client]:
    found = Client(runtime, modern=modern, capabilities=capabilities, wait_s=wait_s)
    if not modern:
        await found.request("initialize", protocolVersion="2025-11-25", capabilities=capabilities, clientInfo={})
    yield found
    await found.session.close()
