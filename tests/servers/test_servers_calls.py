"""MCP servers behind the runtime: their tools are ordinary tools, and a server cannot do more than answer."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from servers_world import CONFIGURATION, SAME_PIDS, text_of, tool

from interlock.executors.mcp import connection, results
from interlock.model.errors import HeldError

ECHO = tool("echo", "text")


def gone(pid: int) -> bool:
    """True once the process has ended; waits for it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_tool_of_a_server_is_an_ordinary_tool(project):
    rules = CONFIGURATION.replace('allow = ["s/*"]', 'allow = ["s/echo"]\nask = ["s/fail"]')
    runtime = project.ready(ECHO, tool("pid"), tool("fail"), rules=rules)
    assert [each["name"] for each in runtime.tools_for("mcp")] == ["s_echo", "s_fail"]
    assert runtime.tool_named("s_echo", "mcp") == "s/echo"
    done = runtime.call_sync("s/echo", {"text": "hello"})
    assert (done.status, text_of(done)) == ("succeeded", "echo: hello")
    assert runtime.call_sync("s/pid").reason == "policy_denied"
    assert runtime.call_sync("s/echo", {}).reason == "invalid_parameters"
    with pytest.raises(HeldError) as held:
        runtime.call_sync("s/fail", wait=False)
    assert held.value.tool == "s/fail"


def test_a_grant_must_name_it_because_what_it_reaches_is_not_known(project):
    runtime = project.ready(ECHO, rules=CONFIGURATION.replace('unscoped = ["s/*"]', ""))
    assert runtime.call_sync("s/echo", {"text": "x"}).reason == "unscoped_denied"


def test_what_a_server_calls_read_only_counts_only_if_the_operator_says_so(project):
    runtime = project.ready(
        tool("echo", "text", annotations={"readOnlyHint": True}), tool("pid"), more='read_only = ["p*"]\n'
    )
    found = {each.name: each for each in runtime.tools() if each.name.startswith("s/")}
    assert (found["s/echo"].read_only, found["s/pid"].read_only) == (False, True)
    shown = {each["name"]: each["annotations"]["readOnlyHint"] for each in runtime.tools_for("mcp")}
    assert shown == {"s_echo": False, "s_pid": True}


def test_a_failure_of_the_tool_is_a_failure_with_its_content(project):
    runtime = project.ready(tool("fail"))
    failed = runtime.call_sync("s/fail")
    assert (failed.status, failed.reason) == ("failed", "tool_failed")
    assert failed.output["content"][0]["text"] == "it did not work"


def test_a_server_gets_the_variables_that_are_named_and_no_others(project, monkeypatch):
    monkeypatch.setenv("NAMED", "by name")
    monkeypatch.setenv("OTHER_SECRET", "not named")
    runtime = project.ready(tool("environment"), more='env = ["NAMED", "ABSENT"]\nvariables = { PLAIN = "a value" }\n')
    assert any("`ABSENT` is not set" in warning for warning in runtime.warnings)
    environment = json.loads(text_of(runtime.call_sync("s/environment")))
    assert (environment["NAMED"], environment["PLAIN"]) == ("by name", "a value")
    assert "OTHER_SECRET" not in environment
    assert environment["HOME"] != os.environ["HOME"]


def test_a_server_that_crashes_in_a_call_is_started_again_by_the_next(project):
    runtime = project.ready(ECHO, tool("crash"))
    crashed = runtime.call_sync("s/crash")
    assert (crashed.status, crashed.reason) == ("unknown_outcome", "server_lost")
    assert "my last words" in crashed.error
    assert runtime.call_sync("s/echo", {"text": "x"}).ok
    assert runtime.call_sync("s/crash").reason == "server_lost"
    paused = runtime.call_sync("s/echo", {"text": "x"})  # the second time in a row there is a pause, which grows
    assert (paused.reason, "next attempt is possible in" in paused.error) == ("server_unavailable", True)


@pytest.mark.parametrize(
    ("script", "said"),
    [({"dies": "no licence key"}, "no licence key"), ({"revision": "1999-01-01"}, "1999-01-01")],
)
def test_a_server_that_does_not_start_says_why_and_is_not_started_at_once_again(project, script, said):
    runtime = project.ready(ECHO)
    project.script(ECHO, **script)
    for _ in range(2):
        failed = runtime.call_sync("s/echo", {"text": "x"})
        assert (failed.status, failed.reason) == ("failed", "server_unavailable")
        assert said in failed.error
    assert "next attempt is possible in" in failed.error


def test_a_program_that_is_missing_is_named(project):
    runtime = project.ready(ECHO)
    project.configure(CONFIGURATION + '[mcp.servers.s]\ncommand = ["/nowhere/server"]\n')
    runtime = project.open()
    failed = runtime.call_sync("s/echo", {"text": "x"})
    assert (failed.status, failed.reason) == ("failed", "spawn_failed")


def test_a_server_that_hangs_is_replaced_after_the_time_out(project, monkeypatch):
    monkeypatch.setattr(connection, "_PING_S", 0.5)
    runtime = project.ready(
        ECHO, tool("hang"), tool("pid"), more='[tools."s/hang"]\ntimeout = "300ms"\n', rules=SAME_PIDS
    )

    async def use() -> None:
        before = int(text_of(await runtime.call("s/pid")))
        hung = await runtime.call("s/hang")
        assert (hung.status, hung.reason) == ("unknown_outcome", "timeout")
        after = await runtime.call("s/pid")  # waits until the hanging one was found out
        assert after.ok
        assert int(text_of(after)) != before
        assert await asyncio.to_thread(gone, before)

    asyncio.run(use())


def test_each_session_has_a_server_of_its_own_which_ends_with_it(project):
    runtime = project.ready(tool("pid"), rules=SAME_PIDS)

    async def use() -> None:
        pids = {}
        for session in ("one", "two", "one"):
            pids.setdefault(session, set()).add(text_of(await runtime.call("s/pid", session=session)))
        assert len(pids["one"]) == 1
        assert pids["one"].isdisjoint(pids["two"])
        await runtime.servers.end_session("one")
        assert await asyncio.to_thread(gone, int(*pids["one"]))
        assert text_of(await runtime.call("s/pid", session="two")) in pids["two"]

    asyncio.run(use())


def test_servers_end_with_the_runtime(project):
    runtime = project.ready(tool("pid"), rules=SAME_PIDS)
    pid = int(text_of(runtime.call_sync("s/pid")))
    runtime.close()
    assert gone(pid)


def test_what_is_not_a_message_ends_no_call(project):
    runtime = project.ready(tool("lines", "lines"), ECHO)
    lines = [
        "{half a line",
        '{"jsonrpc":"2.0","id":1,"id":1,"result":{}}',
        '{"jsonrpc":"2.0","id":999,"result":{"content":[]}}',
        '{"jsonrpc":"2.0","id":"1","result":{"content":[]}}',
        '{"jsonrpc":"2.0","id":1.0,"result":{"content":[]}}',
        '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"x","progress":1}}',
        '{"jsonrpc":"2.0","method":"notifications/unheard_of"}',
        '{"jsonrpc":"2.0","id":7,"method":"roots/list"}',
        "[" * 300,
        "null",
        "",
    ]
    done = runtime.call_sync("s/lines", {"lines": lines})
    assert text_of(done) == "after them"
    assert runtime.call_sync("s/echo", {"text": "x"}).ok


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"content": "text"}, "not a list"),
        ({"content": [{"type": "hologram"}]}, "unknown type"),
        ({"content": [{"type": "text", "text": "x", "n": 1e400}]}, "finite"),
    ],
)
def test_a_result_that_is_not_one_is_refused(project, result, why):
    line = json.dumps({"jsonrpc": "2.0", "id": 4, "result": result}).replace("Infinity", "1e400")
    runtime = project.ready(tool("lines", "lines"))
    done = runtime.call_sync(
        "s/lines", {"lines": [line.replace('"id": 4', f'"id": {number}') for number in range(1, 9)]}
    )
    assert (done.status, done.reason) == ("failed", "invalid_output")
    assert why in done.error


def test_a_result_is_held_to_the_schema_that_was_locked(project):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    runtime = project.ready(tool("result", "result", outputSchema=schema))
    good = {"content": [], "structuredContent": {"n": 1}}
    assert runtime.call_sync("s/result", {"result": good}).output["structuredContent"] == {"n": 1}
    for bad in ({"content": []}, {"content": [], "structuredContent": {"n": "one"}}):
        assert runtime.call_sync("s/result", {"result": bad}).reason == "invalid_output"
    assert runtime.tools_for("mcp")[0]["outputSchema"] == schema


def test_a_result_that_is_too_large_is_cut_and_says_so():
    most = results.CONTENT_BYTES_MAX
    found = results.read_result(
        {"content": [{"type": "text", "text": "x" * most}, {"type": "text", "text": "y" * 100}]}
    )
    assert "bytes were left out" in found["content"][0]["text"][-60:]
    assert "left out" in found["content"][1]["text"]
    image = results.read_result({"content": [{"type": "image", "data": "A" * most, "mimeType": "image/png"}]})
    assert image["content"][0]["type"] == "text"
    many = results.read_result({"content": [{"type": "text", "text": ""}] * (results.BLOCKS_MAX + 5)})
    assert "5 more blocks" in many["content"][-1]["text"]


def test_a_server_behind_walls_writes_only_where_the_operator_lets_it(project):
    walled = CONFIGURATION + '[isolation]\nprofile = "ns"\n'
    runtime = project.ready(tool("write", "path"), rules=walled)
    refused = runtime.call_sync("s/write", {"path": "made"})
    if refused.posture is not None and not refused.posture.get("fs", "").startswith("active"):
        pytest.skip("this machine has no walls")
    assert refused.reason == "tool_failed"
    assert not (project.root / "made").exists()
    project.configure(walled + project.server + "writes = true\n")
    runtime = project.open()
    assert runtime.call_sync("s/write", {"path": "made"}).ok
    assert (project.root / "made").read_text() == "written"
    assert not runtime.call_sync("s/write", {"path": "interlock.toml"}).ok  # what the loader reads is protected
