"""The runtime's side of the egress proxy, which is started when a program first uses the network, and replaced if it dies.

One `Egress` serves any number of event loops and threads. Until a program tries to connect, an action costs the runtime
one descriptor to wait on and no process: listeners queue connections until the proxy takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

from interlock.isolation.egress.rules import transparent_ports
from interlock.isolation.egress.wire import (
    FINISH_S,
    LISTENERS_MAX,
    MESSAGE_BYTES,
    OPEN,
    PORTS_MAX,
    Box,
    Kind,
    Record,
    decode,
    encode,
)
from interlock.isolation.wire import memory_file, receive_message
from interlock.model.errors import ToolError
from interlock.model.hosts import Endpoint
from interlock.server_process import ServerProcess, module_command

CLOSE_S: Final = FINISH_S + 5.0
"""How long to wait for the proxy's last message; until then it forwards what programs had sent."""
_RETRY_S: Final = 0.002
_REAP_MS: Final = 1_000
_RECORD_FIELDS: Final = frozenset(Record.__annotations__)

Ask = Callable[[Endpoint], str | None]
"""Asks the policies about a connection. Returns the reason code of a refusal, or None. Called on the action's event loop."""


class ReachableProgram(NamedTuple):
    """A background program of the run, and its ports to which the action can connect as if they were local."""

    name: str
    ports: tuple[int, ...]
    channel: int
    """The descriptor of its channel (`interlock.isolation.inward`); it is duplicated."""


class Policy(NamedTuple):
    """What an action may reach: see `wire.Box`."""

    grants: tuple[tuple[tuple[str, ...], ...], ...] = ()
    private: tuple[str, ...] = ()
    ask: Ask | None = None
    programs: tuple[ReachableProgram, ...] = ()
    own_ports: tuple[int, ...] = ()
    """Ports on which the action's program itself listens, so our listeners must not use them."""


class Traffic(NamedTuple):
    """The network traffic of an action."""

    records: tuple[Record, ...] = ()
    dropped: int = 0
    """Number of attempts that are not in any record."""
    lost: bool = False
    """True if the proxy died: programs lost their connections, and what they had sent is unknown."""


def egress_command() -> list[str]:
    """Returns the command that starts the proxy; the runtime's pid is appended as an argument."""
    return module_command("interlock.isolation.egress.server", site=True)


class Egress:
    """The proxy process and the connection to it; starts on first use. Must be closed: the process ends then, or with ours."""

    def __init__(self, command: Sequence[str] | None = None) -> None:
        """`command` starts the proxy."""
        self._process = ServerProcess(
            egress_command() if command is None else command, arguments=lambda: (str(os.getpid()),)
        )

    @property
    def pid(self) -> int | None:
        """The proxy's process id; None if it is not running."""
        return self._process.pid

    def watch(self, policy: Policy) -> Watch:
        """Open the network of a new action. Call it on the action's event loop, before the action starts.

        Raises: ToolError `spawn_failed` if the runtime has no descriptors left.
        """
        return Watch(self, policy)

    async def hand_over(self, control: socket.socket, box: Box, descriptors: Sequence[int]) -> None:
        """Pass an action to the proxy, which is started if necessary. Raises: ToolError `spawn_failed`."""
        try:
            body = memory_file("box", json.dumps(box).encode())
        except OSError as error:
            raise _no_proxy(error) from error
        try:
            for _ in range(2):  # a proxy that has died is replaced
                try:
                    channel = self._process.connect()
                except OSError as error:
                    raise _no_proxy(error) from error
                try:
                    await _send(channel, [control.fileno(), body, *descriptors])
                except (BrokenPipeError, ConnectionResetError):
                    self._process.forget(channel)
                else:
                    return
            raise _no_proxy(None)
        finally:
            os.close(body)

    def close(self) -> None:
        """End the proxy. Connections of running actions end with it."""
        self._process.close(_REAP_MS)


class Watch:
    """One action's network, from before its program starts until `finish` (or `drop`)."""

    def __init__(self, egress: Egress, policy: Policy) -> None:
        """Created by `Egress.watch`."""
        self._egress = egress
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._records: list[Record] = []
        self._dropped = 0
        self._lost = False
        self._kinds: list[tuple[Kind, int]] = []
        self._descriptors: list[int] = []
        """Descriptors of the listeners, from their arrival until they are passed on."""
        self._channels: list[int] = []
        """Descriptors of the programs' channels, until they are passed on."""
        self._control: socket.socket | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = self._loop.create_future()
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_listeners)
            try:
                for program in policy.programs:
                    self._channels.append(os.dup(program.channel))
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.callback(ours.close)
                stack.callback(theirs.close)
                self._first = select.epoll()
            except OSError as error:
                raise _no_proxy(error) from error
            stack.pop_all()
        ours.setblocking(False)
        self._arrival = ours
        self.inside = theirs
        """Passed to `listeners.open_listeners` inside the action's network namespace. Closed by us."""
        self.ports = _ports(policy)
        """The ports of its transparent listeners, besides 80 and 443."""
        self._loop.add_reader(ours, self._arrive)

    async def finish(self) -> Traffic:
        """Returns the traffic of the action, once its processes have ended. Call it once.

        Raises: CancelledError, after dropping everything.
        """
        try:
            self._arrive()
            if self._opening is None and self._descriptors and self._first.poll(0):
                self._wake()
            if self._opening is not None:
                await self._opening
            if self._control is not None:
                with contextlib.suppress(OSError):
                    await self._loop.sock_sendall(self._control, encode({"say": "close"}))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await asyncio.shield(self._closed)
                self._lost = self._lost or not self._closed.done()
            return Traffic(tuple(self._records), self._dropped, self._lost)
        finally:
            self.drop()

    def take(self) -> Traffic:
        """Returns the traffic reported since the last call, while the action continues."""
        records, self._records = self._records, []
        return Traffic(tuple(records), lost=self._lost)

    def drop(self) -> None:
        """Close everything immediately. Can be called again."""
        if self._opening is not None:
            self._opening.cancel()
        self._stop_arrival()
        self.inside.close()
        if not self._first.closed:
            self._loop.remove_reader(self._first)
            self._first.close()
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None
        self._close_listeners()

    def _arrive(self) -> None:
        """Receive the listeners of the action's network namespace, and wait until one of them is used."""
        if self._arrival.fileno() < 0:
            return
        try:
            message, descriptors, flags = receive_message(self._arrival, MESSAGE_BYTES, LISTENERS_MAX)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors, flags = b"", [], 0
        self._stop_arrival()
        self._descriptors = descriptors
        if not message or flags & socket.MSG_CTRUNC:
            self._close_listeners()  # without a namespace there is no network; without all listeners, use none
            return
        self._kinds = json.loads(message)
        for descriptor in descriptors:
            self._first.register(descriptor, select.EPOLLIN)
        self._loop.add_reader(self._first, self._wake)

    def _stop_arrival(self) -> None:
        if self._arrival.fileno() >= 0:
            self._loop.remove_reader(self._arrival)
            self._arrival.close()

    def _wake(self) -> None:
        """Connect to the proxy, because a program has used the network for the first time."""
        self._loop.remove_reader(self._first)
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            self._fail()
            return
        ours.setblocking(False)
        self._control = ours
        box: Box = {
            "listeners": self._kinds,
            "programs": [{"name": one.name, "ports": list(one.ports)} for one in self._policy.programs],
            "grants": [[list(patterns) for patterns in chain] for chain in self._policy.grants],
            "private": list(self._policy.private),
            "ask": self._policy.ask is not None,
        }
        try:
            with theirs:
                await self._egress.hand_over(theirs, box, [*self._descriptors, *self._channels])
        except (ToolError, OSError):
            self._fail()
            return
        self._close_listeners()  # the proxy has them; if it dies, nothing listens any more
        self._loop.add_reader(ours, self._receive)

    def _receive(self) -> None:
        assert self._control is not None
        while True:
            try:
                data = self._control.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(self._control)
                self._fail()
                return
            message = decode(data)
            match message["say"]:
                case "record":
                    self._records.append(cast("Record", {name: message[name] for name in _RECORD_FIELDS}))
                case "ask":
                    self._answer(message["id"], Endpoint(message["host"], message["port"]))
                case "closed":
                    self._dropped += message["dropped"]
                    if not self._closed.done():
                        self._closed.set_result(None)

    def _answer(self, number: int, there: Endpoint) -> None:
        assert self._control is not None
        try:
            refusal = "policy_error" if self._policy.ask is None else self._policy.ask(there)
        except Exception:  # noqa: BLE001 - a judge that fails must not allow
            refusal = "policy_error"
        with contextlib.suppress(OSError):  # without an answer, the connection is refused
            self._control.send(encode({"say": "answer", "id": number, "refusal": refusal}))

    def _fail(self) -> None:
        """Mark the proxy as lost: no program can connect any more."""
        self._close_listeners()
        if not self._closed.done():
            self._lost = True
            self._closed.set_result(None)

    def _close_listeners(self) -> None:
        descriptors = [*self._descriptors, *self._channels]
        self._descriptors, self._channels = [], []
        for descriptor in descriptors:
            os.close(descriptor)


def _ports(policy: Policy) -> list[int]:
    ports = [port for program in policy.programs for port in program.ports]
    ports += transparent_ports(policy.grants, PORTS_MAX)
    return [port for port in dict.fromkeys(ports) if port not in policy.own_ports][:PORTS_MAX]


async def _send(channel: socket.socket, descriptors: list[int]) -> None:
    while True:
        try:
            socket.send_fds(channel, [OPEN], descriptors)
        except OSError as error:
            if error.errno not in (
                errno.EAGAIN,
                errno.ETOOMANYREFS,
            ):  # it has not caught up with messages or descriptors
                raise
            await asyncio.sleep(_RETRY_S)
        else:
            return


def _no_proxy(error: OSError | None) -> ToolError:
    why = "it ended at once" if error is None else os.strerror(error.errno or 0)
    return ToolError(
        f"the egress proxy could not be started: {why}",
        code="spawn_failed",
        hint="nothing has left the action's network; the limit on open files may be too low (ulimit -n)",
    )
