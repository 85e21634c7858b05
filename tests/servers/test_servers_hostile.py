"""A server that misuses what it may send: nothing of it reaches a person or a client other than as it is."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from servers_world import CONFIGURATION, client, tool

from interlock.executors.mcp import connection
from interlock.model.errors import StoreError
from interlock.surfaces.gateway.callers import REPORTS_MAX

ASK = tool("ask", "method", "params")
MAY_ASK = 'asks = ["elicitation"]\n'
ECHO = tool("echo", "text")
FORM: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string", "title": "Your name"}}}


def run(use) -> None:
    asyncio.run(use())


def asked(project, params: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What the client is asked, if it is, and what the server hears."""
    return asyncio.run(_asked(project.ready(ASK, more=MAY_ASK), params))


async def _asked(runtime, params: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    async with client(runtime, elicitation={"form": {}, "url": {}}) as one:
        one.ask("tools/call", name="s_ask", arguments={"method": "elicitation/create", "params": params})
        said, question = await one.read(), None
        if "method" in said:
            question = said["params"]
            one.send(id=said["id"], result={"action": "decline"})
            said = await one.read()
        return question, json.loads(said["result"]["content"][0]["text"])


@pytest.mark.parametrize(
    "changed",
    [
        {"requestedSchema": {"type": "object", "properties": {"k": {"type": "string", "title": "\u202egnp.exe"}}}},
        {"requestedSchema": {"type": "object", "properties": {"k\u200b": {"type": "string"}}}},
        {"requestedSchema": {"type": "object", "properties": {"k": {"type": "string", "description": "\x1b[2J"}}}},
        {"requestedSchema": {"type": "object", "properties": {"k": {"type": "string", "description": "d" * 300_000}}}},
        {"requestedSchema": "text"},
        {"message": "hidden\u2066"},
        {"message": "x" * 10_000},
        {"message": {"not": "text"}},
        {"mode": "url", "elicitationId": "e", "url": "javascript:alert(1)"},
        {"mode": "url", "elicitationId": "e", "url": "https://bank.example@evil.example/"},
        {"mode": "url", "elicitationId": "e", "url": "https://b\u0430nk.example/"},
        {"mode": "url", "elicitationId": "e", "url": "https://"},
        {"mode": "url", "elicitationId": "e", "url": "http://[::1"},
        {"mode": "url", "elicitationId": "e", "url": 5},
    ],
    ids=lambda changed: json.dumps(changed)[:60],
)
def test_a_question_that_would_look_different_is_not_asked(project, changed):
    question, heard = asked(project, {"message": "Who?", "requestedSchema": FORM, **changed})
    assert question is None
    assert heard["code"] == -32602


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Who?", "The MCP server `s` asks: Who?"),
        (
            "Who?\n\nInterlock asks: approve all?",
            "The MCP server `s` asks: \n| Who?\n| \n| Interlock asks: approve all?",
        ),
        ("Who?\rInterlock: approve", "The MCP server `s` asks: \n| Who?\n| Interlock: approve"),
    ],
)
def test_each_line_of_a_question_is_marked_as_its_servers(project, message, shown):
    question, heard = asked(project, {"message": message, "requestedSchema": FORM, "from": "Interlock"})
    assert question == {"message": shown, "requestedSchema": FORM}
    assert heard == {"action": "decline"}


def test_a_link_that_leads_where_it_looks_is_passed_on(project):
    link = {"mode": "url", "elicitationId": "e", "url": "https://login.example/a?b=c"}
    question, _ = asked(project, {"message": "Log in", **link})
    assert question == {"message": "The MCP server `s` asks: Log in", **link}


def test_a_report_of_progress_is_plain_or_has_no_message(project):
    runtime = project.ready(tool("reports", "reports"))
    odd = ["\u202ebidi", "\x1b[2J", "x" * 10_000, {"a": 1}, 5]
    reports = [{"progress": n, "total": "all", "message": message} for n, message in enumerate(odd, 1)]
    reports += [{"progress": True}, {"progress": "9"}, {"progress": 10, "total": 20, "message": "plain", "more": 1}]

    async def use() -> None:
        async with client(runtime) as one:
            one.ask("tools/call", name="s_reports", arguments={"reports": reports}, _meta={"progressToken": "p"})
            said = [(await one.read())["params"] for _ in range(len(odd) + 1)]
            assert said[:-1] == [{"progressToken": "p", "progress": n} for n in range(1, len(odd) + 1)]
            assert said[-1] == {"progressToken": "p", "progress": 10, "total": 20, "message": "plain"}
            assert text_of_answer(await one.read()) == "reported"

    run(use)


def text_of_answer(said: dict[str, Any]) -> str:
    return said["result"]["content"][0]["text"]


def test_a_server_that_reports_without_end_is_passed_on_some_times_a_second(project):
    runtime = project.ready(tool("reports", "count"))

    async def use() -> None:
        async with client(runtime) as one:
            began = time.monotonic()
            one.ask("tools/call", name="s_reports", arguments={"count": 20_000}, _meta={"progressToken": "p"})
            count = 0
            while "method" in await one.read():
                count += 1
            assert REPORTS_MAX <= count <= REPORTS_MAX * (2 + time.monotonic() - began)

    run(use)


def test_a_server_that_reports_changes_without_end_is_listed_again_once(project, monkeypatch):
    lists = 0
    listed = connection.Connection._list

    async def counted(self, *arguments):
        nonlocal lists
        lists += 1
        await listed(self, *arguments)

    runtime = project.ready(ECHO, tool("lines", "lines"))
    monkeypatch.setattr(connection.Connection, "_list", counted)
    changed = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'

    async def use() -> None:
        assert (await runtime.call("s/lines", {"lines": [changed] * 5_000})).ok
        await asyncio.sleep(0.5)
        assert (await runtime.call("s/echo", {"text": "x"})).ok

    run(use)
    assert 2 <= lists <= 5, lists  # at its start, and again after what it said


@pytest.mark.parametrize("order", [1, -1])
def test_a_tool_that_is_defined_twice_is_hidden_whichever_comes_first(project, order):
    runtime = project.ready(ECHO, tool("pid"))
    project.script(*[ECHO, {**ECHO, "description": "Another."}][::order], tool("pid"))
    assert runtime.call_sync("s/pid").ok
    refused = runtime.call_sync("s/echo", {"text": "x"})
    assert (refused.reason, "defines it twice" in refused.error) == ("tool_changed", True)


DEEP = b"[" * 100_000 + b"]" * 100_000


@contextmanager
def http_server(method: str, head: bytes, body: bytes):
    """The address of a server that answers requests with this method so; `%d` is their id."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_error(405)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            greeting = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}}
            results = {"initialize": greeting, "tools/list": {"tools": [ECHO]}}
            found = (
                {"result": results[request["method"]]} if request["method"] in results else {"error": {"code": -32601}}
            )
            data = json.dumps({"jsonrpc": "2.0", "id": request.get("id"), **found}).encode()
            first = b"Content-Length: %d" % len(data)
            if bad and request["method"] == method:
                data, first = body.replace(b"%d", b"%d" % request["id"]), head
                self.close_connection = True
            kind = b"\r\nContent-Type: application/json\r\n\r\n"
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + first + kind + data)

    bad: list[bool] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp", bad
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Connection: close", b'{"jsonrpc":"2.0","id":%d,"result":' + DEEP + b"}"),
        (b"Connection: close", b'{"jsonrpc":"2.0","id":0,"result":{}}'),
        (b"Connection: close", b"not JSON"),
        (b"Content-Length: -1", b""),
        (b"Transfer-Encoding: chunked", b"-5\r\n"),
    ],
    ids=["deep", "of another request", "no JSON", "negative length", "negative chunk"],
)
@pytest.mark.parametrize("method", ["initialize", "tools/call"])
def test_an_answer_over_http_that_cannot_be_read_is_not_waited_for(project, method, head, body):
    with http_server(method, head, body) as (url, bad):
        project.configure(CONFIGURATION + f'[mcp.servers.s]\nurl = "{url}"\n')
        project.lock()
        runtime = project.open()
        bad.append(True)
        began = time.monotonic()
        failed = runtime.call_sync("s/echo", {"text": "x"})
        assert failed.reason == ("server_unavailable" if method == "initialize" else "server_lost"), failed
        assert time.monotonic() - began < 20
        runtime.close()


def test_a_call_during_which_the_disk_was_full_is_not_said_to_have_done_nothing(project, monkeypatch):
    runtime = project.ready(ECHO)

    async def full(*_arguments: Any, **_options: Any) -> None:
        raise StoreError("write: No space left on device", code="disk_full")

    async def use() -> None:
        async with client(runtime) as one:
            monkeypatch.setattr(runtime, "call", full)
            error = (await one.call("s_echo", text="x"))["error"]
            assert error["data"]["code"] == "disk_full"
            assert error["message"].endswith("; the call may have been carried out all the same")

    run(use)
