"""Network namespaces that successive actions reuse, as long as none of them used the network.

Uses only the standard library.

Creating and removing a network namespace is most of the kernel's work for a short action, and most actions send
nothing. When an action has ended and its namespace is exactly as it was when new (no socket, no packet, not even a
failed attempt), the next action gets the same one. A namespace whose network was touched is removed, so an action
always finds the state of a new one.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final, NamedTuple

from interlock.isolation import syscalls

UNTOUCHED: Final = 3
"""The exit status of a supervisor whose tree has ended with an untouched network namespace."""
_KEPT_MAX: Final = 32
_STATE_BYTES: Final = 64 * 1024
_COUNTERS: Final = ("/proc/self/net/dev", "/proc/self/net/snmp", "/proc/self/net/snmp6")
"""Counters of interfaces and protocols. They include each packet, and each that could not be sent."""


class Network(NamedTuple):
    """A namespace created for an earlier action."""

    fd: int
    state: bytes
    """The result of `_state` when the namespace was new."""


class Loan(NamedTuple):
    """The namespace lent to one action.

    `network` is None for a new namespace, which is created with the action's first process.
    """

    number: int
    network: Network | None


class Networks:
    """The namespaces of one launcher: those in use, and those waiting for an action."""

    def __init__(self) -> None:
        """Starts without namespaces."""
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._waiting: list[Network] = []
        self._numbers = 0
        self._new: dict[int, Network] = {}
        """Namespaces that their first action passed here, by the number of the loan."""

    def lend(self) -> Loan:
        """Lend a namespace for the next action. It must be given back."""
        self._numbers += 1
        return Loan(self._numbers, self._waiting.pop() if self._waiting else None)

    def give_back(self, loan: Loan, *, untouched: bool) -> None:
        """Return a namespace when its action has ended or was not started."""
        self._receive()
        network = self._new.pop(loan.number, loan.network)
        if network is None:
            return
        if untouched and len(self._waiting) < _KEPT_MAX:
            self._waiting.append(network)
        else:
            os.close(network.fd)

    def enter(self, loan: Loan, *, again: bool) -> bytes:
        """In the action's first process: enter the namespace, with its loopback up. Raises: OSError.

        Returns its state, for `is_untouched`; empty if the namespace must not be reused (`again` is False).
        """
        self._ours.close()
        for other in self._waiting:  # do not inherit the namespaces of others
            os.close(other.fd)
        if loan.network is not None:
            syscalls.setns(loan.network.fd, syscalls.CLONE_NEWNET)
            os.close(loan.network.fd)
            return loan.network.state if again else b""
        syscalls.raise_loopback()
        if not again:
            return b""
        state = _state()
        with contextlib.suppress(OSError):  # without this the namespace is not reused
            fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                socket.send_fds(self._theirs, [b"%d\n" % loan.number + state], [fd])
            finally:
                os.close(fd)
        return state

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self._ours, _STATE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
                number, _, state = data.partition(b"\n")
                if fds:
                    self._new[int(number)] = Network(fds[0], state)


def is_untouched(state: bytes) -> bool:
    """Returns True if this process's network namespace is as it was when `Networks.enter` returned `state`."""
    try:
        return bool(state) and _state() == state
    except OSError:
        return False


def _state() -> bytes:
    """Sockets and counters of this process's network namespace. Raises: OSError.

    Only the first line of /proc/net/sockstat is specific to the namespace.
    """
    read = syscalls.read_kernel_file
    sockets, _, _ = read("/proc/self/net/sockstat").partition(b"\n")
    return b"\n".join((sockets, *(read(path) for path in _COUNTERS if os.path.exists(path))))
