"""The event bus of a runtime: messages between capsules, and between capsules and the application.

Each subscription has its own queue, bounded by count and bytes. A full queue accepts no more messages from anyone: the
publisher gets an error, the reader finds a gap marker, and other subscriptions lose nothing. An agent's capsules
receive what was published in calls of that agent, and what the application publishes.
"""

from __future__ import annotations

import base64
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from interlock.model.capsule import topic_matches
from interlock.model.errors import ToolError

DATA_BYTES_MAX: Final = 64 * 1024
QUEUE_MESSAGES_MAX: Final = 256
QUEUE_BYTES_MAX: Final = 1024 * 1024
SUBSCRIPTIONS_MAX: Final = 32
"""Maximum number of subscriptions per capsule and agent."""
PUBLISHED_PER_S: Final = 200
"""Maximum number of messages that a capsule publishes per second, which may come in one burst."""


class Owner(NamedTuple):
    """The owner of a subscription or message."""

    capsule: str
    """Empty for the application, `interlock` for the host."""
    agent: str
    """Empty for the application, which receives from and reaches every agent."""


class Message(NamedTuple):
    """One message."""

    topic: str
    data: bytes
    sender: Owner

    def document(self) -> dict[str, Any]:
        """Returns the JSON form `{topic, from, data}`, with `data_b64` instead of `data` if that is not UTF-8."""
        about: dict[str, Any] = {"topic": self.topic, "from": self.sender.capsule or "program"}
        try:
            return about | {"data": self.data.decode()}
        except UnicodeDecodeError:
            return about | {"data_b64": base64.b64encode(self.data).decode()}


class _Subscription:
    def __init__(self, owner: Owner, pattern: str) -> None:
        self.owner = owner
        self.pattern = pattern
        self.queue: deque[Message | int] = deque()
        """Messages, and numbers that count the messages missing at that position."""
        self.bytes = 0
        self.messages = 0

    def takes(self, message: Message) -> bool:
        """Queue a message. Returns False, and counts it as missing, if the queue is full."""
        size = len(message.data)
        if self.messages >= QUEUE_MESSAGES_MAX or self.bytes + size > QUEUE_BYTES_MAX:
            if self.queue and isinstance(self.queue[-1], int):
                self.queue[-1] += 1
            else:
                self.queue.append(1)
            return False
        self.queue.append(message)
        self.messages += 1
        self.bytes += size
        return True


class Bus:
    """Subscriptions and their queues. Thread-safe; no operation waits."""

    def __init__(self, mono_ns: Callable[[], int]) -> None:
        """Starts without subscriptions."""
        self._mono_ns = mono_ns
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._subscriptions: dict[int, _Subscription] = {}
        self._tokens: dict[str, tuple[float, int]] = {}

    def publish(self, sender: Owner, topic: str, data: bytes) -> Message:
        """Queue a message for every matching subscription. Raises: ToolError if it is refused, or if any queue was full."""
        if len(data) > DATA_BYTES_MAX:
            raise ToolError(f"a message has at most {DATA_BYTES_MAX} bytes", code="limit_exceeded", retryable=False)
        message = Message(topic, data, sender)
        with self._lock:
            if not self._take_token(sender.capsule):
                raise ToolError(f"a capsule publishes at most {PUBLISHED_PER_S} messages a second", code="rate_limited")
            matching = [one for one in self._subscriptions.values() if _hears(one, message)]
            full = [one for one in matching if not one.takes(message)]
        if full:
            raise ToolError(
                f"{len(full)} of {len(matching)} subscribers did not take the message: their queues are full",
                code="limit_exceeded",
            )
        return message

    def subscribe(self, owner: Owner, pattern: str) -> int:
        """Subscribe to topics that match a pattern. Returns the subscription's id. Raises: ToolError if there are too many."""
        with self._lock:
            if sum(one.owner == owner for one in self._subscriptions.values()) >= SUBSCRIPTIONS_MAX:
                raise ToolError(f"there are already {SUBSCRIPTIONS_MAX} subscriptions", code="limit_exceeded")
            number = next(self._ids)
            self._subscriptions[number] = _Subscription(owner, pattern)
            return number

    def unsubscribe(self, owner: Owner, number: int) -> None:
        """End a subscription. Raises: ToolError `not_found` if the owner has no such subscription."""
        with self._lock:
            self._own(owner, number)
            del self._subscriptions[number]

    def poll(self, owner: Owner, number: int, most: int) -> list[dict[str, Any]]:
        """Returns the next messages of a subscription, with `{gap: n}` where n are missing. Raises: ToolError `not_found`."""
        with self._lock:
            found = self._own(owner, number)
            taken = [found.queue.popleft() for _ in range(min(max(most, 0), len(found.queue)))]
            messages = [one for one in taken if isinstance(one, Message)]
            found.messages -= len(messages)
            found.bytes -= sum(len(one.data) for one in messages)
        return [one.document() if isinstance(one, Message) else {"gap": one} for one in taken]

    def drop(self, capsule: str) -> None:
        """End all subscriptions of a capsule."""
        with self._lock:
            self._subscriptions = {
                number: one for number, one in self._subscriptions.items() if one.owner.capsule != capsule
            }

    def _own(self, owner: Owner, number: int) -> _Subscription:
        found = self._subscriptions.get(number)
        if found is None or found.owner != owner:
            raise ToolError(f"there is no subscription {number}", code="not_found", retryable=False)
        return found

    def _take_token(self, capsule: str) -> bool:
        if capsule in ("", HOST):
            return True
        now = self._mono_ns()
        left, at = self._tokens.get(capsule, (float(PUBLISHED_PER_S), now))
        left = min(float(PUBLISHED_PER_S), left + (now - at) / 1e9 * PUBLISHED_PER_S)
        self._tokens[capsule] = (left - 1 if left >= 1 else left, now)
        return left >= 1


HOST: Final = "interlock"
"""The sender of the host's own messages, and the prefix of their topics."""


def _hears(one: _Subscription, message: Message) -> bool:
    agents = {one.owner.agent, message.sender.agent}
    return topic_matches(one.pattern, message.topic) and (len(agents) == 1 or "" in agents)
