"""Messages that capsules handle: which tools do, and when they are called."""

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
"""How many messages may lead to one another."""


class Delivery:
    """Has the capsules of a runtime handle what calls of others publish."""

    def __init__(self, manifests: Mapping[str, Manifest], rights: Rights) -> None:
        """By the names of the capsules."""
        self._manifests = manifests
        self._rights = rights

    def handlers(self, message: Message) -> list[str]:
        """The tools that handle a message: those of capsules that have its topic in `on_message`."""
        return [
            f"{name}{SEPARATOR}{ON_MESSAGE}"
            for name, manifest in self._manifests.items()
            if any(topic_matches(topic, message.topic) for topic in manifest.behavior.on_message)
        ]

    @contextlib.asynccontextmanager
    async def as_published(self, messages: Messages, ctx: Context) -> AsyncIterator[None]:
        """In the block messages are handled when they are published, for a call that is not to end."""
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
        """Have what a call has published handled, before its result is given. What goes wrong there is only logged."""
        if not published:
            return
        hops = _HOPS.get()
        token = _HOPS.set(hops + 1)
        try:
            for message in published:
                for tool in self.handlers(message):
                    if hops >= HOPS_MAX:
                        ctx.log(f"{tool}: not called: the message comes from {hops} others that each led to the next")
                    elif (problem := await self._rights.have_handled(ctx, tool, message.document())) is not None:
                        ctx.log(f"{tool}: {problem}")
        finally:
            _HOPS.reset(token)


def handler_tools(manifest: Manifest) -> list[CapsuleTool]:
    """The tools by which the host has functions of a capsule called, through the gate like every call."""
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
