"""Creates the sockets that are the only way out of a network namespace. Runs inside it, with CAP_NET_ADMIN.

Every address becomes local (`local default dev lo`, for IPv4 and IPv6). A program that ignores proxy variables, or
queries another name server, therefore reaches the same listeners, and the socket's own name is the address that it
asked for. Everything else is refused immediately instead of timing out. Listening sockets stay in their namespace when
passed to another process, so neither a bridge nor a process of ours inside is needed. Uses only the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Iterable
from typing import Final

from interlock.isolation.egress.wire import PROXY_PORT, Kind
from interlock.isolation.wire import send_message

DNS_PORT: Final = 53
WEB_PORTS: Final = (80, 443)
IPV6_RECVPKTINFO: Final = 49
IP_PKTINFO: Final = 8
_BACKLOG: Final = 1024
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78

_NEWLINK, _NEWADDRESS, _NEWROUTE, _ERROR = 16, 20, 24, 2
_REQUEST_ACKNOWLEDGED: Final = 0x1 | 0x4
_CREATE: Final = 0x400
_INTERFACE_UP: Final = 1
_TABLE_LOCAL, _PROTOCOL_STATIC, _SCOPE_HOST, _TYPE_LOCAL = 255, 4, 254, 2
_OUT_INTERFACE: Final = 4
_IF_ADDRESS, _IF_LOCAL = 1, 2
_OWN_ADDRESS: Final = "198.19.255.254"
"""Added to 127.0.0.1, because resolvers assume that a machine with only that has no IPv4 (`AI_ADDRCONFIG`)."""

Listener = tuple[Kind, int, socket.socket]
"""The kind, port and socket of a listener."""


def open_listeners(channel: int, ports: Iterable[int], family: int) -> None:
    """Create the listeners of this network namespace and pass them to the runtime on the socket `channel`, which is closed.

    `family` as returned by `configure`. Raises: OSError.
    """
    made = _make(ports, family)
    try:
        with socket.socket(fileno=channel) as sock:
            kinds = [(kind, port) for kind, port, _ in made]
            send_message(sock, json.dumps(kinds).encode(), [listener.fileno() for *_, listener in made])
    finally:
        for *_, listener in made:
            listener.close()


def _make(ports: Iterable[int], version: int) -> list[Listener]:
    """Create transparent listeners for 80, 443 and each of `ports`, and the others.

    Raises: OSError; nothing is left open then.
    """
    with contextlib.ExitStack() as stack:
        made: list[Listener] = [
            ("proxy", PROXY_PORT, _stream(socket.AF_INET, "127.0.0.1", PROXY_PORT, stack)),
            ("dns", DNS_PORT, _datagram(version, stack)),
            ("dns_tcp", DNS_PORT, _stream(version, "", DNS_PORT, stack)),
        ]
        others = [port for port in dict.fromkeys((*WEB_PORTS, *ports)) if port not in (PROXY_PORT, DNS_PORT)]
        made += [("transparent", port, _stream(version, "", port, stack)) for port in others]
        stack.pop_all()
    return made


def configure() -> int:
    """Bring up `lo` of this (new, empty) network namespace with all addresses. Raises: OSError.

    Returns the listeners' family: IPv6 serves both, if the kernel has it.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        index = socket.if_nametoindex("lo")
        _ask(netlink, _NEWLINK, 0, struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index, _INTERFACE_UP, _INTERFACE_UP))
        _ask(netlink, _NEWADDRESS, _CREATE, _own_address(index))
        _ask(netlink, _NEWROUTE, _CREATE, _local_route(socket.AF_INET, index))
        try:
            _ask(netlink, _NEWROUTE, _CREATE, _local_route(socket.AF_INET6, index))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.ENODEV, errno.EINVAL):
                raise
            return socket.AF_INET  # the kernel has no IPv6, or it is disabled
    return socket.AF_INET6


def _own_address(index: int) -> bytes:
    packed = socket.inet_aton(_OWN_ADDRESS)
    attributes = b"".join(struct.pack("=HH", 8, kind) + packed for kind in (_IF_LOCAL, _IF_ADDRESS))
    return struct.pack("=BBBBI", socket.AF_INET, 32, 0, _SCOPE_HOST, index) + attributes


def _local_route(family: int, index: int) -> bytes:
    route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _TABLE_LOCAL, _PROTOCOL_STATIC, _SCOPE_HOST, _TYPE_LOCAL, 0)
    return route + struct.pack("=HHI", 8, _OUT_INTERFACE, index)


def _ask(netlink: socket.socket, kind: int, flags: int, body: bytes) -> None:
    """Send one request to the kernel. Raises: OSError if it is refused."""
    netlink.send(struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST_ACKNOWLEDGED, 1, 0) + body)
    answer = netlink.recv(4096)
    (answered,) = struct.unpack_from("=H", answer, 4)
    (number,) = struct.unpack_from("=i", answer, 16)
    if answered == _ERROR and number:
        raise OSError(-number, os.strerror(-number))


def _stream(family: int, host: str, port: int, stack: contextlib.ExitStack) -> socket.socket:
    made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))
    _accept_both(made)
    made.bind((host, port))
    made.listen(_BACKLOG)
    return made


def _datagram(family: int, stack: contextlib.ExitStack) -> socket.socket:
    """Returns a socket that reports the destination address of each query, because the answer must come from there."""
    made = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))
    _accept_both(made)
    made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    made.bind(("", DNS_PORT))
    return made


def _accept_both(made: socket.socket) -> None:
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
