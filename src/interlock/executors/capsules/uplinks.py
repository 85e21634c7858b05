"""Uplinks: connectors for messages of people. What a capsule receives goes to the application through a bounded channel."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from interlock.model import typed
from interlock.model.capsule import Uplink
from interlock.model.errors import ToolError, UsageError

CHANNEL_MAX: Final = 128
"""Maximum number of messages that wait for the application."""
CONNECTORS_MAX: Final = 64
"""Maximum number of uplinks that one capsule registers."""
CONTENT_CHARS_MAX: Final = 64 * 1024


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a capsule received for the application."""

    uplink: str
    """`capsule/uplink`."""
    platform: str
    user: str
    content: str
    context: Any = None
    received_us: int


class Connector(msgspec.Struct, frozen=True, kw_only=True):
    """An uplink, declared by a manifest or registered by a running capsule."""

    capsule: str
    name: str
    platform: str
    profile: str
    declared: bool


class Uplinks:
    """The uplinks of a runtime, and the channel to the application. Thread-safe."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        """Starts without uplinks."""
        self._now_us = now_us
        self._lock = threading.Lock()
        self._connectors: dict[tuple[str, str], Connector] = {}
        self._waiting: deque[Inbound] = deque()
        self._taken = False
        self._reader: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def declare(self, capsule: str, uplinks: tuple[Uplink, ...]) -> None:
        """Add the uplinks of a manifest."""
        for one in uplinks:
            self._connectors[capsule, one.name] = Connector(
                capsule=capsule, name=one.name, platform=one.platform, profile=one.profile, declared=True
            )

    def register(self, capsule: str, name: str, platform: str, profile: str) -> None:
        """Add an uplink of a running capsule. Raises: ToolError."""
        checked = typed.convert({"name": name, "platform": platform, "profile": profile or "default"}, Uplink)
        with self._lock:
            mine = [one for one in self._connectors.values() if one.capsule == capsule and not one.declared]
            known = self._connectors.get((capsule, name))
            if (known is not None and known.declared) or (known is None and len(mine) >= CONNECTORS_MAX):
                raise ToolError("the uplink is already declared, or there are too many", code="conflict")
            self._connectors[capsule, name] = Connector(
                capsule=capsule, name=checked.name, platform=checked.platform, profile=checked.profile, declared=False
            )

    def forget(self, capsule: str) -> None:
        """Remove the uplinks that a capsule registered."""
        with self._lock:
            self._connectors = {
                key: one for key, one in self._connectors.items() if one.capsule != capsule or one.declared
            }

    @property
    def connectors(self) -> list[Connector]:
        """All uplinks."""
        with self._lock:
            return list(self._connectors.values())

    def receive(self, capsule: str, uplink: str, user: str, content: str, context: Any) -> None:
        """Pass a message to the application.

        Raises: ToolError if the uplink is unknown, or the channel is full, so that nothing is lost.
        """
        with self._lock:
            known = self._connectors.get((capsule, uplink))
            if known is None:
                raise ToolError(f"there is no uplink `{uplink[:100]}`", code="not_found", retryable=False)
            if len(content) > CONTENT_CHARS_MAX:
                raise ToolError(f"a message has at most {CONTENT_CHARS_MAX} characters", code="limit_exceeded")
            if len(self._waiting) >= CHANNEL_MAX:
                raise ToolError(f"{CHANNEL_MAX} messages already wait for the application", code="limit_exceeded")
            self._waiting.append(
                Inbound(
                    uplink=f"{capsule}/{uplink}", platform=known.platform, user=user, content=content, context=context,
                    received_us=self._now_us(),
                )
            )  # fmt: skip
            reader = self._reader
        if reader is not None:
            with contextlib.suppress(RuntimeError):  # its event loop has ended
                reader[0].call_soon_threadsafe(reader[1].set)

    async def inbound(self) -> AsyncIterator[Inbound]:
        """Yield incoming messages as they arrive, to a single reader.

        Raises: UsageError `conflict` for a second reader.
        """
        with self._lock:
            if self._taken:
                raise UsageError("the messages of uplinks already have a reader", code="conflict")
            self._taken = True
            arrived = asyncio.Event()
            self._reader = (asyncio.get_running_loop(), arrived)
        while True:
            arrived.clear()
            while True:
                with self._lock:
                    if not self._waiting:
                        break
                    message = self._waiting.popleft()
                yield message
            await arrived.wait()
