"""Network namespaces that successive actions reuse, as long as none of them used the network.

Uses only the standard library.

Creating and removing a network namespace is most of the kernel's work for a short action, and most actions send
nothing. When an action has ended and its namespace is exactly as it was when new (no socket, no packet, not even a
failed attempt), the next action gets the same one. A namespace whose network was touched is removed, so an action
always finds the state of a new one.

Those of a `proxied` network are kept apart, because their addresses and routes lead to listeners. Each action has its own
listeners, which the runtime may still hold when the next one enters: then that action gets a new namespace, and the old
one waits for the next. So a listener never serves a program of another action.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from typing import Final, NamedTuple

from interlock.isolation import syscalls
from interlock.isolation.egress.listeners import configure
from interlock.isolation.wire import receive_message

UNTOUCHED: Final = 3
"""The exit status of a supervisor whose tree has ended with an untouched network namespace."""
BUSY: Final = 4
"""The exit status of a supervisor that did not use the lent namespace, because it still had sockets."""
_BUSY_MAX: Final = 3
"""How many actions in succession may find a namespace busy before it is removed."""
_KEPT_MAX: Final = 32
_STATE_BYTES: Final = 64 * 1024
_COUNTERS: Final = ("/proc/self/net/dev", "/proc/self/net/snmp", "/proc/self/net/snmp6")
"""Counters of interfaces and protocols. They include each packet, and each that could not be sent."""


class Network(NamedTuple):
    """A namespace created for an earlier action."""

    fd: int
    state: bytes
    """The result of `_state` when the namespace was new."""
    family: int = 0
    """The family of the listeners of a `proxied` network (`listeners.configure`); 0 for a network without them."""
    busy: int = 0
    """How many actions in succession found it busy."""


class Loan(NamedTuple):
    """The namespace lent to one action.

    `network` is None for a new namespace, which is created with the action's first process.
    """

    number: int
    proxied: bool
    network: Network | None


class Entered(NamedTuple):
    """The namespace that an action has entered."""

    state: bytes
    """The result of `_state` when the namespace was new; empty if it cannot be lent again."""
    family: int = 0
    """As in `Network`."""
    found_busy: bool = False
    """True in a new namespace, because the one that was lent still had sockets."""


class Networks:
    """The namespaces of one launcher: those in use, and those waiting for an action."""

    def __init__(self) -> None:
        """Starts without namespaces."""
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._waiting: dict[bool, deque[Network]] = {False: deque(), True: deque()}
        """Those that are `proxied`, and those that are not."""
        self._numbers = 0
        self._new: dict[int, Network] = {}
        """Namespaces that their first action passed here, by the number of the loan."""

    def lend(self, *, proxied: bool) -> Loan:
        """Lend a namespace for the next action, the one that has waited longest. It must be given back."""
        self._numbers += 1
        waiting = self._waiting[proxied]
        return Loan(self._numbers, proxied, waiting.popleft() if waiting else None)

    def give_back(self, loan: Loan, status: int) -> None:
        """Return a namespace when its action has ended with this exit status, or was not started (`UNTOUCHED`)."""
        self._receive()
        network = self._new.pop(loan.number, loan.network)
        if network is None:
            return
        network = network._replace(busy=network.busy + 1 if status == BUSY else 0)
        waiting = self._waiting[loan.proxied]
        if status in (UNTOUCHED, BUSY) and network.busy < _BUSY_MAX and len(waiting) < _KEPT_MAX:
            waiting.append(network)
        else:
            os.close(network.fd)

    def enter(self, loan: Loan) -> Entered:
        """In the action's first process: enter the namespace, with its loopback up. Raises: OSError."""
        self._ours.close()
        for waiting in self._waiting.values():  # do not inherit the namespaces of others
            for other in waiting:
                os.close(other.fd)
        if loan.network is None:
            return self._set_up(loan)
        syscalls.setns(loan.network.fd, syscalls.CLONE_NEWNET)
        os.close(loan.network.fd)
        if not loan.proxied or _state() == loan.network.state:
            return Entered(loan.network.state, loan.network.family)
        syscalls.unshare(syscalls.CLONE_NEWNET)
        return Entered(b"", configure(), found_busy=True)

    def _set_up(self, loan: Loan) -> Entered:
        """Set up this process's new namespace, and pass it to the fork server for later actions."""
        sockets = _sockets()  # before the first of our own, which the kernel forgets only after a while
        family = configure() if loan.proxied else 0
        if not loan.proxied:
            syscalls.raise_loopback()
        state = sockets + _counters()
        with contextlib.suppress(OSError):  # without this the namespace is not reused
            fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                socket.send_fds(self._theirs, [b"%d %d\n" % (loan.number, family) + state], [fd])
            finally:
                os.close(fd)
        return Entered(state, family)

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _ = receive_message(self._ours, _STATE_BYTES, 1)
                head, _, state = data.partition(b"\n")
                if fds:
                    number, family = head.split()
                    self._new[int(number)] = Network(fds[0], state, int(family))


def exit_status(entered: Entered) -> int:
    """In a supervisor, after its tree has ended: its exit status, `UNTOUCHED` or `BUSY` if the lent namespace can be lent again.

    The runtime still holds the listeners of a `proxied` network, so the next action checks its sockets.
    """
    if entered.found_busy:
        return BUSY
    try:
        sockets = entered.state.partition(b"\n")[0] if entered.family else _sockets()
        return UNTOUCHED if entered.state == sockets + _counters() else 0
    except OSError:
        return 0


def _state() -> bytes:
    """Sockets and counters of this process's network namespace. Raises: OSError."""
    return _sockets() + _counters()


def _sockets() -> bytes:
    """The first line of /proc/net/sockstat; only that one is specific to the namespace."""
    return syscalls.read_kernel_file("/proc/self/net/sockstat").partition(b"\n")[0]


def _counters() -> bytes:
    return b"".join(b"\n" + syscalls.read_kernel_file(path) for path in _COUNTERS if os.path.exists(path))
