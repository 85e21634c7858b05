"""The gateway over streamable HTTP: who may speak, sessions, streams that are read on; raw, and with the official client."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from gateway_world import CONFIGURATION, ENVELOPE, REVISION_HEADERS
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from interlock import Runtime
from interlock.disk import Disk
from interlock.engine.trust import review, trust
from interlock.model.errors import UsageError
from interlock.surfaces.gateway import http, http_sessions
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.http_app import HttpApp
from interlock.surfaces.gateway.streams import Stream

TOKEN = "t" * 40
BOTH = "application/json, text/event-stream"
REVISION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


class Served:
    """A gateway on a port of its own, in this process."""

    def __init__(self, runtime: Runtime, url: str, raw: httpx.AsyncClient) -> None:
        self.runtime = runtime
        self.url = url
        self.raw = raw
        self.headers = {"Authorization": f"Bearer {TOKEN}", "Accept": BOTH}

    async def post(self, body: Any, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**self.headers, "Content-Type": "application/json", **given}
        return await self.raw.post(self.url, content=content, headers={k: v for k, v in sent.items() if v is not None})

    async def begin(self, revision: str = "2025-11-25", **capabilities: Any) -> dict[str, str]:
        """Begin a session; the headers of its requests."""
        params = {"protocolVersion": revision, "capabilities": capabilities, "clientInfo": {}}
        answer = await self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        assert answer.status_code == 200
        assert answer.json()["result"]["protocolVersion"] == revision
        return {"Mcp_Session_Id": answer.headers["mcp-session-id"], "MCP_Protocol_Version": revision}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serves a project: `async with served() as it`."""
    root, state = tmp_path / "project", tmp_path / "state"
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(state))
    root.mkdir()
    (root / "interlock.toml").write_text(CONFIGURATION)
    (root / "a.txt").write_text("hello")
    trust(review(root, os.environ), os.environ)

    @asynccontextmanager
    async def serve(wait_s: float = 0.0) -> AsyncIterator[Served]:
        stop, ready = asyncio.Event(), asyncio.Event()
        with Runtime.open(root / "interlock.toml") as runtime, http.listen("0") as listening:
            app = HttpApp(runtime, Agent(None, "http"), TOKEN, listening.getsockname()[1], wait_s=wait_s)
            task = asyncio.create_task(http.serve(app, listening, stop, ready.set))
            await ready.wait()
            async with httpx.AsyncClient(timeout=60) as raw:
                yield Served(runtime, http.url_of(listening), raw)
            stop.set()
            await task

    return serve


def request(method: str, number: int = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def events(text: str) -> list[tuple[str, Any]]:
    """The events of a stream that have data: id and message."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if fields.get("data"):
            found.append((fields.get("id"), json.loads(fields["data"])))
    return found


def run(use) -> None:
    asyncio.run(use())


def answer_of(response: httpx.Response) -> dict:
    """The only message of a response: JSON if it came quickly, else an event."""
    if response.headers["content-type"] == "application/json":
        return response.json()
    ((_, message),) = events(response.text)
    return message


def test_who_may_speak(served):
    async def use() -> None:
        async with served() as it:
            ping = request("ping")
            headers = await it.begin()
            for wrong, status in (
                ({"Authorization": None}, 401),
                ({"Authorization": "Bearer " + "u" * 40}, 401),
                ({"Authorization": "Basic " + TOKEN}, 401),
                ({"Host": "rebound.example.org:80"}, 421),
                ({"Host": "127.0.0.1"}, 421),
                ({"Origin": "https://evil.example.org"}, 403),
                ({"Origin": "null"}, 403),
                ({"Content-Type": "text/plain"}, 415),
                ({"Accept": "application/json"}, 406),
                ({"Mcp-Session-Id": "guessed"}, 404),
                ({"Mcp-Session-Id": None}, 400),
                ({"MCP-Protocol-Version": "1999-01-01"}, 400),
            ):
                given = {name.replace("_", "-"): value for name, value in headers.items()}
                assert (await it.post(ping, **{**given, **wrong})).status_code == status, wrong
            origin = it.url.removesuffix("/mcp")
            assert (await it.post(ping, **headers, Origin=origin)).json()["result"] == {}
            assert (await it.raw.put(it.url, headers=it.headers)).status_code == 405
            assert (await it.raw.post(origin + "/other", headers=it.headers)).status_code == 404
            assert (await it.post(b"{half", **headers)).json()["error"]["code"] == -32700
            twice = b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}'
            assert (await it.post(twice, **headers)).status_code == 400

    run(use)


def test_sessions(served):
    async def use() -> None:
        async with served() as it:
            for revision in ("2025-03-26", "2025-06-18", "2025-11-25"):
                headers = await it.begin(revision)
                note = await it.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, **headers)
                assert (note.status_code, note.content) == (202, b"")
                tools = (await it.post(request("tools/list"), **headers)).json()["result"]["tools"]
                assert "fs_read" in [tool["name"] for tool in tools]
                called = await it.post(request("tools/call", name="fs_read", arguments={"path": "a.txt"}), **headers)
                assert "hello" in answer_of(called)["result"]["content"][0]["text"]
                slow = await it.post(request("tools/call", name="shell", arguments={"command": "sleep 0.3"}), **headers)
                assert slow.headers["content-type"] == "text/event-stream"
                assert answer_of(slow)["result"]["isError"] is False
                batch = await it.post([request("ping", 1), request("ping", 2)], **headers)
                assert batch.status_code == (200 if revision == "2025-03-26" else 400)
                names = {name.replace("_", "-"): value for name, value in headers.items()}
                assert (await it.raw.delete(it.url, headers={**it.headers, **names})).status_code == 204
                assert (await it.post(request("ping"), **headers)).status_code == 404

    run(use)


def test_sessions_that_clients_left_behind_make_room_for_others(served, monkeypatch):
    monkeypatch.setattr(http_sessions, "SESSIONS_MAX", 3)

    async def use() -> None:
        async with served(wait_s=60) as it:
            listening, waiting, unused = [await it.begin() for _ in range(3)]
            names = {name.replace("_", "-"): value for name, value in listening.items()}
            held = request("tools/call", name="fs_write", arguments={"path": "b", "content": ""})
            call = asyncio.create_task(it.post(held, **waiting))
            async with it.raw.stream("GET", it.url, headers={**it.headers, **names}):
                while not it.runtime.approvals.list():
                    await asyncio.sleep(0.02)
                assert (await it.post(request("ping"), **unused)).status_code == 200  # the last one that was used
                another = await it.begin()
                status = [(await it.post(request("ping"), **each)).status_code for each in (unused, another)]
                assert status == [404, 200]
                slow = {"name": "shell", "arguments": {"command": "sleep 2"}}
                last = asyncio.create_task(it.post(request("tools/call", **slow), **another))
                await asyncio.sleep(0.3)
                full = await it.post(request("initialize", protocolVersion="2025-11-25"))
                assert (full.status_code, full.headers["retry-after"]) == (503, "10")
                assert answer_of(await last)["result"]["isError"] is False
            call.cancel()

    run(use)


def test_connections_without_the_token_keep_no_client_out(served, monkeypatch):
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 10)
    wrong = b"GET /mcp HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer x\r\n\r\n"

    async def use() -> None:
        async with served() as it:
            headers = await it.begin()
            place = it.url.removeprefix("http://").removesuffix("/mcp")
            strangers = []
            for number in range(40):
                reader, writer = await asyncio.open_connection(*place.split(":"))
                strangers.append(writer)
                if number % 2:
                    writer.write(wrong % place.encode())
                    answer = await asyncio.wait_for(reader.read(), 10)  # until it is closed
                    assert b"connection: close" in answer
            assert (await it.post(request("ping"), **headers)).status_code == 200  # on its connection
            async with httpx.AsyncClient() as another:
                assert (await another.post(it.url, headers=it.headers, json={})).status_code == 400  # it is read
            for writer in strangers:
                writer.close()

    run(use)


@pytest.mark.parametrize("name", ["Mcp-Name", "Mcp-Method", "MCP-Protocol-Version", "Content-Type", "Mcp-Session-Id"])
def test_a_header_that_occurs_twice_is_refused(served, name):
    """Something in between may have judged the request by the one, and the gateway would use the other."""

    async def use() -> None:
        async with served() as it:
            body = request("tools/call", name="fs_read", arguments={"path": "a.txt"}, _meta=ENVELOPE)
            own = {"Mcp-Name": "fs_read", "Mcp-Method": "tools/call", "MCP-Protocol-Version": "2026-07-28"}
            given = {**it.headers, "Content-Type": "application/json", "Mcp-Session-Id": "x", **own}
            assert (await it.raw.post(it.url, json=body, headers=given)).status_code == 200
            both = [(name, "other"), *given.items()]
            assert (await it.raw.post(it.url, json=body, headers=both)).status_code == 400

    run(use)


def test_requests_that_carry_everything(served):
    async def use() -> None:
        async with served() as it:
            call = request("tools/call", name="fs_read", arguments={"path": "a.txt"}, _meta=ENVELOPE)
            named = {**REVISION_HEADERS, "Mcp_Method": "tools/call", "Mcp_Name": "fs_read"}
            found = (await it.post(call, **named)).json()["result"]
            assert (found["resultType"], "hello" in found["content"][0]["text"]) == ("complete", True)
            for wrong in (
                {"Mcp_Name": "fs_list"},
                {"Mcp_Method": "tools/list"},
                {"MCP_Protocol_Version": "2025-11-25"},
            ):
                refused = await it.post(call, **{**named, **wrong})
                assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32020)
            without = await it.post(call, **REVISION_HEADERS, Mcp_Method="tools/call")
            assert without.status_code == 400
            unknown = await it.post(request("no/such", _meta=ENVELOPE), **REVISION_HEADERS, Mcp_Method="no/such")
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, -32601)

    run(use)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        # What an envelope lacks: the official suite's `sep-2575-request-meta-invalid`.
        (request("server/discover"), REVISION_HEADERS, 400, -32602),
        (request("tools/list"), REVISION_HEADERS, 400, -32602),
        (request("tools/list", _meta=7), REVISION_HEADERS, 400, -32602),
        (request("server/discover", _meta={CAPABILITIES: {}}), {}, 400, -32602),
        (request("tools/list", _meta={REVISION: "2026-07-28"}), REVISION_HEADERS, 400, -32602),
        (request("tools/list", _meta={REVISION: 3, CAPABILITIES: {}}), REVISION_HEADERS, 400, -32602),
        (request("tools/list", _meta={**ENVELOPE, REVISION: "v9"}), {"MCP_Protocol_Version": "v9"}, 400, -32022),
        (request("tools/list", _meta={**ENVELOPE, REVISION: "v9"}), REVISION_HEADERS, 400, -32020),
        # What the revision has not any more, and what is not offered.
        (request("initialize", _meta=ENVELOPE), REVISION_HEADERS, 404, -32601),
        (request("ping", _meta=ENVELOPE), REVISION_HEADERS, 404, -32601),
        (request("resources/list", _meta=ENVELOPE), REVISION_HEADERS, 404, -32601),
        (request("logging/setLevel", _meta=ENVELOPE, level="info"), REVISION_HEADERS, 404, -32601),
        # Neither revision: the client has to say which it means.
        (request("tools/list"), {}, 400, -32600),
    ],
)
def test_an_error_of_a_newer_request_has_its_id_and_an_http_status(served, body, headers, status, code):
    async def use() -> None:
        async with served() as it:
            refused = await it.post({**body, "id": "own"}, Mcp_Method=body["method"], **headers)
            found = refused.json()
            assert (refused.status_code, found["id"], found["error"]["code"]) == (status, "own", code)

    run(use)


def test_a_notification_of_a_newer_client_is_accepted_and_ends_nothing(served):
    async def use() -> None:
        async with served() as it:
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
            said = await it.post(note, **REVISION_HEADERS)
            assert (said.status_code, said.content) == (202, b"")

    run(use)


def test_a_stream_that_broke_is_read_on(served):
    async def use() -> None:
        async with served(wait_s=60.0) as it:
            headers = await it.begin()
            names = {**it.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
            call = request("tools/call", name="fs_write", arguments={"path": "b", "content": "1"})
            call["params"]["_meta"] = {"progressToken": "p"}
            sent = {**names, "Content-Type": "application/json"}
            last = None
            async with it.raw.stream("POST", it.url, content=json.dumps(call), headers=sent) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("id: "):
                        last = line.removeprefix("id: ")
                    if "waits for approval" in line:
                        break  # the connection is closed while the call is held
            (hold,) = it.runtime.approvals.list()
            it.runtime.approvals.approve(hold.id)
            again = await it.raw.get(it.url, headers={**names, "Last-Event-ID": last})
            assert [message["id"] for _, message in events(again.text) if "result" in message] == [1]
            gone = await it.raw.get(it.url, headers={**names, "Last-Event-ID": "999-1"})
            assert gone.status_code == 404

    run(use)


def test_only_an_answer_that_is_quick_and_alone_is_sent_without_a_stream():
    async def use() -> None:
        alone, after, late = Stream("1"), Stream("2"), Stream("3")
        alone.put(b"answer", last=True)
        assert await alone.wait_only(5) == b"answer"
        after.put(b"progress")
        after.put(b"answer", last=True)  # in the same turn of the loop: both have to be sent
        assert await after.wait_only(5) is None
        assert await late.wait_only(0.01) is None
        late.put(b"answer", last=True)
        assert late.only == b"answer"

    run(use)


def test_a_newer_request_whose_connection_ends_is_given_up(served):
    async def use() -> None:
        async with served(wait_s=60.0) as it:
            arguments = {"path": "b", "content": "1"}
            meta = {**ENVELOPE, "progressToken": "p"}
            call = request("tools/call", name="fs_write", arguments=arguments, _meta=meta)
            sent = {
                **it.headers, "Content-Type": "application/json", "Mcp-Method": "tools/call", "Mcp-Name": "fs_write",
                "MCP-Protocol-Version": "2026-07-28",
            }  # fmt: skip
            async with it.raw.stream("POST", it.url, content=json.dumps(call), headers=sent) as stream:
                async for line in stream.aiter_lines():
                    if "waits for approval" in line:
                        break
            async with asyncio.timeout(60):
                while any(getattr(task.get_coro(), "__name__", "") == "call_tool" for task in asyncio.all_tasks()):
                    await asyncio.sleep(0.01)
            # Nothing waits in the gateway any more. The question stands, and the same call continues with it.
            (hold,) = it.runtime.approvals.list()
            it.runtime.approvals.approve(hold.id)
            named = {**REVISION_HEADERS, "Mcp_Method": "tools/call", "Mcp_Name": "fs_write"}
            plain = request("tools/call", name="fs_write", arguments=arguments, _meta=ENVELOPE)
            assert (await it.post(plain, **named)).json()["result"]["isError"] is False

    run(use)


@pytest.mark.parametrize(("mode", "revision"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
def test_the_official_client_over_http(served, mode, revision):
    async def use() -> None:
        async with (
            served() as it,
            httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as own,
            Client(streamable_http_client(it.url, http_client=own), mode=mode) as client,
        ):
            assert client.protocol_version == revision
            assert "fs_read" in [tool.name for tool in (await client.list_tools()).tools]
            assert "hello" in (await client.call_tool("fs_read", {"path": "a.txt"})).content[0].text
            held = await client.call_tool("fs_write", {"path": "b", "content": "1"})
            assert held.is_error
            assert "interlock approvals approve" in held.content[0].text

    run(use)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:0", "example.org:0", "x", "127.0.0.1:99999999"])
def test_it_is_served_to_this_machine_alone(address):
    with pytest.raises(UsageError):
        http.listen(address)


def test_no_part_of_an_answer_waits_for_an_acknowledgement():
    """A connection that a client makes sends what it has at once (no Nagle's algorithm, whose wait is 40 ms for a call)."""
    with (
        http.listen("0") as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_token_is_in_a_file_of_its_own(tmp_path):
    path = tmp_path / "token"
    token = http.token_in(path, Disk())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert http.token_in(path, Disk()) == token
    path.chmod(0o644)
    with pytest.raises(UsageError, match="read by others"):
        http.token_in(path, Disk())
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(UsageError, match="shorter"):
        http.token_in(path, Disk())
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(UsageError):
        http.token_in(link, Disk())
