"""Old `.mcp.json` servers behind the gateway."""

from __future__ import annotations

import json
import sys

import pytest
from servers_world import CONFIGURATION, text_of, tool

from interlock.model.errors import ConfigurationError

FILES = '[mcp]\nfiles = ["servers.json"]\n'


def old(project, **servers) -> None:
    (project.root / "servers.json").write_text(json.dumps({"mcpServers": servers}))


def scripted(**more):
    return {"command": sys.executable, "args": ["server.py", "script.json"], **more}


def test_old_servers_are_put_behind_the_gateway(project, monkeypatch):
    monkeypatch.setenv("TOKEN", "t-1")
    project.script(tool("environment"))
    old(
        project,
        s=scripted(type="stdio", env={"PLAIN": "value", "AUTH": "Bearer ${TOKEN}", "OTHER": "${ABSENT:-none}"}),
        interlock={"command": "interlock", "args": ["gateway"]},
    )
    project.configure(CONFIGURATION + FILES + 'env = ["TOKEN", "ABSENT"]\n')
    project.lock()
    runtime = project.open()
    assert runtime.servers.names == ["s"]
    environment = json.loads(text_of(runtime.call_sync("s/environment")))
    assert [environment[name] for name in ("PLAIN", "AUTH", "OTHER")] == ["value", "Bearer t-1", "none"]


def test_a_table_adds_what_the_file_cannot_say(project):
    project.script(tool("pid"))
    old(project, s=scripted())
    project.configure(CONFIGURATION + FILES + '[mcp.servers.s]\nread_only = ["*"]\n')
    project.lock()
    assert [each.read_only for each in project.open().tools() if each.name == "s/pid"] == [True]


def test_the_file_is_trusted_with_the_configuration_and_no_agent_writes_it(project):
    project.script(tool("pid"))
    old(project, s=scripted())
    project.configure('[rules]\nallow = ["fs.write"]\n[grants.agent]\ntools = ["*"]\n' + FILES)
    refused = project.open().call_sync("fs.write", {"path": "servers.json", "content": "{}"})
    assert refused.reason in ("path_denied", "path_protected")
    old(project, s=scripted(env={"MORE": "x"}))
    with pytest.raises(ConfigurationError) as caught:
        project.open()
    assert caught.value.code == "untrusted_configuration"


@pytest.mark.parametrize(
    ("servers", "more", "why"),
    [
        ({"s": scripted(env={"A": "${TOKEN}"})}, "", "not listed in `mcp.env`"),
        ({"s": scripted(env={"A": "${UNSET_HERE}"})}, 'env = ["UNSET_HERE"]', "is not set"),
        ({"s": scripted(colour="red")}, "", "`colour`"),
        ({"s": {"type": "sse", "url": "http://127.0.0.1/"}}, "", "no longer part"),
        ({"s": {"args": []}}, "", "either `command` or `url`"),
        ({"s": []}, "", "must be an object"),
        ({"s": scripted(env={"LD_PRELOAD": "/x.so"})}, "", "never passed to servers"),
        ({"s": scripted(env={"A": "ghp_" + "a1B2c3D4" * 5})}, "", "secret"),
        ({"two words": scripted()}, "", "the name of a server"),
        ({"s": scripted()}, '[mcp.servers.s]\ncommand = ["x"]', "two MCP servers"),
    ],
)
def test_what_cannot_be_put_behind_it_is_reported(project, servers, more, why):
    old(project, **servers)

    def use() -> None:
        project.configure(CONFIGURATION + FILES + more)
        project.open()

    with pytest.raises(ConfigurationError, match=why):
        use()
