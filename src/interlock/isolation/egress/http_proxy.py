"""The HTTP side of the proxy: `CONNECT`, and requests with an absolute URL over plain HTTP. Pure except for `send_body`.

One request per connection: both sides get `Connection: close`, because a client's next request may be for another host.
A head that two programs could read differently is refused.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from interlock.isolation.egress.relay import Flow
from interlock.model.hosts import Endpoint, endpoint

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_REQUEST: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]{1,16384}) HTTP/1\.([01])")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):[ \t]*([^\x00\r\n]*?)[ \t]*")
_HOP_BY_HOP: Final = frozenset((b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"host"))
_NEVER_HOP_BY_HOP: Final = frozenset((b"content-length", b"transfer-encoding", b"host"))
"""Without the first two, a server would take the body for another request."""
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


class Asked(NamedTuple):
    """A client's request to the proxy."""

    there: Endpoint
    head: bytes | None
    """The head to send to the server; None for `CONNECT`."""
    body: int | None = 0
    """Length of the body; None if it is chunked."""


def read_request(head: bytes) -> Asked:
    """Parse a request. Raises: ValueError, whose text is shown to the program."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    request = _REQUEST.fullmatch(first)
    if request is None:
        raise ValueError("this is not an HTTP request")
    method, target = request[1], request[2].decode("ascii")
    if method == b"CONNECT":
        there = endpoint(target) if "://" not in target else None
        if there is None or there.port is None:
            raise ValueError("CONNECT needs host:port")
        return Asked(there, None)
    if not target.lower().startswith("http://"):
        raise ValueError("this is a proxy: it accepts CONNECT, and http:// URLs")
    there = endpoint(target)
    split = urlsplit(target)
    path = (split.path or "/") + (f"?{split.query}" if split.query else "")
    fields = [_field(line) for line in lines]
    close = {name.strip().lower() for key, value in fields if key == b"connection" for name in value.split(b",")}
    if not close.isdisjoint(_NEVER_HOP_BY_HOP):
        raise ValueError("`Connection` names a field that frames the message")
    kept = [
        b"%s: %s" % (line.split(b":", 1)[0], value)
        for line, (key, value) in zip(lines, fields, strict=True)
        if key not in _HOP_BY_HOP and key not in close and not key.startswith(b"proxy-")
    ]
    authority = there.host if ":" not in there.host else f"[{there.host}]"
    host = authority if there.port == 80 else f"{authority}:{there.port}"
    out = [
        b"%s %s HTTP/1.1" % (method, path.encode("ascii")),
        b"Host: " + host.encode("ascii"),
        *kept,
        b"Connection: close",
    ]
    return Asked(there, b"\r\n".join(out) + b"\r\n\r\n", _body(fields))


def refusal(status: int, phrase: str, code: str, text: str) -> bytes:
    """Returns the proxy's own response to a refused request. A program may print it, so it explains the refusal."""
    body = f"interlock: {code}: {text}\n".encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nX-Interlock-Refused: {code}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def send_body(flow: Flow, length: int | None) -> None:
    """Forward the body of a request, and nothing after it. Raises: ValueError if it is truncated or malformed; OSError."""
    if length is not None:
        await flow.send_exactly(length)
        return
    while True:
        line = await flow.client.line()
        chunk = _CHUNK.fullmatch(line)
        if chunk is None:
            raise ValueError("a chunk without its length")
        await flow.send(line)
        size = int(chunk[1], 16)
        if size == 0:
            break
        await flow.send_exactly(size)
        if await flow.client.line() != b"\r\n":
            raise ValueError("a chunk that is longer than announced")
        await flow.send(b"\r\n")
    while (line := await flow.client.line(16_384)) != b"\r\n":
        _field(line.removesuffix(b"\r\n"))  # a bare line feed would end the message for some servers
        await flow.send(line)
    await flow.send(line)


def _field(line: bytes) -> tuple[bytes, bytes]:
    field = _FIELD.fullmatch(line)
    if field is None:
        raise ValueError("a header line is malformed")
    return field[1].lower(), field[2]


def _body(fields: list[tuple[bytes, bytes]]) -> int | None:
    """Returns the length of the body; None if it is chunked. Raises: ValueError if two readers could disagree about it."""
    lengths = {value for key, value in fields if key == b"content-length"}
    codings = [value.lower() for key, value in fields if key == b"transfer-encoding"]
    if codings:
        if codings != [b"chunked"] or lengths:
            raise ValueError("the length of the body is ambiguous")
        return None
    if not lengths:
        return 0
    (length, *more) = lengths
    if more or not _LENGTH.fullmatch(length):
        raise ValueError("the length of the body is ambiguous")
    return int(length)
