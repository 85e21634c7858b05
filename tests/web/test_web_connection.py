"""What a connection may do to the REST server or to the gateway: nothing that keeps others out."""

import asyncio
import contextlib

import pytest
import uvicorn
from uvicorn.server import ServerState

from interlock.surfaces import http_connection
from interlock.surfaces.http_connection import HEAD_BYTES_MAX, Connection

LARGE = b"x" * 20_000_000
HEAD = b"GET %b HTTP/1.1\r\nHost: x\r\n"
BODY = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


async def app(scope, receive, send):
    """Answers at once on `/early`, otherwise after the body, with the names of the headers and the length of the body."""
    read = 0
    while scope["path"] != "/early":
        message = await receive()
        read += len(message["body"])
        if not message["more_body"]:
            break
    body = LARGE if scope["path"] == "/large" else b"%b %d small" % (b",".join(n for n, _ in scope["headers"]), read)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def listening(most=None):
    """Yields the state of a server, and a function that connects to it."""
    config = uvicorn.Config(
        app, http=Connection, lifespan="off", ws="none", log_config=None, limit_concurrency=most, timeout_keep_alive=1
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0) as made:
        yield state, lambda **more: asyncio.open_connection(*made.sockets[0].getsockname(), **more)


async def answer_to(*parts):
    """Everything that the server answers to these parts, sent one after the other, until it hangs up."""
    async with listening() as (state, connect):
        reader, writer = await connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)
        found = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert not state.connections
        return found


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ((b"",), 0),
        ((HEAD % b"/",), 0),
        ((HEAD % b"/" + b"\r\n" + b"G",), 1),
        ((HEAD % b"/" + b"\r\n", b"\r\n"), 1),
        ((HEAD % b"/" + b"\r\n", HEAD % b"/"), 1),
        ((HEAD % b"/" + b"\r\n", HEAD % b"/" + b"\r\n"), 2),
        ((BODY, b"part"), 1),
    ],
    ids=["nothing", "half", "begun second", "empty line", "half second", "two", "body after its answer"],
)
def test_a_request_that_does_not_come_is_not_waited_for(monkeypatch, sent, answered):
    monkeypatch.setattr(http_connection, "REQUEST_SECONDS", 0.1)
    assert asyncio.run(answer_to(*sent)).count(b"small") == answered


def test_a_client_that_sends_a_byte_at_a_time_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(http_connection, "REQUEST_SECONDS", 0.2)

    async def main():
        async with listening() as (state, connect):
            reader, writer = await connect()
            writer.write(HEAD % b"/" + b"\r\n")
            await reader.readuntil(b"small")
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(10):
                    for byte in b"G" + b"E" * 1_000_000:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.01)
            assert not state.connections

    asyncio.run(main())


def test_a_head_of_any_length_is_not_kept():
    endless = [b"X-Endless: ", *[b"x" * 4096] * (HEAD_BYTES_MAX // 4096 + 1)]
    assert asyncio.run(answer_to(HEAD % b"/", *endless)).startswith(b"HTTP/1.1 400")
    many = [b"".join(b"X-%d: 1\r\n" % number for number in range(100))] * 20
    assert asyncio.run(answer_to(HEAD % b"/", *many)).startswith(b"HTTP/1.1 400")


def test_headers_after_the_body_do_not_count():
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    found = asyncio.run(answer_to(head, b"3\r\nabc\r\n", b"0\r\nAuthorization: late\r\n\r\n"))
    assert found.endswith(b"host,transfer-encoding,connection 3 small"), found


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: -3\r\n",
        b"Content-Length : 3\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"A: b\n",
    ],
)
def test_a_message_that_can_be_framed_in_two_ways_is_refused(framing):
    assert asyncio.run(answer_to(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\nabc")).startswith(b"HTTP/1.1 400")


def test_an_answer_that_nobody_reads_is_not_kept(monkeypatch):
    monkeypatch.setattr(http_connection, "REQUEST_SECONDS", 0.05)

    async def main():
        async with listening() as (state, connect):
            _, writer = await connect(limit=1)
            writer.write(HEAD % b"/large" + b"\r\n")
            async with asyncio.timeout(10):
                while not state.connections:
                    await asyncio.sleep(0.005)
                while state.connections:
                    await asyncio.sleep(0.005)
            writer.close()

    asyncio.run(main())


def test_connections_without_a_request_make_room_for_others():
    async def main():
        async with listening(most=10) as (state, connect):
            kept = await connect()
            kept[1].write(HEAD % b"/" + b"\r\n")
            await asyncio.wait_for(kept[0].readuntil(b"small"), 10)
            silent = []
            for _ in range(50):
                silent.append(await connect())
                silent[-1][1].write(b"GET / HTTP/1.1\r\nHo")  # not even a whole head
                await asyncio.sleep(0)
            for reader, writer in (await connect(), kept):
                writer.write(HEAD % b"/" + b"\r\n")
                assert (await asyncio.wait_for(reader.readuntil(b"small"), 10)).startswith(b"HTTP/1.1 200")
                writer.close()
            with contextlib.suppress(ConnectionResetError):  # the first of them is the first to go
                assert await asyncio.wait_for(silent[0][0].read(), 10) == b""
            assert len(state.connections) < 12
            for _, writer in silent:
                writer.close()

    asyncio.run(main())


def test_a_request_beyond_the_limit_is_refused_until_others_have_ended():
    async def main():
        async with listening(most=2) as (state, connect):
            one = await connect()
            one[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
            await asyncio.sleep(0.1)
            two = await connect()
            two[1].write(HEAD % b"/" + b"\r\n")
            assert (await asyncio.wait_for(two[0].readline(), 10)).startswith(b"HTTP/1.1 503")
            one[1].write(b"abc")
            assert (await asyncio.wait_for(one[0].readuntil(b"small"), 10)).startswith(b"HTTP/1.1 200")
            for _, writer in (one, two):
                writer.close()
            async with asyncio.timeout(10):
                while state.connections:
                    await asyncio.sleep(0.005)
            reader, writer = await connect()
            writer.write(HEAD % b"/" + b"\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"small"), 10)).startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(main())
