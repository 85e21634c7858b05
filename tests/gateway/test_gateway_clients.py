"""The official client of MCP against the real gateway, in each way it can speak."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_world import COMMAND
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))
from pypi_programs import python_with

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "bench-fastmcp.txt"


@pytest.mark.parametrize(("mode", "revision"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
def test_the_official_client(project, mode, revision):
    (project.root / "a.txt").write_text("hello")
    program, *arguments = COMMAND
    server = StdioServerParameters(
        command=program, args=[*arguments, "gateway", "--wait", "0s"], env=project.env, cwd=project.root
    )

    async def use() -> None:
        async with Client(stdio_client(server), mode=mode) as client:
            assert client.protocol_version == revision
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(tools) == ["fs_list", "fs_read", "fs_write", "shell"]
            assert tools["fs_read"].annotations.read_only_hint is True
            assert "hello" in (await client.call_tool("fs_read", {"path": "a.txt"})).content[0].text
            with pytest.raises(MCPError, match="no tool"):
                await client.call_tool("nope", {})
            held = await client.call_tool("fs_write", {"path": "b", "content": "1"})
            assert held.is_error
            hold = held.content[0].text.partition("interlock approvals approve ")[2].partition("`")[0]
            await asyncio.to_thread(project.interlock, "approvals", "approve", hold)
            assert not (await client.call_tool("fs_write", {"path": "b", "content": "1"})).is_error

    asyncio.run(use())
    assert (project.root / "b").read_text() == "1"


@pytest.mark.clients
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_client_of_fastmcp(project):
    (project.root / "a.txt").write_text("hello")
    python = python_with(REQUIREMENTS)
    script = Path(__file__).with_name("fastmcp_client.py")
    done = subprocess.run(
        [python, script, project.root, *COMMAND, "gateway", "--wait", "0s"],
        env=project.env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tools"] == ["fs_list", "fs_read", "fs_write", "shell"]
    assert "hello" in found["read"]
    assert "interlock approvals approve" in found["held"]
