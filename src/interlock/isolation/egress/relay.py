"""Forwards bytes between a program and its server, and counts them. Keeps and changes nothing."""

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
    """A program's connection, with the bytes that were read but not used yet."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes ownership of an accepted, non-blocking socket."""
        self.sock = sock
        self.read = b""
        self._loop = asyncio.get_running_loop()

    async def more(self) -> bool:
        """Read more bytes. Returns False at the end. Raises: OSError."""
        data = await self._loop.sock_recv(self.sock, CHUNK_BYTES)
        self.read += data
        return bool(data)

    async def line(self, most: int = 1024) -> bytes:
        """Returns the next line, with its line ending. Raises: ValueError if it is too long or does not end; OSError."""
        while b"\n" not in self.read:
            if len(self.read) > most or not await self.more():
                raise ValueError("a line that does not end")
        line, _, self.read = self.read.partition(b"\n")
        return line + b"\n"

    async def head(self) -> bytes | None:
        """Returns the head of an HTTP message, with its empty line; None if the client ends without one.

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
        """Send bytes to the program. Raises: OSError."""
        await self._loop.sock_sendall(self.sock, data)

    def reset(self) -> None:
        """Close with a reset, so that the program sees a failure and not an empty response."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.sock.close()


class Flow:
    """A connection in both directions, with counts of the bytes forwarded."""

    def __init__(self, client: Client, server: socket.socket) -> None:
        """The caller closes both sockets."""
        self.client = client
        self.server = server
        self.sent = 0
        self.received = 0
        self.sni: str | None = None
        """The server named by the client, if it differs from the requested name."""
        self.client_done = False
        """True once the client has nothing more to send."""
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """Send bytes to the server. Raises: OSError."""
        await self._loop.sock_sendall(self.server, data)
        self.sent += len(data)

    async def send_rest(self) -> None:
        """Forward what the client sends until it ends; then end sending to the server. Raises: OSError."""
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
        """Forward exactly `count` bytes from the client. Raises: ValueError if it ends early; OSError."""
        while count:
            if not self.client.read and not await self.client.more():
                raise ValueError("a body that is shorter than announced")
            data, self.client.read = self.client.read[:count], self.client.read[count:]
            await self.send(data)
            count -= len(data)

    async def receive_rest(self) -> None:
        """Forward what the server sends until it ends; then end sending to the client. Raises: OSError."""
        while data := await self._loop.sock_recv(self.server, CHUNK_BYTES):
            await self._loop.sock_sendall(self.client.sock, data)
            self.received += len(data)
        with contextlib.suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_WR)

    def end_sending(self) -> None:
        """Signal the end of data to the server."""
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_WR)
