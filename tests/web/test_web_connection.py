"""What a connection may do to the server: nothing that keeps others out."""

import asyncio
import contextlib

import pytest
import uvicorn
from uvicorn.server import ServerState

from interlock.surfaces.web import server

LARGE = b"x" * 20_000_000


async def app(scope, receive, send):
    body = LARGE if scope["path"] == "/large" else b"small"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def listening():
    config = uvicorn.Config(app, http=server.Connection, lifespan="off", ws="none", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    made = await loop.create_server(lambda: server.Connection(config, state, {}), "127.0.0.1", 0)
    return made, state


HEAD = b"GET %b HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "sent", [b"", HEAD % b"/", HEAD % b"/" + b"\r\n" + b"G"], ids=["nothing", "half", "second half"]
)
def test_a_request_that_does_not_come_is_not_waited_for(monkeypatch, sent):
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.05)

    async def main():
        made, state = await listening()
        async with made:
            reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
            writer.write(sent)
            answer = await asyncio.wait_for(reader.read(), 10)  # until it hangs up
            writer.close()
            return answer, state.connections

    answer, open_connections = asyncio.run(main())
    assert answer.endswith(b"small") == sent.endswith(b"G")
    assert not open_connections


def test_an_answer_that_nobody_reads_is_not_kept(monkeypatch):
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.05)

    async def main():
        made, state = await listening()
        async with made:
            _, writer = await asyncio.open_connection(*made.sockets[0].getsockname(), limit=1)
            writer.write(HEAD % b"/large" + b"\r\n")
            async with asyncio.timeout(10):
                while not state.connections:
                    await asyncio.sleep(0.005)
                while state.connections:
                    await asyncio.sleep(0.005)
            writer.close()

    asyncio.run(main())


def test_too_many_connections_are_not_taken(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 1)

    async def main():
        made, _ = await listening()
        async with made:
            pairs = [await asyncio.open_connection(*made.sockets[0].getsockname()) for _ in range(3)]
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(pairs[2][0].read(), 10) == b""
            pairs[0][1].write(HEAD % b"/" + b"\r\n")
            assert (await asyncio.wait_for(pairs[0][0].readline(), 10)).startswith(b"HTTP/1.1 200")
            for _, writer in pairs:
                writer.close()

    asyncio.run(main())
