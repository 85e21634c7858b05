"""Connections into the network namespace of a background program. Uses only the standard library.

A socket belongs to the network namespace of the process that created it, and can be passed to another process, which
then connects inside that namespace. Therefore the supervisor, which is inside, creates sockets for the holders of the
other end of its channel: the runtime and the egress proxy. It neither connects nor reads anything itself, and the
program can reach neither end.

Each request is one datagram, the address family (`ask`), with the socket for the answer.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from interlock.isolation.wire import INWARD, receive_message

_FAMILIES: Final = {b"4": socket.AF_INET, b"6": socket.AF_INET6}
_MADE: Final = b"made"
_MESSAGE_BYTES: Final = 8


def channels(named: dict[str, int]) -> dict[int, socket.socket]:
    """In the supervisor: remove the channel from its descriptors and return it by number; empty if there is none."""
    fd = named.pop(INWARD, None)
    return {} if fd is None else {fd: socket.socket(fileno=fd)}


def answer(channel: socket.socket) -> bool:
    """In the supervisor: answer one request. Returns False once nobody can ask any more."""
    try:
        message, fds, _ = receive_message(channel, _MESSAGE_BYTES, 1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    for fd in fds:
        with socket.socket(fileno=fd) as asker, contextlib.suppress(OSError, KeyError):  # no answer means not reachable
            kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            with socket.socket(_FAMILIES[message], kind) as made:
                socket.send_fds(asker, [_MADE], [made.fileno()], socket.MSG_DONTWAIT)
    return bool(message)


def ask(channel: socket.socket, family: socket.AddressFamily) -> socket.socket:
    """Outside: ask for a socket. Returns the socket on which it arrives, which ends if there is none. Raises: OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            ours.setblocking(False)
            message = b"6" if family == socket.AF_INET6 else b"4"
            socket.send_fds(channel, [message], [theirs.fileno()], socket.MSG_DONTWAIT)
        except BaseException:
            ours.close()
            raise
    return ours


def take(arrival: socket.socket) -> socket.socket | None:
    """Returns the socket that arrived after `ask`, non-blocking and not connected; None if there is none. Raises: OSError."""
    message, fds, _ = receive_message(arrival, _MESSAGE_BYTES, 1)
    if message != _MADE or not fds:
        return None
    made = socket.socket(fileno=fds[0])
    made.setblocking(False)
    return made
