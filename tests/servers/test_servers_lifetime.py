"""How servers begin and end: slow starts, noise, sessions that are lost, and the end of the gateway in any way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from older_http_server import older_http_server
from servers_world import CONFIGURATION, client, text_of, tool

from interlock.executors.mcp import launch
from interlock.executors.mcp import session as revisions

ECHO = tool("echo", "text")
GATEWAY = [sys.executable, "-c", "from interlock.surfaces.cli.main import main; main()", "gateway"]


@pytest.mark.parametrize("script", [{"modern": True}, {}, {"both": True}])
def test_a_server_that_is_slow_to_start_is_waited_for(project, monkeypatch, script):
    """Slower than the time after which it is asked in another way: then its first good answer counts."""
    monkeypatch.setattr(revisions, "_PROBE_S", 0.1)
    runtime = project.ready(ECHO, **script)
    project.script(ECHO, delay=0.5, **script)

    async def use() -> None:
        for modern in (True, False):
            async with client(runtime, modern=modern) as one:
                assert (await one.call("s_echo", text="x"))["result"]["content"][0]["text"] == "echo: x"

    asyncio.run(use())


def test_calls_that_come_during_a_start_wait_for_the_same_server(project):
    runtime = project.ready(ECHO, tool("pid"), rules=CONFIGURATION + '[isolation]\nprofile = "none"\n')
    project.script(ECHO, tool("pid"), delay=0.3)

    async def use() -> None:
        found = await asyncio.gather(*(runtime.call("s/pid") for _ in range(5)))
        assert len({text_of(each) for each in found}) == 1

    asyncio.run(use())


def test_what_a_server_says_on_standard_error_is_read_and_bounded(project):
    """Much more than a pipe holds: the server is not held up, and the last of it is in the message of its failure."""
    runtime = project.ready(ECHO, tool("noise", "lines"), tool("crash"))
    assert runtime.call_sync("s/noise", {"lines": 4_000}).ok
    assert runtime.call_sync("s/echo", {"text": "x"}).ok
    crashed = runtime.call_sync("s/crash")
    assert crashed.reason == "server_lost"
    assert "my last words" in crashed.error
    assert len(crashed.error) < 2 * launch._STDERR_SHOWN


def test_a_session_that_is_lost_is_begun_anew_once_for_a_call(project):
    asked: list[str] = []
    with older_http_server(forgetful=True, asked=asked) as url:
        project.configure(CONFIGURATION + f'[mcp.servers.s]\nurl = "{url}"\n')
        project.lock()
        runtime = project.open()
        asked.clear()
        failed = runtime.call_sync("s/ask", {"message": "?"})
        assert (failed.status, failed.reason) == ("failed", "server_lost")
        assert (asked.count("initialize"), asked.count("tools/call")) == (2, 2)
        runtime.close()


def test_a_session_that_is_begun_anew_with_another_definition_is_not_called(project, monkeypatch):
    """The server was replaced while its session was open."""
    asked: list[str] = []
    with older_http_server(forgetful=True, asked=asked) as url:
        project.configure(CONFIGURATION + f'[mcp.servers.s]\nurl = "{url}"\n')
        project.lock()
        runtime = project.open()
        listed = revisions.ServerSession.list_tools
        times = []

        async def another(self, owner=None):
            times.append(1)
            found = await listed(self, owner)
            return [{**each, "description": f"{len(times)}"} for each in found] if len(times) > 1 else found

        monkeypatch.setattr(revisions.ServerSession, "list_tools", another)
        refused = runtime.call_sync("s/ask", {"message": "?"})
        assert (refused.status, refused.reason) == ("failed", "tool_changed")
        assert asked.count("tools/call") == 1, "only the call that was refused unread"
        runtime.close()


def living(mark: str) -> list[int]:
    """The processes that have this among their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("profile", ["", 'profile = "none"'])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_its_gateway(project, profile, number):
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    command = json.dumps([sys.executable, "server.py", "script.json", mark])
    project.script(ECHO)
    project.configure(f"{CONFIGURATION}[isolation]\n{profile}\n[mcp.servers.s]\ncommand = {command}\n")
    project.lock()
    with subprocess.Popen(
        GATEWAY, cwd=project.root, env=project.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as gateway:
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        for number_, method, params in (
            (1, "initialize", hello),
            (2, "tools/call", {"name": "s_echo", "arguments": {"text": "x"}}),
        ):
            message = {"jsonrpc": "2.0", "id": number_, "method": method, "params": params}
            gateway.stdin.write(json.dumps(message).encode() + b"\n")
        out = b""
        while out.count(b"\n") < 2:
            out += os.read(gateway.stdout.fileno(), 1 << 16)
        assert b"echo: x" in out
        assert living(mark)
        gateway.send_signal(number)
        gateway.wait(timeout=60)
    until = time.monotonic() + 60
    while living(mark):
        assert time.monotonic() < until, "the server still runs"
        time.sleep(0.02)
