"""Real servers behind the runtime: the official ones from npm, and one on the official Python SDK."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from npm_programs import installed
from servers_world import text_of

VERSION = "2026.8.31"
SDK = Path(__file__).parent / "sdk_server.py"
RULES = """
[rules]
allow = ["files/*", "memory/*", "everything/*", "sdk/*"]

[grants.agent]
tools = ["*"]
unscoped = ["*"]
"""
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]


def table(name: str, *command: str, more: str = "") -> str:
    """A server's table. Behind walls it sees the directory in which it was installed."""
    reads = json.dumps([str(Path(command[-1 if name == "sdk" else 0]).parents[0 if name == "sdk" else 2])])
    return f"[mcp.servers.{name}]\ncommand = {json.dumps(command)}\nreads = {reads}\n{more}\n"


def official(name: str) -> str:
    return str(installed(f"@modelcontextprotocol/server-{name}", VERSION, f"mcp-server-{name}"))


def test_real_servers_are_locked_and_called(project):
    (project.root / "a.txt").write_text("hello\n")
    project.configure(
        RULES
        + table("files", official("filesystem"), ".", more="writes = true")
        + table(
            "memory",
            official("memory"),
            more=f'writes = true\nvariables = {{ MEMORY_FILE_PATH = "{project.root}/memory.json" }}',
        )
        + table("everything", official("everything"))
        + table("sdk", sys.executable, str(SDK))
    )
    project.lock()
    assert [(one.server, one.unreachable or one.diff) for one in project.compare()] == [
        ("everything", ""), ("files", ""), ("memory", ""), ("sdk", ""),
    ]  # fmt: skip
    runtime = project.open()

    async def use() -> None:
        read = await runtime.call("files/read_text_file", {"path": "a.txt"})
        assert read.output["structuredContent"] == {"content": "hello\n"}
        wrote = await runtime.call("files/write_file", {"path": "b.txt", "content": "new"})
        assert wrote.ok
        outside = await runtime.call("files/read_text_file", {"path": "/etc/passwd"})
        assert (outside.status, outside.reason) == ("failed", "tool_failed")
        entity = {"name": "n", "entityType": "t", "observations": ["o"]}
        assert (await runtime.call("memory/create_entities", {"entities": [entity]})).ok
        found = await runtime.call("memory/search_nodes", {"query": "n"})
        assert found.output["structuredContent"]["entities"] == [entity]
        assert "hello" in text_of(await runtime.call("everything/echo", {"message": "hello"}))
        image = await runtime.call("everything/get-tiny-image")
        assert "image" in {block["type"] for block in image.output["content"]}
        done = []
        runtime.subscribe(progress=lambda _action, value, total: done.append((value, total)))
        long = await runtime.call("everything/trigger-long-running-operation", {"duration": 1, "steps": 2})
        assert long.ok
        assert (2.0, 2.0) in done
        assert (await runtime.call("sdk/add", {"a": 2, "b": 3})).output["structuredContent"] == {"result": 5}
        assert (await runtime.call("sdk/add", {"a": "two", "b": 3})).reason == "invalid_parameters"

    asyncio.run(use())
    assert (project.root / "b.txt").read_text() == "new"


@pytest.fixture
def http_server(tmp_path):
    """The SDK's server over streamable HTTP: its address, and a function that starts it anew in the same place."""
    running = []

    def start() -> str:
        port = tmp_path / "port"
        port.unlink(missing_ok=True)
        running.append(subprocess.Popen([sys.executable, SDK, "--http", port]))
        until = time.monotonic() + 60
        while not port.exists() or not port.read_text():
            assert running[-1].poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        return f"http://127.0.0.1:{port.read_text()}/mcp"

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_server_over_streamable_http(project, http_server):
    url = http_server()
    project.configure(
        RULES.replace('"files/*", "memory/*", "everything/*", ', "") + f'[mcp.servers.sdk]\nurl = "{url}"\n'
    )
    project.lock()
    runtime = project.open()

    async def use() -> None:
        done = await asyncio.gather(*(runtime.call("sdk/add", {"a": n, "b": 1}) for n in range(20)))
        assert [each.output["structuredContent"]["result"] for each in done] == list(range(1, 21))
        assert (await runtime.call("sdk/add", {"a": "x", "b": 1})).reason == "invalid_parameters"

    asyncio.run(use())


def test_an_older_server_over_http_and_its_session_after_a_restart(project):
    """The official one in TypeScript: it refuses what it does not know by 400, a session of its last life too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"

    @contextmanager
    def running() -> Iterator[None]:
        process = subprocess.Popen(
            [official("everything"), "streamableHttp"],
            env={**os.environ, "PORT": str(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until = time.monotonic() + 60
            while True:
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            yield
        finally:
            process.kill()
            process.wait()

    project.configure(
        RULES.replace('"files/*", "memory/*", "everything/*", "sdk/*"', '"everything/*"')
        + f'[mcp.servers.everything]\nurl = "{url}"\n'
    )

    async def use() -> None:
        with running():
            assert "hi" in text_of(await runtime.call("everything/echo", {"message": "hi"}))
        gone = await runtime.call("everything/echo", {"message": "hi"})
        assert (gone.reason, "cannot connect" in gone.error) == ("server_unavailable", True)
        with running():
            assert "hi" in text_of(await runtime.call("everything/echo", {"message": "hi"}))

    with running():
        project.lock()
    runtime = project.open()
    asyncio.run(use())


def test_a_server_over_http_that_is_not_there(project):
    project.configure(RULES.replace('"files/*", "memory/*", "everything/*", ', "").replace('allow = ["sdk/*"]', "") +
        '[mcp.servers.sdk]\nurl = "http://127.0.0.1:1/mcp"\n')  # fmt: skip
    (found,) = project.compare()
    assert "cannot connect to 127.0.0.1:1" in found.unreachable
