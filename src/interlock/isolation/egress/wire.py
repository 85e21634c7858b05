"""What the runtime and the egress proxy say to each other. Standard library only.

Every message is one datagram on a SOCK_SEQPACKET socket pair. Runtime to proxy, once for each action that uses the network:
`OPEN` with the descriptors `control, body`, then the listeners, then the channels of programs, in the order in which the body (a
memory file with a `Box` as JSON) names them. From then on both speak about that action on `control`, in JSON:

    proxy:   {"say": "record", ...}     one `Record`
    proxy:   {"say": "ask", "id", "host", "port"}     may the action connect there? Waits for the answer
    runtime: {"say": "answer", "id", "refusal"}       null, or the reason code of the refusal
    runtime: {"say": "close"}           the action's processes are gone: finish, report what is left
    proxy:   {"say": "closed", "dropped"}             the last message: the number of attempts that could not be recorded
    runtime: end of file                drop everything at once
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal, TypedDict

OPEN: Final = b"open"
FINISH_S: Final = 10.0
"""How long the data that ended programs had sent is still passed on: on a busy machine a connection alone can take seconds."""
MESSAGE_BYTES: Final = 16 * 1024
PORTS_MAX: Final = 48
"""How many ports have a transparent listener, besides 80 and 443; others are reached through the proxy."""
LISTENERS_MAX: Final = PORTS_MAX + 8
"""The kernel passes at most 253 descriptors with one message."""
PROGRAMS_MAX: Final = 32
"""How many programs of its run an action can connect to."""

Kind = Literal["proxy", "dns", "dns_tcp", "transparent"]
Outcome = Literal["connected", "refused", "failed"]
Via = Literal["dns", "connect", "http", "transparent", "program"]


class Served(TypedDict):
    """A program that lives on, to whose ports an action can connect as to its own machine's."""

    name: str
    ports: list[int]


class Box(TypedDict):
    """What the proxy has to know about one action."""

    listeners: list[tuple[Kind, int]]
    """The kind and port of each listener, in the order of the descriptors."""
    programs: list[Served]
    """After them, the channel of each (`interlock.isolation.inward`)."""
    grants: list[list[list[str]]]
    """`host:port` patterns of each grant, and of every grant that it was made from: a host must match in all lists of one."""
    private: list[str]
    """Patterns of hosts that may resolve to addresses that are not public."""
    ask: bool
    """True if the runtime is asked about each connection, because policies speak of `connect`."""


class Record(TypedDict):
    """One connection, or attempts of one kind. Sizes in bytes, time in milliseconds."""

    host: str
    """The name in normal form, or the address if no name is known."""
    port: int | None
    """None for a name that was only looked up."""
    via: Via
    outcome: Outcome
    reason: str | None
    """The reason code of a refusal or failure (`interlock.model.codes`)."""
    address: str | None
    """The address that was connected to."""
    sni: str | None
    """The server name in the client's TLS hello, where it differs from `host`."""
    sent: int
    received: int
    duration_ms: float
    count: int
    """How many attempts or connections this record stands for."""


def encode(message: dict[str, Any]) -> bytes:
    """A message as one datagram."""
    return json.dumps(message).encode()


def decode(data: bytes) -> dict[str, Any]:
    """A message. Raises: ValueError."""
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("not a message")  # noqa: TRY004 - one error for every invalid message
    return message
