"""The messages between the runtime and the egress proxy. Uses only the standard library.

Every message is one datagram on a SOCK_SEQPACKET socket pair. Runtime to proxy, once for each action that uses the network:
`OPEN` with the descriptors `control, body`, then the listeners, then the channels of programs, in the order given in the body
(a memory file with a `Box` as JSON). From then on, both communicate about that action on `control`, in JSON:

    proxy:   {"say": "record", ...}     one `Record`
    proxy:   {"say": "ask", "id", "host", "port"}     may the action connect there? Waits for the answer
    runtime: {"say": "answer", "id", "refusal"}       null, or the reason code of the refusal
    runtime: {"say": "close"}           the action's processes have ended: finish, and report what is left
    proxy:   {"say": "closed", "dropped"}             the last message: the number of attempts that could not be recorded
    runtime: end of file                drop everything immediately
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal, TypedDict

OPEN: Final = b"open"
FINISH_S: Final = 10.0
"""How long data that ended programs had sent is still forwarded; on a busy machine, connecting alone can take seconds."""
PROXY_PORT: Final = 3128
"""The port of the HTTP proxy in a program's network namespace."""
MESSAGE_BYTES: Final = 16 * 1024
PORTS_MAX: Final = 48
"""Maximum number of ports with a transparent listener, besides 80 and 443; others are reached through the proxy."""
LISTENERS_MAX: Final = PORTS_MAX + 8
"""The kernel passes at most 253 descriptors with one message."""
PROGRAMS_MAX: Final = 32
"""Maximum number of programs of its run to which an action can connect."""

Kind = Literal["proxy", "dns", "dns_tcp", "transparent"]
Outcome = Literal["connected", "refused", "failed"]
Via = Literal["dns", "connect", "http", "transparent", "program"]


class Served(TypedDict):
    """A background program, to whose ports an action can connect as if they were local."""

    name: str
    ports: list[int]


class Box(TypedDict):
    """What the proxy needs to know about one action."""

    listeners: list[tuple[Kind, int]]
    """The kind and port of each listener, in the order of the descriptors."""
    programs: list[Served]
    """The programs whose channels follow the listeners (`interlock.isolation.inward`)."""
    grants: list[list[list[str]]]
    """For each grant, its `host:port` patterns and those of every grant that it was derived from.

    A host must match in all lists of one grant.
    """
    private: list[str]
    """Patterns of hosts that may resolve to private addresses."""
    ask: bool
    """True if the runtime must be asked about each connection, because policies mention `connect`."""


class Record(TypedDict):
    """One connection, or several attempts of one kind. Sizes in bytes, time in milliseconds."""

    host: str
    """The name in normal form, or the address if no name is known."""
    port: int | None
    """None for a name that was only looked up."""
    via: Via
    outcome: Outcome
    reason: str | None
    """The reason code of a refusal or failure (`interlock.model.codes`)."""
    address: str | None
    """The address of the connection."""
    sni: str | None
    """The server name in the client's TLS hello, if it differs from `host`."""
    sent: int
    received: int
    duration_ms: float
    count: int
    """Number of attempts or connections in this record."""


def encode(message: dict[str, Any]) -> bytes:
    """Encode a message as one datagram."""
    return json.dumps(message).encode()


def decode(data: bytes) -> dict[str, Any]:
    """Decode a message. Raises: ValueError."""
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("not a message")  # noqa: TRY004 - one error for every invalid message
    return message
