"""An HTTP/1.1 client for one MCP server: keeps connections open, and reads responses as they arrive.

Supports only what streamable HTTP needs: POST, GET and DELETE to one address, JSON and event streams. Redirects are not
followed, because that would send credentials elsewhere. Everything that a server sends is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_HEAD_BYTES_MAX: Final = 64 * 1024
_CHUNK: Final = 256 * 1024
_CONNECT_S: Final = 20.0
_IDLE_MAX: Final = 8
_LINE_BYTES_MAX: Final = 50 * 1024 * 1024


class HttpError(Exception):
    """The connection failed, or the response is not HTTP; the message says which."""


class UnreachableError(HttpError):
    """The connection could not be opened, so nothing was sent."""


class Address(NamedTuple):
    """The address of a server."""

    host: str
    port: int
    path: str
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Returns the address from an http or https URL."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), path, tls)

    @property
    def authority(self) -> str:
        """The value of the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Answer:
    """The head of a response, with its body as a stream. Must be closed, or read to its end."""

    def __init__(self, pool: HttpClient, connection: _Connection, status: int, headers: dict[str, str]) -> None:
        """Created by `HttpClient.send`."""
        self.status = status
        self.headers = headers
        self._pool = pool
        self._connection = connection
        self._ended = False

    @property
    def is_stream(self) -> bool:
        """True if the body is an event stream."""
        return self.headers.get("content-type", "").partition(";")[0].strip() == "text/event-stream"

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Returns the parts of the body. Raises: HttpError."""
        reader = self._connection.reader
        try:
            if self.status in (204, 304):
                pass
            elif "chunked" in self.headers.get("transfer-encoding", "").lower():
                while (size := int((await reader.readline()).partition(b";")[0], 16)) > 0:
                    while size:
                        part = await reader.readexactly(min(size, _CHUNK))
                        size -= len(part)
                        yield part
                    await reader.readexactly(2)
                while (await reader.readline()).strip():
                    pass
            elif "content-length" in self.headers:
                left = int(self.headers["content-length"])
                while left > 0:
                    part = await reader.readexactly(min(left, _CHUNK))
                    left -= len(part)
                    yield part
            else:
                while part := await reader.read(_CHUNK):
                    yield part
                self.headers["connection"] = "close"
            self._ended = True
        except (OSError, EOFError, ValueError) as error:
            raise HttpError(f"the connection broke ({type(error).__name__})") from None
        finally:
            self.close()

    async def body(self, most: int) -> bytes:
        """Returns the whole body. Raises: HttpError, also if it is longer than `most` bytes."""
        data = bytearray()
        async with contextlib.aclosing(self.parts()) as parts:
            async for part in parts:
                data += part
                if len(data) > most:
                    raise HttpError(f"its answer is longer than {most} bytes")
        return bytes(data)

    def close(self) -> None:
        """Return the connection to the pool, or close it if unread data remains."""
        if self._ended and self.headers.get("connection", "").lower() != "close":
            self._pool.keep(self._connection)
        else:
            self._connection.writer.close()
        self._ended = False


class HttpClient:
    """Connections to one address. Must be used on one event loop, and closed."""

    def __init__(self, address: Address) -> None:
        """Connects to nothing yet."""
        self.address = address
        self._idle: list[_Connection] = []
        self._tls = ssl.create_default_context() if address.tls else None
        self._closed = False

    async def send(self, method: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send a request and read the head of its response. Raises: HttpError."""
        lines = [f"{method} {self.address.path} HTTP/1.1", f"Host: {self.address.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
        while (
            self._idle
        ):  # the server may have closed a kept connection; then nothing was processed, and the next one is tried
            kept = self._idle.pop()
            if kept.reader.at_eof() or kept.writer.is_closing():
                kept.writer.close()
                continue
            with contextlib.suppress(HttpError):
                return await self._exchange(kept, data)
            if method == "POST":
                raise HttpError("the connection was closed by the server")
        return await self._exchange(await self._connect(), data)

    def keep(self, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        if self._closed or len(self._idle) >= _IDLE_MAX:
            connection.writer.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections; the others close when their response ends."""
        self._closed = True
        for connection in self._idle:
            connection.writer.close()
        self._idle.clear()

    async def _connect(self) -> _Connection:
        where = self.address
        try:
            async with asyncio.timeout(_CONNECT_S):
                return _Connection(
                    *await asyncio.open_connection(where.host, where.port, ssl=self._tls, limit=_HEAD_BYTES_MAX)
                )
        except (OSError, TimeoutError) as error:
            why = (
                "no answer"
                if isinstance(error, TimeoutError)
                else (getattr(error, "strerror", None) or type(error).__name__)
            )
            raise UnreachableError(f"cannot connect to {where.host}:{where.port}: {why}") from None

    async def _exchange(self, connection: _Connection, data: bytes) -> Answer:
        try:
            connection.writer.write(data)
            await connection.writer.drain()
            status, headers = await self._head(connection.reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            connection.writer.close()
            raise HttpError(f"the connection broke ({type(error).__name__})") from None
        except BaseException:
            connection.writer.close()
            raise
        return Answer(self, connection, status, headers)

    async def _head(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
        while True:
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            version, _, status = first.partition(" ")
            if not version.startswith("HTTP/1."):
                raise ValueError("not HTTP")
            number = int(status[:3])
            if number >= 200:
                headers = {}
                for line in rest:
                    name, colon, value = line.partition(":")
                    if colon:
                        headers[name.strip().lower()] = value.strip()
                return number, headers


class EventSplitter:
    """Splits an event stream into events. Source: the HTML standard, "Server-sent events"."""

    def __init__(self) -> None:
        """Starts at the beginning of a stream."""
        self._line: list[bytes] = []
        """The parts of a line whose end has not come."""
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False
        """True if the last byte was a carriage return, which ends a line with or without a line feed."""
        self.last_id: str | None = None
        """The event id from which to resume."""
        self.retry_s = 1.0
        """How long to wait before resuming."""

    def feed(self, part: bytes) -> list[bytes]:
        """Parse more bytes. Returns the data of each event that they complete. Raises: HttpError if an event is too long."""
        if not part:
            return []
        ended = part.endswith(b"\r")
        if self._after_return:
            part = part.removeprefix(b"\n")
        self._after_return = ended
        self._size += len(part)
        found = []
        first, *more = part.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line.append(first)
        for start in more:
            event = self._take(b"".join(self._line))
            self._line = [start]
            if event is not None:
                found.append(event)
        if self._size > _LINE_BYTES_MAX:
            raise HttpError("an event of its stream is too long")
        return found

    def _take(self, line: bytes) -> bytes | None:
        """Take a line. Returns the data of the event that it ends, if it ends one."""
        if not line:
            event = b"\n".join(self._data) if self._data else None
            self._data, self._size = [], 0
            return event
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"id" and b"\0" not in value:
            self.last_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            self.retry_s = min(int(value[:9]) / 1000, 30.0)
        return None
