"""Tools of MCP servers: only those of the gateway pass, which checks them; another server may have its name, or a similar one."""

from __future__ import annotations

import json

import pytest
from client_events import event

from interlock.surfaces.clients.client import program

PREFIXES = {
    "claude-code": "mcp__interlock__",
    "codex": "mcp__interlock__",
    "copilot": "interlock-",
    "gemini": "mcp_interlock_",
    "opencode": "interlock_",
    "vscode": "mcp_interlock_",
}
FILES = {
    "claude-code": (".mcp.json", "mcpServers"),
    "copilot": (".github/mcp.json", "mcpServers"),
    "gemini": (".gemini/settings.json", "mcpServers"),
    "opencode": ("opencode.json", "mcp"),
    "vscode": (".vscode/mcp.json", "servers"),
}
OTHERS = [
    {"command": "evil"},
    {"command": "evil", "args": ["gateway"]},
    {"command": "bin/interlock", "args": ["gateway"]},
    {"command": program(), "args": ["exec", "--profile", "none", "evil"]},
    {"url": "https://example.org"},
    {"type": "local", "command": ["npx", "evil"]},
    {},
]


@pytest.fixture
def project(lasting_world):
    """A project of the test's own, under one gate."""
    return lasting_world.project(f"project-{len(list(lasting_world.base.iterdir()))}")


def decide(project, client: str, tool: str, **more) -> str:
    given = event(client, tool, {"path": "x"}, project.root) | more
    process = project.begin(json.dumps(given).encode(), client=client)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    said = json.loads(out)
    said = said.get("hookSpecificOutput", said)
    return said.get("permissionDecision") or said["decision"]


@pytest.mark.parametrize("client", PREFIXES)
def test_a_server_whose_name_begins_like_the_gateways_is_not_the_gateway(project, client):
    prefix = PREFIXES[client]
    assert decide(project, client, f"{prefix}fs_read") == "allow"
    for tool in ("touch", "x__touch", "_touch", "x_touch", "x-touch", ""):
        assert decide(project, client, prefix + tool) == "deny", tool


@pytest.mark.parametrize("client", FILES)
def test_a_project_that_gives_another_server_the_gateways_name_has_no_gateway(project, client):
    name, group = FILES[client]
    path = project.root / name
    path.parent.mkdir(exist_ok=True)
    tool = f"{PREFIXES[client]}fs_read"
    for server in OTHERS:
        path.write_text(json.dumps({group: {"other": {"command": "x"}, "interlock": server}}))
        assert decide(project, client, tool) == "deny", server
    path.write_text("{")
    assert decide(project, client, tool) == "deny"
    for command in (program(), "interlock"):
        server = (
            {"command": [command, "gateway"]} if client == "opencode" else {"command": command, "args": ["gateway"]}
        )
        path.write_text(f"// mine\n{json.dumps({group: {'interlock': server}})}")
        assert decide(project, client, tool) == "allow"


def test_a_codex_project_that_gives_another_server_the_gateways_name_has_no_gateway(project):
    (project.root / ".codex").mkdir()
    (project.root / ".codex/config.toml").write_text('[mcp_servers.interlock]\ncommand = "evil"\n')
    assert decide(project, "codex", "mcp__interlock__fs_read") == "deny"


def test_a_server_that_the_client_names_is_told_by_its_name_and_program(project):
    """Wherever it is configured."""
    claude = {"mcp_server": {"name": "interlock__fs", "source": "user"}}
    assert decide(project, "claude-code", "mcp__interlock__fs_read", **claude) == "deny"
    assert decide(project, "claude-code", "mcp__interlock__fs_read", mcp_server={"name": "interlock"}) == "allow"
    gateway = {"server_name": "interlock", "command": program(), "args": ["gateway", "--agent", "coder"]}
    others = [
        {"server_name": "interlock_fs"},
        {"command": "evil"},
        {"args": ["exec", "evil"]},
        {"command": None, "url": "https://x"},
    ]
    assert decide(project, "gemini", "mcp_interlock_fs_read", mcp_context=gateway) == "allow"
    for other in others:
        assert decide(project, "gemini", "mcp_interlock_fs_read", mcp_context=gateway | other) == "deny", other
