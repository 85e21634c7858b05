"""The client behind one call, as the call and the servers behind it see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from interlock.executors.mcp.peer import RpcError
from interlock.model import json_rpc
from interlock.model.json_rpc import METHOD_NOT_FOUND
from interlock.surfaces.gateway.protocol import Envelope

_NEEDS: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
_LINK_DONE: Final = "notifications/elicitation/complete"
_LINK_REVISION: Final = "2025-11-25"
"""The only revision that has it."""
Tell = Callable[[bytes], None]
"""Sends a message that belongs to a call, beside its answer."""
Ask = Callable[[str, dict[str, Any], str], Awaitable[dict[str, Any]]]


def check_askable(capabilities: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> None:
    """Raises: RpcError if the client has not declared that it can be asked this."""
    needed = _NEEDS.get(method)
    declared = None if needed is None else capabilities.get(needed)
    mode = params.get("mode", "form")
    if not isinstance(declared, dict):
        raise RpcError(METHOD_NOT_FOUND, f"the client cannot be asked for `{method[:80]}`")
    if method == "elicitation/create" and mode != "form" and mode not in declared:
        raise RpcError(METHOD_NOT_FOUND, f"the client has no elicitation of the mode `{str(mode)[:20]}`")


class Caller:
    """One call's client."""

    def __init__(
        self, origin: object, envelope: Envelope, capabilities: Mapping[str, Any], tell: Tell, ask: Ask
    ) -> None:
        """`origin` is the client's connection. `tell` sends notifications of the call, `ask` asks the client and waits."""
        self.origin = origin
        self.capabilities = capabilities
        self._envelope = envelope
        self._tell = tell
        self._ask = ask
        self._progressed = -1.0

    def rebind(self, envelope: Envelope, tell: Tell) -> None:
        """The client has made the call again: what is told goes to that request from now on."""
        self._envelope = envelope
        self._tell = tell

    @property
    def can_show_forms(self) -> bool:
        """True if a person may be there who can be shown a question."""
        return isinstance(self.capabilities.get("elicitation"), dict)

    @property
    def is_modern(self) -> bool:
        """True if it speaks a revision in which each request carries everything."""
        return self._envelope.is_modern

    @property
    def trace(self) -> Mapping[str, str]:
        """The trace to which the call belongs; empty if its request names none that can be read."""
        return self._envelope.trace

    async def ask(self, method: str, params: dict[str, Any], key: str = "") -> dict[str, Any]:
        """Ask the client. Raises: RpcError, also if it did not say that it can be asked this."""
        check_askable(self.capabilities, method, params)
        return await self._ask(method, params, key)

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Pass on that what a link was for is done. Other notifications end here: no capability of this gateway covers them."""
        link = params.get("elicitationId")
        if method == _LINK_DONE and self._envelope.revision == _LINK_REVISION and isinstance(link, str):
            self._tell(json_rpc.notification(method, {"elicitationId": link}))

    def progress(self, params: Mapping[str, Any]) -> None:
        """Tell the client of progress, if it asked for that. The value only grows, whatever a server says."""
        token, value = self._envelope.progress_token, params.get("progress")
        if token is None or not isinstance(value, int | float) or not value > self._progressed:
            return
        self._progressed = float(value)
        kept = {key: params[key] for key in ("progress", "total", "message") if key in params}
        self._tell(json_rpc.notification("notifications/progress", {"progressToken": token, **kept}))
