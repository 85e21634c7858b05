"""One action's network: accepts its programs' connections, and connects those that are allowed.

A slow or silent client delays only itself: each has its own task, and a time limit for naming its server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Coroutine
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from interlock.isolation.egress import dns
from interlock.isolation.egress.dial import Dialer, RefusedError, UnreachableError
from interlock.isolation.egress.http_proxy import ESTABLISHED, read_request, refusal, send_body
from interlock.isolation.egress.ledger import Ledger
from interlock.isolation.egress.names import Names
from interlock.isolation.egress.relay import Client, Flow
from interlock.isolation.egress.rules import Rules, is_loopback
from interlock.isolation.egress.sniff import OTHER, Flight, begins_tls, read_flight
from interlock.isolation.egress.wire import FINISH_S, Kind, Via
from interlock.model.hosts import Endpoint, host_name

HELLO_S: Final = 10.0
"""How long a client may take to name its server."""
CONNECTIONS_MAX: Final = 2048
"""Maximum number of connections per action; fewer if the proxy may open only few files (`Network`)."""
_QUERIES: Final = 64
_QUERY_BYTES: Final = 4096
_REVERSE: Final = (".in-addr.arpa", ".ip6.arpa")
_PAUSE_S: Final = 0.05


class Network:
    """The listeners of one action, and its connections."""

    def __init__(
        self,
        listeners: list[tuple[Kind, int, socket.socket]],
        dialer: Dialer,
        ledger: Ledger,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """Takes ownership of the listeners. `open` starts serving them."""
        self._connections_max = connections_max
        self._listeners = listeners
        self._dialer = dialer
        self._ledger = ledger
        self._names = Names()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._flows: set[Flow] = set()
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Start serving."""
        for kind, port, sock in self._listeners:
            if kind == "dns":
                self._loop.add_reader(sock, self._answer_queries, sock)
            else:
                self._accepting.append(asyncio.create_task(self._accept(kind, port, sock)))

    async def close(self) -> None:
        """Close after the programs have ended: forward what they had sent, for a short time, and drop the rest."""
        for kind, port, sock in self._listeners:
            if kind == "dns":
                self._answer_queries(sock)  # a query that nobody waited for is recorded too
            else:
                self._accept_waiting(kind, port, sock)
        self._stop_listening()
        until = time.monotonic() + FINISH_S
        while self._unsent() and time.monotonic() < until:  # noqa: ASYNC110 - a hundred connections would have to report it one by one
            await asyncio.sleep(_PAUSE_S)
        await self.drop()

    async def drop(self) -> None:
        """End everything immediately."""
        self._stop_listening()
        waiting = list(self._tasks)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _unsent(self) -> bool:
        """Returns True while a connection has not forwarded everything that its client sent."""
        return len(self._tasks) > sum(flow.client_done for flow in self._flows)

    def _stop_listening(self) -> None:
        for task in self._accepting:
            task.cancel()
        for kind, _, sock in self._listeners:
            if kind == "dns":
                self._loop.remove_reader(sock)
            sock.close()
        self._accepting.clear()
        self._listeners.clear()

    async def _accept(self, kind: Kind, port: int, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(listener)
            except OSError:  # no descriptor is left, or the client has gone: others may still be served
                await asyncio.sleep(_PAUSE_S)
                continue
            self._serve(kind, port, sock)

    def _accept_waiting(self, kind: Kind, port: int, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setblocking(False)
                self._serve(kind, port, sock)

    def _serve(self, kind: Kind, port: int, sock: socket.socket) -> None:
        """Start serving a connection."""
        if len(self._tasks) >= self._connections_max:
            there = Endpoint(_reached(sock)[0].compressed, port) if kind == "transparent" else Endpoint("proxy", port)
            self._ledger.refused(there, "transparent", "too_many_connections")
            Client(sock).reset()
            return
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(sock)
        work: Coroutine[Any, Any, None]
        match kind:
            case "proxy":
                work = self._serve_proxy(client)
            case "dns_tcp":
                work = self._serve_dns(client)
            case _:
                work = self._serve_transparent(client)
        task = asyncio.create_task(_guarded(work, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- the HTTP proxy

    async def _serve_proxy(self, client: Client) -> None:
        async with asyncio.timeout(HELLO_S):
            try:
                head = await client.head()
                if head is None:
                    return
                asked = read_request(head)
            except ValueError as error:
                await client.send(refusal(400, "Bad Request", "malformed_request", str(error)))
                return
        via: Via = "connect" if asked.head is None else "http"
        try:
            server, address = await self._connect(asked.there, via)
        except RefusedError as error:
            await client.send(refusal(403, "Forbidden", error.reason, str(error)))
            return
        except UnreachableError as error:
            await client.send(refusal(502, "Bad Gateway", "connection_failed", str(error)))
            return
        if asked.head is None:
            await client.send(ESTABLISHED)
            await self._tunnel(client, server, asked.there, via, address)
            return
        with server, self._flow(client, server, asked.there, via, address) as flow:
            await flow.send(asked.head)
            await _both(send_body(flow, asked.body), flow.receive_rest(), flow)

    # -- programs that do not use a proxy

    async def _serve_transparent(self, client: Client) -> None:
        """Serve a program that connected directly. The address names the server; if it is not ours, the first bytes do."""
        address, port = _reached(client.sock)
        name = self._names.name(address)
        if name is None:
            name = await self._name_of(client, address, port)
        there = Endpoint(name, port)
        try:
            server, connected = await self._connect(there, "transparent")
        except (RefusedError, UnreachableError) as error:
            if (flight := read_flight(client.read)) is not None and flight.protocol == "http":
                reason = error.reason if isinstance(error, RefusedError) else "connection_failed"
                await client.send(refusal(403, "Forbidden", reason, str(error)))
            else:
                client.reset()
            return
        await self._tunnel(client, server, there, "transparent", connected)

    async def _name_of(self, client: Client, address: IPv4Address | IPv6Address, port: int) -> str:
        """Returns the host meant by an address that has no name here.

        It is the address itself if allowed, or `localhost`, or the name that the client sends.

        A name that the client sends is resolved like any other; the address is not used.
        """
        literal = address.compressed
        for host in (literal, "localhost") if address.is_loopback else (literal,):
            there = Endpoint(host, port)
            if self._dialer.program(there) is not None or self._dialer.rules.allows(there):
                return host
        flight = await _flight_of(client)
        return literal if flight is None or flight.name is None else flight.name

    # -- shared by both kinds

    async def _connect(self, there: Endpoint, via: Via) -> tuple[socket.socket, str]:
        """Connect to a checked address. Records a failed attempt. Raises: RefusedError, UnreachableError."""
        try:
            server, address = await self._dialer.connect(there)
        except RefusedError as error:
            self._ledger.refused(there, via, error.reason)
            raise
        except UnreachableError:
            self._ledger.refused(*self._shown(there, via), "connection_failed", outcome="failed")
            raise
        return server, address.compressed

    async def _tunnel(self, client: Client, server: socket.socket, there: Endpoint, via: Via, address: str) -> None:
        """Forward both directions, after checking that the server named in the client's first bytes is the one it reached."""
        with server, self._flow(client, server, there, via, address) as flow:
            await _both(self._send_checked(flow, there, via), flow.receive_rest(), flow)

    async def _send_checked(self, flow: Flow, there: Endpoint, via: Via) -> None:
        flight = await _first_message(flow)
        if flight.doubtful and _is_name(there.host):
            self._ledger.refused(there, via, "server_name_mismatch")
            raise ValueError("the client may mean a different server from the one that it asked for")
        for name in flight.names:
            if name == there.host or (is_loopback(name) and is_loopback(there.host)):
                continue
            named = Endpoint(name, there.port)
            if _is_name(there.host) and not self._dialer.rules.allows(named):
                self._ledger.refused(named, via, "server_name_mismatch", sni=name)
                raise ValueError("the client names a different server from the one that it asked for")
            flow.sni = name
        await flow.send_rest()

    @contextlib.contextmanager
    def _flow(self, client: Client, server: socket.socket, there: Endpoint, via: Via, address: str) -> Any:
        flow = Flow(client, server)
        began = time.monotonic()
        self._flows.add(flow)
        try:
            yield flow
        finally:
            self._flows.discard(flow)
            ms = (time.monotonic() - began) * 1000
            self._ledger.connected(*self._shown(there, via), address, flow.sni, (flow.sent, flow.received), ms)

    def _shown(self, there: Endpoint, via: Via) -> tuple[Endpoint, Via]:
        """Returns the endpoint and kind for a record.

        A program of the run is recorded by its name, because `localhost` would mean the machine.
        """
        program = self._dialer.program(there)
        return (there, via) if program is None else (Endpoint(program.name, there.port), "program")

    # -- names

    def _answer_queries(self, sock: socket.socket) -> None:
        for _ in range(_QUERIES):
            try:
                data, ancillary, _, sender = sock.recvmsg(_QUERY_BYTES, 256)
            except OSError:
                return
            if (answer := _answer(data, self._dialer.rules, self._names, self._ledger)) is not None:
                try:
                    sock.sendmsg([answer], ancillary, 0, sender)  # from the address that was queried
                except OSError:
                    with contextlib.suppress(OSError):
                        sock.sendto(answer, sender)

    async def _serve_dns(self, client: Client) -> None:
        while True:
            async with asyncio.timeout(HELLO_S):
                while len(client.read) < 2 or len(client.read) < 2 + int.from_bytes(client.read[:2], "big"):
                    if not await client.more():
                        return
            size = 2 + int.from_bytes(client.read[:2], "big")
            data, client.read = client.read[2:size], client.read[size:]
            if (answer := _answer(data, self._dialer.rules, self._names, self._ledger)) is not None:
                await client.send(len(answer).to_bytes(2, "big") + answer)


def _answer(data: bytes, rules: Rules, names: Names, ledger: Ledger) -> bytes | None:
    """Returns the answer to a query; None if the message is not a query."""
    query = dns.read_query(data)
    if query is None:
        return None
    if query.problem is not None:
        return dns.answer(query, query.problem)
    try:
        name = host_name(query.name)
    except ValueError:
        return dns.answer(query, dns.NAME_ERROR)
    if not rules.knows(name):
        if not name.endswith(_REVERSE):
            ledger.refused(Endpoint(name, None), "dns", "host_denied")
        return dns.answer(query, dns.NAME_ERROR)
    if query.kind != dns.A:
        return dns.answer(query, dns.NO_ERROR)
    address = names.address(name)
    return dns.answer(query, dns.SERVER_FAILURE if address is None else dns.NO_ERROR, address)


async def _guarded(work: Coroutine[Any, Any, None], client: Client) -> None:
    """Run a connection to its end; a failure affects only the program."""
    try:
        await work
    except (OSError, ValueError):  # TimeoutError is an OSError
        client.reset()
    finally:
        client.sock.close()


async def _flight_of(client: Client) -> Flight | None:
    """Returns the meaning of the client's first bytes; None if they do not arrive in time, or the client ends first."""
    try:
        async with asyncio.timeout(HELLO_S):
            while (flight := read_flight(client.read)) is None:
                if not await client.more():
                    return None
    except TimeoutError:
        return None
    return flight


async def _first_message(flow: Flow) -> Flight:
    """Read the client's first message. Bytes that cannot name a server are forwarded; the rest stays in `flow.client.read`.

    A silent client may wait for its server indefinitely. Raises: ValueError for a message that does not end; OSError.
    """
    client, passed = flow.client, b""
    while (flight := read_flight(passed + client.read)) is None or flight.protocol == "unknown":
        begun = flight is None and bool(client.read)
        if flight is not None:
            passed += client.read
            data, client.read = client.read, b""
            await flow.send(data)
        async with asyncio.timeout(HELLO_S if begun else None):
            if await client.more():
                continue
        if begun and (begins_tls(client.read) or b"\n" in client.read):
            raise ValueError("a first message that does not end")
        return OTHER
    return flight


async def _both(sending: Coroutine[Any, Any, None], receiving: Coroutine[Any, Any, None], flow: Flow) -> None:
    """Run both directions until both have ended, or one has failed. Raises: OSError, ValueError."""
    tasks = [asyncio.ensure_future(sending), asyncio.ensure_future(receiving)]
    try:
        await asyncio.gather(*tasks)
    finally:
        flow.client_done = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reached(sock: socket.socket) -> tuple[IPv4Address | IPv6Address, int]:
    """Returns the address and port that a client connected to."""
    host, port, *_ = sock.getsockname()
    address = ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address, port


def _is_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return True
    return False
