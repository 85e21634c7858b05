"""The credentials that servers are given: whatever repeats them, they are not in the record."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers_world import CONFIGURATION, tool

ECHO = tool("echo", "text")
GIVEN = "Zq8vTn4mWx2LpR6yKd"
"""Without a shape of its own."""


def recorded(project) -> list[str]:
    """The files of the record that contain it, but for the originals, which are private."""
    state = Path(project.env["INTERLOCK_STATE_DIR"])
    files = [path for path in state.rglob("*") if path.is_file() and "private" not in path.parts]
    return [str(path.relative_to(state)) for path in files if GIVEN.encode() in path.read_bytes()]


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("API_TOKEN", GIVEN)
    monkeypatch.setenv("OUTER", GIVEN)


@pytest.mark.parametrize(
    "more",
    ['env = ["API_TOKEN"]\n', 'variables = { API_TOKEN = "${OUTER}" }\n[mcp]\nenv = ["OUTER"]\n'],
    ids=["inherited", "under another name"],
)
def test_a_variable_that_a_server_repeats_is_not_in_the_record(project, token, more):
    runtime = project.ready(ECHO, tool("environment"), tool("refuse", "error"), more=more)
    assert GIVEN in str(runtime.call_sync("s/environment").output)  # the agent gets what the server says
    assert GIVEN in runtime.call_sync("s/refuse", {"error": {"code": 1, "message": f"{GIVEN} has expired"}}).error
    assert runtime.call_sync("s/echo", {"text": f"the token is {GIVEN}."}).ok
    runtime.close()
    assert recorded(project) == []


def test_a_header_that_is_repeated_is_not_in_the_record_nor_in_a_question(project, token):
    rules = CONFIGURATION.replace("allow", "ask")
    runtime = project.ready(ECHO, rules=rules)
    runtime.close()
    url = '[mcp.servers.s]\nurl = "http://127.0.0.1:1/"\nheaders = { Authorization = "Bearer ${OUTER}" }\n'
    project.configure(rules + url + '[mcp]\nenv = ["OUTER"]\n')
    runtime = project.open()
    with pytest.raises(Exception, match="waiting for approval"):
        runtime.call_sync("s/echo", {"text": GIVEN}, wait=False)
    (hold,) = runtime.approvals.list()
    assert hold.parameters["text"].startswith("[redacted:known:")
    runtime.close()
    assert recorded(project) == []
