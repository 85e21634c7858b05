"""A connection with a single deadline for name resolution, connecting, TLS, sending and receiving.

A server that sends one byte per second never exceeds a time-out per operation. Therefore the sockets here never block:
every wait is split into slices, and the deadline and cancellation are checked after each slice.
"""

from __future__ import annotations

import errno
import io
import os
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar

from interlock.model.errors import ToolError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from interlock.model.clock import Clock
    from interlock.model.tool import Context

_T = TypeVar("_T")
Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Sequence[str]]
"""Resolves a host and port to the addresses to try, in order. Raises: OSError if the name does not resolve."""

_SLICE_MS: Final = 100
_MARGIN_NS: Final = 200_000_000
"""How long before the engine's deadline to give up, because an abandoned thread leaves an unknown outcome."""
_CONNECT_SHARE: Final = 3
"""With several addresses, each may use a third of the remaining time at most."""


def system_resolver(host: str, port: int) -> list[str]:
    """Resolve with the machine's resolver (getaddrinfo)."""
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


class Patience:
    """The time limit of a call, including its cancellation."""

    def __init__(self, ctx: Context, clock: Clock) -> None:
        """For one attempt of an action."""
        self._ctx = ctx
        self._clock = clock
        left_ns = ctx.deadline_ns - clock.mono_ns()
        self._until_ns = ctx.deadline_ns - min(_MARGIN_NS, left_ns // 4)

    def left_ms(self) -> int:
        """Returns the remaining milliseconds, at least 1. Raises: ToolError `timeout` or `cancelled`."""
        if self._ctx.cancelled:
            raise ToolError("the call was cancelled", code="cancelled", retryable=False)
        left_ns = self._until_ns - self._clock.mono_ns()
        if left_ns <= 0:
            raise ToolError("the server took longer than the action's time-out", code="timeout")
        return max(1, left_ns // 1_000_000)

    def wait_ready(self, fd: int, events: int, most_ms: int | None = None) -> bool:
        """Wait until a descriptor is ready; False after `most_ms`. Raises: ToolError, as `left_ms` does."""
        poll = select.poll()
        poll.register(fd, events)
        waited = 0
        while True:
            slice_ms = min(_SLICE_MS, self.left_ms())
            if poll.poll(slice_ms):
                return True
            waited += slice_ms
            if most_ms is not None and waited >= most_ms:
                return False

    def resolve(self, resolver: Resolver, host: str, port: int) -> list[Address]:
        """Returns the addresses of a host. A resolver cannot be interrupted, so it runs on a thread that may be abandoned.

        Raises: ToolError `connection_failed` if there are none; ToolError as `left_ms` does.
        """
        answers: queue.SimpleQueue[list[Address] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                # A zone (`fe80::1%eth0`) is not part of the address to check.
                answers.put([ip_address(text.partition("%")[0]) for text in resolver(host, port)])
            except Exception as error:  # noqa: BLE001 - raised again in the waiting thread
                answers.put(error)

        threading.Thread(target=ask, name="interlock-resolve", daemon=True).start()
        while True:
            try:
                answer = answers.get(timeout=min(_SLICE_MS, self.left_ms()) / 1000)
            except queue.Empty:
                continue
            if isinstance(answer, OSError | UnicodeError) or answer == []:
                raise ToolError(f"`{host}` does not resolve to an address", code="connection_failed")
            if isinstance(answer, Exception):
                raise answer
            return answer


class Channel:
    """A connected socket, optionally with TLS, with the methods that `http.client` calls: `sendall`, `makefile`, `close`."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        """Takes ownership of a connected socket."""
        self._sock = sock
        self._patience = patience
        self.sent_bytes = 0
        self.received_bytes = 0

    @classmethod
    def connect(cls, addresses: Sequence[Address], port: int, patience: Patience) -> Channel:
        """Connect to the first address that answers. The addresses were checked before; no name is resolved again.

        Raises: ToolError `connection_failed`; ToolError as `Patience.left_ms` does.
        """
        reason = ""
        for i, address in enumerate(addresses):
            most_ms = patience.left_ms() if i == len(addresses) - 1 else patience.left_ms() // _CONNECT_SHARE
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                reason = _connect(sock, (str(address), port), patience, most_ms)
            except BaseException:
                sock.close()
                raise
            if not reason:
                return cls(sock, patience)
            sock.close()
        raise ToolError(f"cannot connect: {reason}", code="connection_failed")

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS; the certificate must be valid for `host`. Raises: ToolError `connection_failed`."""
        try:
            tls = context.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)
            self._sock = tls
            self._retry(tls.do_handshake, select.POLLIN)
        except ssl.SSLCertVerificationError as error:
            raise ToolError(
                f"the certificate of `{host}` is not trusted: {error.verify_message}",
                code="connection_failed",
                retryable=False,
            ) from None
        except (OSError, ValueError) as error:
            raise ToolError(f"TLS with `{host}` failed: {describe(error)}", code="connection_failed") from None

    def sendall(self, data: Any) -> None:
        """Send all bytes."""
        view = memoryview(data).cast("B")
        while view:
            count = self._retry(partial(self._sock.send, view), select.POLLOUT)
            self.sent_bytes += count
            view = view[count:]

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Returns a buffered reader of the incoming bytes."""
        return io.BufferedReader(_Incoming(self))

    def receive_into(self, buffer: WriteableBuffer) -> int:
        """Receive some bytes. Returns 0 at the end of the stream."""
        count = self._retry(partial(self._sock.recv_into, buffer), select.POLLIN)
        self.received_bytes += count
        return count

    def close(self) -> None:
        """Do nothing: `http.client` calls this after the last request, before the response has been read."""

    def disconnect(self) -> None:
        """Close the socket and discard data in flight."""
        self._sock.close()

    def _retry(self, call: Callable[[], _T], events: int) -> _T:
        """Repeat a call until it does not block. `events` is what a plain socket waits for; TLS reports its own needs."""
        while True:
            self._patience.left_ms()
            try:
                return call()
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except BlockingIOError:
                wanted = events
            self._patience.wait_ready(self._sock.fileno(), wanted)


class _Incoming(io.RawIOBase):
    """The raw stream that `http.client` reads. Closing it leaves the socket open, as with `socket.makefile`."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._channel.receive_into(buffer)


def _connect(sock: socket.socket, where: tuple[str, int], patience: Patience, most_ms: int) -> str:
    """Connect within `most_ms`. Returns why it failed, or an empty string."""
    sock.setblocking(False)
    error = sock.connect_ex(where)
    if error == errno.EINPROGRESS:
        if not patience.wait_ready(sock.fileno(), select.POLLOUT, most_ms):
            return "no answer"
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        return os.strerror(error).lower()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ""


def describe(error: Exception) -> str:
    """Describe an error briefly, without any bytes from the server."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "protocol error").replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__
