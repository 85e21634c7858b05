"""The network of process actions: only granted hosts through the egress proxy, with a record of every attempt.

A process without namespaces (profile `nons`) has no network at all: Landlock and the system call filter can refuse
connections, but cannot tell one host from another. Only git's clone, pull and push connect directly there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from interlock.isolation.egress.client import Egress, Policy, Traffic, Watch
from interlock.isolation.egress.rules import Rules
from interlock.isolation.egress.wire import PROXY_PORT
from interlock.isolation.spec import WallSpec
from interlock.lazy import lazy
from interlock.model.errors import ToolError
from interlock.model.tool import Context

if TYPE_CHECKING:
    from interlock.executors import offered_ports
    from interlock.isolation.egress import background
    from interlock.isolation.egress.background import BackgroundWatch
else:
    background = lazy("interlock.isolation.egress.background")
    offered_ports = lazy("interlock.executors.offered_ports")

_PROXY: Final = f"http://127.0.0.1:{PROXY_PORT}"
_OWN: Final = "localhost,127.0.0.1,::1"
"""Addresses inside the process's own network namespace, which bypass the proxy."""
ENVIRONMENT: Final = {
    **{name: _PROXY for lower in ("http_proxy", "https_proxy", "all_proxy") for name in (lower, lower.upper())},
    "no_proxy": _OWN,
    "NO_PROXY": _OWN,
    "NODE_USE_ENV_PROXY": "1",
}
"""For programs that honour proxy variables: they get faster connections and clear errors.

Other programs reach the same hosts.
"""


class PolicyOf(Protocol):
    """Returns which hosts the processes of an action may reach."""

    def __call__(self, ctx: Context, /, *, lasting: bool = False) -> Policy:
        """`lasting` is set for a background program."""
        ...


Tell = Callable[[Context, Traffic], None]
"""Receives the network traffic of an action's processes."""


def environment_of(walls: WallSpec | None) -> dict[str, str]:
    """Returns the environment variables that point a program to the proxy; empty without a proxy."""
    return ENVIRONMENT if walls is not None and walls.network == "proxied" else {}


def proxy_lost(error: ToolError) -> ToolError:
    """Returns the error of a program that failed after the proxy had ended; `error` is how it failed."""
    return ToolError(
        f"the egress proxy ended while the action ran, so its programs lost their network: {error.message}",
        code="proxy_lost",
        retryable=error.retryable,
        output=error.output,
        hint="the next action starts a new proxy; was it killed because the machine was out of memory?",
    )


class Line(msgspec.Struct):
    """The network of one action."""

    walls: WallSpec | None
    """The walls of its processes, connected to the proxy if the network is `proxied`."""
    traffic: Traffic = Traffic()
    """Traffic of its processes; set when they have ended."""


def _nothing(_ctx: Context, /, *, lasting: bool = False) -> Policy:  # noqa: ARG001
    return Policy()


def _ignored(_ctx: Context, _traffic: Traffic) -> None:
    pass


class ProcessNetwork:
    """The egress proxy of a runtime, and the engine's decision about which action may reach which host."""

    def __init__(self, policy_of: PolicyOf = _nothing, tell: Tell = _ignored, *, egress: Egress | None = None) -> None:
        """Starts nothing. By default, processes reach no host. `egress` replaces the proxy in tests."""
        self._policy_of = policy_of
        self._tell = tell
        self._egress = egress or Egress()
        self._thread: background.WatchThread | None = None
        self._lock = threading.Lock()
        self._offered: offered_ports.OfferedPorts | None = None

    @property
    def egress(self) -> Egress:
        """The proxy, so that `proc.kill` can refuse to signal it."""
        return self._egress

    @property
    def offered(self) -> offered_ports.OfferedPorts:
        """The ports of background programs."""
        with self._lock:
            if self._offered is None:
                self._offered = offered_ports.OfferedPorts()
            return self._offered

    def _watch_thread(self) -> background.WatchThread:
        """Returns the thread that watches the network of background programs."""
        with self._lock:
            if self._thread is None:
                self._thread = background.WatchThread(self._egress)
            return self._thread

    @contextlib.asynccontextmanager
    async def open(
        self, ctx: Context, walls: WallSpec | None, *, only: Sequence[str] | None = None
    ) -> AsyncIterator[Line]:
        """Run the action inside the block, behind the walls in the yielded `Line`, with the proxy if they are `proxied`.

        Its traffic is recorded at the end, when the processes have ended. `only` holds patterns that narrow the grant's hosts;
        the run's own programs cannot be reached then.

        Raises: ToolError `spawn_failed`.
        """
        line = Line(walls)
        if walls is None or walls.network != "proxied":
            yield line
            return
        policy = self._policy_of(ctx)
        if only is None:
            with self.offered.reachable(ctx) as programs:
                watch = self._egress.watch(policy._replace(programs=programs))
        else:
            watch = self._egress.watch(_narrowed(policy, only))
        line.walls = walls._replace(egress=watch.inside.fileno(), egress_plan={"ports": watch.ports})
        try:
            yield line
        except Exception:  # after a time-out or a failed program, its traffic is recorded too
            await self._finish(line, watch, ctx)
            raise
        except BaseException:  # cancelled a second time: do not wait
            watch.drop()
            raise
        else:
            await self._finish(line, watch, ctx)

    async def _finish(self, line: Line, watch: Watch, ctx: Context) -> None:
        line.traffic = await watch.finish()
        self.tell(ctx, line.traffic)

    async def open_lasting(
        self, ctx: Context, walls: WallSpec | None, offer: offered_ports.Offer | None = None
    ) -> tuple[WallSpec | None, BackgroundWatch | None]:
        """Open the network of a background program.

        Returns its walls and its watch, which the caller closes when the program ends.

        Others can reach what it listens on if there is an `offer`.
        Raises: ToolError `spawn_failed`, `ports_unavailable`, `port_taken`.
        """
        policy = self._policy_of(ctx, lasting=True)
        if offer is None:
            with self.offered.reachable(ctx) as programs:
                return await self.open_for(policy._replace(programs=programs), walls)
        offer.check(walls, Rules(policy.grants, policy.private))
        with self.offered.reachable(ctx) as programs:
            others = tuple(one for one in programs if one.name != offer.handle)
            around, watch = await self.open_for(policy._replace(programs=others, own_ports=offer.ports), walls)
        return None if around is None else around._replace(inward=offer.inside), watch

    async def open_for(self, policy: Policy, walls: WallSpec | None) -> tuple[WallSpec | None, BackgroundWatch | None]:
        """Like `open_lasting`, for a program that belongs to no action. Raises: ToolError `spawn_failed`."""
        if walls is None or walls.network != "proxied":
            return walls, None
        watch = await self._watch_thread().watch(policy)
        return walls._replace(egress=watch.inside, egress_plan={"ports": watch.ports}), watch

    def tell(self, ctx: Context, traffic: Traffic) -> None:
        """Record the traffic of an action's processes, if there was any."""
        if traffic != Traffic():
            self._tell(ctx, traffic)

    def close(self) -> None:
        """End the proxy."""
        if self._thread is not None:
            self._thread.close()
        self._egress.close()


def _narrowed(policy: Policy, only: Sequence[str]) -> Policy:
    """Returns the policy narrowed to `only`, which comes first because the proxy listens on a bounded number of ports."""
    return policy._replace(grants=tuple((tuple(only), *chain) for chain in policy.grants))
