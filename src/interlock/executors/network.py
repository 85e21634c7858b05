"""The network of process actions: named hosts through the egress proxy, nothing else, and a record of what was tried.

A process without namespaces (profile `nons`) has no network at all: Landlock and the call filter can refuse it connections, but
neither can tell one host from another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from interlock.isolation.egress.client import Egress, Policy, Traffic, Watch
from interlock.isolation.egress.listeners import PROXY_PORT
from interlock.model.tool import Context

_PROXY: Final = f"http://127.0.0.1:{PROXY_PORT}"
_OWN: Final = "localhost,127.0.0.1,::1"
"""What a program reaches within its own namespace, past the proxy."""
ENVIRONMENT: Final = {
    **{name: _PROXY for lower in ("http_proxy", "https_proxy", "all_proxy") for name in (lower, lower.upper())},
    "no_proxy": _OWN,
    "NO_PROXY": _OWN,
    "NODE_USE_ENV_PROXY": "1",
}
"""For programs that heed it. It is faster and fails with an explanation; whatever ignores it reaches the same hosts."""

PolicyOf = Callable[[Context], Policy]
"""What the processes of an action may reach."""
Tell = Callable[[Context, Traffic], None]
"""Takes what the processes of an action did on the network."""


class ProcessNetwork:
    """The egress proxy of a runtime, with the engine's word on who may reach what."""

    def __init__(self, policy_of: PolicyOf, tell: Tell, *, egress: Egress | None = None) -> None:
        """Starts nothing. `egress` stands in for the proxy in tests."""
        self._policy_of = policy_of
        self._tell = tell
        self._egress = egress or Egress()

    @property
    def egress(self) -> Egress:
        """The proxy, for `proc.kill`, which must not signal it."""
        return self._egress

    def watch(self, ctx: Context) -> Watch:
        """The network of an action that is about to start. Raises: ToolError `spawn_failed`."""
        return self._egress.watch(self._policy_of(ctx))

    async def finish(self, watch: Watch, ctx: Context) -> None:
        """The action's processes are gone: record what they did. What was not asked for costs nothing here."""
        traffic = await watch.finish()
        if traffic.records or traffic.dropped or traffic.lost:
            self._tell(ctx, traffic)

    def close(self) -> None:
        """End the proxy."""
        self._egress.close()
