"""Carries bytes between a program and the server that it reached, and counts them. Nothing is kept and nothing is changed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

CHUNK_BYTES: Final = 128 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Client:
    """A program's connection, with the bytes that were read from it and not yet used."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over an accepted socket, which must not block."""
        self.sock = sock
        self.read = b""
        self._loop = asyncio.get_running_loop()

    async def more(self) -> bool:
        """Read some more bytes; False at the end. Raises: OSError."""
        data = await self._loop.sock_recv(self.sock, CHUNK_BYTES)
        self.read += data
        return bool(data)

    async def line(self, most: int = 1024) -> bytes:
        """The next line, with its end. Raises: ValueError if it is too long, or does not end; OSError."""
        while b"\n" not in self.read:
            if len(self.read) > most or not await self.more():
                raise ValueError("a line that does not end")
        line, _, self.read = self.read.partition(b"\n")
        return line + b"\n"

    async def head(self) -> bytes | None:
        """The head of an HTTP message, with its empty line; None if the client ends without one.

        Raises: ValueError if it is too long; OSError.
        """
        while (end := self.read.find(b"\r\n\r\n")) < 0:
            if len(self.read) > HEAD_BYTES_MAX:
                raise ValueError("a head that does not end")
            if not await self.more():
                return None
        head, self.read = self.read[: end + 4], self.read[end + 4 :]
        return head

    async def send(self, data: bytes) -> None:
        """Raises: OSError."""
        await self._loop.sock_sendall(self.sock, data)

    def reset(self) -> None:
        """Close in a way that the program sees as a failure, not as an empty answer."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.sock.close()


class Flow:
    """A connection in both directions, and how many bytes went through it."""

    def __init__(self, client: Client, server: socket.socket) -> None:
        """Both sockets stay the caller's to close."""
        self.client = client
        self.server = server
        self.sent = 0
        self.received = 0
        self.sni: str | None = None
        """The server that the client names, if it is not the name that it asked for."""
        self.client_done = False
        """True once the client has nothing more to send."""
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """To the server. Raises: OSError."""
        await self._loop.sock_sendall(self.server, data)
        self.sent += len(data)

    async def send_rest(self) -> None:
        """What the client sends until it ends; then the server is told. Raises: OSError."""
        try:
            if self.client.read:
                data, self.client.read = self.client.read, b""
                await self.send(data)
            while data := await self._loop.sock_recv(self.client.sock, CHUNK_BYTES):
                await self.send(data)
        finally:
            self.client_done = True
        self.end_sending()

    async def send_exactly(self, count: int) -> None:
        """Send exactly `count` bytes of the client. Raises: ValueError if it ends before; OSError."""
        while count:
            if not self.client.read and not await self.client.more():
                raise ValueError("a body that is shorter than announced")
            data, self.client.read = self.client.read[:count], self.client.read[count:]
            await self.send(data)
            count -= len(data)

    async def receive_rest(self) -> None:
        """What the server sends until it ends; then the client is told. Raises: OSError."""
        while data := await self._loop.sock_recv(self.server, CHUNK_BYTES):
            await self._loop.sock_sendall(self.client.sock, data)
            self.received += len(data)
        with contextlib.suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_WR)

    def end_sending(self) -> None:
        """Tell the server that nothing more comes."""
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_WR)
