"""The host functions `ipc-publish`, `ipc-subscribe` and `uplink` of one call. None of them waits."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, NamedTuple

import msgspec

from interlock.executors.capsules.bus import Bus, Message, Owner
from interlock.executors.capsules.uplinks import Uplinks
from interlock.model import typed
from interlock.model.capsule import Manifest, topic_matches
from interlock.model.errors import ToolError

UNHANDLED_MAX: Final = 10_000
"""Maximum number of messages of one call that wait for their handlers."""


class Post(NamedTuple):
    """The message bus and the uplinks of a runtime."""

    bus: Bus
    uplinks: Uplinks


class _Incoming(msgspec.Struct, forbid_unknown_fields=True):
    uplink: str
    user: str
    content: str
    context: Any = None


class Messages:
    """The messages of one call."""

    def __init__(self, owner: Owner, manifest: Manifest, post: Post) -> None:
        """`owner` is the capsule and the calling agent."""
        self._owner = owner
        self._manifest = manifest
        self._post = post
        self.published: list[Message] = []
        """Messages that are not handled yet."""
        self.arrived = asyncio.Event()

    def publish(self, topic: str, data: bytes) -> None:
        """Publish a message. Raises: ToolError."""
        if topic not in self._manifest.capabilities.ipc_publish:
            raise _undeclared(topic, "ipc_publish")
        if len(self.published) >= UNHANDLED_MAX:
            raise ToolError(f"{UNHANDLED_MAX} messages of this call are not handled yet", code="limit_exceeded")
        self.published.append(self._post.bus.publish(self._owner, topic, data))
        self.arrived.set()

    def subscribe(self, pattern: str) -> int:
        """Subscribe to topics and return the subscription's id. Raises: ToolError."""
        if not any(topic_matches(allowed, pattern) for allowed in self._manifest.capabilities.ipc_subscribe):
            raise _undeclared(pattern, "ipc_subscribe")
        return self._post.bus.subscribe(self._owner, pattern)

    def unsubscribe(self, number: int) -> None:
        """End a subscription. Raises: ToolError."""
        self._post.bus.unsubscribe(self._owner, number)

    def poll(self, number: int, most: int) -> bytes:
        """Returns the next messages of a subscription, as a JSON list. Raises: ToolError."""
        return json.dumps(self._post.bus.poll(self._owner, number, most)).encode()

    def register(self, name: str, platform: str, profile: str) -> None:
        """Register an uplink. Raises: ToolError."""
        try:
            self._post.uplinks.register(self._owner.capsule, name, platform, profile)
        except msgspec.ValidationError as error:
            raise ToolError(f"the uplink: {error}", code="invalid_parameters", retryable=False) from None

    def send(self, text: str) -> None:
        """Pass a received message to the application. Raises: ToolError."""
        try:
            message = typed.decode(text.encode(), _Incoming)
        except msgspec.DecodeError as error:
            raise ToolError(f"the message: {error}", code="invalid_parameters", retryable=False) from None
        self._post.uplinks.receive(self._owner.capsule, message.uplink, message.user, message.content, message.context)


def _undeclared(topic: str, capability: str) -> ToolError:
    return ToolError(
        f"the manifest does not name `{topic[:200]}` in `capabilities.{capability}`",
        code="not_declared",
        retryable=False,
    )
