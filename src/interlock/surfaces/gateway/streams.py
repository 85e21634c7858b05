"""The event streams of an HTTP client: the messages of one request, kept until they were sent and for a while after.

A broken stream can be resumed from any of its stored events (`Last-Event-ID`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from typing import Final

EVENTS_KEPT: Final = 512
"""Events stored per stream. A client that was away for longer loses the older ones."""
BYTES_KEPT: Final = 16 * 1024 * 1024
STREAMS_KEPT: Final = 64
"""Streams stored per session: the most recent ones."""


class Stream:
    """The messages that belong to one request, or to none."""

    def __init__(self, name: str) -> None:
        """`name` is unique in its session."""
        self.name = name
        self.ended = False
        self.first: asyncio.Event = asyncio.Event()
        """Set once there is a message."""
        self._next = 1
        self._size = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._news = asyncio.Event()

    def put(self, frame: bytes, *, last: bool = False) -> None:
        """Add a message; the last one ends the stream."""
        self._kept.append((self._next, frame))
        self._next += 1
        self._size += len(frame)
        while len(self._kept) > 1 and (len(self._kept) > EVENTS_KEPT or self._size > BYTES_KEPT):
            self._size -= len(self._kept.popleft()[1])
        self.ended = self.ended or last
        self.first.set()
        self._news.set()

    def end(self) -> None:
        """End the stream: there will be no more messages."""
        self.ended = True
        self.first.set()
        self._news.set()

    @property
    def only(self) -> bytes | None:
        """The only message of a stream that has ended; None if it has not, or has others."""
        return self._kept[0][1] if self.ended and self._next == 2 else None

    async def wait_only(self, wait_s: float) -> bytes | None:
        """Wait for the first message, for at most this time; returns `only`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self.first.wait()
        return self.only

    def after(self, number: int) -> list[tuple[int, bytes]]:
        """The stored messages after this number."""
        return [each for each in self._kept if each[0] > number]

    async def wait_after(self, number: int) -> list[tuple[int, bytes]]:
        """The stored messages after this number, once there are any; empty at the end of the stream."""
        while not (found := self.after(number)) and not self.ended:
            self._news.clear()
            await self._news.wait()
        return found


class Streams:
    """The streams of one session."""

    def __init__(self) -> None:
        """Create only the stream that belongs to no request."""
        self.readers = 0
        """How many connections of the client read events and wait for more."""
        self.own = Stream("0")
        self._by_name: OrderedDict[str, Stream] = OrderedDict({"0": self.own})
        self._last = 0

    def open(self) -> Stream:
        """Create the stream of another request."""
        self._last += 1
        stream = self._by_name[str(self._last)] = Stream(str(self._last))
        if len(self._by_name) > STREAMS_KEPT:
            for name, old in list(self._by_name.items()):
                if old.ended:
                    del self._by_name[name]
                    break
        return stream

    def find(self, event_id: str) -> tuple[Stream, int] | None:
        """The stream of an event, and its number there; None if it is no longer stored."""
        name, _, number = event_id.partition("-")
        stream = self._by_name.get(name)
        return None if stream is None or not number.isdigit() or len(number) > 15 else (stream, int(number))

    def end(self) -> None:
        """End all streams of the session."""
        for stream in self._by_name.values():
            stream.end()


def event(stream: Stream, number: int, frame: bytes) -> bytes:
    """A message as an event."""
    return b"id: %s-%d\ndata: %s\n\n" % (stream.name.encode(), number, frame.rstrip(b"\n"))


def opening(stream: Stream) -> bytes:
    """The first event, without data. A client can resume from it if the connection breaks before any message."""
    return b"id: %s-0\nretry: 1000\ndata:\n\n" % stream.name.encode()
