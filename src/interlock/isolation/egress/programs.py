"""Connects an action to background programs of its own run (`proc.start`), as if they listened on the action's loopback.

Nothing leaves the walls of the run: the other end is in the network namespace of such a program, whose supervisor
creates the socket (`interlock.isolation.inward`). Only the ports that the program was started with can be reached.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from interlock.isolation import inward
from interlock.isolation.egress.rules import is_loopback
from interlock.model.hosts import Endpoint

_PLACES: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
"""Where a program may listen, in the order to try. One that listens on all addresses is found at the first."""
_ANSWER_S: Final = 10.0
"""How long a supervisor may take to create a socket, and the kernel to connect to a program with a full backlog."""


class Program(NamedTuple):
    """A program to which connections are possible."""

    name: str
    channel: socket.socket
    """The channel on which its supervisor is asked for sockets."""

    async def connect(self, port: int) -> tuple[socket.socket, IPv4Address | IPv6Address]:
        """Connect to the program. Returns the socket, and the address inside. Raises: OSError."""
        why = OSError(errno.ECONNREFUSED, "nothing listens there")
        for family, place in _PLACES:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    return await self._connect(family, place, port), ip_address(place)
            except OSError as error:  # includes TimeoutError
                why = error
        raise why

    async def _connect(self, family: socket.AddressFamily, place: str, port: int) -> socket.socket:
        made = await self._socket(family)
        try:
            await asyncio.get_running_loop().sock_connect(made, (place, port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            made.close()
            raise
        return made

    async def _socket(self, family: socket.AddressFamily) -> socket.socket:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        with inward.ask(self.channel, family) as arrival:
            loop.add_reader(arrival, arrived.set)
            try:
                await arrived.wait()
            finally:
                loop.remove_reader(arrival)
            made = inward.take(arrival)
        if made is None:
            raise OSError(errno.ECONNREFUSED, "its supervisor makes no such socket")
        return made


class Programs:
    """The programs to which one action can connect, by port."""

    def __init__(self, served: Iterable[tuple[Program, Iterable[int]]] = ()) -> None:
        """If two programs have the same port, the first counts. The caller keeps the channels."""
        self._by_port = {port: program for program, ports in reversed(list(served)) for port in ports}

    def at(self, there: Endpoint) -> Program | None:
        """Returns the program with this port, if the host is the loopback; else None."""
        program = None if there.port is None else self._by_port.get(there.port)
        return program if program is not None and is_loopback(there.host) else None
