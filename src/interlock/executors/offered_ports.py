"""The ports on which other actions of a run or session can reach its background programs (`proc.start`).

A program's ports are declared when it is started, so that they are judged and recorded. An action that starts later gets its
own listener on each of them, which leads into the program's network namespace. No grant has to name a host for that: nothing
leaves the walls.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from interlock.isolation.egress.client import ReachableProgram
from interlock.isolation.egress.rules import Rules
from interlock.isolation.egress.wire import PROGRAMS_MAX, PROXY_PORT
from interlock.isolation.spec import WallSpec
from interlock.model.errors import ToolError
from interlock.model.hosts import Endpoint
from interlock.model.tool import Context

VISIBLE_MAX: Final = 24
"""Maximum number of ports that one action can reach: each needs a listener."""

_PATH: Final = "$.parameters.ports"


class Offer:
    """The ports of one program. Close the offer when the program has ended."""

    def __init__(self, handle: str, ctx: Context, session: str | None, ports: Sequence[int]) -> None:
        """For `OfferedPorts.offer`, which creates the object. Raises: OSError."""
        self.handle = handle
        self.ports = tuple(ports)
        self._agent = ctx.agent
        self._run = ctx.run_id
        self._session = session
        self.channel, self._inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)

    @property
    def inside(self) -> int:
        """The descriptor that is passed to the program's supervisor."""
        return self._inside.fileno()

    def check(self, walls: WallSpec | None, rules: Rules) -> None:
        """Check that a program can listen on the ports, and that they mean nothing else to the agent.

        Raises: ToolError `ports_unavailable` without a network namespace, `port_taken` if `rules` let the agent reach this
        machine itself at one of the ports.
        """
        if walls is not None and walls.profile == "nons":
            raise ToolError(
                "without namespaces a program has no network, so it cannot listen on a port",
                code="ports_unavailable",
                path=_PATH,
                retryable=False,
                hint="`interlock doctor` explains how to get the profile `ns`; without it, programs can exchange files",
            )
        for port in self.ports:
            if rules.reach_own_machine(Endpoint("localhost", port)):
                raise ToolError(
                    f"a grant allows port {port} of this machine itself, and actions that connect to it must reach that",
                    code="port_taken",
                    path=_PATH,
                    retryable=False,
                    hint="choose another port",
                )

    def started(self) -> None:
        """Close our copy of the supervisor's end, so that the channel ends with the supervisor."""
        self._inside.close()

    def visible(self, ctx: Context) -> bool:
        """Returns True if this action belongs to the same agent, and to the same run or session."""
        same = self._run == ctx.run_id if self._session is None else self._session == ctx.session
        return same and self._agent == ctx.agent

    def has_ended(self) -> bool:
        """Returns True if the supervisor has ended, and the program with it."""
        if self.channel.fileno() < 0:
            return True
        poller = select.poll()
        poller.register(self.channel, 0)
        return bool(poller.poll(0))

    def close(self) -> None:
        """Close the channel. Can be called again."""
        self._inside.close()
        self.channel.close()


class OfferedPorts:
    """All offers of a runtime. Thread-safe."""

    def __init__(self) -> None:
        """Starts empty."""
        self._lock = threading.Lock()
        self._offers: list[Offer] = []

    def offer(self, handle: str, ctx: Context, session: str | None, ports: Sequence[int]) -> Offer:
        """Offer the ports of a program that is about to start.

        Raises: ToolError `port_taken`, `invalid_parameters`, `spawn_failed`.
        """
        if PROXY_PORT in ports:
            raise ToolError(
                f"port {PROXY_PORT} is used by the egress proxy in every program's network",
                code="invalid_parameters",
                path=_PATH,
                retryable=False,
            )
        with self._lock:
            others = self._visible(ctx)
            for one in others:
                for port in sorted(set(one.ports).intersection(ports)):
                    raise ToolError(
                        f"port {port} is used by {one.handle}, which is still running",
                        code="port_taken",
                        path=_PATH,
                        retryable=False,
                        hint="stop that program with `proc.stop`, or choose another port",
                    )
            if sum(len(one.ports) for one in others) + len(ports) > VISIBLE_MAX or len(others) >= PROGRAMS_MAX:
                raise ToolError(
                    f"the programs of this run (or session) would offer more than {VISIBLE_MAX} ports",
                    code="port_taken",
                    path=_PATH,
                    retryable=False,
                    hint="stop one of them with `proc.stop`",
                )
            try:
                made = Offer(handle, ctx, session, ports)
            except OSError as error:
                raise _no_descriptors() from error
            self._offers.append(made)
            return made

    def withdraw(self, offer: Offer | None) -> None:
        """Close the offer of a program that has ended or was not started. Does nothing for None."""
        if offer is None:
            return
        with self._lock:
            if offer in self._offers:
                self._offers.remove(offer)
        offer.close()

    @contextlib.contextmanager
    def reachable(self, ctx: Context) -> Iterator[tuple[ReachableProgram, ...]]:
        """Yields the programs that a new action can connect to, with descriptors that stay open inside the block.

        Raises: ToolError `spawn_failed`.
        """
        with contextlib.ExitStack() as stack:
            try:
                with self._lock:
                    found = [(one, stack.enter_context(one.channel.dup())) for one in self._visible(ctx)]
            except OSError as error:
                raise _no_descriptors() from error
            yield tuple(ReachableProgram(one.handle, one.ports, channel.fileno()) for one, channel in found)

    def _visible(self, ctx: Context) -> list[Offer]:
        return [one for one in self._offers if one.visible(ctx) and not one.has_ended()]


def _no_descriptors() -> ToolError:
    return ToolError(
        "no file descriptor is left for the ports of programs",
        code="spawn_failed",
        hint="allow more open files (ulimit -n)",
    )
