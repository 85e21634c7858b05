"""Frames that are wrong, while a call is in flight: none of it reaches a server, each is answered, and the call goes on.

Behind the gateway is a server that writes down every line that it is sent.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from gateway_world import Gateway

RECORDER = """
import json, sys, threading, time
log = open("received.log", "a", buffering=1)
def answer(number, result):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}) + "\\\\n")
    sys.stdout.flush()
def slow(number):
    import os
    while not os.path.exists("go"):
        time.sleep(0.02)
    answer(number, {"content": [{"type": "text", "text": "slow is done"}]})
for line in sys.stdin:
    log.write(line)
    message = json.loads(line)
    match message.get("method"):
        case "server/discover":
            answer(message["id"], {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
        case "initialize":
            about = {"name": "recorder", "version": "1"}
            answer(message["id"], {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": about})
        case "tools/list":
            schema = {"type": "object"}
            answer(message["id"], {"tools": [{"name": name, "inputSchema": schema} for name in ("echo", "slow")]})
        case "tools/call" if message["params"]["name"] == "slow":
            threading.Thread(target=slow, args=(message["id"],), daemon=True).start()
        case "tools/call":
            answer(message["id"], {"content": [{"type": "text", "text": json.dumps(message["params"]["arguments"])}]})
""".replace("\\\\n", "\\n")


class Recorded:
    """A project whose server `r` records what it is sent, and a gateway in front of it."""

    def __init__(self, project: Any) -> None:
        self.project = project
        (project.root / "recorder.py").write_text(RECORDER)
        project.configure(
            '[rules]\nallow = ["r/*"]\n[grants.agent]\ntools = ["r/*"]\nunscoped = ["r/*"]\n'
            f"[mcp.servers.r]\ncommand = {json.dumps([sys.executable, 'recorder.py'])}\nwrites = true\nread_only = ['*']\n"
        )
        project.lock()
        self._log.unlink()

    @property
    def _log(self):
        return self.project.root / "received.log"

    def calls(self) -> list[dict[str, Any]]:
        """The parameters of each call that the server was sent."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        messages = [json.loads(line) for line in lines]
        return [one["params"] for one in messages if one.get("method") == "tools/call"]

    def wait_calls(self, count: int) -> None:
        until = time.monotonic() + 60
        while len(self.calls()) < count:
            assert time.monotonic() < until
            time.sleep(0.02)

    def go(self) -> None:
        """Let the slow calls end."""
        (self.project.root / "go").touch()


@pytest.fixture
def recorded(project) -> Recorded:
    return Recorded(project)


def call(number: Any, tool: str = "r_echo", **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


def raw(arguments: bytes, number: bytes = b"50") -> bytes:
    """A call whose arguments are these bytes."""
    return (
        b'{"jsonrpc":"2.0","id":' + number + b',"method":"tools/call","params":{"name":"r_echo","arguments":'
        + arguments + b"}}"
    )  # fmt: skip


DEEP = b'{"a":' * 150 + b"1" + b"}" * 150
WRONG = [
    # what is sent, the code of the error, its id, and what it says
    (raw(b'{"a":1,"a":2}'), -32700, None, "occurs twice"),
    (b'{"jsonrpc":"2.0","id":51,"id":52,"method":"ping"}', -32700, None, "occurs twice"),
    (json.dumps([call(53)]).encode(), -32600, None, "batches are not part of this revision"),
    (b"[]", -32600, None, "empty"),
    (b'{"jsonrpc":"2.0","id":54,"met', -32700, None, "not JSON"),
    (raw(b'{"a":"\xff\xfe"}'), -32700, None, "unicode"),
    (raw(b'{"a":"\\ud800"}'), -32700, None, "not JSON"),
    (raw(b'{"a":NaN}'), -32700, None, "not JSON"),
    (raw(b"{}") + b" {}", -32700, None, "not JSON"),
    (json.dumps(call(55)).encode("utf-16"), -32700, None, "UTF-16"),
    (b'{"a":' * 300 + b"1" + b"}" * 300, -32700, None, "nested deeper"),
    (raw(b"{}", b"1.0"), -32600, None, "`id` must be a string or an integer"),
    (raw(b"{}", b"true"), -32600, None, "`id` must be a string or an integer"),
    (raw(b"{}", b"null"), -32600, None, "`id` must be a string or an integer"),
    (b'{"id":56,"method":"ping"}', -32600, 56, "jsonrpc"),
    (b'{"jsonrpc":"2.0","id":57,"method":"ping","params":[]}', -32602, 57, "params"),
    (b"x" * (51 * 1024 * 1024), -32600, None, "longer than 50 MiB"),
    (json.dumps(call("slow", "r_slow")).encode(), -32600, "slow", "still in flight"),
]
SILENT = [
    {"jsonrpc": "2.0", "id": "interlock-1", "result": {"action": "accept"}},  # an answer to nothing
    {"jsonrpc": "2.0", "id": 12345, "error": {"code": -1, "message": "no"}},
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 60}},  # of a call that was answered
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ["slow"]}},
    {"jsonrpc": "2.0", "method": "notifications/cancelled"},
    {"jsonrpc": "2.0", "method": "notifications/unheard_of", "params": {"x": 1}},
]
"""What is not answered, and ends nothing."""


def read(gateway: Gateway) -> tuple[Any, Any, str]:
    message = gateway.read()
    return message["error"]["code"], message["id"], message["error"]["message"]


def test_nothing_wrong_reaches_a_server_and_a_call_in_flight_continues(recorded):
    with recorded.project.gateway() as gateway:
        gateway.initialize()
        gateway.send(call("slow", "r_slow"))
        recorded.wait_calls(1)
        for line, code, number, says in WRONG:
            gateway.write(line + b"\n")
            error = read(gateway)
            assert error[:2] == (code, number), (line[:80], error)
            assert says in error[2], (line[:80], error)
        gateway.send(call(60, x=1))
        assert gateway.read()["id"] == 60
        for message in SILENT:
            gateway.send(message)
        assert gateway.request("ping")["result"] == {}, "nothing else was answered"
        gateway.write(raw(DEEP) + b"\n")
        refused = gateway.read()
        assert (refused["id"], refused["result"]["isError"]) == (50, True), "too deep for a call, and told to the model"
        recorded.go()
        done = gateway.read()
        assert (done["id"], done["result"]["content"][0]["text"]) == ("slow", "slow is done")
        assert [one["name"] for one in recorded.calls()] == ["slow", "echo"]


def test_ids_of_different_types_are_different_ids(recorded):
    with recorded.project.gateway() as gateway:
        gateway.initialize()
        for number in (1, "1", "01", -1, 2**53 - 1, ""):
            gateway.send(call(number, "r_slow"))
        recorded.wait_calls(6)
        gateway.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "1"}})
        gateway.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1.0}})
        gateway.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": True}})
        assert gateway.request("ping")["result"] == {}
        recorded.go()
        answered = [gateway.read()["id"] for _ in range(5)]
        assert sorted(map(repr, answered)) == sorted(map(repr, [1, "01", -1, 2**53 - 1, ""]))


def test_an_id_may_be_used_again_once_it_was_answered(recorded):
    with recorded.project.gateway() as gateway:
        gateway.initialize()
        for x in (1, 2):
            gateway.send(call(7, x=x))
            assert json.loads(gateway.read()["result"]["content"][0]["text"]) == {"x": x}


def test_what_is_forwarded_is_encoded_from_what_was_checked(recorded):
    with recorded.project.gateway() as gateway:
        gateway.initialize()
        gateway.write(
            b'\xef\xbb\xbf { "params" : {"name":"r_echo", "more":"never seen", "_meta":{"own":1},\t"arguments" :'
            b' {"\\u0061" : "\\u00e9\\n", "n":1.50} }, "method":"tools/call" ,"id" : 5, "jsonrpc":"2.0", "extra":[1]}\r\n'
        )
        assert json.loads(gateway.read()["result"]["content"][0]["text"]) == {"a": "\u00e9\n", "n": 1.5}
        (sent,) = recorded.calls()
        assert sent == {"name": "echo", "arguments": {"a": "\u00e9\n", "n": 1.5}, "_meta": {"progressToken": 3}}
        line = (recorded.project.root / "received.log").read_text().splitlines()[-1]
        assert line == json.dumps(json.loads(line), separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("left", [b'{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"r_', None])
def test_a_client_that_ends_in_the_middle_of_a_line_has_not_called(recorded, left):
    with recorded.project.gateway() as gateway:
        gateway.initialize()
        gateway.send(call(1, "r_slow"))
        recorded.wait_calls(1)
        gateway.write(json.dumps(call(8)).encode() if left is None else left)  # complete, but for the end of its line
        gateway.process.stdin.close()
        recorded.go()
        assert gateway.read()["id"] == 1, "what was called before is answered"
        assert gateway.process.wait(timeout=60) == 0
        assert [one["name"] for one in recorded.calls()] == ["slow"]


def test_a_batch_of_the_revision_that_has_them(recorded):
    """What is wrong in one is answered in its place; only the calls reach the server."""
    with recorded.project.gateway() as gateway:
        gateway.initialize("2025-03-26")
        batch = [call(1, x=1), {"jsonrpc": "2.0", "id": 1, "method": "ping"}, 7, call(2.5), call("2", x=2), SILENT[0]]
        gateway.send(batch)
        found = gateway.read()
        by_id = {repr(one["id"]): one for one in found if "result" in one}
        assert set(by_id) == {"1", "'2'"}
        assert sorted(one["error"]["code"] for one in found if "error" in one) == [-32600] * 3
        assert [one["arguments"] for one in recorded.calls()] == [{"x": 1}, {"x": 2}]
        gateway.send([SILENT[0], SILENT[4]])
        assert gateway.request("ping")["result"] == {}, "a batch without requests is not answered"
