"""The official conformance suite through the gateway: nothing fails that the server behind it passes directly.

Except for what the gateway does not pass on, which is named here and in the guide, and which is refused with the reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from gateway_world import ENVELOPE

from interlock import Runtime
from interlock.engine.trust import review, trust
from interlock.surfaces.gateway import http
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.http_app import HttpApp

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))
from npm_programs import installed

SUITE, NODE = "0.2.0-alpha.12", "22.23.3"
SERVER = Path(__file__).with_name("conformance_server.py")
TOKEN = "t" * 40
REFUSED = {
    "logging-set-level",
    "tools-call-with-logging",
    "completion-complete",
    "resources-subscribe",
    "resources-unsubscribe",
    "input-required-result-non-tool-request",
}
"""Scenarios of what the gateway does not pass on."""
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]


class Check(NamedTuple):
    scenario: str
    check: str
    status: str
    said: str


def run_suite(url: str, revision: str, results: Path) -> list[Check]:
    """All checks that the suite makes for a revision."""
    node = installed("node", NODE, "node")
    suite = installed("@modelcontextprotocol/conformance", SUITE, "conformance")
    subprocess.run(
        [node, suite, "server", "--url", url, "--requirements", revision, "--output-dir", results],
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    found = []
    for path in sorted(results.glob("server-*/checks.json")):
        # Tasks are an extension, which neither the server nor the gateway has.
        scenario = re.fullmatch(r"server-(.+)-20\d\d-\d\d-\d\dT.*", path.parent.name)[1]
        for one in [] if scenario.startswith("tasks-") else json.loads(path.read_text()):
            said = f"{one.get('errorMessage')} {json.dumps(one.get('details'))}"
            found.append(Check(scenario, one["id"], one["status"], said))
    return found


def failures(checks: list[Check]) -> set[tuple[str, str]]:
    return {(one.scenario, one.check) for one in checks if one.status in ("FAILURE", "WARNING")}


@pytest.fixture
def alone(tmp_path) -> Iterator[str]:
    """The server without a gateway: its address."""
    port = tmp_path / "port"
    process = subprocess.Popen([sys.executable, SERVER, "--http", port], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not port.exists() or not port.read_text():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port.read_text()}/mcp"
    process.kill()
    process.wait()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project with the server behind its gateway: once for each prefix in the names that the suite calls."""
    root = tmp_path / "project"
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    root.mkdir()
    tables = "".join(
        f"[mcp.servers.{name}]\ncommand = {json.dumps([sys.executable, str(SERVER), '--without', f'{name}_'])}\n"
        f'reads = [{json.dumps(str(SERVER.parent))}]\nasks = ["elicitation", "sampling", "roots"]\n'
        for name in ("test", "json")
    )
    (root / "interlock.toml").write_text(
        '[rules]\nallow = ["test/*", "json/*"]\ndeny = ["json/resources/*"]\n'
        f'[grants.agent]\ntools = ["*"]\nunscoped = ["*"]\n{tables}'
    )
    trust(review(root, os.environ), os.environ)
    with Runtime.open(root / "interlock.toml") as runtime:
        runtime.servers.write_lock(asyncio.run(runtime.servers.compare()))
    trust(review(root, os.environ), os.environ)
    return root


async def begin_servers(url: str) -> None:
    """Call what starts a server: the suite waits for some answers for less time than an interpreter takes to start."""
    async with httpx.AsyncClient(timeout=60) as client:
        for capabilities in ({}, {"elicitation": {}}):
            meta = {**ENVELOPE, "io.modelcontextprotocol/clientCapabilities": capabilities}
            params = {"name": "test_simple_text", "_meta": meta}
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            named = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "test_simple_text"}
            assert "result" in (await client.post(url, json=call, headers=named)).json()


async def through_the_gateway(root: Path, revision: str, results: Path) -> list[Check]:
    """The checks through a gateway over HTTP, which is given the token that the suite cannot send."""
    with Runtime.open(root / "interlock.toml") as runtime, http.listen("0") as listening:
        app = HttpApp(runtime, Agent(None, "suite"), TOKEN, listening.getsockname()[1], wait_s=0.0)

        async def with_token(scope: dict[str, Any], receive: Any, send: Any) -> None:
            scope["headers"] = [*scope["headers"], (b"authorization", b"Bearer " + TOKEN.encode())]
            await app(scope, receive, send)

        server = http._Server(uvicorn.Config(with_token, log_level="error", lifespan="off", ws="none"))
        task = asyncio.create_task(server.serve([listening]))
        await begin_servers(http.url_of(listening))
        try:
            return await asyncio.to_thread(run_suite, http.url_of(listening), revision, results)
        finally:
            await app.close()
            server.should_exit = True
            await task


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_nothing_fails_that_the_server_passes_directly(project, alone, tmp_path, revision):
    direct = run_suite(alone, revision, tmp_path / "direct")
    found = asyncio.run(through_the_gateway(project, revision, tmp_path / "gateway"))
    passed = {one.scenario for one in direct if one.status == "SUCCESS"}
    assert {one.scenario for one in found} == {one.scenario for one in direct}
    assert {"tools-list", "tools-call-simple-text", "tools-call-with-progress", "json-schema-2020-12"} <= passed
    assert {"resources-list", "resources-read-text", "resources-read-binary", "prompts-list"} <= passed
    assert {"prompts-get-simple", "prompts-get-with-args", "prompts-get-embedded-resource"} <= passed
    lost = failures(found) - failures(direct)
    unexpected = {each for each in lost if each[0] not in REFUSED}
    said = {f"{one.scenario}/{one.check}: {one.said[:500]}" for one in found if one[:2] in unexpected}
    assert not unexpected, "\n".join(said)
    refused = [one for one in found if one[:2] in lost and one.status == "FAILURE"]
    assert all("this gateway" in one.said or "only during a call" in one.said for one in refused), refused
