"""Network namespaces that serve one action after another, as long as none of them was used. Standard library only.

To make a network namespace and to remove it is the larger part of what the kernel does for a short action, and most actions
send nothing. So when an action is gone, and its namespace is exactly as it was when it was new (no socket, no packet, not
even an attempt that failed), the next action is given the same one. Whatever has touched its network leaves a namespace
that is removed: what an action finds is always that of a new one.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final, NamedTuple

from interlock.isolation import syscalls

UNTOUCHED: Final = 3
"""The exit status of a supervisor whose tree is gone, and whose network namespace is as it was when it was new."""
_KEPT_MAX: Final = 32
_STATE_BYTES: Final = 64 * 1024
_COUNTERS: Final = ("/proc/self/net/dev", "/proc/self/net/snmp", "/proc/self/net/snmp6")
"""Of interfaces, and of protocols: each packet is counted there, and each that could not be sent."""


class Network(NamedTuple):
    """A namespace that was made for an earlier action."""

    fd: int
    state: bytes
    """As `_state` was when it was new."""


class Loan(NamedTuple):
    """What one action is given. `network` is None for a new namespace, which comes with the action's first process."""

    number: int
    network: Network | None


class Networks:
    """The namespaces of one launcher that are in use, and those that wait for an action."""

    def __init__(self) -> None:
        """None yet."""
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._waiting: list[Network] = []
        self._numbers = 0
        self._new: dict[int, Network] = {}
        """By the number of the loan: namespaces that their first action has passed here."""

    def lend(self) -> Loan:
        """One for the next action. Give it back."""
        self._numbers += 1
        return Loan(self._numbers, self._waiting.pop() if self._waiting else None)

    def give_back(self, loan: Loan, *, untouched: bool) -> None:
        """The action has ended, or was not started."""
        self._receive()
        network = self._new.pop(loan.number, loan.network)
        if network is None:
            return
        if untouched and len(self._waiting) < _KEPT_MAX:
            self._waiting.append(network)
        else:
            os.close(network.fd)

    def enter(self, loan: Loan, *, again: bool) -> bytes:
        """In the action's first process: enter the namespace, with its loopback up. Raises OSError.

        Returns its state, for `is_untouched`; empty if it is not to be used `again`.
        """
        self._ours.close()
        for other in self._waiting:  # those of others are none of its business
            os.close(other.fd)
        if loan.network is not None:
            syscalls.setns(loan.network.fd, syscalls.CLONE_NEWNET)
            os.close(loan.network.fd)
            return loan.network.state if again else b""
        syscalls.raise_loopback()
        if not again:
            return b""
        state = _state()
        with contextlib.suppress(OSError):  # then it is not used again
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
    """True if this process's network namespace is as it was when `Networks.enter` returned `state`."""
    try:
        return bool(state) and _state() == state
    except OSError:
        return False


def _state() -> bytes:
    """Sockets and counters of this process's network namespace. Raises OSError.

    Of /proc/net/sockstat only the first line is of the namespace alone.
    """
    read = syscalls.read_kernel_file
    sockets, _, _ = read("/proc/self/net/sockstat").partition(b"\n")
    return b"\n".join((sockets, *(read(path) for path in _COUNTERS if os.path.exists(path))))
