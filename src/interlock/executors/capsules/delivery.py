"""Delivers messages to the capsules that handle them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from interlock.executors.capsules.bus import Message
from interlock.executors.capsules.host_messages import Messages
from interlock.executors.capsules.rights import Rights
from interlock.model.capsule import (
    ON_MESSAGE,
    ON_OUTBOUND,
    RUN,
    SEPARATOR,
    CapsuleTool,
    Manifest,
    handlers_of,
    topic_matches,
)
from interlock.model.tool import Context

_HOPS: Final[ContextVar[int]] = ContextVar("hops", default=0)
HOPS_MAX: Final = 4
"""Maximum length of a chain of messages that cause each other."""


class Delivery:
    """Calls the capsules of a runtime to handle messages that others publish."""

    def __init__(self, manifests: Mapping[str, Manifest], rights: Rights) -> None:
        """`manifests` maps the capsules' names to their manifests."""
        self._manifests = manifests
        self._rights = rights

    def handlers(self, message: Message) -> list[str]:
        """Returns the tools that handle a message: those of capsules whose `on_message` matches its topic."""
        return [
            f"{name}{SEPARATOR}{ON_MESSAGE}"
            for name, manifest in self._manifests.items()
            if any(topic_matches(topic, message.topic) for topic in manifest.behavior.on_message)
        ]

    @contextlib.asynccontextmanager
    async def as_published(self, messages: Messages, ctx: Context) -> AsyncIterator[None]:
        """Inside the block, handle messages as they are published, for a call that runs indefinitely."""
        ended = False

        async def handle() -> None:
            while not ended or messages.published:
                messages.arrived.clear()
                while messages.published:
                    await self.deliver([messages.published.pop(0)], ctx)
                if not ended:
                    await messages.arrived.wait()

        handling = asyncio.ensure_future(handle())
        try:
            yield
        except BaseException:
            messages.published.clear()
            raise
        finally:
            ended = True
            messages.arrived.set()
            await handling

    async def deliver(self, published: Sequence[Message], ctx: Context) -> None:
        """Deliver the messages that a call published, before its result is returned. Failures of handlers are only logged."""
        if not published:
            return
        hops = _HOPS.get()
        token = _HOPS.set(hops + 1)
        try:
            for message in published:
                for tool in self.handlers(message):
                    if hops >= HOPS_MAX:
                        ctx.log(
                            f"{tool}: not called: the message is the last in a chain of {hops} messages that caused each other"
                        )
                    elif (problem := await self._rights.have_handled(ctx, tool, message.document())) is not None:
                        ctx.log(f"{tool}: {problem}")
        finally:
            _HOPS.reset(token)


def handler_tools(manifest: Manifest) -> list[CapsuleTool]:
    """Returns the tools through which the host calls functions of a capsule, so that these calls pass the gate too."""
    message = {"type": "object", "properties": {"message": {"type": "object"}}, "required": ["message"]}
    known: dict[str, tuple[str, dict[str, Any]]] = {
        ON_MESSAGE: ("Handles a message of the event bus.", message),
        ON_OUTBOUND: ("Sends a message out by an uplink.", message),
        RUN: ("Brings in messages by its uplinks until it is stopped.", {"type": "object", "maxProperties": 0}),
    }
    return [
        CapsuleTool(name=name, description=known[name][0], input_schema=known[name][1])
        for name in handlers_of(manifest)
    ]
