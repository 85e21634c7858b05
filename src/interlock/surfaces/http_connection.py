"""One HTTP connection of the REST server or of the gateway: uvicorn's, with limits that uvicorn does not have."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES_MAX: Final = 16 * 1024
"""Maximum size of a request's head that is not complete. Complete ones are limited by one read of asyncio, 256 KiB."""
ACCEPTED_MAX: Final = 100
"""Connections that asyncio accepts in one turn of the loop (the `backlog`), and so before `Connection` can count them."""
REQUEST_SECONDS = 10.0
"""Maximum time for a connection to send the head of a request, or to read a response that does not fit its buffer."""


class Connection(HttpToolsProtocol):
    """A connection that is closed when its client sends no complete head, or does not read.

    Uvicorn would wait forever, and a few hundred such connections would lock others out. Where there are too many, the
    oldest without a request makes room, because clients send theirs at once.
    """

    silent = True
    """True until the head of a request has come."""
    since = 0.0
    """When it was opened, in the loop's time."""
    _in_head = True
    _head_bytes = 0
    _overdue: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(_Together(transport))  # type: ignore[arg-type]
        self.since = self.loop.time()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._make_room()
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request. Until its head is complete, each part counts against the limits."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.send_400_response("The head of the request is too large.")
        if self._idle():
            self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Those after the body are dropped, because the request has been judged without them."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_head = self.silent = False
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def pause_writing(self) -> None:
        """The client has stopped reading."""
        super().pause_writing()
        self._stuck = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client is reading again."""
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        for timer in (self._overdue, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Close the oldest other connection that has sent no request, if there is one."""
        silent = [
            each for each in self.connections if isinstance(each, Connection) and each.silent and each is not self
        ]
        if silent:
            oldest = min(silent, key=lambda each: each.since)
            oldest.silent = False  # it is gone only after this turn of the loop
            oldest.transport.abort()

    def _idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _expect_head(self) -> None:
        if self._overdue is None:
            self._overdue = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._overdue = None
        if self._idle():  # otherwise a request is being answered, which has limits of its own
            self.transport.close()


class _Together:
    """A transport that sends what is written in one turn of the loop together: uvicorn writes the head of an answer alone."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
