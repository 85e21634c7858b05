"""The client behind one call, as the call and the MCP servers behind it see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeGuard

from interlock.detect import find_unseen
from interlock.executors.mcp.peer import RpcError
from interlock.model import json_rpc
from interlock.model.json_rpc import METHOD_NOT_FOUND
from interlock.surfaces.gateway.protocol import Envelope

_NEEDS: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
_LINK_DONE: Final = "notifications/elicitation/complete"
_LINK_REVISION: Final = "2025-11-25"
"""The only revision that has it."""
REPORTS_MAX: Final = 20
"""Reports of progress that are passed on in a second; the others are dropped."""
_MESSAGE_CHARS_MAX: Final = 1_000
Tell = Callable[[bytes], None]
"""Sends a message that belongs to a call, separate from its answer."""
Ask = Callable[[str, dict[str, Any], str], Awaitable[dict[str, Any]]]
AskOlder = Callable[[str, dict[str, Any], Tell], Awaitable[dict[str, Any]]]
"""Sends a request to the client of an older connection, together with the call's other messages."""


def check_askable(capabilities: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> None:
    """Raises: RpcError if the client has not declared support for this request."""
    needed = _NEEDS.get(method)
    declared = None if needed is None else capabilities.get(needed)
    mode = params.get("mode", "form")
    if not isinstance(declared, dict):
        raise RpcError(METHOD_NOT_FOUND, f"the client does not support `{method[:80]}`")
    if method == "elicitation/create" and mode != "form" and mode not in declared:
        raise RpcError(METHOD_NOT_FOUND, f"the client does not support elicitation in the mode `{str(mode)[:20]}`")


class Caller:
    """The client of one call."""

    def __init__(
        self, origin: object, envelope: Envelope, capabilities: Mapping[str, Any], tell: Tell, ask: Ask
    ) -> None:
        """`origin` is the client's connection. `tell` sends notifications, `ask` sends the client a request and waits."""
        self.origin = origin
        self.capabilities = capabilities
        self._envelope = envelope
        self._tell = tell
        self._ask = ask
        self._progressed = -1.0
        self._second = -1
        self._reports = 0
        """Reports of progress in this second of the loop's clock."""

    def rebind(self, envelope: Envelope, tell: Tell) -> None:
        """The client has repeated the call: messages belong to the new request from now on."""
        self._envelope = envelope
        self._tell = tell

    @property
    def can_show_forms(self) -> bool:
        """True if the client can show a form to a person."""
        return isinstance(self.capabilities.get("elicitation"), dict)

    @property
    def is_modern(self) -> bool:
        """True if it uses a revision in which each request is self-contained."""
        return self._envelope.is_modern

    @property
    def trace(self) -> Mapping[str, str]:
        """The trace of the call; empty if its request has no valid one."""
        return self._envelope.trace

    async def ask(self, method: str, params: dict[str, Any], key: str = "") -> dict[str, Any]:
        """Send the client a request. Raises: RpcError, also if the client did not declare support for it."""
        check_askable(self.capabilities, method, params)
        return await self._ask(method, params, key)

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Forward the notification that a link's purpose is complete.

        Others are dropped: the gateway declares no capability for them.
        """
        link = params.get("elicitationId")
        if method == _LINK_DONE and self._envelope.revision == _LINK_REVISION and isinstance(link, str):
            self._tell(json_rpc.notification(method, {"elicitationId": link}))

    def progress(self, params: Mapping[str, Any]) -> None:
        """Report progress to the client, if it asked for that.

        Whatever a server sends, the value only increases, the message can be shown, and there are not too many reports.
        """
        token, value, total = self._envelope.progress_token, params.get("progress"), params.get("total")
        if token is None or not _is_number(value) or not value > self._progressed or not self._may_report():
            return
        self._progressed = float(value)
        message = params.get("message")
        shown = isinstance(message, str) and len(message) <= _MESSAGE_CHARS_MAX and not find_unseen(message)
        more = ({"total": total} if _is_number(total) else {}) | ({"message": message} if shown else {})
        self._tell(json_rpc.notification("notifications/progress", {"progressToken": token, "progress": value, **more}))

    def _may_report(self) -> bool:
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second, self._reports = second, 0
        self._reports += 1
        return self._reports <= REPORTS_MAX


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
