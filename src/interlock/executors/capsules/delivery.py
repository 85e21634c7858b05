"""Messages that capsules handle: which tools do, and when they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Final

from interlock.executors.capsules.bus import Message
from interlock.executors.capsules.rights import Rights
from interlock.model.capsule import ON_MESSAGE, ON_OUTBOUND, SEPARATOR, CapsuleTool, Manifest, topic_matches
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
    """The tools by which the host has messages handled, through the gate like every call."""
    schema = {"type": "object", "properties": {"message": {"type": "object"}}, "required": ["message"]}
    found = []
    if manifest.behavior.on_message:
        found.append(
            CapsuleTool(name=ON_MESSAGE, description="Handles a message of the event bus.", input_schema=schema)
        )
    if manifest.uplinks:
        found.append(
            CapsuleTool(name=ON_OUTBOUND, description="Sends a message out by an uplink.", input_schema=schema)
        )
    return found
