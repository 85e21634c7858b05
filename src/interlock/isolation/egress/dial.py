"""Connects to a host: resolves it once, checks every address, and connects only to a checked address."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from interlock.detect.addresses import address_is_private, classify
from interlock.isolation.egress.programs import Program, Programs
from interlock.isolation.egress.rules import Rules
from interlock.model.hosts import Endpoint

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Resolves a host and port to addresses, in the order to try. Raises: OSError."""
Permission = Callable[[Endpoint], Awaitable[str | None]]
"""Asks the policies about a connection. Returns the reason code of a refusal, or None."""

_RESOLVE_S: Final = 10.0
_CONNECT_S: Final = 20.0
_HEAD_START_S: Final = 0.3
"""If an address has not answered after this time, the next one is tried in parallel (RFC 8305)."""


class RefusedError(Exception):
    """The connection is not allowed. `reason` is a code of `interlock.model.codes`."""

    def __init__(self, reason: str, text: str) -> None:
        """`text` is shown to the program, and contains no address."""
        super().__init__(text)
        self.reason = reason


class UnreachableError(Exception):
    """The connection is allowed, but failed."""


async def system_resolver(host: str, port: int) -> list[str]:
    """Resolve with the machine's own resolver."""
    rows = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


class Dialer:
    """Makes the connections of one action."""

    def __init__(
        self,
        rules: Rules,
        permission: Permission | None,
        resolver: Resolver,
        programs: Programs | None = None,
        parallel: int = 8,
    ) -> None:
        """At most `parallel` names are resolved at once, because a resolver's thread cannot be interrupted."""
        self.rules = rules
        self._programs = programs or Programs()
        self._permission = permission
        self._resolver = resolver
        self._turns = asyncio.Semaphore(parallel)

    async def check(self, there: Endpoint) -> None:
        """Check that the grants and policies allow the connection. Raises: RefusedError."""
        if not self.rules.allows(there):
            raise RefusedError("host_denied", f"no grant of the agent allows {there}")
        if self._permission is not None and (reason := await self._permission(there)) is not None:
            raise RefusedError(reason, f"the policies do not allow {there}")

    async def connect(self, there: Endpoint) -> tuple[socket.socket, Address]:
        """Check, resolve, check again and connect. Raises: RefusedError, UnreachableError.

        A connection to a program of the same run leaves nothing: its ports were checked when it was started.
        """
        if (program := self.program(there)) is not None:
            return await _inside(program, there)
        await self.check(there)
        addresses = await self._addresses(there)
        assert there.port is not None
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await _first_of(addresses, there.port)
        except TimeoutError:
            raise UnreachableError(f"{there} does not answer") from None

    def program(self, there: Endpoint) -> Program | None:
        """Returns the program of this run at a host and port, or None; never shadows a service of the machine."""
        program = self._programs.at(there)
        return None if program is None or self.rules.reach_own_machine(there) else program

    async def _addresses(self, there: Endpoint) -> list[Address]:
        exempt = self.rules.may_be_private(there)
        if not exempt:
            _refuse_private(there, address_is_private(there.host))
        try:
            found = [ip_address(there.host)]
        except ValueError:
            found = await self._resolve(there)
        if not exempt:
            # One private address is enough to refuse: mixing addresses is a known way around such checks.
            for address in found:
                _refuse_private(there, classify(address) or ("this machine" if is_own(address) else None))
        return found

    async def _resolve(self, there: Endpoint) -> list[Address]:
        try:
            async with self._turns, asyncio.timeout(_RESOLVE_S):
                texts = await self._resolver(there.host, there.port or 0)
                # A zone (`fe80::1%eth0`) is not part of the address to check.
                found = [ip_address(text.partition("%")[0]) for text in texts]
        except (OSError, ValueError):  # TimeoutError is an OSError
            found = []
        if not found:
            raise UnreachableError(f"the name of {there} does not resolve")
        return found


async def _inside(program: Program, there: Endpoint) -> tuple[socket.socket, Address]:
    assert there.port is not None
    try:
        return await program.connect(there.port)
    except OSError:
        raise UnreachableError(f"the program behind {there} does not listen there, or has ended") from None


def is_own(address: Address) -> bool:
    """Returns True for an address of this machine. Even public ones lead to services that trust their own machine."""
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # sends nothing: the kernel only chooses the source address
        except OSError:
            return False
        return ip_address(probe.getsockname()[0].partition("%")[0]) == address


def _refuse_private(there: Endpoint, reason: str | None) -> None:
    if reason is not None:
        raise RefusedError("private_address", f"{there} has an address that is not public ({reason})")


async def _first_of(addresses: Sequence[Address], port: int) -> tuple[socket.socket, Address]:
    """Returns the first connection that succeeds; the others are dropped. Raises: UnreachableError."""
    attempts: dict[asyncio.Task[socket.socket], Address] = {}
    why = errno.EHOSTUNREACH
    left = list(addresses)
    try:
        while left or attempts:
            if left:
                address = left.pop(0)
                attempts[asyncio.create_task(_connect(address, port))] = address
            wait_s = _HEAD_START_S if left else None
            done, _ = await asyncio.wait(attempts, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = attempts.pop(task)
                error = task.exception()
                if error is None:
                    return task.result(), address
                why = getattr(error, "errno", None) or why
    finally:
        for task in attempts:
            task.add_done_callback(_drop)
            task.cancel()
    raise UnreachableError(f"cannot connect: {errno.errorcode.get(why, str(why))}")


def _drop(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(address: Address, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock
