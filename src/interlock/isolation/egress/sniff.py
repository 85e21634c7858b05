"""Reads the server that a client wants from its first bytes: the SNI of a TLS hello, or an HTTP `Host`. Pure.

Nothing is decrypted or changed; the bytes are forwarded as they are. Messages that servers may interpret differently
are doubtful, and not forwarded: two hosts, a folded line, a hello with something between its records.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from interlock.model.hosts import endpoint

FLIGHT_BYTES_MAX: Final = 64 * 1024
_LINE_BYTES_MAX: Final = 8 * 1024
_HANDSHAKE, _CLIENT_HELLO = 0x16, 0x01
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]+(\S+)[ \t]+HTTP/[0-9][0-9.]*[ \t]*\r?")
_LIKE_REQUEST: Final = re.compile(rb"[\s\x00]HTTP/[0-9]", re.IGNORECASE)
"""A line that some servers accept as a request, such as one with a space in its target."""
_METHOD_START: Final = re.compile(rb"[A-Z]{1,16}(?: [!-~]*(?: [!-~]*\r?)?)?")
_TEXT: Final = re.compile(rb"[\t\r\n -~]*")
_EMPTY_LINES: Final = re.compile(rb"(?:\r?\n)*\r?")
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*\r?")


class Flight(NamedTuple):
    """The protocol of a client's first bytes, and the servers that they name.

    `unknown`: no line is complete yet, and nothing indicates a protocol that names a server.
    """

    protocol: Literal["tls", "http", "other", "unknown"]
    names: tuple[str, ...] = ()
    doubtful: bool = False
    """True if a server could interpret it as a message to another server."""

    @property
    def name(self) -> str | None:
        """The named server, if there is exactly one."""
        return self.names[0] if len(self.names) == 1 and not self.doubtful else None


OTHER: Final = Flight("other")
UNKNOWN: Final = Flight("unknown")


def read_flight(data: bytes) -> Flight | None:
    """Returns the meaning of a client's first bytes.

    None if they start a message that names a server, and more bytes are needed.
    """
    if not data:
        return None
    if begins_tls(data):
        return _tls(data)
    text = data[_EMPTY_LINES.match(data).end() :]  # type: ignore[union-attr] # always matches, at least empty; servers skip empty lines
    line, newline, _ = text.partition(b"\n")
    if newline:
        request = _REQUEST_LINE.fullmatch(line)
        if request is None:
            return Flight("http", doubtful=True) if _LIKE_REQUEST.search(line) else OTHER
        return _http(text, request)
    if len(line) > _LINE_BYTES_MAX or not _TEXT.fullmatch(line):
        return OTHER
    return None if _METHOD_START.fullmatch(line) else UNKNOWN


def begins_tls(data: bytes) -> bool:
    """Returns True if the bytes start a TLS handshake."""
    return data[:1] == b"\x16"


def _http(text: bytes, request: re.Match[bytes]) -> Flight | None:
    end = _HEAD_END.search(text)
    if end is None:
        return None if len(text) < FLIGHT_BYTES_MAX else Flight("http", doubtful=True)
    fields = [_FIELD.fullmatch(line) for line in text[: end.start()].split(b"\n")[1:]]
    hosts = [field[2] for field in fields if field is not None and field[1].lower() == b"host"]
    if request[1].upper() == b"CONNECT" or b"://" in request[2]:  # the target names a server too
        hosts.append(request[2])
    names = tuple(dict.fromkeys(_name(host, with_port=True) for host in hosts if host))
    known = tuple(name for name in names if name is not None)
    many = sum(field is not None and field[1].lower() == b"host" for field in fields) > 1
    return Flight("http", known, many or None in fields or None in names)


def _tls(data: bytes) -> Flight | None:
    """Read a TLS hello, which may be spread over several records and segments."""
    hello = bytearray()
    at = 0
    while at + 5 <= len(data):
        kind, length = data[at], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind != _HANDSHAKE or length == 0:
            return _DOUBTFUL_TLS
        hello += data[at + 5 : at + 5 + length]
        at += 5 + length
        if len(hello) >= 4:
            if hello[0] != _CLIENT_HELLO:
                return _DOUBTFUL_TLS
            wanted = 4 + int.from_bytes(hello[1:4], "big")
            if wanted > FLIGHT_BYTES_MAX:
                return _DOUBTFUL_TLS
            if len(hello) >= wanted:
                return _server_names(bytes(hello[4:wanted]))
    return None if len(data) < FLIGHT_BYTES_MAX else _DOUBTFUL_TLS


_DOUBTFUL_TLS: Final = Flight("tls", doubtful=True)


def _server_names(hello: bytes) -> Flight:
    """Returns the server name extension of a hello (RFC 6066), which must be absent or have exactly one name."""
    found: list[str | None] = []
    try:
        at = 34  # version and random
        at += 1 + hello[at]  # session id
        at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher suites
        at += 1 + hello[at]  # compression methods
        if at == len(hello):
            return Flight("tls")  # no extensions
        end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 2
        while at < end:
            kind, length = int.from_bytes(hello[at : at + 2], "big"), int.from_bytes(hello[at + 2 : at + 4], "big")
            if kind == _SERVER_NAME:
                found.append(_only_name(hello[at + 4 : at + 4 + length]))
            at += 4 + length
    except IndexError:
        return _DOUBTFUL_TLS
    if at != end or end != len(hello) or None in found or len(found) > 1:
        return _DOUBTFUL_TLS
    return Flight("tls", tuple(name for name in found if name is not None))


def _only_name(extension: bytes) -> str | None:
    """Returns the only name in a list: list length, type, name length, name. None if there is not exactly one."""
    if len(extension) < 5 or extension[2] != _HOST_NAME:
        return None
    size = int.from_bytes(extension[3:5], "big")
    if int.from_bytes(extension[:2], "big") != size + 3 or len(extension) != size + 5:
        return None
    return _name(extension[5:], with_port=False)


def _name(text: bytes, *, with_port: bool) -> str | None:
    """Returns a host in normal form."""
    try:
        there = endpoint(text.decode("ascii"))
    except ValueError:  # includes UnicodeDecodeError
        return None
    return there.host if with_port or there.port is None else None
