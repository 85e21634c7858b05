"""Standard output as a pipe, a socket and a file: frames stay whole and in order, whether the client reads or not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from interlock.surfaces.gateway.stdio import _Output


class Ends(NamedTuple):
    """What the gateway writes to, and how its client reads."""

    target: int
    read: Callable[[], bytes]
    close: Callable[[], None]


def pipe() -> Ends:
    reader, writer = os.pipe()
    return Ends(writer, lambda: os.read(reader, 1 << 16), lambda: os.close(reader))


def connection() -> Ends:
    ours, theirs = socket.socketpair()
    return Ends(ours.detach(), lambda: theirs.recv(1 << 16), theirs.close)


@pytest.fixture(params=[pipe, connection])
def ends(request) -> Iterator[Ends]:
    found = request.param()
    yield found
    with contextlib.suppress(OSError):
        found.close()


def frames(count: int, size: int) -> list[bytes]:
    return [b"%d:" % number + b"x" * size + b"\n" for number in range(count)]


@pytest.mark.parametrize(("count", "size"), [(1, 10), (500, 1), (40, 5_000), (3, 700_000)])
def test_frames_arrive_whole_and_in_order(ends, count, size):
    sent, got = frames(count, size), bytearray()

    def client() -> None:
        while data := ends.read():
            got.extend(data)

    async def serve() -> None:
        output = _Output(ends.target)
        for number, frame in enumerate(sent):
            output.send(frame)
            if number % 7 == 0:
                await asyncio.sleep(0)
        await output.close()

    reading = threading.Thread(target=client)
    reading.start()
    asyncio.run(serve())
    reading.join(20)
    assert bytes(got) == b"".join(sent)


def test_a_client_that_does_not_read_blocks_nothing_else(ends):
    sent, got = frames(100, 20_000), bytearray()

    async def serve() -> None:
        output = _Output(ends.target)
        for frame in sent:
            output.send(frame)
            await asyncio.wait_for(asyncio.sleep(0), 1)  # the loop goes on
        assert os.get_blocking(ends.target), "the description is shared with other processes"
        closing = asyncio.create_task(output.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        total = sum(map(len, sent))
        while len(got) < total:
            got.extend(await asyncio.to_thread(ends.read))
        await closing

    asyncio.run(serve())
    assert bytes(got) == b"".join(sent)


def test_a_client_that_has_gone_is_noticed(ends):
    async def serve() -> None:
        output = _Output(ends.target)
        ends.close()
        output.send(b"lost\n")
        await asyncio.wait_for(output.broken, 5)
        output.send(b"lost too\n")
        await output.close()

    asyncio.run(serve())


def test_a_file_gets_the_frames(tmp_path):
    async def serve(target: int) -> None:
        output = _Output(target)
        for frame in frames(20, 10):
            output.send(frame)
            await asyncio.sleep(0)
        await output.close()

    with tempfile.TemporaryFile(dir=tmp_path) as file:
        asyncio.run(serve(os.dup(file.fileno())))
        file.seek(0)
        assert file.read() == b"".join(frames(20, 10))
